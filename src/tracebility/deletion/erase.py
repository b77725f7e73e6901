"""Counts rows in ClickHouse and removes them from disk, one partition of one table after the other.

Rows are removed by ``ALTER TABLE ... DELETE``, after which they are on no disk; a lightweight ``DELETE`` guarantees
that only after a later merge. The mutation rewrites every part that holds one of the rows. So many rows are removed at
once, each table has one mutation at a time, and a pause between two leaves the disk to other work.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from uuid import UUID

import structlog

from tracebility.errors import StoreUnavailable
from tracebility.failpoints import failpoint
from tracebility.ids import SENTINEL, OrgId, ProjectId
from tracebility.stores.clickhouse import Engine
from tracebility.stores.queries import query

POLL_S = 0.1
# Pause between two mutations, for merges and reads.
PAUSE_S = 0.2
# After this the wait ends and is repeated later; the mutation continues.
MUTATION_WAIT_S = 600.0
# Runs per statement. An id takes about 35 characters of the request; each statement rewrites parts, so few are better.
RUNS_PER_STATEMENT = 5_000
# Mutations run in the background and are polled, so that a lost connection or a crash does not stop them.
_BEGIN = {"mutations_sync": "0"}

Counts: TypeAlias = dict[str, int]
Rows: TypeAlias = Literal["org", "project", "runs", "aged"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Table:
    """A table with tenant rows, and its columns for the run id, the start time and the time of arrival."""

    name: str
    run: str | None
    began: str | None
    arrived: str
    names_user: bool = False


# `run` is last, so that a run being removed disappears only after its spans, and a repeated deletion finds the rest.
# `billing_meter`, `envelope_outcome` and the audit tables are kept: they hold no content that clients sent.
_CONTENT = (
    Table("span", "trace_id", "start_time", "accepted_at", names_user=True),
    Table("eval_score", "run_id", "created_at", "created_at"),
    Table("eval_aggregate", None, "hour", "hour"),
    Table("replay_capture", "run_id", "captured_at", "captured_at"),
    Table("replay_run", "run_id", "started_at", "started_at"),
    Table("dataset_item", None, None, "created_at"),
    Table("run", "run_id", "start_time", "accepted_at", names_user=True),
)
# Copies of every row that a migration keeps for its rollback or fills before its swap.
_COPIES = ("", "_v1", "_v2")
CONTENT_TABLES: tuple[Table, ...] = tuple(
    Table(f"{table.name}{copy}", table.run, table.began, table.arrived, table.names_user)
    for table in _CONTENT
    for copy in _COPIES
)


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of rows to count or remove: the name of its query, and the parameters."""

    rows: Rows
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def of(self, table: Table) -> dict[str, Any] | None:
        """Return the parameters for ``table``; None when it cannot have such rows."""
        if (self.rows == "runs" and table.run is None) or (self.rows == "aged" and table.began is None):
            return None
        columns = {"run": table.run, "began": table.began, "arrived": table.arrived}
        return {"nobody": str(SENTINEL), "table": table.name} | columns | dict(self.parameters)


def of_org(org_id: OrgId, projects: Sequence[ProjectId]) -> Selection:
    """Select all rows of an org. ``projects`` identify its rows from before tenancy."""
    return Selection("org", {"org": str(org_id), "projects": list(map(str, projects))})


def of_project(org_id: OrgId, project_id: ProjectId) -> Selection:
    """Select all rows of a project."""
    return Selection("project", {"org": str(org_id), "project": str(project_id)})


def of_runs(org_id: OrgId, project_id: ProjectId, runs: Sequence[str], until_us: int) -> Selection:
    """Everything that names these runs of a project and was accepted up to ``until_us``."""
    named = {"org": str(org_id), "project": str(project_id), "runs": list(runs)}
    return Selection("runs", named | {"until_us": until_us})


def aged(orgs: Sequence[OrgId], projects: Sequence[ProjectId], before_s: int) -> Selection:
    """Select the rows of these projects that started or arrived before ``before_s`` (Unix seconds)."""
    parameters = {
        "orgs": [*sorted(map(str, set(orgs))), str(SENTINEL)],
        "projects": list(map(str, projects)),
        "before": before_s,
    }
    return Selection("aged", parameters)


class Eraser:
    """Counts and removes rows. Every method raises `StoreUnavailable` when ClickHouse is unavailable or too slow."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def count(self, selection: Selection) -> Counts:
        """Return the number of rows by table, including tables with 0."""
        return {
            table.name: sum((await self._partitions(selection, table)).values())
            async for table in self._tables()
            if selection.of(table) is not None
        }

    async def erase(self, selection: Selection) -> Counts:
        """Remove the current rows, by table and month. Returns the number of rows by table. May be repeated.

        Rows that are inserted meanwhile may stay, so count again afterwards.
        """
        gone: Counts = {}
        async for table in self._tables():
            for partition, found in (await self._partitions(selection, table)).items():
                await self._until_idle(table)
                await self._engine.execute(
                    query(f"erase_{_of(selection)}"), {**(selection.of(table) or {}), "partition": partition}, _BEGIN
                )
                await self._until_idle(table)
                failpoint("erase_after_month")
                gone[table.name] = gone.get(table.name, 0) + found
                await asyncio.sleep(PAUSE_S)
        return gone

    async def orgs_of_aged(self, selection: Selection) -> list[UUID]:
        """Return the orgs that have spans in a selection of `aged`."""
        parameters = selection.of(_CONTENT[0])
        assert parameters is not None
        rows = (await self._engine.query(query("orgs_aged"), parameters)).rows
        return [org for (org,) in rows if org != SENTINEL]

    async def known_of_run(self, org_id: OrgId, project_id: ProjectId, run_id: str, until_us: int) -> Counts:
        """Count by table the rows of a run that arrived by ``until_us``."""
        selection = of_runs(org_id, project_id, [run_id], until_us)
        return {
            table.name: await self._found("known_of_run", parameters)
            async for table in self._tables()
            if (parameters := selection.of(table)) is not None
        }

    async def known_of_user(self, org_id: OrgId, projects: Sequence[ProjectId], user: str, until_us: int) -> Counts:
        """Count by table the rows that name a user and arrived by ``until_us``."""
        return {
            table.name: await self._found("known_of_user", _of_user(table, org_id, projects, user, until_us))
            async for table in self._tables()
            if table.names_user
        }

    async def runs_of_user(
        self, org_id: OrgId, projects: Sequence[ProjectId], user: str, until_us: int
    ) -> tuple[ProjectId, list[str]] | None:
        """Return a project and some of its runs that name a user; None when there are none left."""
        async for table in self._tables():
            if not table.names_user:
                continue
            parameters = _of_user(table, org_id, projects, user, until_us) | {"most": RUNS_PER_STATEMENT}
            rows = (await self._engine.query(query("runs_of_user"), parameters)).rows
            if rows:
                first = str(rows[0][0])
                return ProjectId(UUID(first)), [run for project, run in rows if str(project) == first]
        return None

    async def users_with_rows(self, org_id: OrgId, projects: Sequence[ProjectId], users: Sequence[str]) -> set[str]:
        """Return those of ``users`` that still have rows in the org, with one scan for all of them."""
        there: set[str] = set()
        async for table in self._tables():
            if table.names_user:
                parameters = _of_org(table, org_id, projects) | {"users": list(users)}
                there |= {user for (user,) in (await self._engine.query(query("users_with_rows"), parameters)).rows}
        return there

    async def _tables(self) -> AsyncIterator[Table]:
        names = [table.name for table in CONTENT_TABLES]
        there = {row[0] for row in (await self._engine.query(query("existing_tables"), {"tables": names})).rows}
        for table in CONTENT_TABLES:
            if table.name in there:
                yield table

    async def _partitions(self, selection: Selection, table: Table) -> Counts:
        parameters = selection.of(table)
        if parameters is None:
            return {}
        rows = (await self._engine.query(query(f"rows_{_of(selection)}"), parameters)).rows
        return {partition: int(found) for partition, found in rows}

    async def _found(self, name: str, parameters: Mapping[str, Any]) -> int:
        return int((await self._engine.query(query(name), parameters)).rows[0][0])

    async def _until_idle(self, table: Table) -> None:
        """Wait until no mutation of ``table`` is running, including those of other processes."""
        deadline = time.monotonic() + MUTATION_WAIT_S
        while True:
            [(waiting, reason)] = (await self._engine.query(query("mutations_under_way"), {"table": table.name})).rows
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable("clickhouse", f"a mutation of {table.name} is still running: {reason or 'slow'}")
            await asyncio.sleep(POLL_S)


def _of(selection: Selection) -> str:
    return "aged" if selection.rows == "aged" else f"of_{selection.rows}"


def _of_user(table: Table, org_id: OrgId, projects: Sequence[ProjectId], user: str, until_us: int) -> dict[str, Any]:
    of_user = {"run": table.run, "arrived": table.arrived, "user": user, "until_us": until_us}
    return _of_org(table, org_id, projects) | of_user


def _of_org(table: Table, org_id: OrgId, projects: Sequence[ProjectId]) -> dict[str, Any]:
    whose = {"org": str(org_id), "nobody": str(SENTINEL), "projects": list(map(str, projects))}
    return {"table": table.name} | whose
