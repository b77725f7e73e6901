"""The queue away, hanging or full; Postgres away: accepted spans are kept all the same, and arrive once it clears."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from tests.harness import streams as raw_streams
from tests.harness.proxy import Proxy, Road

from tracebility import health
from tracebility.ingest import accept, enqueue, heartbeat
from tracebility.quota.reconciler import QuotaReconciler
from tracebility.stores import redis_control
from tracebility.stores.queue import Queue
from tracebility.tenant.quota import DISK_BUFFERS, OLDEST_BUFFERED, SLOT_US, QuotaMeter, Usage
from tracebility.tenant.shard_router import ALL_STREAMS


def body() -> bytes:
    return json.dumps({"id": str(uuid4()), "name": "n", "kind": "llm", "start_time": "2026-01-31T12:00:00Z"}).encode()


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  (the product tells nobody)
            await asyncio.sleep(0.02)


@pytest.fixture
async def road(stores: Any) -> AsyncIterator[Proxy]:
    """The road to the queue."""
    async with Proxy.before(stores.redis_url) as proxy:
        yield proxy


@pytest.mark.parametrize("weather", [Road.CLOSED, Road.BLACKHOLE, Road.HALF_OPEN])
async def test_what_the_queue_does_not_take_is_kept_and_arrives(
    run_edge: Any, stores: Any, tenant: Any, road: Proxy, weather: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enqueue, "DEADLINE_S", 0.3)
    monkeypatch.setattr(health, "READY_WAIT_S", 0.3)
    async with run_edge(redis_url=road.through(stores.redis_url)) as edge:
        before = [body() for _ in range(5)]
        assert {(await edge.runs(tenant, one)).status_code for one in before} == {202}
        road.road = weather
        road.reset()
        during = [body() for _ in range(20)]
        answers = await asyncio.gather(*(edge.runs(tenant, one) for one in during))
        assert {answer.status_code for answer in answers} == {202}
        assert edge.metric("tracebility_spool_bytes") > 0
        ready = await edge.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded"), "the disk buffer takes over"
        assert set(ready.json()["missing"]) == {"redis"}
        assert edge.metric("tracebility_ingest_store_missing", store="redis") == 1
        road.clear()
        await until(lambda: not edge.metric("tracebility_spool_bytes"))
        await until(lambda: not edge.metric("tracebility_ingest_queue_away"))
        after = [body() for _ in range(5)]
        assert {(await edge.runs(tenant, one)).status_code for one in after} == {202}
        assert (await edge.client.get("/readyz")).json()["missing"] == {}
        assert edge.metric("tracebility_ingest_store_missing", store="redis") == 0
    bodies = [envelope.body for envelope in await tenant.envelopes()]
    assert set(bodies) == {*before, *during, *after}
    assert len({envelope.header.id for envelope in await tenant.envelopes()}) == 30
    if weather is not Road.HALF_OPEN:  # there, what was swallowed on its way back arrives twice, under one id
        assert len(bodies) == 30


async def held_by(hot_store: redis_control.RedisControl, edge: Any) -> int:
    """The bytes that an edge says are in its disk buffer."""
    names = [name for name in await hot_store.command("HKEYS", DISK_BUFFERS) if str(edge.spool_dir) in name.decode()]
    return int(await hot_store.command("HGET", DISK_BUFFERS, names[0])) if names else 0


async def test_a_full_queue_spills_and_a_full_disk_refuses(
    run_edge: Any, stores: Any, new_tenant: Any, hot_store: redis_control.RedisControl
) -> None:
    tenants = [await new_tenant("ingest:write") for _ in range(6)]
    client = Redis.from_url(stores.redis_url)
    allowed = (await client.config_get("maxmemory"))["maxmemory"]
    text = json.dumps(json.loads(body()) | {"inputs": "x" * 200_000}).encode()
    async with run_edge(spool_max_bytes=1 << 20) as edge:
        await client.config_set("maxmemory", "1")
        try:
            answers = [await edge.runs(tenant, text) for tenant in tenants]
            async with asyncio.timeout(30):  # operators hear of it just then
                while not await held_by(hot_store, edge):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        finally:
            await client.config_set("maxmemory", allowed)
            await client.aclose()
        statuses = [answer.status_code for answer in answers]
        assert statuses[:4] == [202] * 4
        assert statuses[-1] == 503
        refused = answers[-1]
        assert 1 <= int(refused.headers["retry-after"]) <= 5
        assert refused.headers["content-type"] == "application/problem+json"
        await until(lambda: not edge.metric("tracebility_spool_bytes"))
        assert (await edge.runs(tenants[-1], text)).status_code == 202
    kept = [len(await tenant.envelopes()) for tenant in tenants]
    assert kept == [1 if status == 202 else 0 for status in statuses[:-1]] + [1]


async def test_a_process_that_ends_leaves_its_buffer_to_the_next(
    run_edge: Any, stores: Any, tenant: Any, road: Proxy
) -> None:
    async with run_edge(redis_url=road.through(stores.redis_url)) as edge:
        road.road = Road.CLOSED
        road.reset()
        sent = [body() for _ in range(3)]
        assert {(await edge.runs(tenant, one)).status_code for one in sent} == {202}
    road.clear()
    async with run_edge(redis_url=road.through(stores.redis_url)) as edge:
        await until(lambda: not edge.metric("tracebility_spool_bytes"))
    assert [envelope.body for envelope in await tenant.envelopes()] == sent


async def said_of(hot_store: redis_control.RedisControl, edge: Any) -> bytes | None:
    [name] = [name for name in await hot_store.command("HKEYS", DISK_BUFFERS) if str(edge.spool_dir) in name.decode()]
    said: bytes | None = await hot_store.command("HGET", OLDEST_BUFFERED, name)
    return said


async def told(hot_store: redis_control.RedisControl, edge: Any, something: bool) -> None:
    async with asyncio.timeout(30):
        while (await said_of(hot_store, edge) is not None) != something:  # noqa: ASYNC110  (the product tells nobody)
            await asyncio.sleep(0.1)


async def test_what_waits_in_a_disk_buffer_is_not_settled_away(
    run_edge: Any, new_tenant: Any, control: Any, engine: Any,
    hot_store: redis_control.RedisControl, empty_redis_url: str,
    empty_queue: Queue, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tenant, plan = await new_tenant("ingest:write"), f"p{uuid4().hex[:12]}"
    # What is sent is stamped ten minutes ago: it waits for so long.
    now_us = time.time_ns() // 1000 - 600 * 10**6
    monkeypatch.setattr(accept, "time", SimpleNamespace(time_ns=lambda: now_us * 1000))
    await control.execute("INSERT INTO plan (name) VALUES ($1)", plan)
    await control.execute("INSERT INTO plan_meter_limit VALUES ($1, 'spans', 10, NULL)", plan)
    await control.execute("UPDATE org SET plan = $2 WHERE id = $1", tenant.org_id, plan)
    await hot_store.command("DEL", OLDEST_BUFFERED)
    clock = iter(range(now_us + 660 * 10**6, now_us + 3000 * 10**6, 60 * 10**6))
    reconciler = QuotaReconciler(control, engine, empty_queue, hot_store, lambda: next(clock))
    period = datetime.fromtimestamp(now_us / 1e6, UTC).strftime("%Y-%m")

    async def is_settled_away() -> bool:
        """A minute later, with nothing of it stored."""
        usage = Usage(await reconciler.watermark(), {})
        await QuotaMeter(hot_store).settle(tenant.org_id, period, usage)
        return usage.watermark >= now_us // SLOT_US

    async with (
        Proxy.before(empty_redis_url) as road,
        run_edge(redis_stream_url=road.through(empty_redis_url)) as edge,
    ):
        road.road = Road.CLOSED
        road.reset()
        for _ in range(10):
            assert (await edge.runs(tenant, body())).status_code == 202
        await told(hot_store, edge, True)
        for _ in range(4):
            assert not await is_settled_away()
            assert (await edge.runs(tenant, body())).status_code == 402
        road.clear()
        await told(hot_store, edge, False)
        for _ in range(4):
            assert not await is_settled_away()
            assert (await edge.runs(tenant, body())).status_code == 402
        for stream in ALL_STREAMS:
            await raw_streams.acknowledge(empty_queue, stream, [entry.id for entry in await empty_queue.range(stream)])
        assert await is_settled_away()


async def test_what_a_full_redis_sends_to_disk_is_told_and_what_is_left_there_at_the_end_too(
    run_edge: Any, tenant: Any, hot_store: redis_control.RedisControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    [_, allowed] = await hot_store.command("CONFIG", "GET", "maxmemory")
    async with run_edge() as edge:
        assert await said_of(hot_store, edge) is None
        await hot_store.command("CONFIG", "SET", "maxmemory", "1")
        try:
            assert (await edge.runs(tenant, body())).status_code == 202
            await told(hot_store, edge, True)
        finally:
            await hot_store.command("CONFIG", "SET", "maxmemory", allowed)
        monkeypatch.setattr(heartbeat, "PERIOD_S", 60.0)
        await until(lambda: not edge.metric("tracebility_spool_bytes"))
    assert await said_of(hot_store, edge) is None


async def test_known_keys_go_on_without_postgres(run_edge: Any, stores: Any, new_tenant: Any) -> None:
    known, unseen = await new_tenant("ingest:write"), await new_tenant("ingest:write")
    async with Proxy.before(stores.pg_dsn) as road, run_edge(pg_dsn=road.through(stores.pg_dsn)) as edge:
        assert (await edge.runs(known, body())).status_code == 202
        road.road = Road.CLOSED
        road.reset()
        resolver = edge.services.resolver
        later = resolver._clock() + 60
        resolver._clock = lambda: later
        assert (await edge.runs(known, body())).status_code == 202
        refused = await edge.runs(unseen, body())
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        ready = await edge.client.get("/readyz")
        assert (ready.status_code, set(ready.json()["missing"])) == (200, {"postgres"})
