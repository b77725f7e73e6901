"""What other workers left behind: entries that were given to a process which fell silent, or which they ended."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import NamedTuple

import structlog

from tracebility.stores.queue import Queue, worker_names
from tracebility.stores.queue.entries import Entry, IdleEntry
from tracebility.worker.metrics import WorkerMetrics

# Five heartbeats. After a kill the entries flow again within this and one look; at once when the dead process is known
# to be of this machine.
CLAIM_IDLE_MS = 5_000
CLAIM_COUNT = 64
# Of what ended its workers it is not known which entry it was: it is tried apart from all else, at first with a few
# others like it, so that thousands of innocents are through in seconds, then alone; after so many times it is given up.
APART_FROM = 3
APART_TOGETHER = 32
ALONE_FROM = 4
MOST_DELIVERIES = 5

log = structlog.get_logger()


class Group(NamedTuple):
    """Neighbours in a stream that may be taken over, and written, together. ``is_suspect``: apart from all else."""

    stream: str
    silent: Sequence[IdleEntry]
    is_suspect: bool


async def left_behind(
    queue: Queue, streams: Sequence[str], idle_ms: int, is_held: Callable[[str, bytes], bool]
) -> AsyncGenerator[Group, None]:
    """What was silent for ``idle_ms``, except what this worker holds."""
    for stream, found in await queue.idle(streams, idle_ms, count=CLAIM_COUNT):
        while found:
            for group in _groups([one for one in found if not is_held(stream, one.id)]):
                yield Group(stream, group, group[-1].deliveries + 1 >= APART_FROM)
            following = await queue.idle([stream], idle_ms, count=CLAIM_COUNT, start=b"(" + found[-1].id)
            found = following[0][1] if following else []


async def claim(
    queue: Queue, consumer: str, metrics: WorkerMetrics, idle_ms: int, group: Group
) -> list[tuple[Entry, int]]:
    """Take ``group`` over; its entries, and the deliveries of each. It counts as one: so only now, and not while
    anything else may end the process.
    """
    entries, vanished = await queue.claim(group.stream, consumer, idle_ms, [one.id for one in group.silent])
    if vanished:
        metrics.lost.inc(len(vanished))
        log.error("entries vanished while pending", stream=group.stream, count=len(vanished))
    metrics.reclaimed.inc(len(entries))
    return entries


def _groups(found: Sequence[IdleEntry]) -> Iterator[list[IdleEntry]]:
    """Neighbours that may be tried together, once they are delivered once more."""
    group: list[IdleEntry] = []
    for one in found:
        room = _most_together(one.deliveries + 1)
        if group and (len(group) >= room or _most_together(group[0].deliveries + 1) != room):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _most_together(deliveries: int) -> int:
    if deliveries < APART_FROM:
        return CLAIM_COUNT
    return APART_TOGETHER if deliveries < ALONE_FROM else 1


async def idle_to_claim(queue: Queue, streams: Sequence[str]) -> int:
    """How long entries must have been silent: nothing when all other workers are known to have ended."""
    found = await worker_names.consumers(queue, streams)
    names = {one.name for group in found.values() for one in group if one.pending}
    return 0 if names and all(map(worker_names.is_gone, names)) else CLAIM_IDLE_MS


async def forget_the_gone(queue: Queue, consumer: str, streams: Sequence[str]) -> None:
    """Remove workers that hold nothing and have ended, or have been silent for long."""
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


async def leave(queue: Queue, consumer: str, streams: Sequence[str]) -> None:
    """Remove this worker where it holds nothing."""
    found = await worker_names.consumers(queue, streams)
    own = [
        (stream, one.name)
        for stream, group in found.items()
        for one in group
        if one.name == consumer and not one.pending
    ]
    await worker_names.forget(queue, own)
