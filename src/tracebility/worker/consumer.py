"""The consumer reads entries from all shards, maps them into batches, and acknowledges them once they are stored.

At most four batches are in memory: three being written and one being mapped. An entry is acknowledged and deleted when
its rows are in ClickHouse, or moved to the dead letters when it can never be stored; otherwise it stays in the queue.
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
from tracebility.stores.queue.entries import Entry, LedgerRemoval, Removal
from tracebility.tenant import dead_letters
from tracebility.tenant.ledger import DEAD, DROPPED, STORED
from tracebility.tenant.quota import METERED, metered_member
from tracebility.tenant.scripts import TOUCH, ControlStore
from tracebility.tenant.shard_router import LEGACY_STREAM, OVERFLOW_STREAMS, SHARD_STREAMS, SHARDS
from tracebility.wire.envelope import Envelope, MalformedEnvelope, from_fields
from tracebility.worker import mapping
from tracebility.worker.engine_retry import Stopped
from tracebility.worker.legacy import Legacy
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.outcomes import Outcome
from tracebility.worker.over_quota import OverQuota
from tracebility.worker.pending import PendingEntries
from tracebility.worker.reclaim import (
    CLAIM_COUNT,
    CLAIM_IDLE_MS,
    MAX_DELIVERIES,
    claim,
    claimable_groups,
    idle_to_claim,
    remove_ended_consumers,
    remove_own_consumers,
)
from tracebility.worker.write import Held, Work, Writer

LINGER_S = 0.5  # a batch is closed after this, if it is not full before; see `batch_bounds`
# Three batches in flight: one inserting spans, the others recomputing runs, together where they can.
BATCHES_BEING_WRITTEN = 3

# While other orgs wait, overflow gets at most 1/8 of each read.
OVERFLOW_SHARE = 8
IDLE_S = 0.05  # pause between reads of empty streams: short compared with LINGER_S, 1 % of a core
READ_BYTES = 2 << 20  # target size of one read over all streams
MAX_ENTRIES_PER_STREAM = 64  # COUNT is per stream; READ_BYTES lowers it where entries are large
CLAIM_EVERY_S = 1.0
SUSPECTS_S = 1.0  # time per turn for entries that may crash the process, before new entries are read
FORGET_EVERY_S = 60.0
# Time that a stopping worker has to write its pending entries; the rest stays in the queue.
LEAVE_S = 5.0
REASON_CHARS = 1_000

STREAMS = (*SHARD_STREAMS, *OVERFLOW_STREAMS)

T = TypeVar("T")
log = structlog.get_logger()


class Consumer:
    """The main loop of one worker."""

    def __init__(
        self,
        queue: Queue,
        hot: ControlStore,
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
        # Legacy entries whose org could not be looked up yet; they stay pending and are retried.
        self._unresolved: list[Entry] = []
        self._pending = PendingEntries(queue, self._name, self._streams, metrics)
        self._work = writer.new_work()
        self._writing: deque[asyncio.Task[None]] = deque()
        self._largest_entry = 1 << 15
        self._suspects: set[bytes] = set()  # suspect entries being processed now
        self._turn = 0
        self._claim_at = self._forget_at = 0.0
        self._idle_ms: int | None = None

    async def run(self) -> None:
        """Process entries until the stop event, then write the pending entries if ClickHouse is available."""
        beating = asyncio.create_task(self._pending.beat())
        try:
            while not self._stop.is_set():
                await self._step()
            await self._finish()
        except Stopped:
            log.info("stopped while a store was unavailable; unwritten entries stay in the queue")
        finally:
            beating.cancel()
            for writing in self._writing:
                writing.cancel()
            self._writer.close()
        with suppress(StoreUnavailable):
            await self._pending.reset_deliveries(self._suspects)

    async def _step(self) -> None:
        try:
            await self._claim_when_due()
            unresolved, self._unresolved = self._unresolved, []
            for entry in unresolved:
                await self._take(LEGACY_STREAM, entry, deliveries=1)
            found = await self._read()
        except StoreUnavailable as error:
            self._metrics.waits.labels(error.store).inc()
            log.warning("the queue does not answer", reason=str(error))
            found = []
            await pause(self._stop, QUEUE_RETRY_S)
        for stream, entries in found:
            for entry in entries:
                await self._take(stream, entry, deliveries=1)
        # While the writers are busy the batch grows instead, because larger batches cost less per span.
        if self._has_work() and self._has_room() and time.monotonic() - self._work.opened_at >= LINGER_S:
            await self._start_writing()
        if not found:
            await pause(self._stop, IDLE_S)

    async def _read(self) -> list[tuple[str, list[Entry]]]:
        """Read new entries of all streams, starting with another stream each turn."""
        self._turn = (self._turn + 1) % SHARDS
        order = SHARD_STREAMS[self._turn :] + SHARD_STREAMS[: self._turn]
        if self._legacy is not None and not self._unresolved:
            order += (LEGACY_STREAM,)
        count = max(1, min(MAX_ENTRIES_PER_STREAM, READ_BYTES // self._largest_entry))
        found = await self._queue.read(order, self._name, count)
        # Overflow streams come second: read fully when no other org waits, else only a share.
        others_wait = any(len(entries) == count for _, entries in found)
        share = max(1, count // OVERFLOW_SHARE) if others_wait else count
        overflow = OVERFLOW_STREAMS[self._turn :] + OVERFLOW_STREAMS[: self._turn]
        with suppress(StoreUnavailable):  # the entries read above must be processed; the next turn reports the error
            found += await self._queue.read(overflow, self._name, share)
        sizes = [self._pending.hold(stream, entry) for stream, entries in found for entry in entries]
        if sizes:
            failpoint("worker_after_read")
            # Decays slowly, so that one small entry does not lead to a read of many large ones.
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
            await self._claim_entries(idle_ms)
            if now >= self._forget_at:
                await remove_ended_consumers(self._queue, self._name, self._streams)
                self._forget_at = now + FORGET_EVERY_S
        finally:
            self._claim_at = time.monotonic() + CLAIM_EVERY_S  # new entries are read in between

    async def _claim_entries(self, idle_ms: int) -> None:
        """Claim entries of other workers. Suspects only for `SUSPECTS_S`; the next turn finds the rest."""
        end, passed_over = time.monotonic() + SUSPECTS_S, 0
        groups = claimable_groups(self._queue, self._streams, idle_ms, self._pending.holds)
        async with aclosing(groups):
            async for group in groups:
                if group.is_suspect:
                    if time.monotonic() >= end:
                        passed_over += len(group.silent)
                        if passed_over > CLAIM_COUNT:
                            return
                        continue
                    await self._start_writing()
                    await self._wait_until_written()
                    self._suspects = {one.id for one in group.silent}
                for entry, deliveries in await claim(self._queue, self._name, self._metrics, idle_ms, group):
                    self._pending.hold(group.stream, entry)
                    if deliveries > MAX_DELIVERIES:
                        reason = f"ended the worker or was never finished, {deliveries - 1} times"
                        await self._move_to_dead_letters(group.stream, entry, reason, deliveries)
                    else:
                        await self._take(group.stream, entry, deliveries=deliveries)
                if group.is_suspect:
                    await self._start_writing()
                    await self._wait_until_written()
                    self._suspects.clear()

    async def _take(self, stream: str, entry: Entry, *, deliveries: int) -> None:
        """Map an entry into the current batch, or move it to the dead letters when it cannot be read."""
        try:
            envelope = await self._envelope(stream, entry)
        except StoreUnavailable as error:
            if not self._unresolved:
                log.warning("the orgs of legacy envelopes cannot be looked up; retrying", reason=str(error))
            self._unresolved.append(entry)
            return
        except MalformedEnvelope as error:
            await self._reject(stream, entry, error, deliveries)
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
        except Exception as error:  # noqa: BLE001 - any error of the mapping means that the envelope cannot be stored
            await self._reject(stream, entry, error, deliveries)
            return
        self._opened()
        self._work.held.append(Held(stream, entry, envelope))
        self._work.mapping_s += time.monotonic() - began
        if self._writer.is_full(self._work):
            await self._start_writing()
        await asyncio.sleep(0)  # let heartbeats and inserts run

    async def _envelope(self, stream: str, entry: Entry) -> Envelope:
        if self._legacy is None or stream != LEGACY_STREAM:
            return from_fields(entry.fields)
        self._metrics.legacy.inc()
        return await self._legacy.envelope(entry.id, entry.fields)

    async def _reject(self, stream: str, entry: Entry, error: Exception, deliveries: int) -> None:
        """Move the entry to the dead letters, because a retry would fail the same way."""
        log.error("an envelope cannot be read", stream=stream, entry_id=entry.id.decode(), exc_info=error)
        await self._move_to_dead_letters(stream, entry, f"cannot be read: {type(error).__name__}: {error}", deliveries)

    def _opened(self) -> None:
        if not self._has_work():
            self._work.opened_at = time.monotonic()

    def _has_work(self) -> bool:
        return bool(self._work.held or self._work.dropped)

    async def _start_writing(self) -> None:
        """Start to write the current batch as soon as fewer than `BATCHES_BEING_WRITTEN` are being written."""
        self._writer.seal(self._work)
        await self._wait_until_written(BATCHES_BEING_WRITTEN - 1)
        if self._has_work():
            self._writing.append(asyncio.create_task(self._settle(self._work)))
            self._work = self._writer.new_work()

    def _has_room(self) -> bool:
        return sum(not writing.done() for writing in self._writing) < BATCHES_BEING_WRITTEN

    async def _wait_until_written(self, left: int = 0) -> None:
        """Wait until at most ``left`` batches are being written."""
        while len(self._writing) > left:
            await self._writing[0]
            self._writing.popleft()

    async def _settle(self, work: Work) -> None:
        """Write a batch, acknowledge its stored entries, and move refused ones to the dead letters."""
        refusals = {(one.held.stream, one.held.entry.id): one.reason for one in await self._writer.write(work)}
        stored = [held for held in work.held if (held.stream, held.entry.id) not in refusals]
        outcomes = [Outcome(held.stream, held.entry, held.envelope.header, STORED) for held in stored]
        outcomes += work.dropped
        removals = _removals(outcomes, await self._write_outcomes(outcomes))
        failpoint("worker_after_outcomes_before_ack")
        await self._mark_usage_changed(work)
        with self._metrics.stage_seconds.labels("ack").time():
            await self._retry_until_answered(lambda: self._queue.remove(removals))
        failpoint("worker_after_ack")
        now_us = time.time_ns() // 1000
        for one in removals:
            self._pending.release(one.stream, one.ids)
            self._metrics.envelopes.inc(len(one.ids))
        for held in work.held:
            reason = refusals.get((held.stream, held.entry.id))
            if reason is not None:
                await self._move_to_dead_letters(held.stream, held.entry, reason, 1)
            self._metrics.lag_seconds.observe(max(now_us - held.envelope.header.accepted_at_us, 0) / 1e6)
        self._metrics.spans.inc(sum(held.envelope.header.items for held in stored))
        self._metrics.batches.inc()

    async def _write_outcomes(self, outcomes: Sequence[Outcome]) -> list[LedgerRemoval]:
        """Write the outcomes of envelopes. Returns how to remove them from the ledger.

        Decides first which entry of each envelope counts: an outcome alone does not tell this for an envelope that is
        delivered again or that another worker is processing.
        """
        known = await self._writer.known(outcomes)
        unsettled = [LedgerRemoval(one.book, one.header.id in known, one.entry.id) for one in outcomes]
        ledger_removals = await self._retry_until_answered(lambda: self._queue.count(unsettled))
        failpoint("worker_after_count_before_outcomes")
        await self._writer.settle(outcomes)
        return ledger_removals

    async def _mark_usage_changed(self, work: Work) -> None:
        """Tell the quota reconciler which orgs' usage changed, before their entries leave the queue.

        Includes orgs with dropped envelopes, so that their over-quota flag is renewed while they are over quota.
        """
        headers = [*(held.envelope.header for held in work.held), *(one.header for one in work.dropped)]
        members = sorted({metered_member(header.org_id, header.period) for header in headers})
        if members:
            arguments: list[str | int] = [time.time_ns() // 1_000_000, *members]
            # A plain ZADD is refused when memory is full, and then no entry could be removed any more.
            await self._retry_until_answered(lambda: self._hot.run(TOUCH, [METERED], arguments))

    async def _move_to_dead_letters(self, stream: str, entry: Entry, reason: str, deliveries: int) -> None:
        log.error("dead letter", stream=stream, entry_id=entry.id.decode(), reason=reason[:REASON_CHARS])
        try:
            outcomes = [Outcome(stream, entry, from_fields(entry.fields).header, DEAD, reason)]
        except MalformedEnvelope:
            outcomes = []  # its org is unreadable, so it is in no org's ledger
        removal = Removal(stream, [entry.id], await self._write_outcomes(outcomes))
        held_bytes = await self._retry_until_answered(
            lambda: self._queue.dead_letter(
                removal, entry, reason=reason[:REASON_CHARS], deliveries=deliveries, at_us=time.time_ns() // 1000
            )
        )
        self._metrics.dead.inc()
        for one in outcomes:
            with suppress(StoreUnavailable):  # the operator sets the flag, too
                await dead_letters.refuse_if_over(self._hot, one.header.org_id, held_bytes)
        self._pending.release(stream, [entry.id])

    async def _retry_until_answered(self, call: Callable[[], Awaitable[T]]) -> T:
        """Retry a call of the queue until it succeeds or the worker stops."""
        while True:
            try:
                return await call()
            except StoreUnavailable as error:
                self._metrics.waits.labels(error.store).inc()
                log.warning("the queue does not answer; retrying", reason=str(error))
                await pause(self._stop, QUEUE_RETRY_S)
                if self._stop.is_set():
                    raise Stopped from error

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._start_writing()
                await self._wait_until_written()
                await remove_own_consumers(self._queue, self._name, self._streams)
                await self._writer.finish()
        except (TimeoutError, StoreUnavailable):
            log.info("stopped before everything was written; the rest stays in the queue")


def _removals(outcomes: Sequence[Outcome], ledger_removals: Sequence[LedgerRemoval]) -> list[Removal]:
    """Return by stream the entries to delete and their envelopes' ledger removals."""
    ids: dict[str, list[bytes]] = {}
    for one in outcomes:
        ids.setdefault(one.stream, []).append(one.entry.id)
    return [
        Removal(stream, some, [one for one in ledger_removals if one.book.stream == stream])
        for stream, some in ids.items()
    ]
