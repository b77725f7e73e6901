"""The api over real stores, in this process, and rows for it to read."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from tracebility.stores import clickhouse, postgres
from tracebility.tenant import keys

_LISTS = ("models", "tags")
_TIMES = {"start_ns": "start_time", "end_ns": "end_time"}


def written(ns: int) -> str:
    """A time as the engine reads it."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09d}"


@dataclass
class Writer:
    """Writes rows as the worker does, of one tenant."""

    engine: clickhouse.Engine
    tenant: Any

    async def runs(self, rows: Iterable[Mapping[str, Any]]) -> None:
        await self._write("run", [{"run_id": "r", "start_ns": time.time_ns()} | dict(row) for row in rows])

    async def spans(self, rows: Iterable[Mapping[str, Any]]) -> None:
        await self._write("span", [{"trace_id": "r", "start_ns": time.time_ns()} | dict(row) for row in rows])

    async def _write(self, table: str, rows: list[dict[str, Any]]) -> None:
        context = self.tenant.context
        whole = [
            {
                "org_id": context.org_id,
                "workspace_id": context.workspace_id,
                "project_id": context.project_id,
                "accepted_at": "2026-09-21 14:13:20.000000",
                "version": 1,
            }
            | {_TIMES.get(name, name): written(value) if name in _TIMES else value for name, value in row.items()}
            for row in rows
        ]
        names = list(dict.fromkeys(name for row in whole for name in row))
        values = [[row.get(name, [] if name in _LISTS else "") for name in names] for row in whole]
        await self.engine.insert_rows(table, names, values)


@pytest.fixture
def tenants(two_orgs: Any, engine: clickhouse.Engine) -> tuple[Writer, Writer]:
    """Two fresh tenants, and what writes rows of each."""
    first, second = two_orgs
    return Writer(engine, first), Writer(engine, second)


@pytest.fixture
async def without_merges(engine: clickhouse.Engine) -> AsyncIterator[None]:
    """Replaced versions stay where they are."""
    await engine.execute("SYSTEM STOP MERGES run")
    yield
    await engine.execute("SYSTEM START MERGES run")


@pytest.fixture
def key_with(control: postgres.Postgres) -> Any:
    """Makes a key of a tenant with other scopes."""

    async def make(tenant: Any, *scopes: str) -> dict[str, str]:
        key = keys.generate()
        await control.execute(
            "insert_key", key.public_id, tenant.org_id, tenant.workspace_id, tenant.project_id, "t", key.secret_hash,
            list(scopes),
        )  # fmt: skip
        return {"x-api-key": key.key}

    return make


@dataclass(frozen=True)
class Trail:
    """The audit events that are in Postgres."""

    control: postgres.Postgres

    async def of(self, org_id: Any, *types: str) -> list[Any]:
        """An org's events of these types, the oldest first."""
        return list(
            await self.control.fetch(
                "SELECT * FROM audit_log WHERE org_id IS NOT DISTINCT FROM $1 AND event_type = ANY ($2) ORDER BY seq",
                org_id,
                list(types),
            )
        )

    async def length(self) -> int:
        """How many events of changes there are, of whichever org. Reads and refusals are written when their time is."""
        counted: int = await self.control.fetchval(
            "SELECT count(*) FROM audit_log WHERE event_type NOT LIKE 'egress.%' AND event_type <> 'access.denied'"
        )
        return counted


@pytest.fixture
def trail(control: postgres.Postgres) -> Trail:
    """What was written of what was done."""
    return Trail(control)


@pytest.fixture
def plan_name() -> str:
    """A plan of one test's own."""
    return f"p-{uuid4().hex[:12]}"


@pytest.fixture
def within_a_second() -> Any:
    """Asks again and again; fails when the answer is not yes a second from now."""

    async def wait(ask: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + 1.0
        while not await ask():
            assert time.monotonic() < deadline, "a second has passed"
            await asyncio.sleep(0.01)

    return wait
