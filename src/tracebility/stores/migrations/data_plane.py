"""Applies ClickHouse's migrations statement by statement, so that an interrupted run can be repeated.

ClickHouse has no transactions, so an unfinished file runs again from its first statement. Each statement can be
repeated or has a guard that checks whether a table exists: the state of ClickHouse decides, not a record of it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from operator import attrgetter

from tracebility.errors import TracebilityError
from tracebility.failpoints import failpoint
from tracebility.stores.clickhouse import Engine, EngineRejected, connect
from tracebility.stores.migrations.control_plane import ControlPlane, Say
from tracebility.stores.migrations.files import Guard, Load, Migration, SchemaError, Step, steps
from tracebility.stores.migrations.history import Record
from tracebility.stores.queries import query

STATEMENT_TIMEOUT_S = 7 * 24 * 3600.0  # the backfill of a large table may take a day
_LEFT_OVER_PAUSE_S = 0.5
_MARK = "/* tracebility migrate */ "  # lets a later runner find the statement in system.processes


@asynccontextmanager
async def connected(url: str) -> AsyncIterator["DataPlane"]:
    """Open a client with a timeout for backfills, and close it at the end of the block."""
    engine = await connect(url, operation_timeout_s=STATEMENT_TIMEOUT_S)
    try:
        yield DataPlane(engine)
    finally:
        await engine.close()


class DataPlane:
    """The migration runner's operations in ClickHouse."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def records(self) -> list[Record]:
        """Return the applied and begun migrations; none when the version table does not exist yet."""
        if not await self._table_exists("schema_migration"):
            return []
        found = await self._engine.query(query("files_recorded"))
        return [
            Record(row["number"], row["name"], row["checksum"], bool(row["finished"]), row["at"])
            for row in found.dicts()
        ]

    async def prepare(self, say: Say) -> None:
        """Create the version table, and cancel statements of a dead runner, which would copy rows twice."""
        await self._engine.execute(query("create_files_table"))
        while (await self._engine.query(query("left_over_statements"))).rows:
            say("A statement of an earlier migration run is still running in ClickHouse. Cancelling it.")
            await self._engine.execute(query("end_left_over_statements"))
            await asyncio.sleep(_LEFT_OVER_PAUSE_S)

    async def apply(self, migration: Migration, control_plane: ControlPlane, say: Say) -> None:
        """Run the file, then record it as finished."""
        await self._record(migration, "started")
        await self._run_all(migration, control_plane, say)
        await self._record(migration, "done")

    async def undo(self, migration: Migration, back: Migration, control_plane: ControlPlane, say: Say) -> None:
        """Run the rollback file of ``migration``, and record the migration as not applied."""
        await self._record(migration, "started")
        await self._run_all(back, control_plane, say)
        await self._record(migration, "undone")

    async def _run_all(self, migration: Migration, control_plane: ControlPlane, say: Say) -> None:
        todo = steps(migration.text)
        await control_plane.forget_steps(migration)
        async for step in self._applicable(todo):
            await control_plane.start_step(migration, step.number)
            await self._run(migration, step, len(todo), control_plane, say)
            failpoint("migrate_before_record")
            await control_plane.finish_step(migration, step.number)

    async def _applicable(self, todo: Sequence[Step]) -> AsyncIterator[Step]:
        """Yield the steps to run. The guard of each block is evaluated when the block is reached."""
        for guard, block in groupby(todo, key=attrgetter("guard")):
            if guard is None or await self._holds(guard):
                for step in block:
                    yield step

    async def _holds(self, guard: Guard) -> bool:
        if guard.kind == "server":
            # The embedded engine reads users and policies from its configuration and cannot store others.
            return bool((await self._engine.query(query("writable_access_storages"))).rows)
        return await self._table_exists(guard.table) == (guard.kind == "when")

    async def _run(
        self, migration: Migration, step: Step, steps_in_all: int, control_plane: ControlPlane, say: Say
    ) -> None:
        try:
            if isinstance(step.action, Load):
                await self._load(step.action, control_plane)
            else:
                await self._engine.execute(_MARK + step.action, settings={"max_execution_time": "0"})
        except EngineRejected as error:
            raise SchemaError(
                f"{migration.label}, statement {step.number} of {steps_in_all}: {' '.join(error.detail.split())} "
                "Fix the cause and run the migration again; it continues."
            ) from error
        except TracebilityError:
            say(f"{migration.label} stopped at statement {step.number} of {steps_in_all}; run it again to continue.")
            raise

    async def _load(self, load: Load, control_plane: ControlPlane) -> None:
        columns = await control_plane.columns(load.query)
        async for rows in control_plane.rows(load.query):
            await self._engine.insert_rows(load.table, columns, rows)

    async def _table_exists(self, table: str) -> bool:
        found = await self._engine.query(query("table_exists"), {"table": table})
        return bool(found.rows)

    async def _record(self, migration: Migration, state: str) -> None:
        row = {"number": migration.number, "name": migration.name, "checksum": migration.checksum, "state": state}
        await self._engine.execute(query("record_file"), row)
