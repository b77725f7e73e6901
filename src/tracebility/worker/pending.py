"""The entries that this worker has read and not yet acknowledged, and the heartbeat that tells the other workers."""

import asyncio
from collections.abc import Sequence

import structlog

from tracebility.errors import StoreUnavailable
from tracebility.stores.queue import Queue
from tracebility.stores.queue.entries import Entry
from tracebility.worker.metrics import WorkerMetrics

# A worker says each second that it is at work on what it holds; see `claims.CLAIM_IDLE_MS`.
HEARTBEAT_S = 1.0

log = structlog.get_logger()


class InHand:
    """Entries by stream, and their size."""

    def __init__(self, queue: Queue, consumer: str, streams: Sequence[str], metrics: WorkerMetrics) -> None:
        self._queue = queue
        self._consumer = consumer
        self._metrics = metrics
        self._sizes: dict[str, dict[bytes, int]] = {stream: {} for stream in streams}

    def holds(self, stream: str, entry_id: bytes) -> bool:
        """Whether an entry is in this worker's hands, even where its heartbeat came late."""
        return entry_id in self._sizes[stream]

    def hold(self, stream: str, entry: Entry) -> int:
        """Begin to answer for ``entry``; its size."""
        size = sum(map(len, entry.fields.values()))
        self._sizes[stream][entry.id] = size
        self._metrics.held_bytes.inc(size)
        return size

    def release(self, stream: str, entry_ids: Sequence[bytes]) -> None:
        """They are acknowledged."""
        sizes = self._sizes[stream]
        self._metrics.held_bytes.dec(sum(sizes.pop(entry_id, 0) for entry_id in entry_ids))

    async def excuse(self, suspects: set[bytes]) -> None:
        """This worker was told to end: what it held, but for ``suspects``, is not why.

        Raises:
            StoreUnavailable: when the queue does not answer.
        """
        for stream, sizes in self._sizes.items():
            await self._queue.reset_deliveries(stream, self._consumer, [one for one in sizes if one not in suspects])

    async def beat(self) -> None:
        """Say again and again that what is held is being worked on. Runs until cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for stream, sizes in self._sizes.items():
                if not sizes:
                    continue
                try:
                    await self._queue.refresh(stream, self._consumer, list(sizes))
                except StoreUnavailable as error:  # of a cluster's nodes the others do hear
                    log.warning("heartbeat not heard", stream=stream, reason=str(error))
