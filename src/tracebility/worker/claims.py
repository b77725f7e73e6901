"""What other workers left behind: entries that were given to a process which fell silent, or which they ended."""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import structlog

from tracebility.stores import consumers
from tracebility.stores.redis import Entry, Queue
from tracebility.worker.metrics import WorkerMetrics

# Five heartbeats. After a kill the entries flow again within this and one look; at once when the dead process is known
# to be of this machine.
CLAIM_IDLE_MS = 5_000
CLAIM_COUNT = 64
# What ended its workers so often is tried alone, so that it is known for what it is; after so many it is given up.
ALONE_FROM = 3
MOST_DELIVERIES = 5

log = structlog.get_logger()


class Claimed(NamedTuple):
    """An entry taken over; ``deliveries`` counts this one."""

    stream: str
    entry: Entry
    deliveries: int


async def claimed(
    queue: Queue, consumer: str, streams: Sequence[str], metrics: WorkerMetrics, idle_ms: int
) -> AsyncIterator[Claimed]:
    """Entries that were silent for ``idle_ms``, each claimed just before it is given.

    The next is claimed only when the one given has been dealt with, if it is to be tried alone: claiming counts as a
    delivery, and what waits behind an entry that ends the process must not be given up for it.
    """
    for stream in streams:
        cursor, count = b"0-0", 1
        while True:
            step = await queue.autoclaim(stream, consumer, idle_ms, start=cursor, count=count)
            if step.deleted:
                metrics.lost.inc(len(step.deleted))
                log.error("entries vanished while pending", stream=stream, count=len(step.deleted))
            counts = await queue.deliveries(stream, [entry.id for entry in step.entries])
            for entry in step.entries:
                metrics.reclaimed.inc()
                yield Claimed(stream, entry, counts.get(entry.id, 1))
            is_suspect = any(number >= ALONE_FROM for number in counts.values())
            cursor, count = step.cursor, 1 if is_suspect else CLAIM_COUNT
            if cursor == b"0-0":
                break


async def idle_to_claim(queue: Queue, streams: Sequence[str]) -> int:
    """How long entries must have been silent: nothing when all other workers are known to have ended."""
    found = await consumers.consumers(queue, streams)
    names = {one.name for group in found.values() for one in group if one.pending}
    return 0 if names and all(map(consumers.is_gone, names)) else CLAIM_IDLE_MS


async def forget_the_gone(queue: Queue, consumer: str, streams: Sequence[str]) -> None:
    """Remove workers that hold nothing and have ended, or have been silent for long."""
    found = await consumers.consumers(queue, streams)
    await consumers.forget(
        queue,
        [
            (stream, one.name)
            for stream, group in found.items()
            for one in group
            if one.name != consumer
            and not one.pending
            and (consumers.is_gone(one.name) or one.idle_ms > consumers.FORGET_AFTER_MS)
        ],
    )


async def leave(queue: Queue, consumer: str, streams: Sequence[str]) -> None:
    """Remove this worker where it holds nothing."""
    found = await consumers.consumers(queue, streams)
    own = [
        (stream, one.name)
        for stream, group in found.items()
        for one in group
        if one.name == consumer and not one.pending
    ]
    await consumers.forget(queue, own)
