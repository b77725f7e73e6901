"""From the disk buffer back to the queue: oldest first, every chain in its turn, never faster than its budget.

The replay is also what finds out that the queue is back: it tries the oldest records every half second, and its success
opens the gate for new requests.
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
from tracebility.ingest.enqueue import Gate, Streams
from tracebility.ingest.metrics import IngestMetrics
from tracebility.ingest.spool import records as spooled
from tracebility.ingest.spool.buffer import Spool
from tracebility.ingest.spool.segments import ChainKey, Segment
from tracebility.retry import QUEUE_RETRY_S
from tracebility.stores.queue.entries import MAYBE_DUPLICATE
from tracebility.tenant.ledger import ledger_entry
from tracebility.tenant.quota import SLOT_US
from tracebility.tenant.shard_router import stream_of

# New requests share the queue and the disk with the replay: this leaves them most of either.
REPLAY_BYTES_PER_S = 64 << 20
BATCH_BYTES = 2 << 20

# A queue that is back is found within 2 s: every half second it is asked, and has one to answer. What is then sent may
# take longer, on a slow disk.
PING_S = 1.0
APPEND_S = 5.0
# What is sent now has entered by then, by the queue's own clock: above the deadline, and how far clocks are apart.
ENTERED_MS = 10_000

_log = structlog.get_logger()


class Replayer:
    """Empties a spool whenever there is something in it and the queue takes it."""

    def __init__(self, spool: Spool, queue: "ProbedStreams", gate: Gate, metrics: IngestMetrics) -> None:
        self._spool = spool
        self._queue = queue
        self._gate = gate
        self._metrics = metrics
        self._offsets: dict[Segment, int] = {}
        self._quarantined: dict[Segment, int] = {}  # up to where damaged bytes are set aside
        self._not_before = 0.0

    async def run(self) -> None:
        """Replay until cancelled."""
        while True:
            try:
                await self._step()
            except Exception:  # noqa: BLE001  (what is on disk must go on, whatever one file or one moment holds)
                _log.exception("the replay of the disk buffer failed and goes on")
                await asyncio.sleep(QUEUE_RETRY_S)

    async def _step(self) -> None:
        if self._spool.chains:
            await self._round()
        elif self._gate.is_shut:
            await self._knock()
        else:
            waiting = asyncio.ensure_future(self._spool.filled.wait())
            await asyncio.wait([waiting], timeout=QUEUE_RETRY_S)
            waiting.cancel()

    async def _round(self) -> None:
        """One batch of each chain: an org that holds much has a chain of its own, and delays the others by a batch."""
        failed = False
        for key in list(self._spool.chains):
            began = time.monotonic()
            try:
                if self._gate.is_shut:
                    await self._ping()
                sent = await self._turn(key)
            except (StoreUnavailable, TimeoutError) as error:
                self._gate.shut(str(error) or "no answer in time")
                await asyncio.sleep(QUEUE_RETRY_S)
                return
            except OSError as error:  # such as for want of descriptors, or of room: it stays, the others go on
                _log.error("a file of the disk buffer cannot be replayed now", at=key, error=str(error))
                failed = True
                continue
            self._gate.open()
            self._not_before = max(self._not_before, began) + sent / REPLAY_BYTES_PER_S
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
        if failed:
            await asyncio.sleep(QUEUE_RETRY_S)

    async def _turn(self, key: ChainKey) -> int:
        """Send one batch of the chain's oldest segment; how many bytes that was."""
        segment = self._spool.chains[key][0]
        if segment.fd is not None:
            await self._spool.seal(segment)
        offset = self._offsets.get(segment, 0)
        try:
            found = await asyncio.to_thread(_read, segment, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            _log.error("an unreadable file of the disk buffer is set aside", file=segment.path.name, error=str(error))
            await self._spool.set_aside(segment)
            return 0
        damaged = [span for span in found.damaged if span[0] >= self._quarantined.get(segment, 0)]
        if damaged:  # before anything is sent, which would be sent again each time that this fails
            await self._spool.quarantine(segment, damaged)
            self._quarantined[segment] = damaged[-1][1]
            self._metrics.spool_damaged.inc(sum(end - start for start, end in damaged))
            _log.error("the disk buffer held unreadable records", file=segment.path.name, at=damaged[:10])
        await self._append(stream_of(segment.shard), [record.fields for record in found.records])
        self._metrics.spool_torn.inc(found.torn_bytes)
        self._metrics.spool_replayed.inc(len(found.records))
        self._offsets[segment] = found.next_offset
        if found.next_offset >= segment.size:
            failpoint("spool_replay_after_append_before_delete")
            del self._offsets[segment]
            self._quarantined.pop(segment, None)
            await self._spool.delete(segment)
        return found.next_offset - offset

    async def _append(self, stream: str, records: Sequence[dict[str, bytes]]) -> None:
        """Any of them may be in the queue already: the answer to the first try may have been lost."""
        headers = [header for record in records if (header := spooled.header(record)) is not None]
        books = [ledger_entry(stream, header) for header in headers]
        async with asyncio.timeout(APPEND_S):
            if headers:
                # Its place in the queue will tell nothing of when it was accepted.
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
        """With nothing to replay, a plain question finds out whether the queue is back."""
        try:
            await self._ping()
        except (StoreUnavailable, TimeoutError):
            await asyncio.sleep(QUEUE_RETRY_S)
        else:
            self._gate.open()


class ProbedStreams(Streams, Protocol):
    """The queue, as far as a replay needs it."""

    async def ping(self) -> None:
        """Return when it answers.

        Raises:
            StoreUnavailable: when it does not.
        """

    async def record_late(self, slot: int, until_ms: int) -> None:
        """Say that what enters up to ``until_ms`` may have been accepted in ``slot``.

        Raises:
            StoreUnavailable: when it is unknown whether that was said.
        """


def _read(segment: Segment, offset: int) -> spooled.Read:
    fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return spooled.read(fd, segment.size, segment.nonce, offset, BATCH_BYTES)
    finally:
        os.close(fd)
