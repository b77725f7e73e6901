"""Replay the disk buffer into the queue: oldest first, one batch of each chain in turn, at a bounded rate.

The replay also finds out that the queue is back: it tries the oldest records every half second, and a success
closes the circuit for new requests.
"""

import asyncio
import errno
import os
import time
from collections.abc import Sequence
from typing import Protocol

import structlog

from tracebility.errors import StoreUnavailable
from tracebility.failpoints import failpoint
from tracebility.ingest.disk_buffer import records as disk_records
from tracebility.ingest.disk_buffer.buffer import DiskBuffer
from tracebility.ingest.disk_buffer.segments import ChainKey, Segment
from tracebility.ingest.enqueue import CircuitBreaker, Streams
from tracebility.ingest.metrics import IngestMetrics
from tracebility.retry import QUEUE_RETRY_S
from tracebility.stores.queue.entries import MAYBE_DUPLICATE
from tracebility.tenant.ledger import ledger_entry
from tracebility.tenant.quota import SLOT_US
from tracebility.tenant.shard_router import stream_of

# Leaves new requests most of the queue and of the disk.
REPLAY_BYTES_PER_S = 64 << 20
BATCH_BYTES = 2 << 20

# A queue that is back is found within 2 s: a ping every half second, with a second to answer. An append may take longer
# than a ping, on a slow disk.
PING_S = 1.0
APPEND_S = 5.0
# A batch that is sent now is in the queue by then, by the queue's clock: the deadline, and the skew of clocks.
ENTERED_MS = 10_000

_log = structlog.get_logger()


class Replayer:
    """Empties the disk buffer whenever it holds something and the queue takes it."""

    def __init__(
        self, disk_buffer: DiskBuffer, queue: "ProbedStreams", breaker: CircuitBreaker, metrics: IngestMetrics
    ) -> None:
        self._disk_buffer = disk_buffer
        self._queue = queue
        self._breaker = breaker
        self._metrics = metrics
        self._offsets: dict[Segment, int] = {}
        self._quarantined: dict[Segment, int] = {}  # up to this offset, damaged bytes are set aside
        self._not_before = 0.0

    async def run(self) -> None:
        """Replay until cancelled."""
        while True:
            try:
                await self._step()
            except Exception:  # noqa: BLE001  (no error of one file may end the replay of the others)
                _log.exception("the replay of the disk buffer failed; trying again")
                await asyncio.sleep(QUEUE_RETRY_S)

    async def _step(self) -> None:
        if self._disk_buffer.chains:
            await self._round()
        elif self._breaker.is_open:
            await self._knock()
        else:
            waiting = asyncio.ensure_future(self._disk_buffer.filled.wait())
            await asyncio.wait([waiting], timeout=QUEUE_RETRY_S)
            waiting.cancel()

    async def _round(self) -> None:
        """Send one batch of each chain. An org that holds much has its own chain, so it delays others by one batch."""
        failed = False
        for key in list(self._disk_buffer.chains):
            began = time.monotonic()
            try:
                if self._breaker.is_open:
                    await self._ping()
                sent = await self._turn(key)
            except (StoreUnavailable, TimeoutError) as error:
                self._breaker.trip(str(error) or "no answer in time")
                await asyncio.sleep(QUEUE_RETRY_S)
                return
            except OSError as error:  # no descriptors or no room, for example: this file waits, the others go on
                _log.error("a file of the disk buffer cannot be replayed now; trying again", at=key, error=str(error))
                failed = True
                continue
            self._breaker.close()
            self._not_before = max(self._not_before, began) + sent / REPLAY_BYTES_PER_S
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
        if failed:
            await asyncio.sleep(QUEUE_RETRY_S)

    async def _turn(self, key: ChainKey) -> int:
        """Send one batch of the chain's oldest segment; returns its bytes."""
        segment = self._disk_buffer.chains[key][0]
        if segment.fd is not None:
            await self._disk_buffer.seal(segment)
        offset = self._offsets.get(segment, 0)
        try:
            found = await asyncio.to_thread(_read, segment, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            _log.error("an unreadable file of the disk buffer is set aside", file=segment.path.name, error=str(error))
            await self._disk_buffer.set_aside(segment)
            return 0
        damaged = [span for span in found.damaged if span[0] >= self._quarantined.get(segment, 0)]
        if damaged:  # before the batch is sent: it would be sent again each time that this fails
            await self._disk_buffer.quarantine(segment, damaged)
            self._quarantined[segment] = damaged[-1][1]
            self._metrics.disk_buffer_damaged.inc(sum(end - start for start, end in damaged))
            _log.error("unreadable records of the disk buffer are set aside", file=segment.path.name, at=damaged[:10])
        await self._append(stream_of(segment.shard), [record.fields for record in found.records])
        self._metrics.disk_buffer_torn.inc(found.torn_bytes)
        self._metrics.disk_buffer_replayed.inc(len(found.records))
        self._offsets[segment] = found.next_offset
        if found.next_offset >= segment.size:
            failpoint("disk_buffer_replay_after_append_before_delete")
            del self._offsets[segment]
            self._quarantined.pop(segment, None)
            await self._disk_buffer.delete(segment)
        return found.next_offset - offset

    async def _append(self, stream: str, records: Sequence[dict[str, bytes]]) -> None:
        """Append ``records``. The queue may have some of them: the answer to the first try may have been lost."""
        headers = [header for record in records if (header := disk_records.header(record)) is not None]
        books = [ledger_entry(stream, header) for header in headers]
        async with asyncio.timeout(APPEND_S):
            if headers:
                # The entry id will not tell when the envelope was accepted, so note the slot of the oldest one.
                slot = min(header.accepted_at_us for header in headers) // SLOT_US
                await self._queue.record_late(slot, time.time_ns() // 1_000_000 + ENTERED_MS)
            results = await self._queue.append_groups(
                [[(stream, {**one, MAYBE_DUPLICATE: b"1"})] for one in records], books
            )
        for result in results:
            if isinstance(result, StoreUnavailable):
                raise result

    async def _ping(self) -> None:
        async with asyncio.timeout(PING_S):
            await self._queue.ping()

    async def _knock(self) -> None:
        """With nothing to replay, ping the queue to find out whether it is back."""
        try:
            await self._ping()
        except (StoreUnavailable, TimeoutError):
            await asyncio.sleep(QUEUE_RETRY_S)
        else:
            self._breaker.close()


class ProbedStreams(Streams, Protocol):
    """What the replay needs of the queue."""

    async def ping(self) -> None:
        """Return when it answers.

        Raises:
            StoreUnavailable: when it does not.
        """

    async def record_late(self, slot: int, until_ms: int) -> None:
        """Note that entries added up to ``until_ms`` may have been accepted as early as ``slot``.

        Raises:
            StoreUnavailable: when it is unknown whether it was noted.
        """


def _read(segment: Segment, offset: int) -> disk_records.Read:
    fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return disk_records.read(fd, segment.size, segment.nonce, offset, BATCH_BYTES)
    finally:
        os.close(fd)
