"""The books of an org outlive it: what was accepted stays as it was, and so does what became of it."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from tests.harness.erasure import Filled, Work, drain, enter, envelope_of, work_now

from tracebility.alerts.ledger_check import LedgerCheck
from tracebility.alerts.metrics import AlertMetrics
from tracebility.alerts.standing import StandingAlerts
from tracebility.deletion import jobs
from tracebility.stores import clickhouse, postgres, redis_control
from tracebility.stores.ledger import Ledger, OrgQueue, RawRows, ledger
from tracebility.stores.queue import Queue
from tracebility.telemetry import Metrics


@pytest.fixture
async def sender(
    filled: tuple[Filled, Filled], streams: Queue, engine: clickhouse.Engine, store: redis_control.RedisControl
) -> Filled:
    """An org of which five spans are stored, and an item that nobody could read is dead."""
    mine, _ = filled
    await enter(streams, envelope_of(mine.org_id, mine.second, spans=5), envelope_of(mine.org_id, mine.second))
    await drain(streams, engine, store, mine.org_id)
    return mine


@pytest.fixture
def books(sender: Filled, streams: Queue, engine: clickhouse.Engine) -> Callable[[], Awaitable[Ledger]]:
    async def read() -> Ledger:
        return await ledger(OrgQueue(streams, sender.org_id), RawRows(engine, sender.org_id))

    return read


@pytest.fixture
def alerted(
    sender: Filled,
    control: postgres.Postgres,
    engine: clickhouse.Engine,
    streams: Queue,
) -> Callable[[], Awaitable[bool]]:
    """Whether the operator is told of books: the org's are looked at as after a settlement of its usage."""
    due: set[UUID] = set()
    metrics = AlertMetrics(Metrics())
    ledgers = LedgerCheck(StandingAlerts(control, metrics), engine, streams, metrics, due)

    async def look() -> bool:
        for _ in range(2):  # once it may be half-done
            due.add(sender.org_id)
            found = await ledgers.tick()
        return found is not None

    return look


def said(found: Ledger) -> tuple[int, int, int, int]:
    assert found.balanced, found
    return found.accepted, found.stored, found.dead, found.in_flight


async def test_the_books_of_an_org_are_after_its_deletion_as_they_were_before(
    sender: Filled, work: Work, books: Any, alerted: Any, store: redis_control.RedisControl
) -> None:
    before = await books()
    assert said(before) == (6, 5, 1, 0)
    done = await work.done(await work.ask(jobs.delete_org, sender.org_id, work_now()))
    assert await sender.content() == {}
    assert await books() == before
    assert not await alerted()
    certificate = done.certificate or {}
    assert certificate["books"] == {
        "accepted": 6, "stored": 5, "dropped": 0, "dead": 1, "in_flight": 0, "distinct": before.distinct
    }  # fmt: skip
    assert {"accepted", "in_flight", "envelope_outcome"} <= set(certificate["kept"])
    found = [name.decode() for name in await store.command("KEYS", f"*{sender.org_id}*")]
    assert {name.partition("}:")[2].partition(":")[0] for name in found} == {"accepted", "counts"}


async def test_what_comes_after_a_deletion_enters_and_leaves_the_books(
    sender: Filled, work: Work, books: Any, alerted: Any, streams: Queue, engine: Any, store: redis_control.RedisControl
) -> None:
    """From the disk buffer of an edge that was cut off."""
    await work.done(await work.ask(jobs.delete_org, sender.org_id, work_now()))
    await enter(streams, envelope_of(sender.org_id, sender.second, spans=3))
    assert said(await books()) == (9, 5, 1, 3)
    await drain(streams, engine, store, sender.org_id)
    assert said(await books()) == (9, 8, 1, 0)
    assert not await alerted()
    assert await work.deleter.sweep()
    assert said(await books()) == (9, 8, 1, 0)


async def test_what_is_in_the_queue_while_its_org_is_forgotten_counts_once(
    sender: Filled, work: Work, books: Any, alerted: Any, streams: Queue, engine: Any,
    store: redis_control.RedisControl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It came when what was accepted before the deletion had left."""
    counting = work.deleter._count_before

    async def count(job: Any) -> bool:
        await enter(streams, envelope_of(sender.org_id, sender.second, spans=3))
        return await counting(job)

    monkeypatch.setattr(work.deleter, "_count_before", count)
    await work.done(await work.ask(jobs.delete_org, sender.org_id, work_now()))
    assert said(await books()) == (9, 5, 1, 3)
    await drain(streams, engine, store, sender.org_id)
    assert said(await books()) == (9, 8, 1, 0)
    assert not await alerted()
    assert await work.deleter.sweep()
    assert await sender.content() == {}
