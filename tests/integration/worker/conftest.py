"""Envelopes put into the real queue, workers that drain it, and what the engine then holds."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from tests.harness import streams as raw_streams

from tracebility.ids import uuid7
from tracebility.stores import clickhouse, redis_control
from tracebility.stores.project_owners import LazyProjectOwners
from tracebility.stores.queue import Queue
from tracebility.stores.queue.entries import Entry
from tracebility.telemetry import Metrics
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM, shard_of, stream_of
from tracebility.wire.envelope import Envelope, Header
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.service import WorkerServices

DEADLINE_S = 60.0
POLL_S = 0.02
BEGAN_NS = 1_795_521_600 * 10**9


def span(number: int, parent: int | None = None, trace: bytes = b"", /, **attributes: Any) -> Span:
    """Span ``number`` of a trace, begun ``number`` seconds into it; ``parent`` is another's number."""
    pairs = []
    for key, value in attributes.items():
        kind = {str: "string_value", int: "int_value", float: "double_value"}[type(value)]
        pairs.append(KeyValue(key=key.replace("__", "."), value=AnyValue(**{kind: value})))
    return Span(
        trace_id=trace or bytes([1] * 16),
        span_id=(number + 1).to_bytes(8, "big"),
        parent_span_id=b"" if parent is None else (parent + 1).to_bytes(8, "big"),
        name=f"span {number}",
        start_time_unix_nano=BEGAN_NS + number * 10**9,
        end_time_unix_nano=BEGAN_NS + (number + 1) * 10**9,
        attributes=pairs,
    )


def request(spans: Iterable[Span]) -> bytes:
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])]
    ).SerializeToString()


@dataclass
class Tenant:
    """A tenant of one test's own, and its way into queue and engine."""

    queue: Queue
    engine: clickhouse.Engine
    org_id: UUID = field(default_factory=uuid4)
    workspace_id: UUID = field(default_factory=uuid4)
    project_id: UUID = field(default_factory=uuid4)

    @property
    def stream(self) -> str:
        return stream_of(shard_of(self.org_id))  # type: ignore[arg-type]

    def envelope(self, body: bytes, *, source: str = "otlp", items: int = 1, **fields: Any) -> Envelope:
        given: dict[str, Any] = {
            "id": uuid7(),
            "org_id": self.org_id,
            "workspace_id": self.workspace_id,
            "project_id": self.project_id,
            "key_id": "key",
            "accepted_at_us": time.time_ns() // 1000,
            "period": "2026-11",
            "source": source,
            "content_type": "protobuf" if source == "otlp" else "json",
            "content_encoding": "identity",
            "items": items,
            "bytes": len(body),
        }
        return Envelope(Header(**(given | fields)), body)

    def body(self, spans: Sequence[Span]) -> bytes:
        """The request that brings ``spans``."""
        return request(spans)

    async def send(self, *bodies: Sequence[Span] | bytes, **fields: Any) -> list[bytes]:
        """An envelope for each body, into the queue; their ids there."""
        envelopes = [
            self.envelope(body, **fields)
            if isinstance(body, bytes)
            else self.envelope(self.body(body), items=len(body), **fields)
            for body in bodies
        ]
        return await self.put(*envelopes)

    async def put(self, *envelopes: Envelope) -> list[bytes]:
        results = await raw_streams.append(self.queue, [(self.stream, envelope.fields()) for envelope in envelopes])
        return [result for result in results if isinstance(result, bytes)]

    async def rows(self, table: str, columns: str = "*", order: str = "1") -> list[dict[str, Any]]:
        """What readers see of ``table``."""
        found = await self.engine.query(
            f"SELECT {columns} FROM {table} FINAL WHERE org_id = {{org:UUID}} ORDER BY {order}", {"org": self.org_id}
        )
        return found.dicts()

    async def metered(self) -> dict[str, int]:
        found = await self.engine.query(
            "SELECT meter, sum(qty) FROM billing_meter FINAL WHERE org_id = {org:UUID} GROUP BY meter",
            {"org": self.org_id},
        )
        return dict(found.rows)

    async def dead(self) -> list[Entry]:
        """The tenant's dead letters, and those that nobody can read."""
        return await self.queue.range(DEAD_LETTER_STREAM, count=1000)


@pytest.fixture
def tenant(queue: Queue, engine: clickhouse.Engine) -> Tenant:
    return Tenant(queue, engine)


class Worker:
    """A worker in this process, draining until the block ends."""

    def __init__(
        self,
        queue: Queue,
        engine: clickhouse.Engine,
        store: redis_control.RedisControl,
        owners: LazyProjectOwners | None = None,
    ) -> None:
        self.metrics = WorkerMetrics(Metrics())
        self._services = WorkerServices(queue, engine, store, self.metrics, owners)
        self._stop = asyncio.Event()

    async def __aenter__(self) -> "Worker":
        self.task = asyncio.create_task(self._services.consume(self._stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self.task

    async def until(self, done: Callable[[], Any]) -> None:
        """Wait until ``done()``, awaited if it can be, is true."""
        await until(done, lambda: not self.task.done())

    async def drained(self, tenant: Tenant) -> None:
        """Wait until nothing of the tenant's stream is left."""

        async def is_empty() -> bool:
            return await tenant.queue.length(tenant.stream) == 0

        await self.until(is_empty)


async def until(done: Callable[[], Any], going: Callable[[], bool] = lambda: True) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        result = done()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert going(), "the worker ended"
        assert time.monotonic() < deadline, "this took too long"
        await asyncio.sleep(POLL_S)


@pytest.fixture
def worker(queue: Queue, engine: clickhouse.Engine, hot_store: redis_control.RedisControl) -> Callable[[], Worker]:
    return lambda: Worker(queue, engine, hot_store)


@pytest.fixture
async def legacy_worker(
    queue: Queue, engine: clickhouse.Engine, hot_store: redis_control.RedisControl
) -> AsyncIterator[Callable[[str], Worker]]:
    """Makes workers that read the stream from before the shards too, and ask this control plane whose it is."""
    opened: list[LazyProjectOwners] = []

    def make(pg_dsn: str) -> Worker:
        opened.append(LazyProjectOwners(pg_dsn))
        return Worker(queue, engine, hot_store, opened[-1])

    yield make
    for owners in opened:
        await owners.close()


class Process:
    """A worker in a process of its own."""

    def __init__(self, stores: Any, failpoint: str = "") -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACEBILITY_")}
        environment |= {
            "TRACEBILITY_PG_DSN": stores.pg_dsn,
            "TRACEBILITY_REDIS_URL": stores.redis_url,
            "TRACEBILITY_CLICKHOUSE_URL": stores.clickhouse_url,
            "TRACEBILITY_FAILPOINT": failpoint,
            "TRACEBILITY_PORT": "0",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tracebility.targets", "ingest-worker"], env=environment, stderr=subprocess.PIPE
        )

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)

    def end(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=DEADLINE_S)


@pytest.fixture
def worker_process(stores: Any) -> Callable[..., Process]:
    return lambda failpoint="": Process(stores, failpoint)


@pytest.fixture(scope="session", name="spans")
def _spans() -> Callable[..., Span]:
    return span


@pytest.fixture
def worker_of(hot_store: redis_control.RedisControl) -> Callable[[Queue, clickhouse.Engine], Worker]:
    return lambda queue, engine: Worker(queue, engine, hot_store)


@pytest.fixture(scope="session", name="until")
def _until() -> Callable[..., Any]:
    return until
