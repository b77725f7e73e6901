"""Applies PostgreSQL's migrations. Each file and its version row are one transaction.

The session also holds the advisory lock that allows one runner at a time for both stores.
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

# "tracebil" as a number: advisory locks have no names, and this one must not collide with another program's.
LOCK = int.from_bytes(b"tracebil", "big")

Say = Callable[[str], None]


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator["ControlPlane"]:
    """Open a connection without statement timeout, and close it at the end of the block."""

    async def connect() -> None:
        with translated():
            opened.append(await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S))

    opened: list[Any] = []
    await until_reachable(VARIABLE, dsn, connect, wait_s=START_WAIT_S)
    try:
        yield ControlPlane(opened[0])
    finally:
        opened[0].terminate()  # ends the session, which also releases the lock


class ControlPlane:
    """The migration runner's operations in PostgreSQL."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def lock(self, say: Say) -> None:
        """Take the runner's lock. While another runner holds it, report that and wait."""
        with translated():
            if await self._connection.fetchval(query("try_lock_migrations"), LOCK):
                return
            holder = await self._connection.fetchval(query("holder_of_migrations_lock"), LOCK)
            say(f"Another migration is running (PostgreSQL session {holder}). Waiting until it has ended.")
            await self._connection.execute(query("lock_migrations"), LOCK)

    async def records(self) -> list[Record]:
        """Return the applied migrations; none when the version table does not exist yet."""
        with translated():
            if not await self._connection.fetchval(query("migration_tables_exist")):
                return []
            return [
                Record(row["number"], row["name"], row["checksum"], True, row["applied_at"])
                for row in await self._connection.fetch(query("migrations_applied"))
            ]

    async def prepare(self) -> None:
        """Create the version table and the table of ClickHouse steps, if missing."""
        with translated():
            await self._connection.execute(query("create_migrations_table"))
            await self._connection.execute(query("create_steps_table"))

    async def apply(self, migration: Migration) -> None:
        """Run the file and record it in one transaction."""
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
        """Return the last step begun of each ClickHouse file."""
        with translated():
            if not await self._connection.fetchval(query("migration_tables_exist")):
                return {}
            return {row["number"]: row["step"] for row in await self._connection.fetch(query("steps_begun"))}

    async def forget_steps(self, migration: Migration) -> None:
        """Delete the steps of a ClickHouse file that is started or restarted."""
        with translated():
            await self._connection.execute(query("forget_steps"), migration.number)

    async def start_step(self, migration: Migration, step: int) -> None:
        """Record the start of a step. Fails if this session, and with it the lock, was lost to another runner."""
        with translated():
            await self._connection.execute(query("start_step"), migration.number, step, migration.checksum)

    async def finish_step(self, migration: Migration, step: int) -> None:
        """Record the end of a step."""
        with translated():
            await self._connection.execute(query("finish_step"), migration.number, step)

    async def rows(self, name: str) -> AsyncIterator[list[tuple[Any, ...]]]:
        """Yield the rows of a named query in batches."""
        with translated():
            async with self._connection.transaction(readonly=True):
                cursor = await self._connection.cursor(query(name))
                while batch := await cursor.fetch(_ROWS_AT_A_TIME):
                    yield [tuple(row) for row in batch]

    async def columns(self, name: str) -> list[str]:
        """Return the column names of a named query."""
        with translated():
            prepared = await self._connection.prepare(query(name))
            return [attribute.name for attribute in prepared.get_attributes()]


_ROWS_AT_A_TIME = 10_000  # half a megabyte of ids
