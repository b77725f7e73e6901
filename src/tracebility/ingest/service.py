"""What the edge holds while it runs: stores, resolver, queue, disk buffer. Opened once, handed to the application."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tracebility.config import Settings
from tracebility.health import unanswered
from tracebility.ingest.accept import Intake
from tracebility.ingest.beat import Beat
from tracebility.ingest.body import IN_FLIGHT_BYTES, Budget
from tracebility.ingest.enqueue import Enqueuer, Gate
from tracebility.ingest.front import ApiProxy
from tracebility.ingest.metrics import IngestMetrics
from tracebility.ingest.spool.buffer import Spool
from tracebility.ingest.spool.replay import Replayer
from tracebility.ingest.target_metrics import sockets_of
from tracebility.quota.settled import PostgresUsage
from tracebility.shards.routing import routing
from tracebility.stores import postgres, redis_control
from tracebility.stores.changes import resolving
from tracebility.stores.queue import connect_queue
from tracebility.telemetry import Metrics
from tracebility.tenant.admission import Admission
from tracebility.tenant.resolver import Resolver


class Readiness(msgspec.Struct, frozen=True):
    """``missing``: each store that does not answer, and why. ``accepting``: ingest is kept all the same."""

    ready: bool
    accepting: bool
    missing: dict[str, str]


@dataclass(frozen=True, slots=True)
class IngestServices:
    """Everything that a request uses."""

    resolver: Resolver
    intake: Intake
    budget: Budget
    metrics: IngestMetrics
    readiness: Callable[[], Awaitable[Readiness]]
    front: ApiProxy | None = None
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
        spool = await Spool.open(settings.spool_dir, settings.spool_max_bytes, metrics)
        stack.push_async_callback(spool.close)
        control = await postgres.connect(pg_dsn)
        stack.push_async_callback(control.close)
        queue = await connect_queue(settings.dsn(settings.stream_variable), variable=settings.stream_variable)
        stack.push_async_callback(queue.close)
        control_role = await redis_control.connect(redis_url)
        stack.push_async_callback(control_role.close)
        beat = Beat(control_role, f"{socket.gethostname()}:{settings.spool_dir.absolute()}", spool)
        admission = Admission(control_role, PostgresUsage(control), lambda: beat.processes)
        stack.push_async_callback(_cancelled, asyncio.create_task(beat.run(admission)))
        gate = Gate(metrics)
        replaying = asyncio.create_task(Replayer(spool, queue, gate, metrics).run())
        stack.push_async_callback(_cancelled, replaying)
        router, keeper = await stack.enter_async_context(routing(control))
        enqueuer = Enqueuer(queue, spool, gate, metrics, router)
        stack.push_async_callback(enqueuer.close)
        front = None
        if settings.api_socket:
            front = ApiProxy(settings.api_socket)
            stack.push_async_callback(front.close)

        async def readiness() -> Readiness:
            missing = await unanswered(("postgres", control.ping), ("redis", queue.ping), ("redis", control_role.ping))
            if gate.is_shut:
                missing.setdefault("redis", "does not take envelopes")
            return Readiness(not missing, not gate.is_shut or spool.accepts, missing)

        yield IngestServices(
            resolver=await stack.enter_async_context(resolving(control, control_role, redis_url, keeper.changed)),
            intake=Intake(admission, enqueuer, metrics),
            budget=Budget(IN_FLIGHT_BYTES, metrics.bytes_in_flight),
            metrics=metrics,
            readiness=readiness,
            front=front,
            metrics_sockets=sockets_of(settings.metrics_sockets),
        )


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
