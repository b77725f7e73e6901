"""What the edge holds while it runs: stores, resolver, queue, disk buffer. Opened once, handed to the application."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tracebility.config import Settings
from tracebility.health import Readiness, unanswered
from tracebility.ingest.accept import Intake
from tracebility.ingest.api_proxy import ApiProxy
from tracebility.ingest.body import IN_FLIGHT_BYTES, Budget
from tracebility.ingest.disk_buffer.buffer import DiskBuffer
from tracebility.ingest.disk_buffer.replay import Replayer
from tracebility.ingest.enqueue import CircuitBreaker, Enqueuer
from tracebility.ingest.heartbeat import Heartbeat
from tracebility.ingest.metrics import IngestMetrics
from tracebility.ingest.target_metrics import sockets_of
from tracebility.quota.settled import PostgresUsage
from tracebility.shards.routing import routing
from tracebility.stores import postgres, redis_control
from tracebility.stores.changes import resolving
from tracebility.stores.queue import connect_queue
from tracebility.telemetry import Metrics
from tracebility.tenant.admission import Admission
from tracebility.tenant.resolver import Resolver

STORES = ("postgres", "redis")


@dataclass(frozen=True, slots=True)
class IngestServices:
    """Everything that a request uses."""

    resolver: Resolver
    intake: Intake
    budget: Budget
    metrics: IngestMetrics
    readiness: Callable[[], Awaitable[Readiness]]
    api_proxy: ApiProxy | None = None
    metrics_sockets: Mapping[str, str] = field(default_factory=dict)


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[IngestServices]:
    """The services of one process. At the end of the block nothing is on its way any more.

    Raises:
        ConfigurationError: when a DSN is missing, malformed or refused, nothing answers there, or the disk buffer's
            folder cannot be used.
    """
    async with AsyncExitStack() as stack:
        metrics = IngestMetrics(Metrics())
        pg_dsn, redis_url = settings.dsn("TRACEBILITY_PG_DSN"), settings.dsn("TRACEBILITY_REDIS_URL")
        disk_buffer = await DiskBuffer.open(settings.spool_dir, settings.spool_max_bytes, metrics)
        stack.push_async_callback(disk_buffer.close)
        control = await postgres.connect(pg_dsn)
        stack.push_async_callback(control.close)
        queue = await connect_queue(settings.dsn(settings.stream_variable), variable=settings.stream_variable)
        stack.push_async_callback(queue.close)
        control_role = await redis_control.connect(redis_url)
        stack.push_async_callback(control_role.close)
        heartbeat = Heartbeat(control_role, f"{socket.gethostname()}:{settings.spool_dir.absolute()}", disk_buffer)
        admission = Admission(control_role, PostgresUsage(control), lambda: heartbeat.processes)
        stack.push_async_callback(_cancelled, asyncio.create_task(heartbeat.run(admission)))
        breaker = CircuitBreaker(metrics)
        replaying = asyncio.create_task(Replayer(disk_buffer, queue, breaker, metrics).run())
        stack.push_async_callback(_cancelled, replaying)
        router, keeper = await stack.enter_async_context(routing(control))
        enqueuer = Enqueuer(queue, disk_buffer, breaker, metrics, router)
        stack.push_async_callback(enqueuer.close)
        api_proxy = None
        if settings.api_socket or settings.api_url:
            url = "" if settings.api_socket else settings.dsn("TRACEBILITY_API_URL")
            api_proxy = ApiProxy(socket=settings.api_socket, url=url)
            stack.push_async_callback(api_proxy.close)

        async def readiness() -> Readiness:  # ready means accepting, in the queue or in the disk buffer
            missing = await unanswered(("postgres", control.ping), ("redis", queue.ping), ("redis", control_role.ping))
            if breaker.is_open:
                missing.setdefault("redis", "does not take envelopes")
            for store in STORES:
                metrics.store_missing.labels(store).set(store in missing)
            accepting = not breaker.is_open or disk_buffer.accepts
            if not accepting:
                return Readiness("unavailable", missing)
            return Readiness("degraded" if missing else "ok", missing)

        yield IngestServices(
            resolver=await stack.enter_async_context(resolving(control, control_role, redis_url, keeper.changed)),
            intake=Intake(admission, enqueuer, metrics),
            budget=Budget(IN_FLIGHT_BYTES, metrics.bytes_in_flight),
            metrics=metrics,
            readiness=readiness,
            api_proxy=api_proxy,
            metrics_sockets=sockets_of(settings.metrics_sockets),
        )


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
