"""Who shares a shard with an org that floods it does not wait for the flood."""

import asyncio
from typing import Any

import pytest
from tests.harness import streams as raw_streams

from tracebility.errors import StoreUnavailable
from tracebility.stores.queue import Queue
from tracebility.stores.queue.entries import MAYBE_DUPLICATE
from tracebility.stores.redis_control import RedisControl
from tracebility.telemetry import Metrics
from tracebility.tenant.shard_router import SHARD_STREAMS, overflow_of, shard_of
from tracebility.worker.consumer import MAX_ENTRIES_PER_STREAM, OVERFLOW_SHARE, Consumer
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.write import Writer

FLOOD, OTHERS = 500, 300


@pytest.fixture
def queue(empty_queue: Queue) -> Queue:
    return empty_queue


@pytest.fixture
def hot_store(empty_hot_store: RedisControl) -> RedisControl:
    return empty_hot_store


async def test_an_org_is_served_before_what_another_has_too_much_of(
    queue: Queue, tenant: Any, spans: Any, hot_store: RedisControl
) -> None:
    """Both streams of the shard hold more than a turn takes; the flood came first, and is of another org."""
    flooding = type(tenant)(tenant.queue, tenant.engine)
    overflow = overflow_of(shard_of(tenant.org_id))
    body = flooding.body([spans(0)])
    flood = [(overflow, {**flooding.envelope(body).fields(), MAYBE_DUPLICATE: b"1"}) for _ in range(FLOOD)]
    for start in range(0, FLOOD, 250):
        await raw_streams.append(queue, flood[start : start + 250])
    await tenant.send(*([spans(number)] for number in range(OTHERS)))

    metrics, stop = WorkerMetrics(Metrics()), asyncio.Event()
    drain = Consumer(queue, hot_store, Writer(tenant.engine, metrics, stop), metrics, stop)
    await queue.ensure_group(drain._streams)
    of_tenant, others_wait = 0, True
    while others_wait:
        read = {stream: len(entries) for stream, entries in await drain._read()}
        of_tenant += read.get(tenant.stream, 0)
        others_wait = MAX_ENTRIES_PER_STREAM in [read.get(stream) for stream in SHARD_STREAMS]
        # Once nobody waits any more, all of a turn is the flood's.
        assert read[overflow] == MAX_ENTRIES_PER_STREAM // (OVERFLOW_SHARE if others_wait else 1)
    assert of_tenant == OTHERS


async def test_what_was_read_is_not_let_go_when_the_overflow_cannot_be_read(
    queue: Queue, tenant: Any, spans: Any, hot_store: RedisControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would look at it for as long as a silent worker is given."""
    metrics, stop = WorkerMetrics(Metrics()), asyncio.Event()
    drain = Consumer(queue, hot_store, Writer(tenant.engine, metrics, stop), metrics, stop)
    await queue.ensure_group(drain._streams)
    read = queue.read

    async def but_for_overflow(streams: Any, *more: Any) -> Any:
        if streams[0].endswith(":overflow"):
            raise StoreUnavailable("redis", "went away between the two")
        return await read(streams, *more)

    monkeypatch.setattr(queue, "read", but_for_overflow)
    ids = await tenant.send([spans(0)])
    found = dict(await drain._read())
    assert [entry.id for entry in found[tenant.stream]] == ids
