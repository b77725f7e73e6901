"""The worker as a target: its stores, its metrics, and the drain that runs until it is told to end."""

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
from tracebility.stores.project_owners import LazyOwners
from tracebility.stores.queue import Queue, connect_queue
from tracebility.telemetry import Metrics
from tracebility.tenant.shard_router import SHARD_STREAMS
from tracebility.worker import memory
from tracebility.worker.consumer import Drain
from tracebility.worker.legacy import Legacy, Owners
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.write import Writer

WATCH_S = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """Everything the worker holds while it runs."""

    queue: Queue
    engine: clickhouse.Engine
    hot: redis_control.Hot
    metrics: WorkerMetrics
    owners: Owners | None = None  # where envelopes from before the shards find whose they are; None: nobody reads them

    async def drain(self, stop: asyncio.Event) -> None:
        """Store what is in the queue until ``stop``."""
        memory.disable_automatic_collection()
        memory.keep_freed_pages()
        watching = asyncio.create_task(self._watch(stop))
        try:
            writer = Writer(self.engine, self.metrics, stop)
            legacy = None if self.owners is None else Legacy(self.owners, self.metrics)
            await Drain(self.queue, self.hot, writer, self.metrics, stop, legacy).run()
        finally:
            watching.cancel()

    async def missing_stores(self) -> dict[str, str]:
        """The stores that do not answer, and what they say instead."""
        return await unanswered(("redis", self.queue.ping), ("redis", self.hot.ping), ("clickhouse", self.engine.ping))

    async def _watch(self, stop: asyncio.Event) -> None:
        """Keep the figures about the queue, and give memory back once there is nothing to do."""
        while not stop.is_set():
            try:
                depths = await self.queue.depths(SHARD_STREAMS)
            except StoreUnavailable:
                depths = {}
            for shard, depth in enumerate(depths.values()):
                self.metrics.queue_length.labels(str(shard)).set(depth.length)
            oldest = [depth.oldest_ms for depth in depths.values() if depth.oldest_ms is not None]
            self.metrics.queue_oldest_seconds.set(max(0.0, time.time() - min(oldest) / 1000) if oldest else 0)
            memory.collect_cycles()
            if depths and not oldest:
                memory.release_freed_pages()
            await pause(stop, WATCH_S)


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[WorkerServices]:
    """The services of one process, closed at the end of the block.

    Raises:
        ConfigurationError: when a DSN is missing, malformed or refused, or nothing answers there.
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
            owners = LazyOwners(settings.dsn("TRACEBILITY_PG_DSN"))
            stack.push_async_callback(owners.close)
        yield WorkerServices(queue, engine, control_role, WorkerMetrics(Metrics()), owners)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run a worker until ``stop``."""
    async with open_services(settings) as services:
        log.info("worker ready", engine=services.engine.version)
        await services.drain(stop)
