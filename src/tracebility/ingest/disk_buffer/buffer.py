"""The disk buffer: stores envelopes that the queue does not take, flushed before the answer, until they are replayed.

Bounded in all and per org, so that one org cannot fill it. Concurrent requests share a flush: requests that come during
one wait for the next, a few milliseconds at most.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tracebility.errors import Overloaded
from tracebility.failpoints import failpoint
from tracebility.ids import OrgId
from tracebility.ingest.disk_buffer import records
from tracebility.ingest.disk_buffer.segments import SEGMENT_BYTES, ChainKey, Committed, Directory, Job, Segment
from tracebility.ingest.metrics import IngestMetrics

# Part of the disk buffer that one org may fill.
ORG_SHARE = 0.25

# With less room than a request of ordinary size, the buffer counts as full.
ROOM_BYTES = 256 << 10

# Most bytes of one flush: a second of a slow disk.
FLUSH_BYTES = 32 << 20

# After a failed write, requests are refused at once for this long, before the disk is tried again.
REFUSE_S = 1.0

T = TypeVar("T")


class DiskBuffer:
    """An open disk buffer. One process at a time writes to its folder."""

    def __init__(self, directory: Directory, leftovers: list[Segment], most_bytes: int, metrics: IngestMetrics) -> None:
        self._directory = directory
        self._most_bytes = most_bytes
        self._metrics = metrics
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk-buffer")
        self._waiting: deque[tuple[Job, asyncio.Future[OSError | None]]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._refuse_until = 0.0
        self._held = directory.quarantined_bytes()
        self._by_org: Counter[bytes] = Counter()
        self.chains: dict[ChainKey, deque[Segment]] = {}
        self.filled = asyncio.Event()
        for segment in leftovers:
            self._held += segment.size
            self._by_org.update(segment.by_org)
            self._add(segment)
        self._show()

    @classmethod
    async def open(cls, path: Path, most_bytes: int, metrics: IngestMetrics) -> "DiskBuffer":
        """Open the disk buffer in the folder ``path``, with the segments that earlier processes left there.

        Raises:
            ConfigurationError: when the folder cannot be used, or another process uses it.
        """

        def opened() -> tuple[Directory, list[Segment]]:
            directory = Directory(path)
            return directory, directory.leftovers()

        return cls(*await asyncio.to_thread(opened), most_bytes, metrics)

    @property
    def held_bytes(self) -> int:
        """Bytes on disk: not replayed yet, or set aside as damaged."""
        return self._held

    @property
    def oldest_us(self) -> int | None:
        """When the oldest envelope that is not replayed yet was accepted, within the edge's deadlines; None if empty.

        A segment counts until all of it is in the queue.
        """
        segments = (segment.first_us for chain in self.chains.values() for segment in chain)
        return min((first for first in segments if first is not None), default=None)

    @property
    def accepts(self) -> bool:
        """Whether a request of ordinary size would be stored now."""
        return self._held + ROOM_BYTES <= self._most_bytes and not self._is_refusing()

    async def write(self, shard: int, org_id: OrgId, entries: Sequence[dict[str, bytes]]) -> None:
        """Return when ``entries`` are on disk.

        Raises:
            Overloaded: when they are not: the buffer or the org's share of it is full, or the disk fails.
        """
        size = sum(map(records.size_of, entries))
        self._check_room(org_id, size)
        org = org_id.bytes
        # An org that holds much gets segments of its own, so that others do not wait for its replay.
        own_chain = self._by_org[org] > SEGMENT_BYTES
        header = records.header(entries[0])
        job = Job(shard, org_id, list(entries), own_chain, size, None if header is None else header.accepted_at_us)
        self._held += size
        self._by_org[org] += size
        done: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_waiting())
        error = await asyncio.shield(done)
        if error is not None:
            raise Overloaded("Neither the queue nor the disk buffer can store this: the disk fails.") from error
        failpoint("disk_buffer_after_fsync_before_answer")

    async def seal(self, segment: Segment) -> None:
        """End ``segment``: the next record begins another one."""
        await self._on_disk(self._directory.seal, segment)

    async def quarantine(self, segment: Segment, spans: list[tuple[int, int]]) -> None:
        """Set damaged bytes of ``segment`` aside."""
        await self._on_disk(self._directory.quarantine, segment, spans)
        self._held += sum(end - start for start, end in spans)

    async def delete(self, segment: Segment) -> None:
        """Delete ``segment``, all of whose records are in the queue."""
        try:
            await self._on_disk(self._directory.delete, segment)
        finally:
            self._drop(segment)  # a file that stays is replayed again by the next process: harmless doubles

    async def set_aside(self, segment: Segment) -> None:
        """Set the unreadable ``segment`` aside. Its file stays for a person to look at."""
        await self._on_disk(self._directory.set_aside, segment)
        self._drop(segment)

    async def close(self) -> None:
        """Flush everything, then release the folder."""
        if self._writing is not None:
            await self._writing
        await self._on_disk(self._directory.close)
        self._disk.shutdown()

    def _drop(self, segment: Segment) -> None:
        chain = self.chains[segment.key]
        chain.remove(segment)
        if not chain:
            del self.chains[segment.key]
        self._held -= segment.size
        for org, count in segment.by_org.items():
            self._release(org, count)
        if not self.chains:
            self.filled.clear()
        self._show()

    def _check_room(self, org_id: OrgId, size: int) -> None:
        if self._is_refusing():
            raise Overloaded("Neither the queue nor the disk buffer can store this: the disk fails or is full.")
        if self._held + size > self._most_bytes:
            raise Overloaded("The queue is away and the disk buffer is full.")
        if self._by_org[org_id.bytes] + size > self._most_bytes * ORG_SHARE:
            raise Overloaded("The queue is away and this organisation's share of the disk buffer is full.")

    def _is_refusing(self) -> bool:
        return asyncio.get_running_loop().time() < self._refuse_until

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft()]
                size = batch[0][0].size
                while self._waiting and size + self._waiting[0][0].size <= FLUSH_BYTES:
                    batch.append(self._waiting.popleft())
                    size += batch[-1][0].size
                committed = Committed(failed=dict.fromkeys(range(len(batch)), OSError("the write was not finished")))
                try:
                    committed = await self._on_disk(self._directory.commit, [job for job, _ in batch])
                finally:
                    self._settle(batch, committed)
        finally:
            self._writing = None

    def _settle(self, batch: list[tuple[Job, asyncio.Future[OSError | None]]], committed: Committed) -> None:
        for segment in committed.begun:
            self._add(segment)
        if committed.failed:
            self._metrics.disk_buffer_errors.inc()
            self._refuse_until = asyncio.get_running_loop().time() + REFUSE_S
        for index, (job, done) in enumerate(batch):
            error = committed.failed.get(index)
            if error is not None:
                self._held -= job.size
                self._release(job.org_id.bytes, job.size)
            if not done.done():
                done.set_result(error)
        self._show()

    def _release(self, org: bytes, count: int) -> None:
        self._by_org[org] -= count
        if self._by_org[org] <= 0:
            del self._by_org[org]

    def _add(self, segment: Segment) -> None:
        self.chains.setdefault(segment.key, deque()).append(segment)
        self.filled.set()

    async def _on_disk(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, *arguments)

    def _show(self) -> None:
        self._metrics.disk_buffer_bytes.set(self._held)
        self._metrics.disk_buffer_segments.set(sum(map(len, self.chains.values())))
