"""This worker's pending entries (read and not acknowledged), and the heartbeat that keeps others from claiming them."""

import asyncio
from collections.abc import Sequence

import structlog

from tracebility.errors import StoreUnavailable
from tracebility.stores.queue import Queue
from tracebility.stores.queue.entries import Entry
from tracebility.worker.metrics import WorkerMetrics

# How often the idle time of pending entries is reset; see `reclaim.CLAIM_IDLE_MS`.
HEARTBEAT_S = 1.0

log = structlog.get_logger()


class PendingEntries:
    """Pending entries by stream, with their size in bytes."""

    def __init__(self, queue: Queue, consumer: str, streams: Sequence[str], metrics: WorkerMetrics) -> None:
        self._queue = queue
        self._consumer = consumer
        self._metrics = metrics
        self._sizes: dict[str, dict[bytes, int]] = {stream: {} for stream in streams}

    def holds(self, stream: str, entry_id: bytes) -> bool:
        """Whether an entry is pending in this worker, even if its heartbeat was late."""
        return entry_id in self._sizes[stream]

    def hold(self, stream: str, entry: Entry) -> int:
        """Add ``entry`` and return its size."""
        size = sum(map(len, entry.fields.values()))
        self._sizes[stream][entry.id] = size
        self._metrics.held_bytes.inc(size)
        return size

    def release(self, stream: str, entry_ids: Sequence[bytes]) -> None:
        """Remove acknowledged entries."""
        sizes = self._sizes[stream]
        self._metrics.held_bytes.dec(sum(sizes.pop(entry_id, 0) for entry_id in entry_ids))

    async def reset_deliveries(self, suspects: set[bytes]) -> None:
        """Reset the delivery counts of the pending entries, except ``suspects``, when the worker stops normally.

        Raises:
            StoreUnavailable: when the queue does not answer.
        """
        for stream, sizes in self._sizes.items():
            await self._queue.reset_deliveries(stream, self._consumer, [one for one in sizes if one not in suspects])

    async def beat(self) -> None:
        """Reset the idle time of all pending entries every `HEARTBEAT_S`, until cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for stream, sizes in self._sizes.items():
                if not sizes:
                    continue
                try:
                    await self._queue.refresh(stream, self._consumer, list(sizes))
                except StoreUnavailable as error:  # other cluster nodes may answer
                    log.warning("the heartbeat of pending entries failed", stream=stream, reason=str(error))
