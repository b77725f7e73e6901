"""Enqueue the envelopes of many concurrent requests in few round trips: all that wait go in one pipeline.

An envelope is accepted once the queue or the disk buffer has it. When the queue is away, hangs or is full, the first
requests wait for a deadline; all others go to the disk buffer at once, until a replay succeeds (`CircuitBreaker`).
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import structlog

from tracebility.errors import StoreUnavailable
from tracebility.failpoints import failpoint
from tracebility.ids import OrgId
from tracebility.ingest.metrics import IngestMetrics
from tracebility.stores.queue.entries import MAYBE_DUPLICATE
from tracebility.tenant.ledger import LedgerEntry, ledger_entry
from tracebility.tenant.shard_router import ShardRouter, overflow_of, stream_of
from tracebility.wire.envelope import Envelope

Entry = tuple[str, dict[str, bytes]]
Group = list[Entry]

# Bounds of one pipeline: enough to fill the round trip and its fsync, little enough to stay well within the deadline.
PIPELINE_BYTES = 4 << 20
PIPELINE_GROUPS = 512

# Envelopes of one org in a shard's stream: half a second of a worker's work at 50 spans each. Other orgs of the shard
# wait for no more than these.
MAX_IN_FLIGHT = 80
# The same in bytes, as if all of them were as large as the new one: fewer large ones.
MAX_BYTES_IN_FLIGHT = 10 << 20

# While Redis fsyncs one pipeline, the next is sent.
PIPELINES = 2

# Above the worst fsync stall of a healthy disk; early enough for the disk buffer to answer in an exporter's time.
DEADLINE_S = 1.5
SECONDS_PER_BYTE = 1 / (16 << 20)


_log = structlog.get_logger()


class Streams(Protocol):
    """What the edge needs of the queue."""

    async def append_groups(
        self, groups: Sequence[Sequence[Entry]], books: Sequence[LedgerEntry] = ()
    ) -> Sequence[Any]:
        """Append each group as a whole: its ids, or the `StoreUnavailable` that refused it. Then enter ``books``.

        Raises:
            StoreUnavailable: when it is unknown what was appended.
        """

    def depth(self, stream: str, org_id: OrgId) -> int:
        """How many envelopes of an org are in a stream, as last reported; 0 when that is unknown."""

    async def withdraw(self, books: Sequence[LedgerEntry]) -> None:
        """Take back the ledger entries of envelopes that were refused.

        Raises:
            StoreUnavailable: when it is unknown whether they were.
        """


class Disk(Protocol):
    """What the edge needs of the disk buffer."""

    async def write(self, shard: int, org_id: OrgId, entries: Sequence[dict[str, bytes]]) -> None:
        """Return when ``entries`` are on disk.

        Raises:
            Overloaded: when they are not.
        """


class CircuitBreaker:
    """Whether requests may try the queue. A failure opens the circuit; a success of the replay closes it again."""

    def __init__(self, metrics: IngestMetrics) -> None:
        self.is_open = False
        self._gauge = metrics.queue_away

    def trip(self, reason: str) -> None:
        """Open the circuit: requests go to the disk buffer at once."""
        if not self.is_open:
            _log.warning("the queue does not take envelopes; they go to the disk buffer", reason=reason)
        self.is_open = True
        self._gauge.set(1)

    def close(self) -> None:
        """Close the circuit: requests try the queue."""
        if self.is_open:
            _log.info("the queue takes envelopes again")
        self.is_open = False
        self._gauge.set(0)


class _Waiting(NamedTuple):
    """The envelopes of one request that wait for a pipeline."""

    group: Group
    books: list[LedgerEntry]
    size: int
    done: asyncio.Future[bool]


class Enqueuer:
    """Stores envelopes durably: in the queue, else in the disk buffer."""

    def __init__(
        self, streams: Streams, disk: Disk, breaker: CircuitBreaker, metrics: IngestMetrics, router: ShardRouter
    ) -> None:
        self._router = router
        self._streams = streams
        self._disk = disk
        self._breaker = breaker
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def keep(self, org_id: OrgId, envelopes: Sequence[Envelope]) -> None:
        """Return when all ``envelopes`` of one request are stored durably.

        Raises:
            Overloaded: when neither the queue nor the disk buffer took them.
        """
        # The envelopes of a request go to one shard: a cluster appends atomically to one stream only.
        shard = self._router.shard_for(org_id, envelopes[0].header.id)
        envelopes = [envelope.routed(self._router.epoch) for envelope in envelopes]
        fields = [envelope.fields() for envelope in envelopes]
        failpoint("edge_before_enqueue")
        stream = stream_of(shard)
        depth = self._streams.depth(stream, org_id)
        largest = max(1, *(envelope.header.bytes for envelope in envelopes))
        if depth > min(MAX_IN_FLIGHT, MAX_BYTES_IN_FLIGHT // largest):
            # More than the org's share waits in the overflow stream of the shard, which is served at a lower weight.
            # If the answer gets lost, the disk buffer sends the envelope again, into the shard's own stream.
            stream = overflow_of(shard)
            fields = [{**part, MAYBE_DUPLICATE: b"1"} for part in fields]
            self._metrics.overflowed.inc(len(fields))
        books = [ledger_entry(stream, envelope.header) for envelope in envelopes]
        if not self._breaker.is_open and await self._queued([(stream, part) for part in fields], books):
            self._metrics.queued.inc(len(fields))
            return
        try:
            await self._disk.write(shard, org_id, fields)
        except BaseException:
            self._metrics.refused.inc(len(fields))
            raise
        self._metrics.buffered.inc(len(fields))

    async def close(self) -> None:
        """Return when no pipeline is waiting or sent."""
        while self._sending or self._scheduled:
            await asyncio.gather(*self._sending, return_exceptions=True)
            await asyncio.sleep(0)

    async def _queued(self, group: Group, books: list[LedgerEntry]) -> bool:
        loop = asyncio.get_running_loop()
        size = sum(len(part["b"]) + len(part["h"]) for _, part in group)
        done: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(_Waiting(group, books, size, done))
        if not self._scheduled and len(self._sending) < PIPELINES:
            # Start after the requests that are ready in this turn of the event loop, so that they share the pipeline.
            self._scheduled = True
            loop.call_soon(self._start)
        began = time.perf_counter()
        queued = await done
        self._metrics.enqueue_seconds.observe(time.perf_counter() - began)
        return queued

    def _start(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._sending) < PIPELINES:
            task = asyncio.get_running_loop().create_task(self._send(self._next()))
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a pipeline failed; its envelopes go to the disk buffer", exc_info=task.exception())
        self._start()

    def _next(self) -> list["_Waiting"]:
        taken: list[_Waiting] = []
        total = 0
        while self._waiting and len(taken) < PIPELINE_GROUPS:
            one = self._waiting[0]
            if taken and total + one.size > PIPELINE_BYTES:
                break
            taken.append(self._waiting.popleft())
            total += one.size
        return taken

    async def _send(self, sending: list["_Waiting"]) -> None:
        kept: Sequence[bool] = [False] * len(sending)
        size = sum(one.size for one in sending)
        try:
            # The circuit may have opened while these waited: then do not wait for another deadline.
            if not self._breaker.is_open:
                books = [book for one in sending for book in one.books]
                async with asyncio.timeout(DEADLINE_S + size * SECONDS_PER_BYTE):
                    kept = self._verdicts(await self._streams.append_groups([one.group for one in sending], books))
                    refused = [
                        book for one, is_kept in zip(sending, kept, strict=True) if not is_kept for book in one.books
                    ]
                    if refused:
                        await self._streams.withdraw(refused)
        except (StoreUnavailable, TimeoutError) as error:
            # The queue may have them; they go to the disk buffer too. Rows are keyed by identity: a double is harmless.
            self._breaker.trip(str(error) or "no answer in time")
        finally:
            for one, is_kept in zip(sending, kept, strict=True):
                if not one.done.done():
                    one.done.set_result(is_kept)

    def _verdicts(self, results: Sequence[Any]) -> list[bool]:
        refusal = next((result for result in results if isinstance(result, Exception)), None)
        if refusal is not None:
            self._breaker.trip(str(refusal))
        return [not isinstance(result, Exception) for result in results]
