"""The services of the api target: stores, resolver, access log, metrics. Opened once and passed to the app."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from tracebility.audit.access_log import AccessLog
from tracebility.audit.events import AuditWriter, Event
from tracebility.config import Settings
from tracebility.errors import ConfigurationError, StoreUnavailable
from tracebility.health import Ping, unanswered
from tracebility.ids import OrgId
from tracebility.stores import postgres, redis_control, scoped
from tracebility.stores.changes import notifier, resolving
from tracebility.telemetry import Metrics
from tracebility.tenant.resends import invalidate_marks
from tracebility.tenant.resolver import Resolver

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ApiServices:
    """Everything that request code may use."""

    control: postgres.Postgres
    engine: scoped.ScopedEngine
    queue: scoped.ScopedQueue
    pings_of_redis: Sequence[Ping]  # of the queue and of the control role
    announce: Callable[[], Awaitable[None]]  # tells other processes about a change
    forget_bodies: Callable[[OrgId], Awaitable[None]]  # makes every body that the org sent until now count as new
    resolver: Resolver
    access: AccessLog
    metrics: Metrics = field(default_factory=Metrics)
    web: bool = True  # whether pages are served beside the API
    now_ns: Callable[[], int] = time.time_ns

    def now(self) -> datetime:
        """The current time."""
        return datetime.fromtimestamp(self.now_ns() / 1e9, UTC)

    @asynccontextmanager
    async def changing(self, *, deletes_of: OrgId | None = None) -> AsyncIterator[postgres.Transaction]:
        """A transaction whose changes other processes have cached. They are told after the commit.

        With ``deletes_of`` it requests a deletion of data of that org, which may send the same data again afterwards.
        """
        async with self.control.transaction() as transaction:
            yield transaction
        await self.announce()
        if deletes_of is not None:
            with suppress(StoreUnavailable):  # the operator does it again when it begins, and when it is done
                await self.forget_bodies(deletes_of)

    async def missing_stores(self) -> dict[str, str]:
        """The stores that do not answer, each with the reason."""
        redis_pings = [("redis", ping) for ping in self.pings_of_redis]
        return await unanswered(("postgres", self.control.ping), *redis_pings, ("clickhouse", self.engine.ping))


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[ApiServices]:
    """Open the services of one process; they are closed at the end of the block.

    Raises:
        ConfigurationError: when a DSN is missing, malformed or refused, nothing answers there, or the ClickHouse user
            may write.
    """
    async with AsyncExitStack() as stack:
        control = await postgres.connect(settings.dsn("TRACEBILITY_PG_DSN"))
        stack.push_async_callback(control.close)
        engine = await scoped.connect(settings.dsn(settings.reader_variable), settings.reader_variable)
        stack.push_async_callback(engine.close)
        await _refuse_owner(engine, settings)
        redis_url = settings.dsn("TRACEBILITY_REDIS_URL")
        control_role = await redis_control.connect(redis_url)
        stack.push_async_callback(control_role.close)
        resolver = await stack.enter_async_context(resolving(control, control_role, redis_url))
        variable = settings.stream_variable
        queue = await scoped.connect_scoped_queue(settings.dsn(variable), variable)
        stack.push_async_callback(queue.close)
        access = await stack.enter_async_context(_writing_access(control))
        pings = (queue.ping, control_role.ping)
        announce = notifier(control_role)

        async def forget_bodies(org_id: OrgId) -> None:
            await invalidate_marks(control_role, [org_id])

        yield ApiServices(control, engine, queue, pings, announce, forget_bodies, resolver, access, web=settings.web)


async def _refuse_owner(engine: scoped.ScopedEngine, settings: Settings) -> None:
    if not await engine.is_owner():
        return
    if not settings.api_as_owner:
        raise ConfigurationError(
            f"{settings.reader_variable} names a ClickHouse user that may write, and that sees the rows of every org "
            "when a query names none. Name a user that has the role tracebility_reader and nothing else."
        )
    _log.warning("api_reads_as_owner", fix="Set TRACEBILITY_CLICKHOUSE_READER_URL.")


@asynccontextmanager
async def _writing_access(control: postgres.Postgres) -> AsyncIterator[AccessLog]:
    """The trail of reads and refusals, all of it written at the end of the block."""

    async def write(event: Event) -> None:
        async with control.transaction() as transaction:
            await AuditWriter().record(transaction, event)

    access = AccessLog(write)
    flushing = asyncio.create_task(access.run())
    try:
        yield access
    finally:
        flushing.cancel()
        with suppress(asyncio.CancelledError):
            await flushing
        await access.flush(everything=True)
