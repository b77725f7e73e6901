"""The ingest-worker target: opens its stores and runs the consumer until stopped."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from tracebility.config import Settings
from tracebility.errors import StoreUnavailable
from tracebility.health import unanswered
from tracebility.retry import pause
from tracebility.stores import clickhouse, redis_control
from tracebility.stores.project_owners import LazyProjectOwners
from tracebility.stores.queue import Queue, connect_queue
from tracebility.telemetry import Metrics
from tracebility.tenant.shard_router import SHARD_STREAMS
from tracebility.worker import memory
from tracebility.worker.consumer import Consumer
from tracebility.worker.legacy import Legacy, Owners
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.write import Writer

WATCH_S = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """The stores and metrics of one worker process."""

    queue: Queue
    engine: clickhouse.Engine
    hot: redis_control.RedisControl
    metrics: WorkerMetrics
    owners: Owners | None = None  # looks up the orgs of legacy envelopes; None: the legacy stream is not read

    async def consume(self, stop: asyncio.Event) -> None:
        """Consume the queue until ``stop``."""
        memory.disable_automatic_gc()
        memory.keep_freed_pages()
        watching = asyncio.create_task(self._watch(stop))
        try:
            writer = Writer(self.engine, self.metrics, stop)
            legacy = None if self.owners is None else Legacy(self.owners, self.metrics)
            await Consumer(self.queue, self.hot, writer, self.metrics, stop, legacy).run()
        finally:
            watching.cancel()

    async def missing_stores(self) -> dict[str, str]:
        """Return the stores that do not answer, with the reason."""
        return await unanswered(("redis", self.queue.ping), ("redis", self.hot.ping), ("clickhouse", self.engine.ping))

    async def _watch(self, stop: asyncio.Event) -> None:
        """Update the queue metrics, collect garbage, and return free memory when the queue is empty."""
        while not stop.is_set():
            try:
                depths = await self.queue.depths(SHARD_STREAMS)
            except StoreUnavailable:
                depths = {}
            for shard, depth in enumerate(depths.values()):
                self.metrics.queue_length.labels(str(shard)).set(depth.length)
            oldest = [depth.oldest_ms for depth in depths.values() if depth.oldest_ms is not None]
            self.metrics.queue_oldest_seconds.set(max(0.0, time.time() - min(oldest) / 1000) if oldest else 0)
            memory.collect_garbage()
            if depths and not oldest:
                memory.give_back_freed_pages()
            await pause(stop, WATCH_S)


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[WorkerServices]:
    """Open the stores of one process, and close them at the end of the block.

    Raises:
        ConfigurationError: when a DSN is missing, malformed or refused, or a store does not answer.
    """
    async with AsyncExitStack() as stack:
        queue = await connect_queue(settings.dsn(settings.stream_variable), variable=settings.stream_variable)
        stack.push_async_callback(queue.close)
        control_role = await redis_control.connect(settings.dsn("TRACEBILITY_REDIS_URL"))
        stack.push_async_callback(control_role.close)
        engine = await clickhouse.connect(settings.dsn("TRACEBILITY_CLICKHOUSE_URL"))
        stack.push_async_callback(engine.close)
        owners = None
        if settings.ingest_dual_read_legacy and settings.pg_dsn:
            owners = LazyProjectOwners(settings.dsn("TRACEBILITY_PG_DSN"))
            stack.push_async_callback(owners.close)
        yield WorkerServices(queue, engine, control_role, WorkerMetrics(Metrics()), owners)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run a worker until ``stop``."""
    async with open_services(settings) as services:
        log.info("worker ready", engine=services.engine.version)
        await services.consume(stop)
