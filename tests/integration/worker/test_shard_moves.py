"""Orgs are moved while they send: what was acknowledged is stored once, billed once, and in the books once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness.proxy import Proxy, Road

from tracebility.audit.events import Actor
from tracebility.config import Settings
from tracebility.ingest.app import create_app
from tracebility.ingest.service import open_services
from tracebility.shards.shard_map import ShardMove, move, undo
from tracebility.stores import postgres, redis_control
from tracebility.stores.changes import notify
from tracebility.stores.ledger import OrgQueue, RawRows, ledger
from tracebility.stores.queue import Queue
from tracebility.tenant.shard_router import ALL_STREAMS, SHARDS, shard_of, stream_of

ACTOR = Actor("operator", "test")
ROUNDS = 12
SPANS_A_REQUEST = 3


@asynccontextmanager
async def an_edge(pg_dsn: str, redis_url: str, spool_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An edge in this process, with a router of its own."""
    settings = Settings(pg_dsn=pg_dsn, redis_url=redis_url, spool_dir=spool_dir)
    async with open_services(settings) as services:
        transport = httpx.ASGITransport(create_app(services))
        async with httpx.AsyncClient(transport=transport, base_url="http://edge", timeout=30) as client:
            yield client


class Sender:
    """Sends until it is told to end, and remembers what was acknowledged."""

    def __init__(self, edge: httpx.AsyncClient, tenant: Any, spans: Any, request: Any, lane: int) -> None:
        self._edge = edge
        self._tenant = tenant
        self._spans = spans
        self._request = request
        self._lane = lane
        self.acknowledged: set[str] = set()
        self.refused = 0
        self.going = True

    async def run(self) -> None:
        number = 0
        while self.going:
            first = self._lane * 1_000_000 + number * SPANS_A_REQUEST
            spans = [self._spans(first + nth) for nth in range(SPANS_A_REQUEST)]
            answer = await self._edge.post(
                "/v1/traces",
                content=self._request(spans),
                headers={**self._tenant.headers(), "content-type": "application/x-protobuf"},
            )
            if answer.status_code == 200:
                self.acknowledged |= {span.span_id.hex() for span in spans}
            else:
                self.refused += 1
            number += 1
            await asyncio.sleep(0.002)

    async def sends_more(self, count: int) -> None:
        """Return when so many more spans are acknowledged."""
        enough = len(self.acknowledged) + count
        async with asyncio.timeout(60):
            while len(self.acknowledged) < enough:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@pytest.fixture
async def senders(
    stores: Any, two_orgs: Any, spans: Any, tmp_path: Path
) -> AsyncIterator[tuple[Sender, Sender, Proxy]]:
    """Two senders of one org, each by an edge of its own; Postgres is behind a road for the second, which may fall
    behind the map.
    """
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

    def request(some: Any) -> bytes:
        return ExportTraceServiceRequest(
            resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=some)])]
        ).SerializeToString()

    async with AsyncExitStack() as stack:
        road = await stack.enter_async_context(Proxy.before(stores.pg_dsn))
        first = await stack.enter_async_context(an_edge(stores.pg_dsn, stores.redis_url, tmp_path / "first"))
        second = await stack.enter_async_context(
            an_edge(road.through(stores.pg_dsn), stores.redis_url, tmp_path / "second")
        )
        yield (
            Sender(first, two_orgs[0], spans, request, 1),
            Sender(second, two_orgs[0], spans, request, 2),
            road,
        )


async def streams_of(queue: Queue, org_id: Any) -> set[int]:
    """The shards that the org's envelopes ever came to."""
    counts = [await queue.accepted([stream_of(shard)], org_id) for shard in range(SHARDS)]
    return {shard for shard, items in enumerate(counts) if items}


async def test_an_org_is_moved_split_and_put_back_while_it_sends(
    control: postgres.Postgres,
    queue: Queue,
    engine: Any,
    hot_store: redis_control.RedisControl,
    two_orgs: Any,
    senders: tuple[Sender, Sender, Proxy],
    worker: Callable[[], Any],
) -> None:
    first, stale, road = senders
    org_id = two_orgs[0].org_id
    home = shard_of(org_id)
    away, spread = (home + 1) % 16, sorted((home + step) % 16 for step in (2, 5, 9))

    async def change(how: Any) -> None:
        async with control.transaction() as transaction:
            await how(transaction)
        await notify(hot_store)
        await first.sends_more(90)

    def to(*shards: int) -> Any:
        wanted = ShardMove(org_id=org_id, shards=list(shards), force=True)
        return lambda transaction: move(transaction, ACTOR, wanted, datetime.now(UTC))

    def back(transaction: Any) -> Any:
        return undo(transaction, ACTOR, org_id, datetime.now(UTC))

    async with worker() as running:
        tasks = [asyncio.create_task(sender.run()) for sender in (first, stale)]
        await first.sends_more(30)
        await stale.sends_more(30)
        road.road = Road.CLOSED  # from now on this edge goes by the map it has
        road.reset()
        for step in (to(away), to(*spread), back):
            await change(step)
        assert await streams_of(queue, org_id) == {home, away, *spread}
        await stale.sends_more(30)
        road.road = Road.CLEAR
        await change(back)
        await stale.sends_more(60)
        for sender in (first, stale):
            sender.going = False
        await asyncio.gather(*tasks)
        assert (first.refused, stale.refused) == (0, 0)
        acknowledged = first.acknowledged | stale.acknowledged

        async def is_drained() -> bool:
            return not await queue.in_flight(ALL_STREAMS, org_id)

        await running.until(is_drained)

    rows = await engine.query("SELECT span_id FROM span FINAL WHERE org_id = {org:UUID}", {"org": str(org_id)})
    stored = [row[0] for row in rows.rows]
    assert len(stored) == len(set(stored)), "a span is there twice"
    assert set(stored) == acknowledged
    metered = await engine.query(
        "SELECT sum(qty) FROM billing_meter FINAL WHERE org_id = {org:UUID} AND meter = 'spans'", {"org": str(org_id)}
    )
    assert int(metered.rows[0][0]) == len(acknowledged)
    found = await ledger(OrgQueue(queue, org_id), RawRows(engine, org_id))
    assert found.balanced
    assert (found.accepted, found.stored, found.in_flight) == (len(acknowledged), len(acknowledged), 0)
    assert found.distinct == len(acknowledged)


async def test_an_envelope_says_by_which_epoch_it_was_routed(
    stores: Any, control: postgres.Postgres, queue: Queue, two_orgs: Any, spans: Any, tmp_path: Path
) -> None:
    """And comes to a shard of that epoch."""
    from tracebility.wire.envelope import from_fields

    org_id = two_orgs[0].org_id
    to = (shard_of(org_id) + 1) % 16
    async with control.transaction() as transaction:
        moved = await move(transaction, ACTOR, ShardMove(org_id=org_id, shards=[to]), datetime.now(UTC))
    async with an_edge(stores.pg_dsn, stores.redis_url, tmp_path / "spool") as edge:
        run = {"id": "0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a", "name": "r", "kind": "chain"}
        run["start_time"] = "2026-11-27T00:00:00Z"
        answer = await edge.post("/v1/runs", json=run, headers=two_orgs[0].headers())
    assert answer.json()["accepted"] == 1, answer.text
    entries = await queue.range(stream_of(to), count=1000)
    headers = [from_fields(entry.fields).header for entry in entries]
    assert [header.epoch >= moved.epoch for header in headers if header.org_id == org_id] == [True]
    assert await queue.accepted([stream_of(to)], org_id) == 1
