"""What a dead worker left: all of it is taken over, and what its stream lost meanwhile is told."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from tests.harness import streams as raw_streams

from tracebility.stores.queue import Queue
from tracebility.telemetry import Metrics
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.reclaim import CLAIM_COUNT, claim, claimable_groups

LEFT, LOST = 50 * CLAIM_COUNT, 30


@pytest.fixture
async def stream(queue: Queue) -> AsyncIterator[str]:
    name = f"test:{uuid4().hex}"
    await queue.ensure_group([name])
    yield name
    await queue._pipeline([("DEL", name)])


async def test_thousands_that_were_left_are_all_taken_over_and_those_that_vanished_are_counted(
    queue: Queue, stream: str
) -> None:
    ids = [one for one in await raw_streams.append(queue, [(stream, {"b": b"x"})] * LEFT) if isinstance(one, bytes)]
    await queue.read([stream], "dead", LEFT)
    vanished = ids[:: LEFT // LOST][:LOST]
    await raw_streams.delete(queue, stream, vanished)
    metrics = WorkerMetrics(Metrics())
    held: set[bytes] = set()

    def is_held(_: str, entry_id: bytes) -> bool:
        return entry_id in held

    async for group in claimable_groups(queue, [stream], 0, is_held):
        taken = await claim(queue, "alive", metrics, 0, group)
        assert all(deliveries == 2 for _, deliveries in taken)
        held.update(entry.id for entry, _ in taken)
    assert held == {*ids} - {*vanished}
    assert metrics.lost._value.get() == LOST
    assert metrics.reclaimed._value.get() == LEFT - LOST
