"""The operator as a target: its stores, its loops, and the wait for its turn to lead."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import structlog

from tracebility.audit import reconciler, relay, verify
from tracebility.audit.reconciler import AuditReconciler
from tracebility.audit.relay import AuditRelay
from tracebility.audit.verify import Verification
from tracebility.config import Settings
from tracebility.errors import StoreUnavailable
from tracebility.health import unanswered
from tracebility.operator import alerts, deletion, loops, notify, prune, quota, retention, shards
from tracebility.operator.deletion import Deleter
from tracebility.operator.loops import Loop
from tracebility.operator.metrics import OperatorMetrics
from tracebility.operator.prune import prune_tenant_changes
from tracebility.operator.quota import QuotaReconciler
from tracebility.operator.retention import Retention
from tracebility.operator.shards import ShardBalance
from tracebility.stores import clickhouse, hot, leader, postgres, redis
from tracebility.telemetry import Metrics

RETRY_S = 1.0
AUDIT_RECONCILE = "audit-reconcile"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OperatorServices:
    """Everything the operator holds while it runs."""

    control: postgres.Postgres
    engine: clickhouse.Engine
    queue: redis.Queue
    hot: hot.Hot
    metrics: OperatorMetrics
    pg_dsn: str
    webhook_url: str = ""
    webhook_secret: str = field(default="", repr=False)
    shards_auto: bool = False
    dual_read_legacy: bool = True

    def loops(self) -> Sequence[Loop]:
        """All there are."""
        quotas = QuotaReconciler(self.control, self.engine, self.queue, self.hot)
        verification = Verification(self.control, self.engine)
        looking = alerts.Alerts(
            self.control, self.engine, self.queue, self.hot, self.metrics, quotas.looked_at, lambda: verification.found
        )
        notifier = notify.Notifier(self.control, self.webhook_url, self.webhook_secret)
        relayed = AuditRelay(self.control, self.engine, self.metrics)
        balance = ShardBalance(self.control, self.queue, self.hot, self.metrics, auto=self.shards_auto)
        deleter = Deleter(
            self.control, self.engine, self.queue, self.hot, self.metrics, waits_for_legacy=self.dual_read_legacy
        )
        retained = Retention(self.control, self.engine, self.metrics)
        return (
            Loop("quota-reconcile", quota.PERIOD_S, lambda fence: quotas.tick()),
            Loop("audit-relay", relay.PERIOD_S, lambda fence: relayed.tick()),
            Loop(AUDIT_RECONCILE, reconciler.PERIOD_S, lambda fence: self._reconcile_audit()),
            Loop("audit-verify", verify.PERIOD_S, lambda fence: verification.tick()),
            Loop("alerts", alerts.PERIOD_S, lambda fence: looking.tick()),
            Loop("notify", notify.PERIOD_S, lambda fence: notifier.tick()),
            Loop("shards", shards.PERIOD_S, lambda fence: balance.tick()),
            Loop("deletion", deletion.PERIOD_S, lambda fence: deleter.tick()),
            Loop("deletion-sweep", deletion.SWEEP_PERIOD_S, lambda fence: deleter.sweep()),
            Loop("retention", retention.PERIOD_S, lambda fence: retained.tick()),
            Loop("prune", prune.PERIOD_S, lambda fence: prune_tenant_changes(self.control)),
        )

    async def lead(self, stop: asyncio.Event) -> None:
        """Run the loops whenever this operator leads, until ``stop``."""
        leading = asyncio.create_task(self._lead_for_ever())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((leading, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        leading.cancel()
        with suppress(asyncio.CancelledError):
            await leading

    async def missing_stores(self) -> dict[str, str]:
        """The stores that do not answer, and what they say instead."""
        redis_pings = (("redis", self.queue.ping), ("redis", self.hot.ping))
        return await unanswered(("postgres", self.control.ping), *redis_pings, ("clickhouse", self.engine.ping))

    async def _reconcile_audit(self) -> None:
        run = await AuditReconciler(self.control, self.engine, self.metrics).tick()
        if run.gaps:
            log.error("the audit trail had gaps", **run.document())

    async def _lead_for_ever(self) -> None:
        name = f"{socket.gethostname()}:{os.getpid()}"
        while True:
            try:
                async with leader.leading(self.pg_dsn, name) as lease:
                    log.info("leads", fence=lease.fence)
                    self.metrics.leads.set(1)
                    await loops.run(self.loops(), lease, self.control, self.metrics)
                    log.warning("leads no longer", fence=lease.fence)
            except StoreUnavailable as error:
                log.warning("control plane does not answer; trying again", reason=str(error))
            finally:
                self.metrics.leads.set(0)
            await asyncio.sleep(RETRY_S)


def audit_reconcile(control: postgres.Postgres, engine: clickhouse.Engine, metrics: OperatorMetrics) -> Loop:
    """The audit reconciler for the command that runs it now, and tells what it found."""
    return Loop(AUDIT_RECONCILE, reconciler.PERIOD_S, lambda fence: AuditReconciler(control, engine, metrics).tick())


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[OperatorServices]:
    """The services of one process, closed at the end of the block.

    Raises:
        ConfigurationError: when a DSN is missing, malformed or refused, or nothing answers there.
    """
    pg_dsn, redis_url = settings.dsn("TRACEBILITY_PG_DSN"), settings.dsn("TRACEBILITY_REDIS_URL")
    async with AsyncExitStack() as stack:
        control = await postgres.connect(pg_dsn)
        stack.push_async_callback(control.close)
        queue = await redis.connect(settings.dsn(settings.stream_variable), variable=settings.stream_variable)
        stack.push_async_callback(queue.close)
        control_role = await hot.connect(redis_url)
        stack.push_async_callback(control_role.close)
        engine = await clickhouse.connect(settings.dsn("TRACEBILITY_CLICKHOUSE_URL"))
        stack.push_async_callback(engine.close)
        yield OperatorServices(
            control, engine, queue, control_role, OperatorMetrics(Metrics()), pg_dsn,
            settings.alert_webhook_url, settings.alert_webhook_secret, settings.shards_auto,
            settings.ingest_dual_read_legacy,
        )  # fmt: skip


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run an operator until ``stop``."""
    async with open_services(settings) as services:
        await services.lead(stop)
