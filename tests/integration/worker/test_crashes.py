"""A worker that dies at any point loses nothing and doubles nothing; the next one goes on at once."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from tests.harness import streams as raw_streams

from tracebility.stores.ledger import OrgQueue, RawRows, ledger
from tracebility.stores.queue import worker_names
from tracebility.stores.queue.entries import MAYBE_DUPLICATE
from tracebility.tenant.ledger import ledger_entry
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM

Make = Callable[..., Any]

FAILPOINTS = [
    "worker_after_read",
    "worker_after_span_insert",
    "worker_after_run_insert",
    "worker_after_meter_insert_before_ack",
    "worker_after_count_before_outcomes",
    "worker_after_outcomes_before_ack",
    "worker_after_ack",
]


@pytest.mark.parametrize("failpoint", FAILPOINTS)
async def test_a_worker_killed_at_any_point_loses_and_doubles_nothing(
    tenant: Any, worker: Make, worker_process: Make, spans: Make, failpoint: str
) -> None:
    bodies = [spans(0), spans(1, 0)], [spans(2, 0), spans(0)], [spans(3, 1)]
    envelopes = [tenant.envelope(tenant.body(body), items=len(body)) for body in bodies]
    # As edges send what overflows, and what was in the disk buffer: it may be here once more, and one of them is.
    entries = [(tenant.stream, {**envelope.fields(), MAYBE_DUPLICATE: b"1"}) for envelope in (*envelopes, envelopes[0])]
    await tenant.queue.append_groups(
        [entries], [ledger_entry(tenant.stream, envelope.header) for envelope in envelopes]
    )
    assert await worker_process(failpoint).ended() == -signal.SIGKILL
    async with worker() as running:
        await running.drained(tenant)
    assert len(await tenant.rows("span", "span_id")) == 4
    assert [run["span_count"] for run in await tenant.rows("run", "span_count")] == [4]
    assert (await tenant.metered())["spans"] == 4
    found = await ledger(OrgQueue(tenant.queue, tenant.org_id), RawRows(tenant.engine, tenant.org_id))
    assert (found.accepted, found.stored, found.in_flight, found.balanced) == (5, 5, 0, True)


async def test_what_a_dead_process_of_this_machine_left_is_taken_at_once(
    tenant: Any, worker: Make, worker_process: Make, spans: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracebility.worker.reclaim.CLAIM_IDLE_MS", 3_600_000)
    await tenant.send([spans(0)])
    await worker_process("worker_after_read").ended()
    async with worker() as running:
        await running.drained(tenant)
        assert running.metrics.reclaimed._value.get() == 1
    assert len(await tenant.rows("span", "span_id")) == 1


async def test_a_worker_that_is_told_to_end_writes_what_it_has_and_leaves_the_group(
    tenant: Any, worker_process: Make, until: Make, spans: Make
) -> None:
    process = worker_process()

    async def has_read() -> bool:
        return await tenant.queue.length(tenant.stream) == 0

    await tenant.send([spans(0)])
    await until(has_read)
    process.end()
    readers = await worker_names.consumers(tenant.queue, [tenant.stream])
    assert str(process.process.pid) not in {one.name.split("/")[1] for one in readers[tenant.stream]}
    assert len(await tenant.rows("span", "span_id")) == 1


@pytest.mark.parametrize("failpoint", ["worker_after_bury_before_leave", "worker_after_buried_left"])
async def test_a_worker_killed_while_it_buries_leaves_one_dead_letter(
    tenant: Any, worker: Make, worker_process: Make, failpoint: str
) -> None:
    """The two streams may be on two nodes of a cluster, so no one step changes both."""
    await tenant.send(b"\xff\xff")
    assert await worker_process(failpoint).ended() == -signal.SIGKILL
    async with worker() as running:
        await running.drained(tenant)
    letters = [letter for letter in await tenant.dead() if letter.fields[b"stream"] == tenant.stream.encode()]
    assert [letter.fields[b"b"] for letter in letters] == [b"\xff\xff"]
    await raw_streams.delete(tenant.queue, DEAD_LETTER_STREAM, [letter.id for letter in letters])
    found = await ledger(OrgQueue(tenant.queue, tenant.org_id), RawRows(tenant.engine, tenant.org_id))
    assert (found.accepted, found.dead, found.in_flight, found.balanced) == (1, 1, 0, True)
