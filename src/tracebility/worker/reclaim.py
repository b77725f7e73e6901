"""Claims entries of workers that have died or hang, and isolates entries that may have crashed their worker."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import NamedTuple

import structlog

from tracebility.stores.queue import Queue, worker_names
from tracebility.stores.queue.entries import Entry, IdleEntry
from tracebility.worker.metrics import WorkerMetrics

# Five heartbeats. After a crash, entries are claimed within this time plus one `CLAIM_EVERY_S`; at once when the dead
# process ran on this machine.
CLAIM_IDLE_MS = 5_000
CLAIM_COUNT = 64
# Which entry crashed a worker is unknown. From this number of deliveries on, suspects are processed apart from all
# other entries: first in small groups, so that thousands of harmless entries pass in seconds, then alone. After the
# maximum an entry becomes a dead letter.
APART_FROM = 3
APART_TOGETHER = 32
ALONE_FROM = 4
MAX_DELIVERIES = 5

log = structlog.get_logger()


class Group(NamedTuple):
    """Adjacent entries of a stream to claim and write together. ``is_suspect``: apart from all other entries."""

    stream: str
    silent: Sequence[IdleEntry]
    is_suspect: bool


async def claimable_groups(
    queue: Queue, streams: Sequence[str], idle_ms: int, is_held: Callable[[str, bytes], bool]
) -> AsyncGenerator[Group, None]:
    """Yield pending entries that were idle for ``idle_ms``, except this worker's own."""
    for stream, found in await queue.idle(streams, idle_ms, count=CLAIM_COUNT):
        while found:
            for group in _groups([one for one in found if not is_held(stream, one.id)]):
                yield Group(stream, group, group[-1].deliveries + 1 >= APART_FROM)
            following = await queue.idle([stream], idle_ms, count=CLAIM_COUNT, start=b"(" + found[-1].id)
            found = following[0][1] if following else []


async def claim(
    queue: Queue, consumer: str, metrics: WorkerMetrics, idle_ms: int, group: Group
) -> list[tuple[Entry, int]]:
    """Claim ``group`` and return its entries with their delivery counts. Claiming counts as a delivery, so claim just
    before processing.
    """
    entries, vanished = await queue.claim(group.stream, consumer, idle_ms, [one.id for one in group.silent])
    if vanished:
        metrics.lost.inc(len(vanished))
        log.error("pending entries are missing in their stream: data loss", stream=group.stream, count=len(vanished))
    metrics.reclaimed.inc(len(entries))
    return entries


def _groups(found: Sequence[IdleEntry]) -> Iterator[list[IdleEntry]]:
    """Split adjacent entries into groups that may be processed together at their next delivery."""
    group: list[IdleEntry] = []
    for one in found:
        room = _max_group_size(one.deliveries + 1)
        if group and (len(group) >= room or _max_group_size(group[0].deliveries + 1) != room):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _max_group_size(deliveries: int) -> int:
    if deliveries < APART_FROM:
        return CLAIM_COUNT
    return APART_TOGETHER if deliveries < ALONE_FROM else 1


async def idle_to_claim(queue: Queue, streams: Sequence[str]) -> int:
    """Return the idle time from which entries are claimed: 0 when all other workers have certainly ended."""
    found = await worker_names.consumers(queue, streams)
    names = {one.name for group in found.values() for one in group if one.pending}
    return 0 if names and all(map(worker_names.is_gone, names)) else CLAIM_IDLE_MS


async def remove_ended_consumers(queue: Queue, consumer: str, streams: Sequence[str]) -> None:
    """Remove consumers without pending entries that have ended or were idle for `FORGET_AFTER_MS`."""
    found = await worker_names.consumers(queue, streams)
    await worker_names.forget(
        queue,
        [
            (stream, one.name)
            for stream, group in found.items()
            for one in group
            if one.name != consumer
            and not one.pending
            and (worker_names.is_gone(one.name) or one.idle_ms > worker_names.FORGET_AFTER_MS)
        ],
    )


async def remove_own_consumers(queue: Queue, consumer: str, streams: Sequence[str]) -> None:
    """Remove this worker's consumers that have no pending entries."""
    found = await worker_names.consumers(queue, streams)
    own = [
        (stream, one.name)
        for stream, group in found.items()
        for one in group
        if one.name == consumer and not one.pending
    ]
    await worker_names.forget(queue, own)
