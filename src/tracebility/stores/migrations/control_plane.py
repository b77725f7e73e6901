"""Applies PostgreSQL's migrations, each file with its row of the version table in one transaction.

Its session also holds the lock that lets one runner at a time work on either store.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tracebility.failpoints import failpoint
from tracebility.stores.migrations.files import Migration, SchemaError
from tracebility.stores.migrations.history import Record
from tracebility.stores.postgres import CONNECT_TIMEOUT_S, VARIABLE, Conflict, translated
from tracebility.stores.queries import query
from tracebility.stores.start import START_WAIT_S, until_reachable

# "tracebil" as a number: advisory locks have no names, and this one must not meet another program's.
LOCK = int.from_bytes(b"tracebil", "big")

Say = Callable[[str], None]


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator["ControlPlane"]:
    """One connection, closed at the end. Statements may take as long as they need."""

    async def connect() -> None:
        with translated():
            opened.append(await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S))

    opened: list[Any] = []
    await until_reachable(VARIABLE, dsn, connect, wait_s=START_WAIT_S)
    try:
        yield ControlPlane(opened[0])
    finally:
        opened[0].terminate()  # ends the session, and with it the lock, whatever state it is in


class ControlPlane:
    """PostgreSQL as the runner sees it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def lock(self, say: Say) -> None:
        """Become the only runner; wait, and say so, while there is another."""
        with translated():
            if await self._connection.fetchval(query("try_lock_migrations"), LOCK):
                return
            holder = await self._connection.fetchval(query("holder_of_migrations_lock"), LOCK)
            say(f"Another migration is running (PostgreSQL session {holder}). Waiting until it has ended.")
            await self._connection.execute(query("lock_migrations"), LOCK)

    async def records(self) -> list[Record]:
        """What was applied; nothing when the version table is not there yet."""
        with translated():
            if not await self._connection.fetchval(query("migration_tables_exist")):
                return []
            return [
                Record(row["number"], row["name"], row["checksum"], True, row["applied_at"])
                for row in await self._connection.fetch(query("migrations_applied"))
            ]

    async def prepare(self) -> None:
        """Create the version table, and that of the data plane's steps, where missing."""
        with translated():
            await self._connection.execute(query("create_migrations_table"))
            await self._connection.execute(query("create_steps_table"))

    async def apply(self, migration: Migration) -> None:
        """Run the file and record it: both or neither."""
        try:
            with translated():
                async with self._connection.transaction():
                    await self._connection.execute(migration.text)
                    failpoint("migrate_before_record")
                    await self._connection.execute(
                        query("record_migration"), migration.number, migration.name, migration.checksum
                    )
        except (asyncpg.PostgresError, Conflict) as error:
            raise SchemaError(
                f"{migration.label}: {' '.join(str(error).split())}. Nothing of the file was applied; "
                "correct what it says and run the migration again."
            ) from error

    async def steps_begun(self) -> dict[int, int]:
        """The last step that was begun of each ClickHouse file."""
        with translated():
            if not await self._connection.fetchval(query("migration_tables_exist")):
                return {}
            return {row["number"]: row["step"] for row in await self._connection.fetch(query("steps_begun"))}

    async def forget_steps(self, migration: Migration) -> None:
        """A ClickHouse file begins, or begins again."""
        with translated():
            await self._connection.execute(query("forget_steps"), migration.number)

    async def start_step(self, migration: Migration, step: int) -> None:
        """Note that a step begins. Raises when this session is gone, and with it the lock: another may be at work."""
        with translated():
            await self._connection.execute(query("start_step"), migration.number, step, migration.checksum)

    async def finish_step(self, migration: Migration, step: int) -> None:
        """Note that a step has ended."""
        with translated():
            await self._connection.execute(query("finish_step"), migration.number, step)

    async def rows(self, name: str) -> AsyncIterator[list[tuple[Any, ...]]]:
        """The rows of a named query, some thousands at a time."""
        with translated():
            async with self._connection.transaction(readonly=True):
                cursor = await self._connection.cursor(query(name))
                while batch := await cursor.fetch(_ROWS_AT_A_TIME):
                    yield [tuple(row) for row in batch]

    async def columns(self, name: str) -> list[str]:
        """The columns of a named query."""
        with translated():
            prepared = await self._connection.prepare(query(name))
            return [attribute.name for attribute in prepared.get_attributes()]


_ROWS_AT_A_TIME = 10_000  # half a megabyte of ids
