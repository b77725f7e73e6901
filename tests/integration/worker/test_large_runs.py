"""One run's size is nobody else's wait: a large one is computed alone and later, and is right in the end."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tracebility.stores import clickhouse
from tracebility.stores.queries import query

Make = Callable[..., Any]

LARGE = bytes([77] * 16)
MANY = 40
TOO_LITTLE_MEMORY = {"max_memory_usage": "1000000", "max_untracked_memory": "0"}


class Statements:
    """The statements that compute one org's large run: counted, held up, or given too little memory."""

    def __init__(self, org: str) -> None:
        self._org = org
        self.begun = 0
        self.free = 0  # so many of them go on though they are held
        self.held = asyncio.Event()
        self.held.set()
        self.settings: Mapping[str, str] = {}

    def compute(self, sql: str, parameters: Mapping[str, Any]) -> bool:
        return (
            sql == query("recompute_runs")
            and LARGE.hex() in parameters["traces"]
            and self._org in parameters["orgs"]
            and (self._org, LARGE.hex()) not in parameters.get("apart", [])
        )


@pytest.fixture
def statements(tenant: Any, monkeypatch: pytest.MonkeyPatch) -> Statements:
    statements = Statements(str(tenant.org_id))
    execute = clickhouse.Engine.execute

    async def noted(self: Any, sql: str, parameters: Any = None, settings: Any = None, **more: Any) -> None:
        added: Mapping[str, str] = {}
        if statements.compute(sql, parameters or {}):
            statements.begun += 1
            added = statements.settings
            if statements.begun > statements.free:
                await statements.held.wait()
        await execute(self, sql, parameters, {**(settings or {}), **added}, **more)

    monkeypatch.setattr(clickhouse.Engine, "execute", noted)
    return statements


@pytest.fixture
def soon_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of ten spans is large, and stays so; every statement is slow enough to be looked into."""
    monkeypatch.setattr("tracebility.worker.large_runs.LARGE_SPANS", 10)
    monkeypatch.setattr("tracebility.worker.large_runs.SMALL_AGAIN_S", -1.0)
    monkeypatch.setattr("tracebility.worker.runs.LEAST_SPANS", 1)
    monkeypatch.setattr("tracebility.worker.runs.SLOW_S", 0.0)


@pytest.fixture
def other(tenant: Any) -> Any:
    return type(tenant)(tenant.queue, tenant.engine)


async def counted(tenant: Any) -> list[int]:
    return [run["span_count"] for run in await tenant.rows("run", "span_count", "span_count")]


@pytest.fixture
def large(spans: Make) -> Make:
    return lambda numbers: [spans(number, None, LARGE) for number in numbers]


@pytest.mark.usefixtures("soon_large")
async def test_nobody_waits_for_a_large_run_and_it_is_right_in_the_end(
    tenant: Any, other: Any, worker: Make, spans: Make, large: Make, statements: Statements
) -> None:
    """While it is being computed, which takes for ever here, batches with more of it and with others' spans go on."""
    async with worker() as running:
        await tenant.send(large(range(MANY)))
        await running.drained(tenant)
        statements.held.clear()
        for number in range(3):
            await tenant.send(large([MANY + number]))
            await other.send([spans(0, None, bytes([number + 1] * 16))])
            await running.drained(tenant)
            await running.drained(other)
        assert await counted(other) == [1] * 3
        assert await counted(tenant) == [MANY]
        assert (await tenant.metered())["spans"] == MANY + 3
        assert running.metrics.runs_behind._value.get() == 1
        statements.held.set()
        await running.until(lambda: running.metrics.runs_behind._value.get() == 0)
        assert await counted(tenant) == [MANY + 3]


@pytest.mark.usefixtures("soon_large")
async def test_a_large_run_is_not_computed_after_every_batch(
    tenant: Any, worker: Make, large: Make, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracebility.worker.large_runs.QUIET_S", 3600.0)
    monkeypatch.setattr("tracebility.worker.large_runs.LEAST_PACE_S", 3600.0)
    async with worker() as running:
        for number in range(5):
            await tenant.send(large(range(number * MANY, (number + 1) * MANY)))
            await running.drained(tenant)
        assert statements.begun == 1
    assert await counted(tenant) == [5 * MANY], "a worker that ends computes what is behind"


@pytest.mark.usefixtures("soon_large")
async def test_a_run_of_the_same_id_in_another_org_is_computed_with_its_batch(
    tenant: Any, other: Any, worker: Make, large: Make, statements: Statements
) -> None:
    async with worker() as running:
        await tenant.send(large(range(MANY)))
        await running.drained(tenant)
        statements.held.clear()
        await tenant.send(large([MANY]))
        await other.send(large(range(3)))
        await running.drained(tenant)
        await running.drained(other)
        assert await counted(other) == [3]
        assert await counted(tenant) == [MANY]
        statements.held.set()
    assert await counted(tenant) == [MANY + 1]


async def test_a_run_that_memory_does_not_suffice_for_is_not_tried_with_every_batch(
    tenant: Any, other: Any, worker: Make, spans: Make, large: Make, statements: Statements,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The engine itself says 241. Nothing told that the run is large: it is found by halves, and remembered."""
    monkeypatch.setattr("tracebility.worker.large_runs.LEAST_PACE_S", 3600.0)
    statements.settings = TOO_LITTLE_MEMORY
    async with worker() as running:
        await tenant.send(large(range(MANY)))
        await other.send(*([spans(0, None, bytes([number] * 16))] for number in range(1, 8)))
        await running.until(lambda: running.metrics.stale_runs._value.get() == 1)
        await running.drained(tenant)
        await running.drained(other)
        assert await counted(other) == [1] * 7
        tried = statements.begun
        for number in range(3):
            await tenant.send(large([MANY + number]))
            await running.drained(tenant)
        assert statements.begun == tried
        assert await counted(tenant) == []
        statements.settings = {}
        monkeypatch.setattr("tracebility.worker.large_runs.LEAST_PACE_S", 0.0)
        await running.until(lambda: running.metrics.runs_behind._value.get() == 0)
    assert await counted(tenant) == [MANY + 3]
    assert (await tenant.metered())["spans"] == MANY + 3


@pytest.mark.usefixtures("soon_large")
async def test_a_large_run_is_found_before_its_statement_ends(
    tenant: Any, other: Any, worker: Make, spans: Make, large: Make, statements: Statements,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The first statement that it is in is ended by the engine after so many seconds; the next is of the others."""
    monkeypatch.setattr("tracebility.worker.runs.LONGEST_TOGETHER_S", 0.01)
    statements.free = 1
    statements.held.clear()
    await tenant.send(large(range(MANY)))
    await other.send([spans(0)])
    async with worker() as running:
        await running.drained(tenant)
        await running.drained(other)
        assert await counted(other) == [1]
        assert await counted(tenant) == []
        statements.held.set()
    assert await counted(tenant) == [MANY]
    assert statements.begun == 2
