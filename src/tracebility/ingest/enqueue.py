"""From many concurrent requests to few round trips: whatever waits goes to the queue in one pipeline.

An envelope is kept when the queue has said so, or when the disk buffer has. A queue that is away, hangs or is full
costs the first requests a deadline; after it all others go to the disk buffer at once, until a replay has got through.
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

# What one pipeline carries: enough to fill the round trip and the fsync it waits for, little enough to stay well within
# the deadline.
PIPELINE_BYTES = 4 << 20
PIPELINE_GROUPS = 512

# Envelopes of one org in a shard's stream: half a second of a worker's work at 50 spans each. Who shares the shard
# waits no longer than for these.
MOST_IN_FLIGHT = 200
# In bytes, taking all of them for as large as the one that comes: of large ones, fewer.
MOST_BYTES_IN_FLIGHT = 24 << 20

# While the store fsyncs one pipeline, the next is on its way.
PIPELINES = 2

# Above the worst fsync stall of a healthy disk; early enough for the disk buffer to answer in an exporter's time.
DEADLINE_S = 1.5
SECONDS_PER_BYTE = 1 / (16 << 20)


_log = structlog.get_logger()


class Streams(Protocol):
    """The verb of the queue that the edge needs."""

    async def append_groups(
        self, groups: Sequence[Sequence[Entry]], books: Sequence[LedgerEntry] = ()
    ) -> Sequence[Any]:
        """Append, each group as a whole; for each its ids, or the `StoreUnavailable` that refused it. Then enter books.

        Raises:
            StoreUnavailable: when it is unknown what was appended.
        """

    def depth(self, stream: str, org_id: OrgId) -> int:
        """How many envelopes of an org are in a stream, as far as is known."""

    async def withdraw(self, books: Sequence[LedgerEntry]) -> None:
        """Take back what was entered for envelopes that were refused.

        Raises:
            StoreUnavailable: when it is unknown whether it was.
        """


class Spill(Protocol):
    """Where envelopes go when the queue does not take them."""

    async def write(self, shard: int, org_id: OrgId, entries: Sequence[dict[str, bytes]]) -> None:
        """Return when ``entries`` are on disk.

        Raises:
            Overloaded: when they are not.
        """


class Gate:
    """Whether the queue is believed to take envelopes. Shut by a failure, opened by a success."""

    def __init__(self, metrics: IngestMetrics) -> None:
        self.why_shut = ""
        self._gauge = metrics.queue_away

    @property
    def is_shut(self) -> bool:
        return bool(self.why_shut)

    def shut(self, reason: str) -> None:
        self.why_shut = reason
        self._gauge.set(1)

    def open(self) -> None:
        self.why_shut = ""
        self._gauge.set(0)


class _Waiting(NamedTuple):
    """The envelopes of a request that are on their way to the queue."""

    group: Group
    books: list[LedgerEntry]
    size: int
    done: asyncio.Future[bool]


class Enqueuer:
    """Keeps envelopes: in the queue, else on disk."""

    def __init__(self, streams: Streams, spill: Spill, gate: Gate, metrics: IngestMetrics, router: ShardRouter) -> None:
        self._router = router
        self._streams = streams
        self._spill = spill
        self._gate = gate
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def keep(self, org_id: OrgId, envelopes: Sequence[Envelope]) -> None:
        """Return when all ``envelopes`` of one request are kept where no crash loses them.

        Raises:
            Overloaded: when they are not, nowhere.
        """
        # A request's envelopes stay together: they are appended as one, and no cluster does that over two shards.
        shard = self._router.shard_for(org_id, envelopes[0].header.id)
        envelopes = [envelope.routed(self._router.epoch) for envelope in envelopes]
        fields = [envelope.fields() for envelope in envelopes]
        failpoint("edge_before_enqueue")
        stream = stream_of(shard)
        depth = self._streams.depth(stream, org_id)
        largest = max(1, *(envelope.header.bytes for envelope in envelopes))
        if depth > min(MOST_IN_FLIGHT, MOST_BYTES_IN_FLIGHT // largest):
            # The shard is others' too: what is more than its share waits beside it, and is served at a lower weight.
            # Should its answer get lost, it comes once more by the disk buffer, into the other stream.
            stream = overflow_of(shard)
            fields = [{**part, MAYBE_DUPLICATE: b"1"} for part in fields]
            self._metrics.overflowed.inc(len(fields))
        books = [ledger_entry(stream, envelope.header) for envelope in envelopes]
        if not self._gate.is_shut and await self._queued([(stream, part) for part in fields], books):
            self._metrics.queued.inc(len(fields))
            return
        try:
            await self._spill.write(shard, org_id, fields)
        except BaseException:
            self._metrics.refused.inc(len(fields))
            raise
        self._metrics.spooled.inc(len(fields))

    async def close(self) -> None:
        """Return when nothing is on its way."""
        while self._sending or self._scheduled:
            await asyncio.gather(*self._sending, return_exceptions=True)
            await asyncio.sleep(0)

    async def _queued(self, group: Group, books: list[LedgerEntry]) -> bool:
        loop = asyncio.get_running_loop()
        size = sum(len(part["b"]) + len(part["h"]) for _, part in group)
        done: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(_Waiting(group, books, size, done))
        if not self._scheduled and len(self._sending) < PIPELINES:
            # After the requests that are ready in this turn of the loop.
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
            _log.error("a pipeline failed; what it carried goes to disk", exc_info=task.exception())
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
            # Those that waited while a pipeline failed need not fail by themselves.
            if not self._gate.is_shut:
                books = [book for one in sending for book in one.books]
                async with asyncio.timeout(DEADLINE_S + size * SECONDS_PER_BYTE):
                    kept = self._verdicts(await self._streams.append_groups([one.group for one in sending], books))
                    refused = [
                        book for one, is_kept in zip(sending, kept, strict=True) if not is_kept for book in one.books
                    ]
                    if refused:
                        await self._streams.withdraw(refused)
        except (StoreUnavailable, TimeoutError) as error:
            # They may be in the queue. They go to disk too, and the identity of rows makes a double harmless.
            self._gate.shut(str(error) or "no answer in time")
        finally:
            for one, is_kept in zip(sending, kept, strict=True):
                if not one.done.done():
                    one.done.set_result(is_kept)

    def _verdicts(self, results: Sequence[Any]) -> list[bool]:
        refusal = next((result for result in results if isinstance(result, Exception)), None)
        if refusal is not None:
            self._gate.shut(str(refusal))
        return [not isinstance(result, Exception) for result in results]
