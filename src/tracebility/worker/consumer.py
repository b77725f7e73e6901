"""From the queue to the writer and back: reads every shard in turn, maps what comes, acknowledges what is stored.

While three batches are being written a fourth is mapped; no fifth is begun. An entry is acknowledged and deleted when
its rows are in the engine, or moved to the dead letters when it never can be stored; else it stays in the queue.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar

import structlog

from tracebility.errors import StoreUnavailable
from tracebility.failpoints import failpoint
from tracebility.retry import QUEUE_RETRY_S, pause
from tracebility.stores.queue import Queue, worker_names
from tracebility.stores.queue.entries import Departure, Entry, Leaving
from tracebility.tenant import dead_letters
from tracebility.tenant.ledger import DEAD, DROPPED, STORED
from tracebility.tenant.quota import METERED, metered_member
from tracebility.tenant.scripts import NOTE, HotStore
from tracebility.tenant.shard_router import LEGACY_STREAM, OVERFLOW_STREAMS, SHARD_STREAMS, SHARDS
from tracebility.wire.envelope import Envelope, MalformedEnvelope, from_fields
from tracebility.worker import mapping
from tracebility.worker.engine_retry import Stopped
from tracebility.worker.legacy import Legacy
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.outcomes import Outcome
from tracebility.worker.over_quota import OverQuota
from tracebility.worker.pending import InHand
from tracebility.worker.reclaim import (
    CLAIM_COUNT,
    CLAIM_IDLE_MS,
    MOST_DELIVERIES,
    claim,
    forget_the_gone,
    idle_to_claim,
    leave,
    left_behind,
)
from tracebility.worker.write import Held, Work, Writer

LINGER_S = 0.5  # a batch is closed after this, if it is not full before; see `batch_bounds`
# One whose spans are inserted; one or two whose runs are computed together meanwhile, and those that wait for that.
BATCHES_BEING_WRITTEN = 3

# Of what is read of a shard's stream, that of its overflow may be the so many-th part while others wait.
OVERFLOW_SHARE = 8
IDLE_S = 0.05  # between looks at empty streams: small beside the linger, 1 % of a core
READ_BYTES = 2 << 20  # to aim at in one round trip over all streams
MOST_ENTRIES_A_STREAM = 64  # COUNT is per stream; READ_BYTES lowers it where entries are large
CLAIM_EVERY_S = 1.0
SUSPECTS_S = 1.0  # for entries that may end the process, before what is new has its turn
FORGET_EVERY_S = 60.0
# A worker that is told to end gets this long to write what it holds; the rest stays in the queue.
LEAVE_S = 5.0
REASON_CHARS = 1_000

STREAMS = (*SHARD_STREAMS, *OVERFLOW_STREAMS)

T = TypeVar("T")
log = structlog.get_logger()


class Drain:
    """One worker's turn at the queue, from `run` until its stop event."""

    def __init__(
        self,
        queue: Queue,
        hot: HotStore,
        writer: Writer,
        metrics: WorkerMetrics,
        stop: asyncio.Event,
        legacy: Legacy | None = None,
    ) -> None:
        self._queue = queue
        self._hot = hot
        self._writer = writer
        self._metrics = metrics
        self._stop = stop
        self._name = worker_names.new_name()
        self._legacy = legacy
        self._streams = STREAMS if legacy is None else (*STREAMS, LEGACY_STREAM)
        self._quota = OverQuota(hot)
        # What came from before the shards while nobody could say whose it is; still in hand, and tried again.
        self._nobodys: list[Entry] = []
        self._in_hand = InHand(queue, self._name, self._streams, metrics)
        self._work = writer.new_work()
        self._writing: deque[asyncio.Task[None]] = deque()
        self._largest_entry = 1 << 15
        self._suspects: set[bytes] = set()  # that are being tried
        self._turn = 0
        self._claim_at = self._forget_at = 0.0
        self._idle_ms: int | None = None

    async def run(self) -> None:
        """Read, map, write and acknowledge until the stop event; then finish what is in hand if the engine takes it."""
        beating = asyncio.create_task(self._in_hand.beat())
        try:
            while not self._stop.is_set():
                await self._step()
            await self._finish()
        except Stopped:
            log.info("ended while a store was away; what was read stays in the queue")
        finally:
            beating.cancel()
            for writing in self._writing:
                writing.cancel()
            self._writer.close()
        with suppress(StoreUnavailable):
            await self._in_hand.excuse(self._suspects)

    async def _step(self) -> None:
        try:
            await self._claim_when_due()
            nobodys, self._nobodys = self._nobodys, []
            for entry in nobodys:
                await self._take(LEGACY_STREAM, entry, deliveries=1)
            found = await self._read()
        except StoreUnavailable as error:
            self._metrics.waits.labels(error.store).inc()
            log.warning("queue does not answer", reason=str(error))
            found = []
            await pause(self._stop, QUEUE_RETRY_S)
        for stream, entries in found:
            for entry in entries:
                await self._take(stream, entry, deliveries=1)
        # While the writers are busy the batch grows instead: the more there is to do, the cheaper a span becomes.
        if self._has_work() and self._has_room() and time.monotonic() - self._work.opened_at >= LINGER_S:
            await self._hand_over()
        if not found:
            await pause(self._stop, IDLE_S)

    async def _read(self) -> list[tuple[str, list[Entry]]]:
        """New entries of all streams, another stream first each turn."""
        self._turn = (self._turn + 1) % SHARDS
        order = SHARD_STREAMS[self._turn :] + SHARD_STREAMS[: self._turn]
        if self._legacy is not None and not self._nobodys:
            order += (LEGACY_STREAM,)
        count = max(1, min(MOST_ENTRIES_A_STREAM, READ_BYTES // self._largest_entry))
        found = await self._queue.read(order, self._name, count)
        # What an org had too much of comes behind what others have: all of it where nobody waits, else a share.
        is_anyone_waiting = any(len(entries) == count for _, entries in found)
        share = max(1, count // OVERFLOW_SHARE) if is_anyone_waiting else count
        overflow = OVERFLOW_STREAMS[self._turn :] + OVERFLOW_STREAMS[: self._turn]
        with suppress(StoreUnavailable):  # what was read before is in nobody else's hands; the next turn will tell
            found += await self._queue.read(overflow, self._name, share)
        sizes = [self._in_hand.hold(stream, entry) for stream, entries in found for entry in entries]
        if sizes:
            failpoint("worker_after_read")
            # Sinks slowly, so that one small entry does not invite many large ones.
            self._largest_entry = max(*sizes, self._largest_entry * 15 // 16, 1)
        return found

    async def _claim_when_due(self) -> None:
        now = time.monotonic()
        if now < self._claim_at:
            return
        try:
            if self._idle_ms is None:
                await self._queue.ensure_group(self._streams)
                self._idle_ms = await idle_to_claim(self._queue, self._streams)
            idle_ms, self._idle_ms = self._idle_ms, CLAIM_IDLE_MS
            await self._take_over(idle_ms)
            if now >= self._forget_at:
                await forget_the_gone(self._queue, self._name, self._streams)
                self._forget_at = now + FORGET_EVERY_S
        finally:
            self._claim_at = time.monotonic() + CLAIM_EVERY_S  # what is new is read meanwhile

    async def _take_over(self, idle_ms: int) -> None:
        """What others left behind. Suspects for a while only: those that are left then are found by the next look."""
        end, passed_over = time.monotonic() + SUSPECTS_S, 0
        groups = left_behind(self._queue, self._streams, idle_ms, self._in_hand.holds)
        async with aclosing(groups):
            async for group in groups:
                if group.is_suspect:
                    if time.monotonic() >= end:
                        passed_over += len(group.silent)
                        if passed_over > CLAIM_COUNT:
                            return
                        continue
                    await self._hand_over()
                    await self._written()
                    self._suspects = {one.id for one in group.silent}
                for entry, deliveries in await claim(self._queue, self._name, self._metrics, idle_ms, group):
                    self._in_hand.hold(group.stream, entry)
                    if deliveries > MOST_DELIVERIES:
                        reason = f"ended the worker or was never finished, {deliveries - 1} times"
                        await self._bury(group.stream, entry, reason, deliveries)
                    else:
                        await self._take(group.stream, entry, deliveries=deliveries)
                if group.is_suspect:
                    await self._hand_over()
                    await self._written()
                    self._suspects.clear()

    async def _take(self, stream: str, entry: Entry, *, deliveries: int) -> None:
        """Map an entry into the batch under way, or move it to the dead letters when it cannot be read."""
        try:
            envelope = await self._envelope(stream, entry)
        except StoreUnavailable as error:
            if not self._nobodys:
                log.warning("it cannot be said whose legacy envelopes are; trying again", reason=str(error))
            self._nobodys.append(entry)
            return
        except MalformedEnvelope as error:
            await self._cannot_be_read(stream, entry, error, deliveries)
            return
        header = envelope.header
        if header.degraded and await self._quota.is_over(header.org_id, header.period):
            self._opened()
            self._work.dropped.append(Outcome(stream, entry, header, DROPPED, "quota exceeded"))
            self._metrics.dropped.inc()
            return
        began = time.monotonic()
        try:
            with self._metrics.stage_seconds.labels("map").time():
                mapping.add(self._work.batch, envelope)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever reading it raises is why it cannot be stored
            await self._cannot_be_read(stream, entry, error, deliveries)
            return
        self._opened()
        self._work.held.append(Held(stream, entry, envelope))
        self._work.mapping_s += time.monotonic() - began
        if self._writer.is_full(self._work):
            await self._hand_over()
        await asyncio.sleep(0)  # a heartbeat, or the body of an insert, may be waiting for the loop

    async def _envelope(self, stream: str, entry: Entry) -> Envelope:
        if self._legacy is None or stream != LEGACY_STREAM:
            return from_fields(entry.fields)
        self._metrics.legacy.inc()
        return await self._legacy.envelope(entry.id, entry.fields)

    async def _cannot_be_read(self, stream: str, entry: Entry, error: Exception, deliveries: int) -> None:
        """Reading is pure: it would fail the same way each time. A release that can read it replays the letter."""
        log.error("envelope cannot be read", stream=stream, entry_id=entry.id.decode(), exc_info=error)
        await self._bury(stream, entry, f"cannot be read: {type(error).__name__}: {error}", deliveries)

    def _opened(self) -> None:
        if not self._has_work():
            self._work.opened_at = time.monotonic()

    def _has_work(self) -> bool:
        return bool(self._work.held or self._work.dropped)

    async def _hand_over(self) -> None:
        """Begin to write the batch under way as soon as there is room for another."""
        self._writer.seal(self._work)
        await self._written(BATCHES_BEING_WRITTEN - 1)
        if self._has_work():
            self._writing.append(asyncio.create_task(self._settle(self._work)))
            self._work = self._writer.new_work()

    def _has_room(self) -> bool:
        return sum(not writing.done() for writing in self._writing) < BATCHES_BEING_WRITTEN

    async def _written(self, left: int = 0) -> None:
        """Wait until at most ``left`` batches are being written."""
        while len(self._writing) > left:
            await self._writing[0]
            self._writing.popleft()

    async def _settle(self, work: Work) -> None:
        """Write a batch; acknowledge what is stored, bury what never can be."""
        refusals = {(one.held.stream, one.held.entry.id): one.reason for one in await self._writer.write(work)}
        stored = [held for held in work.held if (held.stream, held.entry.id) not in refusals]
        outcomes = [Outcome(held.stream, held.entry, held.envelope.header, STORED) for held in stored]
        outcomes += work.dropped
        leaving = _leaving(outcomes, await self._settled(outcomes))
        failpoint("worker_after_outcomes_before_ack")
        await self._say_metered(work)
        with self._metrics.stage_seconds.labels("ack").time():
            await self._insist(lambda: self._queue.leave(leaving))
        failpoint("worker_after_ack")
        now_us = time.time_ns() // 1000
        for one in leaving:
            self._in_hand.release(one.stream, one.ids)
            self._metrics.envelopes.inc(len(one.ids))
        for held in work.held:
            reason = refusals.get((held.stream, held.entry.id))
            if reason is not None:
                await self._bury(held.stream, held.entry, reason, 1)
            self._metrics.lag_seconds.observe(max(now_us - held.envelope.header.accepted_at_us, 0) / 1e6)
        self._metrics.spans.inc(sum(held.envelope.header.items for held in stored))
        self._metrics.batches.inc()

    async def _settled(self, outcomes: Sequence[Outcome]) -> list[Departure]:
        """Write what became of envelopes; how they leave the books.

        It is decided first which entry each counts for: of one that is delivered again, or that others settle now, an
        outcome does not tell whose it is.
        """
        known = await self._writer.known(outcomes)
        asking = [Departure(one.book, one.header.id in known, one.entry.id) for one in outcomes]
        departures = await self._insist(lambda: self._queue.count(asking))
        failpoint("worker_after_count_before_outcomes")
        await self._writer.settle(outcomes)
        return departures

    async def _say_metered(self, work: Work) -> None:
        """Have the reconciler look at whose usage has changed, before the queue forgets that it has. And at whom
        something was dropped for, so that the flag by which it was stands for as long as the org is over its quota.
        """
        headers = [*(held.envelope.header for held in work.held), *(one.header for one in work.dropped)]
        members = sorted({metered_member(header.org_id, header.period) for header in headers})
        if members:
            said: list[str | int] = [time.time_ns() // 1_000_000, *members]
            # A plain ZADD is refused when memory is full, and nothing would leave it any more.
            await self._insist(lambda: self._hot.run(NOTE, [METERED], said))

    async def _bury(self, stream: str, entry: Entry, reason: str, deliveries: int) -> None:
        log.error("dead letter", stream=stream, entry_id=entry.id.decode(), reason=reason[:REASON_CHARS])
        try:
            outcomes = [Outcome(stream, entry, from_fields(entry.fields).header, DEAD, reason)]
        except MalformedEnvelope:
            outcomes = []  # Whose it was cannot be told, so it is in nobody's books.
        leaving = Leaving(stream, [entry.id], await self._settled(outcomes))
        held_bytes = await self._insist(
            lambda: self._queue.dead_letter(
                leaving, entry, reason=reason[:REASON_CHARS], deliveries=deliveries, at_us=time.time_ns() // 1000
            )
        )
        self._metrics.dead.inc()
        for one in outcomes:
            with suppress(StoreUnavailable):  # the operator tells the doors, too
                await dead_letters.refuse_if_over(self._hot, one.header.org_id, held_bytes)
        self._in_hand.release(stream, [entry.id])

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Do what must be done to the queue, or beside it, however long it is away."""
        while True:
            try:
                return await call()
            except StoreUnavailable as error:
                self._metrics.waits.labels(error.store).inc()
                log.warning("queue does not answer; trying again", reason=str(error))
                await pause(self._stop, QUEUE_RETRY_S)
                if self._stop.is_set():
                    raise Stopped from error

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._hand_over()
                await self._written()
                await leave(self._queue, self._name, self._streams)
                await self._writer.finish()
        except (TimeoutError, StoreUnavailable):
            log.info("ended before everything was written; the rest stays in the queue")


def _leaving(outcomes: Sequence[Outcome], departures: Sequence[Departure]) -> list[Leaving]:
    """By stream: the entries that are done with, and how their envelopes leave the books."""
    ids: dict[str, list[bytes]] = {}
    for one in outcomes:
        ids.setdefault(one.stream, []).append(one.entry.id)
    return [
        Leaving(stream, some, [one for one in departures if one.book.stream == stream]) for stream, some in ids.items()
    ]
