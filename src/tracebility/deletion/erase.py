"""Rows of the data plane, removed for good: counted, then written out of one month of one table after the other.

Removal is ``ALTER TABLE ... DELETE``: when it is done the rows are on no disk, which a lightweight ``DELETE`` only
promises for some later merge. It rewrites every part that holds one of the rows, so rows are removed many at a time, a
table has one mutation at a time, and between two there is a pause for whatever else waits for the disk.
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
# Between two mutations: the merges that stood back meanwhile, and the reads.
PAUSE_S = 0.2
# A mutation that takes longer goes on; whoever waited for it comes back later.
MUTATION_WAIT_S = 600.0
# Runs named in one statement: an id has some 35 characters of a request, and each statement rewrites its parts.
RUNS_A_STATEMENT = 5_000
# Begun, and then asked after: a connection that ends, or a process, does not end it.
_BEGIN = {"mutations_sync": "0"}

Counts: TypeAlias = dict[str, int]
Rows: TypeAlias = Literal["org", "project", "runs", "aged"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Table:
    """What holds rows of tenants, and the columns that say of which run they are, when it began and when it came."""

    name: str
    run: str | None
    began: str | None
    arrived: str
    names_user: bool = False


# Runs last: while one is removed it is not shown without its spans, and asking again finds what is left of it.
# `billing_meter`, `envelope_outcome` and the audit tables are not among them: they hold nothing that was sent.
_CONTENT = (
    Table("span", "trace_id", "start_time", "accepted_at", names_user=True),
    Table("eval_score", "run_id", "created_at", "created_at"),
    Table("eval_aggregate", None, "hour", "hour"),
    Table("replay_capture", "run_id", "captured_at", "captured_at"),
    Table("replay_run", "run_id", "started_at", "started_at"),
    Table("dataset_item", None, None, "created_at"),
    Table("run", "run_id", "start_time", "accepted_at", names_user=True),
)
# The way back of a migration, and the way there again: copies of every row.
_COPIES = ("", "_v1", "_v2")
CONTENT_TABLES: tuple[Table, ...] = tuple(
    Table(f"{table.name}{copy}", table.run, table.began, table.arrived, table.names_user)
    for table in _CONTENT
    for copy in _COPIES
)


@dataclass(frozen=True, slots=True)
class Which:
    """Rows to be counted or removed: the query's name, and what it asks for."""

    rows: Rows
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def of(self, table: Table) -> dict[str, Any] | None:
        """The parameters for ``table``; None when it has no such rows."""
        if (self.rows == "runs" and table.run is None) or (self.rows == "aged" and table.began is None):
            return None
        columns = {"run": table.run, "began": table.began, "arrived": table.arrived}
        return {"nobody": str(SENTINEL), "table": table.name} | columns | dict(self.parameters)


def of_org(org_id: OrgId, projects: Sequence[ProjectId]) -> Which:
    """All of an org; ``projects`` are for the rows of before tenancy."""
    return Which("org", {"org": str(org_id), "projects": list(map(str, projects))})


def of_project(org_id: OrgId, project_id: ProjectId) -> Which:
    """All of a project."""
    return Which("project", {"org": str(org_id), "project": str(project_id)})


def of_runs(org_id: OrgId, project_id: ProjectId, runs: Sequence[str], until_us: int) -> Which:
    """Everything that names these runs of a project and was accepted up to ``until_us``."""
    named = {"org": str(org_id), "project": str(project_id), "runs": list(runs)}
    return Which("runs", named | {"until_us": until_us})


def aged(orgs: Sequence[OrgId], projects: Sequence[ProjectId], before_s: int) -> Which:
    """What began before a moment (Unix seconds), or came before it, in these projects."""
    parameters = {
        "orgs": [*sorted(map(str, set(orgs))), str(SENTINEL)],
        "projects": list(map(str, projects)),
        "before": before_s,
    }
    return Which("aged", parameters)


class Eraser:
    """Counts and removes rows. Every method raises `StoreUnavailable` when the engine is away, or slower than this."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def count(self, which: Which) -> Counts:
        """Rows by table; tables that could have some and have none are there with 0."""
        return {
            table.name: sum((await self._partitions(which, table)).values())
            async for table in self._tables()
            if which.of(table) is not None
        }

    async def erase(self, which: Which) -> Counts:
        """Remove what there is now, table by table and month by month; how many rows, by table. Doing it again is safe.

        What is inserted meanwhile may stay: count again.
        """
        gone: Counts = {}
        async for table in self._tables():
            for partition, found in (await self._partitions(which, table)).items():
                await self._until_idle(table)
                await self._engine.execute(
                    query(f"erase_{_of(which)}"), {**(which.of(table) or {}), "partition": partition}, _BEGIN
                )
                await self._until_idle(table)
                failpoint("erase_after_month")
                gone[table.name] = gone.get(table.name, 0) + found
                await asyncio.sleep(PAUSE_S)
        return gone

    async def orgs_of_aged(self, which: Which) -> list[UUID]:
        """The orgs that have spans among the rows of `aged`."""
        parameters = which.of(_CONTENT[0])
        assert parameters is not None
        rows = (await self._engine.query(query("orgs_aged"), parameters)).rows
        return [org for (org,) in rows if org != SENTINEL]

    async def known_of_run(self, org_id: OrgId, project_id: ProjectId, run_id: str, until_us: int) -> Counts:
        """Rows of a run that came before ``until_us``, by table."""
        which = of_runs(org_id, project_id, [run_id], until_us)
        return {
            table.name: await self._found("known_of_run", parameters)
            async for table in self._tables()
            if (parameters := which.of(table)) is not None
        }

    async def known_of_user(self, org_id: OrgId, projects: Sequence[ProjectId], user: str, until_us: int) -> Counts:
        """Rows that name a user and came before ``until_us``, by table."""
        return {
            table.name: await self._found("known_of_user", _of_user(table, org_id, projects, user, until_us))
            async for table in self._tables()
            if table.names_user
        }

    async def runs_of_user(
        self, org_id: OrgId, projects: Sequence[ProjectId], user: str, until_us: int
    ) -> tuple[ProjectId, list[str]] | None:
        """A project, and runs of it that name a user; None when there is none any more."""
        async for table in self._tables():
            if not table.names_user:
                continue
            parameters = _of_user(table, org_id, projects, user, until_us) | {"most": RUNS_A_STATEMENT}
            rows = (await self._engine.query(query("runs_of_user"), parameters)).rows
            if rows:
                first = str(rows[0][0])
                return ProjectId(UUID(first)), [run for project, run in rows if str(project) == first]
        return None

    async def users_there(self, org_id: OrgId, projects: Sequence[ProjectId], users: Sequence[str]) -> set[str]:
        """Those of ``users`` that a row of the org names, whenever it came: one look for all of them."""
        there: set[str] = set()
        async for table in self._tables():
            if table.names_user:
                parameters = _of_org(table, org_id, projects) | {"users": list(users)}
                there |= {user for (user,) in (await self._engine.query(query("users_there"), parameters)).rows}
        return there

    async def _tables(self) -> AsyncIterator[Table]:
        names = [table.name for table in CONTENT_TABLES]
        there = {row[0] for row in (await self._engine.query(query("tables_there"), {"tables": names})).rows}
        for table in CONTENT_TABLES:
            if table.name in there:
                yield table

    async def _partitions(self, which: Which, table: Table) -> Counts:
        parameters = which.of(table)
        if parameters is None:
            return {}
        rows = (await self._engine.query(query(f"rows_{_of(which)}"), parameters)).rows
        return {partition: int(found) for partition, found in rows}

    async def _found(self, name: str, parameters: Mapping[str, Any]) -> int:
        return int((await self._engine.query(query(name), parameters)).rows[0][0])

    async def _until_idle(self, table: Table) -> None:
        """Wait until no mutation of ``table`` is under way, whoever began it: also one of before this process."""
        deadline = time.monotonic() + MUTATION_WAIT_S
        while True:
            [(waiting, reason)] = (await self._engine.query(query("mutations_under_way"), {"table": table.name})).rows
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable("clickhouse", f"a mutation of {table.name} is not done yet: {reason or 'slow'}")
            await asyncio.sleep(POLL_S)


def _of(which: Which) -> str:
    return "aged" if which.rows == "aged" else f"of_{which.rows}"


def _of_user(table: Table, org_id: OrgId, projects: Sequence[ProjectId], user: str, until_us: int) -> dict[str, Any]:
    of_user = {"run": table.run, "arrived": table.arrived, "user": user, "until_us": until_us}
    return _of_org(table, org_id, projects) | of_user


def _of_org(table: Table, org_id: OrgId, projects: Sequence[ProjectId]) -> dict[str, Any]:
    whose = {"org": str(org_id), "nobody": str(SENTINEL), "projects": list(map(str, projects))}
    return {"table": table.name} | whose
