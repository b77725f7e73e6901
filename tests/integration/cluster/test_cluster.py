"""The product on a cluster of three nodes: as on one server, while slots move, and with a node away."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from redis.crc import key_slot
from tests.harness import streams as raw_streams

from tracebility.alerts.ledger_check import LedgerCheck
from tracebility.alerts.metrics import AlertMetrics
from tracebility.alerts.standing import StandingAlerts
from tracebility.audit.events import Actor
from tracebility.config import Settings
from tracebility.errors import StoreUnavailable
from tracebility.ingest.app import create_app
from tracebility.ingest.service import open_services
from tracebility.quota.reconciler import QuotaReconciler
from tracebility.shards.shard_map import ShardMove, move
from tracebility.stores import postgres, redis_control
from tracebility.stores.changes import notify
from tracebility.stores.clickhouse import Engine
from tracebility.stores.ledger import Ledger, OrgQueue, RawRows, ledger
from tracebility.stores.queue import Queue
from tracebility.telemetry import Metrics
from tracebility.tenant.quota import SPANS, usage_key
from tracebility.tenant.redis_keys import over_flag, stream_key
from tracebility.tenant.shard_router import ALL_STREAMS, DEAD_LETTER_STREAM, SHARD_STREAMS, shard_of, stream_of
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.service import WorkerServices

DEADLINE_S = 60.0


def body(count: int) -> bytes:
    """A request of so many new spans."""
    now = datetime.now(UTC).isoformat()
    runs = [{"id": str(uuid4()), "name": "n", "kind": "llm", "start_time": now, "end_time": now} for _ in range(count)]
    return json.dumps({"runs": runs}).encode()


@pytest.fixture
async def edge(stores: Any, cluster: Any, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An edge in this process, whose queue and control role are the cluster."""
    settings = Settings(pg_dsn=stores.pg_dsn, redis_url=cluster.url, spool_dir=tmp_path / "spool")
    async with open_services(settings) as services:
        transport = httpx.ASGITransport(create_app(services))
        async with httpx.AsyncClient(transport=transport, base_url="http://edge", timeout=30) as client:
            yield client


async def send(edge: httpx.AsyncClient, tenant: Any, count: int) -> httpx.Response:
    return await edge.post(
        "/v1/runs", content=body(count), headers={**tenant.headers(), "content-type": "application/json"}
    )


@asynccontextmanager
async def a_worker(queue: Queue, engine: Engine, hot_store: redis_control.RedisControl) -> AsyncIterator[None]:
    """A worker in this process."""
    stop = asyncio.Event()
    services = WorkerServices(queue, engine, hot_store, WorkerMetrics(Metrics()), None)
    task = asyncio.create_task(services.consume(stop))
    yield
    stop.set()
    await task


async def drained(queue: Queue, streams: Sequence[str] = ALL_STREAMS) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while any(depth.length for depth in (await queue.depths(streams)).values()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def books(queue: Queue, engine: Engine, org_id: Any) -> tuple[int, int, int, int, int]:
    found: Ledger = await ledger(OrgQueue(queue, org_id), RawRows(engine, org_id))
    assert found.balanced
    return found.accepted, found.stored, found.dead, found.in_flight, found.distinct


async def test_the_streams_are_on_all_three_nodes(cluster: Any, queue: Queue) -> None:
    assert {await cluster.holder(stream) for stream in SHARD_STREAMS} == {0, 1, 2}
    assert len(await queue.info()) == 3


async def test_what_is_sent_is_stored_settled_and_in_the_books(
    edge: httpx.AsyncClient,
    control: postgres.Postgres,
    engine: Engine,
    queue: Queue,
    hot_store: redis_control.RedisControl,
    two_orgs: Any,
) -> None:
    [tenant, _] = two_orgs
    for count in (3, 1, 5):
        assert (await send(edge, tenant, count)).status_code == 202
    assert await books(queue, engine, tenant.org_id) == (9, 0, 0, 9, 0)
    async with a_worker(queue, engine, hot_store):
        await drained(queue)
    assert await books(queue, engine, tenant.org_id) == (9, 9, 0, 0, 9)
    assert await queue.missing(ALL_STREAMS) == []
    # Half a minute on, what was sent is behind the watermark: the reconciler puts the data plane's sum in its place.
    later = QuotaReconciler(control, engine, queue, hot_store, lambda: time.time_ns() // 1000 + 30_000_000)
    assert (await later.tick()).orgs >= 1
    period = datetime.now(UTC).strftime("%Y-%m")
    assert await hot_store.command("HGET", usage_key(tenant.org_id, period), SPANS) == b"9"
    metrics = AlertMetrics(Metrics())
    ledgers = LedgerCheck(StandingAlerts(control, metrics), engine, queue, metrics, later.settled_orgs)
    assert await ledgers.tick() is None


async def test_an_org_is_moved_to_another_shard_on_another_node(
    edge: httpx.AsyncClient,
    cluster: Any,
    control: postgres.Postgres,
    engine: Engine,
    queue: Queue,
    hot_store: redis_control.RedisControl,
    two_orgs: Any,
) -> None:
    [tenant, _] = two_orgs
    home = shard_of(tenant.org_id)
    at = await cluster.holder(stream_of(home))
    away, *_ = [shard for shard in range(16) if await cluster.holder(stream_of(shard)) != at]
    await send(edge, tenant, 2)
    async with control.transaction() as transaction:
        wanted = ShardMove(org_id=tenant.org_id, shards=[away], force=True)
        await move(transaction, Actor("operator", "test"), wanted, datetime.now(UTC))
    await notify(hot_store)
    async with asyncio.timeout(DEADLINE_S):
        while not await queue.accepted([stream_of(away)], tenant.org_id):
            await send(edge, tenant, 2)
            await asyncio.sleep(0.05)
    async with a_worker(queue, engine, hot_store):
        await drained(queue)
    accepted, stored, *_, distinct = await books(queue, engine, tenant.org_id)
    assert accepted == stored == distinct


async def test_a_dead_letter_goes_to_its_own_node_and_comes_back(
    edge: httpx.AsyncClient, engine: Engine, queue: Queue, hot_store: redis_control.RedisControl, two_orgs: Any
) -> None:
    [tenant, _] = two_orgs
    stream = stream_of(shard_of(tenant.org_id))
    assert (await send(edge, tenant, 3)).status_code == 202
    [entry] = await queue.range(stream)
    await raw_streams.delete(queue, stream, [entry.id])
    fields = {name.decode(): value for name, value in entry.fields.items()}
    await raw_streams.append(queue, [(stream, fields | {"b": b"\xff" + fields["b"]})])
    async with a_worker(queue, engine, hot_store):
        await drained(queue)
        assert await books(queue, engine, tenant.org_id) == (3, 0, 3, 0, 0)
        [letter] = await queue.range(DEAD_LETTER_STREAM)
        letter.fields[b"b"] = fields["b"]  # as after an upgrade that can read it
        await queue.replay(letter)
        await drained(queue)
    assert await queue.range(DEAD_LETTER_STREAM) == []
    assert await books(queue, engine, tenant.org_id) == (3, 3, 0, 0, 3)


async def test_a_slot_that_moves_under_load_loses_and_doubles_nothing(
    edge: httpx.AsyncClient,
    cluster: Any,
    engine: Engine,
    queue: Queue,
    hot_store: redis_control.RedisControl,
    two_orgs: Any,
) -> None:
    """Its keys go one by one, so for a while the stream is on one node and its books are on the other."""
    [tenant, _] = two_orgs
    stream = stream_of(shard_of(tenant.org_id))
    slot, source = key_slot(stream.encode()), await cluster.holder(stream)
    target = (source + 1) % 3
    sent = [0]

    async def keep_sending() -> None:
        while True:
            sent[0] += 2 * ((await send(edge, tenant, 2)).status_code == 202)

    sending = asyncio.create_task(keep_sending())
    async with a_worker(queue, engine, hot_store):
        async with asyncio.timeout(DEADLINE_S):
            while sent[0] < 20:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await cluster.begin_move(slot, source, target)
        await asyncio.sleep(0.2)
        await cluster.move_keys(slot, source, target, 1)
        await asyncio.sleep(0.2)
        while await cluster.nodes[source].execute_command("CLUSTER COUNTKEYSINSLOT", slot):
            await cluster.move_keys(slot, source, target)
        await asyncio.sleep(0.2)
        await cluster.end_move(slot, target)
        before = sent[0]
        async with asyncio.timeout(DEADLINE_S):
            while sent[0] < before + 20:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        await asyncio.sleep(1)  # what was on its way
        await drained(queue)
    accepted, stored, dead, in_flight, distinct = await books(queue, engine, tenant.org_id)
    assert (dead, in_flight) == (0, 0)
    assert accepted == stored == distinct
    assert sent[0] <= stored <= sent[0] + 2  # the last one may have been cut off behind its append


async def test_what_is_asked_of_a_slot_under_way_is_done_and_not_refused(cluster: Any, queue: Queue) -> None:
    """A key that is on neither node goes to the one that takes over; of two keys apart both are waited for."""
    stream = f"test:{uuid4().hex}"
    beside = stream_key(stream, "beside")
    slot, source = key_slot(stream.encode()), await cluster.holder(stream)
    target = (source + 1) % 3
    await queue._pipeline([("SET", beside, "x")])
    await cluster.begin_move(slot, source, target)
    added = await queue.append_groups([[(stream, {"b": b"1"})], [(stream, {"b": b"2"}), (stream, {"b": b"3"})]])
    assert not any(isinstance(one, StoreUnavailable) for one in added)

    async def go_on() -> None:
        await asyncio.sleep(0.1)
        await cluster.move_keys(slot, source, target)

    going = asyncio.create_task(go_on())
    assert await queue._pipeline([("EXISTS", stream, beside)]) == [2]
    await going
    await cluster.end_move(slot, target)
    assert [entry.fields[b"b"] for entry in await queue.range(stream)] == [b"1", b"2", b"3"]
    assert await queue._pipeline([("DEL", stream, beside)]) == [2]


async def test_every_key_of_an_org_is_forgotten_on_whichever_node(
    hot_store: redis_control.RedisControl, two_orgs: Any
) -> None:
    periods = [f"2026-{month:02}" for month in range(1, 13)]
    for period in periods:
        await hot_store.command("SET", over_flag(two_orgs[0].org_id, period), "spans", "PX", 60_000)
    assert await hot_store.forget(over_flag(two_orgs[0].org_id, "*")) == len(periods)


async def test_with_a_node_away_it_is_refused_and_what_the_others_gave_is_not_lost(
    cluster: Any, queue: Queue, hot_store: redis_control.RedisControl
) -> None:
    names = [f"test:{uuid4().hex}" for _ in range(30)]
    await queue.ensure_group(names)
    await raw_streams.append(queue, [(name, {"b": b"x"}) for name in names])
    last = max(range(3), key=lambda nth: str(cluster.ports[nth]))  # not the one that is asked first
    gone = {name for name in names if await cluster.holder(name) == last}
    cluster.processes[last].send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable):
            await queue.ping()
        found = await queue.read(names, "one", 10)
        assert {name for name, _ in found} == set(names) - gone
        kept = await raw_streams.append(queue, [(name, {"b": b"y"}) for name in names])
        assert {name for name, one in zip(names, kept, strict=True) if isinstance(one, StoreUnavailable)} == gone
        for name in (min(gone), min(set(names) - gone)):  # gates wait for it once, and not for each request
            with pytest.raises(StoreUnavailable):
                await hot_store.command("EXISTS", name)
    finally:
        cluster.processes[last].send_signal(signal.SIGCONT)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with suppress(StoreUnavailable):
                await queue.ping()
                await hot_store.ping()
                break
            await asyncio.sleep(0.1)
    for name in names:
        await raw_streams.delete(queue, name, [entry.id for entry in await queue.range(name)])
