"""One operator leads; when it is gone another does, and what it still writes does not get in."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tracebility.operator.loops import Loop, run, run_once
from tracebility.operator.metrics import OperatorMetrics
from tracebility.stores.leader import HUNG_AFTER_S, LOCK, Lease, leading
from tracebility.stores.postgres import Postgres
from tracebility.telemetry import Metrics

DEADLINE_S = 30.0
TAKEN_OVER_S = 5.0


async def until(what: str, condition: Callable[[], Awaitable[Any]], seconds: float = DEADLINE_S) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        await asyncio.sleep(0.02)
    return value


async def leader(control: Postgres) -> tuple[int, int]:
    """Pid and fence of who leads."""
    row = await control.fetchrow("SELECT name, fence FROM operator_leader")
    assert row is not None
    return int(row["name"].rpartition(":")[2] or 0), row["fence"]


async def end_leaders_connection(control: Postgres) -> None:
    await control.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
        "AND (classid::bigint << 32 | objid::bigint) = $1 AND objsubid = 1 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        LOCK,
    )


async def test_of_two_operators_one_leads_and_the_other_takes_over_when_it_is_killed(
    control: Postgres, operator_process: Any
) -> None:
    processes = {process.pid: process for process in (operator_process(), operator_process())}

    async def one_leads() -> int | None:
        pid, _ = await leader(control)
        return pid if pid in processes else None

    first = await until("an operator leads", one_leads)
    _, fence = await leader(control)
    await asyncio.sleep(1.5)
    assert await leader(control) == (first, fence), "the other waits"
    processes.pop(first).kill()
    began = time.monotonic()
    second = await until("the other leads", one_leads)
    assert time.monotonic() - began < TAKEN_OVER_S
    assert second != first
    assert (await leader(control))[1] > fence


async def test_a_stalled_leader_that_resumes_leads_no_more_and_writes_nothing(
    control: Postgres, operator_process: Any
) -> None:
    processes = {process.pid: process for process in (operator_process(), operator_process())}

    async def one_leads() -> int | None:
        pid, _ = await leader(control)
        return pid if pid in processes else None

    first = await until("an operator leads", one_leads)
    _, fence = await leader(control)
    os.kill(first, signal.SIGSTOP)

    async def another_leads() -> bool:
        return (await leader(control))[0] in set(processes) - {first}

    await until("the other leads", another_leads, HUNG_AFTER_S + TAKEN_OVER_S)

    async def relay_is_noted() -> bool:
        recorded = await control.fetchval("SELECT fence FROM operator_loop WHERE name = 'audit-relay'")
        return bool(recorded is not None and recorded > fence)

    await until("the new leader's loop is recorded", relay_is_noted)
    os.kill(first, signal.SIGCONT)
    for _ in range(100):
        assert await relay_is_noted(), "the old leader wrote"
        await asyncio.sleep(0.02)
    assert (await leader(control))[0] != first
    assert processes[first].poll() is None, "it waits for its turn"


async def test_who_leads_stops_when_the_connection_is_gone(stores: Any, control: Postgres) -> None:
    ticked = 0
    cancelled = asyncio.Event()

    async def tick(fence: int) -> None:
        nonlocal ticked
        ticked += 1
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with leading(stores.pg_dsn, "test:1") as lease:
        running = asyncio.create_task(
            run([Loop("test-endless", 1.0, tick)], lease, control, OperatorMetrics(Metrics()))
        )
        await asyncio.sleep(0.3)
        assert ticked == 1
        await end_leaders_connection(control)
        async with asyncio.timeout(1.0):
            await running
    assert cancelled.is_set()
    async with leading(stores.pg_dsn, "test:2") as later:
        assert later.fence > lease.fence


async def test_a_loop_of_a_former_leader_writes_nothing(stores: Any, control: Postgres) -> None:
    async def tick(fence: int) -> None:
        pass

    async with leading(stores.pg_dsn, "test:3") as lease:
        stale = Lease(lease.fence - 1)
        async with asyncio.timeout(DEADLINE_S):  # it finds out by itself
            await run([Loop("test-stale", 1.0, tick)], stale, control, OperatorMetrics(Metrics()))
        assert await control.fetchval("SELECT count(*) FROM operator_loop WHERE name = 'test-stale'") == 0
        running = asyncio.create_task(run([Loop("test-stale", 1.0, tick)], lease, control, OperatorMetrics(Metrics())))

        async def is_noted() -> bool:
            sql = "SELECT fence FROM operator_loop WHERE name = 'test-stale'"
            return bool(await control.fetchval(sql) == lease.fence)

        await until("the leader's loop is recorded", is_noted)
        running.cancel()


async def test_a_tick_that_fails_ends_no_loop_and_is_told(stores: Any, control: Postgres) -> None:
    ticks = {"test-bad": 0, "test-good": 0}

    async def bad(fence: int) -> None:
        ticks["test-bad"] += 1
        if ticks["test-bad"] < 3:
            raise ValueError("out of order")

    async def good(fence: int) -> None:
        ticks["test-good"] += 1

    async def recorded(name: str) -> Any:
        return await control.fetchrow("SELECT * FROM operator_loop WHERE name = $1", name)

    metrics = OperatorMetrics(Metrics())
    async with leading(stores.pg_dsn, "test:4") as lease:
        loops = [Loop("test-bad", 0.2, bad), Loop("test-good", 0.2, good)]
        running = asyncio.create_task(run(loops, lease, control, metrics))

        async def failure_is_noted() -> bool:
            row = await recorded("test-bad")
            return row is not None and row["last_error"] == "ValueError: out of order"

        await until("the failure is recorded", failure_is_noted)

        async def success_is_noted() -> bool:
            row = await recorded("test-bad")
            return row["last_error"] == "" and row["last_success"] is not None

        await until("the success is recorded", success_is_noted)

        async def other_went_on() -> bool:
            return ticks["test-good"] >= 3

        await until("the other loop went on", other_went_on)
        running.cancel()
    said = metrics.all.exposition().decode()
    assert 'tracebility_operator_loop_failures_total{loop="test-bad"} 2.0' in said
    assert 'tracebility_operator_loop_last_success_seconds{loop="test-good"}' in said


async def test_a_loop_is_due_a_period_after_it_last_succeeded_whoever_ran_it(stores: Any, control: Postgres) -> None:
    ticks = 0

    async def tick(fence: int) -> int:
        nonlocal ticks
        ticks += 1
        return ticks

    daily = Loop("test-daily", 86_400.0, tick)
    assert await run_once(daily, control) == 1
    async with leading(stores.pg_dsn, "test:5") as lease:
        running = asyncio.create_task(run([daily], lease, control, OperatorMetrics(Metrics())))
        await asyncio.sleep(0.5)
        assert ticks == 1, "it is not due"
        running.cancel()
        await control.execute(
            "UPDATE operator_loop SET last_success = last_success - interval '1 day' WHERE name = 'test-daily'"
        )
        running = asyncio.create_task(run([daily], lease, control, OperatorMetrics(Metrics())))
        await asyncio.sleep(0.5)
        assert ticks == 2, "it is due"
        running.cancel()


@pytest.fixture(autouse=True)
async def _forget_loops(control: Postgres) -> Any:
    yield
    await control.execute("DELETE FROM operator_loop WHERE name LIKE 'test-%'")


async def test_how_far_a_loop_is_behind_is_told(stores: Any, control: Postgres) -> None:
    metrics = OperatorMetrics(Metrics())
    fails = True

    async def tick(fence: int) -> None:
        if fails:
            raise ValueError("such as of a store")

    async def lag() -> float:
        return float(metrics.lag.labels("test-late")._value.get())

    async def is_late() -> bool:
        return await lag() > 0.2

    async def is_in_time() -> bool:
        return await lag() < 0.2

    async with leading(stores.pg_dsn, "test:4") as lease:
        running = asyncio.create_task(run([Loop("test-late", 0.05, tick)], lease, control, metrics))
        await until("it is late", is_late)
        fails = False
        await until("it is in time", is_in_time)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
