"""The books of an org: accepted = stored + dropped + dead + in flight, each envelope once, whatever comes twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from typing import Any

import pytest
from tests.harness import streams as raw_streams

from tracebility.ids import OrgId
from tracebility.stores import scoped
from tracebility.stores.ledger import Ledger, OrgQueue, ledger
from tracebility.stores.queue import Queue
from tracebility.stores.queue.entries import MAYBE_DUPLICATE, LedgerRemoval, Removal
from tracebility.tenant.ledger import counts_key, ledger_entry
from tracebility.tenant.shard_router import ALL_STREAMS, overflow_of, shard_of


@pytest.fixture
async def books(stores: Any, queue: Queue, tenant: Any) -> AsyncIterator[Callable[[], Any]]:
    """The ledger of the test's org, as those who answer requests read it."""
    engine = await scoped.connect(stores.clickhouse_reader_url)

    async def read() -> Ledger:
        org_id = OrgId(tenant.org_id)
        return await ledger(OrgQueue(queue, org_id), engine.within_org(scoped.sealed_org_scope(org_id)))

    yield read
    await engine.close()


@pytest.fixture
def an_envelope(spans: Any) -> Callable[[Any], Any]:
    """Makes an envelope of the same three spans."""
    return lambda tenant: tenant.envelope(tenant.body([spans(number) for number in range(3)]), items=3)


def said(found: Ledger) -> tuple[int, int, int, int, int]:
    assert found.balanced
    return found.accepted, found.stored, found.dead, found.in_flight, found.distinct


class HeldEngine:
    """The engine of workers that stop before or behind the outcomes that they write, until they may go on."""

    def __init__(self, engine: Any, *, behind: bool) -> None:
        self._engine, self._behind = engine, behind
        self.stopped = 0
        self.may_go_on = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def insert_native(self, table: str, *block: Any) -> None:
        if table == "envelope_outcome" and not self._behind:
            await self._stop()
        await self._engine.insert_native(table, *block)
        if table == "envelope_outcome" and self._behind:
            await self._stop()

    async def _stop(self) -> None:
        self.stopped += 1
        await self.may_go_on.wait()


async def enter(queue: Queue, tenant: Any, envelope: Any, stream: str = "", **more: bytes) -> None:
    """Put an envelope into the queue as an edge does."""
    fields, stream = {**envelope.fields(), **more}, stream or tenant.stream
    await queue.append_groups([[(stream, fields)]], [ledger_entry(stream, envelope.header)])


async def test_an_envelope_is_in_flight_and_then_stored(
    queue: Queue, tenant: Any, worker: Any, books: Any, an_envelope: Any
) -> None:
    envelope = an_envelope(tenant)
    await enter(queue, tenant, envelope)
    assert said(await books()) == (3, 0, 0, 3, 0)
    async with worker() as running:
        await running.drained(tenant)
    assert said(await books()) == (3, 3, 0, 0, 3)


async def test_items_that_came_in_two_envelopes_count_in_both_and_are_distinct_once(
    queue: Queue, tenant: Any, worker: Any, books: Any, an_envelope: Any
) -> None:
    for _ in range(2):
        await enter(queue, tenant, an_envelope(tenant))
    async with worker() as running:
        await running.drained(tenant)
    assert said(await books()) == (6, 6, 0, 0, 3)


@pytest.mark.parametrize("first_has_left", ["long ago", "just now", "not yet"])
async def test_an_envelope_that_comes_once_more_counts_once(
    queue: Queue,
    tenant: Any,
    worker: Any,
    books: Any,
    an_envelope: Any,
    first_has_left: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer to the first try was lost, so the disk buffer had it too."""
    if first_has_left == "long ago":
        monkeypatch.setattr("tracebility.stores.queue.connection.COUNTS_LEFT_MS", 1)
    envelope = an_envelope(tenant)
    await enter(queue, tenant, envelope)
    if first_has_left == "not yet":
        await enter(queue, tenant, envelope, **{MAYBE_DUPLICATE: b"1"})

    async def is_forgotten() -> bool:
        return await queue._pipeline([("EXISTS", counts_key(ledger_entry(tenant.stream, envelope.header)))]) == [0]

    async with worker() as running:
        await running.drained(tenant)
        if first_has_left == "long ago":
            await running.until(is_forgotten)
        if first_has_left != "not yet":
            await enter(queue, tenant, envelope, **{MAYBE_DUPLICATE: b"1"})
            await running.drained(tenant)
    assert said(await books()) == (3, 3, 0, 0, 3)


async def test_an_envelope_whose_edge_died_before_it_was_entered_is_accepted_all_the_same(
    queue: Queue, tenant: Any, worker: Any, books: Any, an_envelope: Any
) -> None:
    await raw_streams.append(queue, [(tenant.stream, an_envelope(tenant).fields())])
    async with worker() as running:
        await running.drained(tenant)
    assert said(await books()) == (3, 3, 0, 0, 3)


async def test_a_dead_letter_is_dead_until_it_is_replayed_and_stored(
    queue: Queue, tenant: Any, worker: Any, books: Any, an_envelope: Any
) -> None:
    good = an_envelope(tenant)
    bad = type(good)(good.header, b"\xff" + good.body)
    await enter(queue, tenant, bad)
    async with worker() as running:
        await running.drained(tenant)
        assert said(await books()) == (3, 0, 3, 0, 0)
        [letter] = [one for one in await tenant.dead() if one.fields[b"stream"] == tenant.stream.encode()]
        letter.fields[b"b"] = good.body  # as after an upgrade that can read it
        await queue.replay(letter)
        await running.drained(tenant)
    assert said(await books()) == (3, 3, 0, 0, 3)


async def test_an_entry_that_the_stream_lost_is_missed(
    queue: Queue, tenant: Any, worker: Any, books: Any, an_envelope: Any
) -> None:
    envelope = an_envelope(tenant)
    await enter(queue, tenant, envelope)
    [entry] = await queue.range(tenant.stream)
    await raw_streams.delete(queue, tenant.stream, [entry.id])
    async with worker() as running:
        await running.drained(tenant)
    found = await books()
    assert (found.accepted, found.stored, found.in_flight) == (3, 0, 3)
    assert set(await queue.in_flight(ALL_STREAMS, tenant.org_id)) == {envelope.header.id}
    assert (tenant.org_id, envelope.header.id) in await queue.missing(ALL_STREAMS)


async def test_an_entry_that_was_refused_is_in_no_books(
    queue: Queue, tenant: Any, books: Any, an_envelope: Any
) -> None:
    envelope = an_envelope(tenant)
    book = ledger_entry(tenant.stream, envelope.header)
    await queue.append_groups([], [book])
    await queue.withdraw([book])
    await queue.withdraw([book])  # as when the books were refused too
    assert said(await books()) == (0, 0, 0, 0, 0)


async def test_what_waits_in_a_stream_is_not_missing(queue: Queue, tenant: Any, an_envelope: Any) -> None:
    envelopes = [an_envelope(tenant) for _ in range(2)]
    for envelope in envelopes:
        await enter(queue, tenant, envelope)
        await asyncio.sleep(0.002)  # which came first is told by the millisecond
    assert tenant.org_id not in {org_id for org_id, _ in await queue.missing(ALL_STREAMS)}
    [first, second] = await queue.range(tenant.stream)
    await raw_streams.delete(queue, tenant.stream, [first.id])
    assert (tenant.org_id, envelopes[0].header.id) in await queue.missing(ALL_STREAMS)
    assert (tenant.org_id, envelopes[1].header.id) not in await queue.missing(ALL_STREAMS)
    await raw_streams.delete(queue, tenant.stream, [second.id])


@pytest.mark.parametrize("order", ["overflow first", "disk buffer first", "together"])
async def test_an_envelope_that_comes_in_both_streams_of_its_shard_counts_once(
    queue: Queue, tenant: Any, worker: Any, books: Any, an_envelope: Any, order: str
) -> None:
    """It overflowed, the answer was lost, and the disk buffer brought it to the shard's own stream."""
    envelope, overflow = an_envelope(tenant), overflow_of(shard_of(tenant.org_id))
    streams = [tenant.stream, overflow] if order == "disk buffer first" else [overflow, tenant.stream]
    if order == "together":
        for stream in streams:
            await enter(queue, tenant, envelope, stream, **{MAYBE_DUPLICATE: b"1"})
    async with worker() as running:
        for stream in streams:
            if order != "together":
                await enter(queue, tenant, envelope, stream, **{MAYBE_DUPLICATE: b"1"})
            await running.until(lambda: _is_empty(queue, streams))
    assert said(await books()) == (3, 3, 0, 0, 3)


async def test_a_first_try_that_is_settled_long_after_its_copy_counts_once(
    queue: Queue, tenant: Any, worker: Any, books: Any, an_envelope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was in the hands of a worker that died; then none ran for a while."""
    for module in ("stores.queue.connection", "worker.outcomes"):
        monkeypatch.setattr(f"tracebility.{module}.COUNTS_LEFT_MS", 1)
    for module in ("reclaim", "consumer"):
        monkeypatch.setattr(f"tracebility.worker.{module}.CLAIM_IDLE_MS", 3_600_000)
    envelope = an_envelope(tenant)
    await queue.ensure_group([tenant.stream])
    await enter(queue, tenant, envelope)
    await queue.read([tenant.stream], "elsewhere/1/1/0", 1)
    await enter(queue, tenant, envelope, **{MAYBE_DUPLICATE: b"1"})
    async with worker() as running:
        await running.until(lambda: _has_length(queue, tenant.stream, 1))
    monkeypatch.setattr("tracebility.worker.reclaim.CLAIM_IDLE_MS", 1)
    async with worker() as running:
        await running.drained(tenant)
    assert said(await books()) == (3, 3, 0, 0, 3)


async def _has_length(queue: Queue, stream: str, length: int) -> bool:
    return await queue.length(stream) == length


async def test_a_departure_that_is_asked_for_again_takes_no_other_entry_out_of_flight(
    queue: Queue, tenant: Any, worker: Any, books: Any, an_envelope: Any
) -> None:
    """Two workers settled the first entry; the disk buffer brought the second before the slower one was done."""
    envelope = an_envelope(tenant)
    await enter(queue, tenant, envelope)
    [entry] = await queue.range(tenant.stream)
    ledger_removals = await queue.count([LedgerRemoval(ledger_entry(tenant.stream, envelope.header), False, entry.id)])
    removal = Removal(tenant.stream, [entry.id], ledger_removals)
    await queue.remove([removal])
    await enter(queue, tenant, envelope, **{MAYBE_DUPLICATE: b"1"})
    await queue.remove([removal])
    async with worker() as running:
        await running.drained(tenant)
    assert said(await books()) == (3, 3, 0, 0, 3)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("is_one_stream", [True, False])
async def test_an_envelope_whose_two_entries_are_settled_at_once_counts_once(
    queue: Queue,
    tenant: Any,
    engine: Any,
    worker_of: Any,
    books: Any,
    an_envelope: Any,
    is_one_stream: bool,
    workers: int,
) -> None:
    """Two workers, or two batches of one, find no outcome of the other's."""
    envelope = an_envelope(tenant)
    streams = [tenant.stream, tenant.stream if is_one_stream else overflow_of(shard_of(tenant.org_id))]
    held = HeldEngine(engine, behind=False)
    async with worker_of(queue, held) as first:
        await enter(queue, tenant, envelope)
        await first.until(lambda: held.stopped == 1)
        async with worker_of(queue, held) if workers == 2 else nullcontext(first):
            await enter(queue, tenant, envelope, streams[1], **{MAYBE_DUPLICATE: b"1"})
            await first.until(lambda: held.stopped == 2)
            held.may_go_on.set()
            await first.until(lambda: _is_empty(queue, streams))
    assert said(await books()) == (3, 3, 0, 0, 3)


async def test_an_entry_that_two_workers_settle_counts_once(
    queue: Queue,
    tenant: Any,
    engine: Any,
    worker: Any,
    worker_of: Any,
    books: Any,
    an_envelope: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that it was taken from had written the outcome, and stood still: for as long as you like."""
    monkeypatch.setattr("tracebility.stores.queue.connection.COUNTS_LEFT_MS", 1)
    monkeypatch.setattr("tracebility.worker.pending.HEARTBEAT_S", 3600.0)
    monkeypatch.setattr("tracebility.worker.reclaim.CLAIM_IDLE_MS", 1)
    held = HeldEngine(engine, behind=True)
    async with worker_of(queue, held) as first:
        await enter(queue, tenant, an_envelope(tenant), **{MAYBE_DUPLICATE: b"1"})
        await first.until(lambda: held.stopped == 1)
        async with worker() as second:
            await second.drained(tenant)
        held.may_go_on.set()
    assert said(await books()) == (3, 3, 0, 0, 3)


async def _is_empty(queue: Queue, streams: list[str]) -> bool:
    return all(depth.length == 0 for depth in (await queue.depths(streams)).values())


async def test_a_departure_whose_answer_was_lost_may_be_asked_for_again(
    queue: Queue, tenant: Any, books: Any, an_envelope: Any
) -> None:
    """Also that of an envelope whose writer died before it was entered: it is accepted once, when its entry goes."""
    entered, not_entered = an_envelope(tenant), an_envelope(tenant)
    await enter(queue, tenant, entered)
    await raw_streams.append(queue, [(tenant.stream, not_entered.fields())])
    entries = await queue.range(tenant.stream)
    removal = Removal(
        tenant.stream,
        [entry.id for entry in entries],
        [
            LedgerRemoval(ledger_entry(tenant.stream, envelope.header), False, entry.id)
            for envelope, entry in zip((entered, not_entered), entries, strict=True)
        ],
    )
    for _ in range(2):
        await queue.remove([removal])
        assert await queue.accepted(ALL_STREAMS, tenant.org_id) == 6
        assert await queue.in_flight(ALL_STREAMS, tenant.org_id) == {}
