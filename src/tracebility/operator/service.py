"""The operator target: opens its stores, waits for leadership and runs the loops."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import structlog

from tracebility.alerts import checks, ledger_check, webhook
from tracebility.alerts.ledger_check import LedgerCheck
from tracebility.alerts.standing import StandingAlerts
from tracebility.alerts.without_postgres import WithoutPostgres
from tracebility.audit import reconciler as audit_reconciler
from tracebility.audit import relay, verify
from tracebility.audit.metrics import AuditMetrics
from tracebility.audit.reconciler import AuditReconciler
from tracebility.audit.relay import AuditRelay
from tracebility.audit.verify import Verification
from tracebility.config import Settings
from tracebility.deletion import retention, runner
from tracebility.deletion.retention import Retention
from tracebility.deletion.runner import Deleter
from tracebility.errors import StoreUnavailable
from tracebility.health import unanswered
from tracebility.operator import loops, prune
from tracebility.operator.loops import Loop
from tracebility.operator.metrics import OperatorMetrics
from tracebility.operator.prune import prune_tenant_changes
from tracebility.quota import reconciler as quota_reconciler
from tracebility.quota.reconciler import QuotaReconciler
from tracebility.retry import STORE_RETRY_S
from tracebility.shards import balance
from tracebility.shards.balance import ShardBalance
from tracebility.stores import clickhouse, leader, postgres, redis_control
from tracebility.stores.queue import Queue, connect_queue
from tracebility.telemetry import Metrics

AUDIT_RECONCILE = "audit-reconcile"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OperatorServices:
    """The stores and settings of one operator process."""

    control: postgres.Postgres
    engine: clickhouse.Engine
    queue: Queue
    hot: redis_control.RedisControl
    metrics: OperatorMetrics
    pg_dsn: str
    webhook_url: str = ""
    webhook_secret: str = field(default="", repr=False)
    shards_auto: bool = False
    dual_read_legacy: bool = True

    def loops(self) -> Sequence[Loop]:
        """Create all loops."""
        quotas = QuotaReconciler(self.control, self.engine, self.queue, self.hot)
        verification = Verification(self.control, self.engine)
        standing = StandingAlerts(self.control, self.metrics.alerts)
        alerts = checks.Alerts(
            standing,
            self.control,
            self.engine,
            self.queue,
            self.hot,
            self.missing_stores,
            lambda: verification.found,
        )
        ledgers = LedgerCheck(standing, self.engine, self.queue, self.metrics.alerts, quotas.settled_orgs)
        notifier = self._notifier()
        audit_relay = AuditRelay(self.control, self.engine, self.metrics.audit)
        shard_balance = ShardBalance(self.control, self.queue, self.hot, self.metrics.shards, auto=self.shards_auto)
        deleter = Deleter(
            self.control,
            self.engine,
            self.queue,
            self.hot,
            self.metrics.deletion,
            waits_for_legacy=self.dual_read_legacy,
        )
        expiry = Retention(self.control, self.engine, self.hot, self.metrics.deletion)
        return (
            Loop("quota-reconcile", quota_reconciler.PERIOD_S, lambda fence: quotas.tick()),
            Loop("audit-relay", relay.PERIOD_S, lambda fence: audit_relay.tick()),
            Loop(AUDIT_RECONCILE, audit_reconciler.PERIOD_S, lambda fence: self._reconcile_audit()),
            Loop("audit-verify", verify.PERIOD_S, lambda fence: verification.tick()),
            Loop("alerts", checks.PERIOD_S, lambda fence: alerts.tick()),
            Loop("ledger-check", ledger_check.PERIOD_S, lambda fence: ledgers.tick()),
            Loop("notify", webhook.PERIOD_S, lambda fence: notifier.tick()),
            Loop("shards", balance.PERIOD_S, lambda fence: shard_balance.tick()),
            Loop("deletion", runner.PERIOD_S, lambda fence: deleter.tick()),
            Loop("deletion-sweep", runner.SWEEP_PERIOD_S, lambda fence: deleter.sweep()),
            Loop("retention", retention.PERIOD_S, lambda fence: expiry.tick()),
            Loop("prune", prune.PERIOD_S, lambda fence: prune_tenant_changes(self.control)),
        )

    async def lead(self, stop: asyncio.Event) -> None:
        """Run the loops while this operator leads, and watch PostgreSQL at all times, until ``stop``."""
        watch = WithoutPostgres(self.missing_stores, self._notifier(), self.metrics.alerts)
        running = (asyncio.create_task(self._lead_for_ever()), asyncio.create_task(watch.run()))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((*running, stopping), return_when=asyncio.FIRST_COMPLETED)
        for task in (*running, stopping):
            task.cancel()
        for ended in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def missing_stores(self) -> dict[str, str]:
        """Return the stores that do not answer, with the reason."""
        redis_pings = (("redis", self.queue.ping), ("redis", self.hot.ping))
        return await unanswered(("postgres", self.control.ping), *redis_pings, ("clickhouse", self.engine.ping))

    def _notifier(self) -> webhook.Notifier:
        return webhook.Notifier(self.control, self.webhook_url, self.webhook_secret)

    async def _reconcile_audit(self) -> None:
        run = await AuditReconciler(self.control, self.engine, self.metrics.audit).tick()
        if run.gaps:
            log.error("the audit log in ClickHouse had gaps", **run.document())

    async def _lead_for_ever(self) -> None:
        name = f"{socket.gethostname()}:{os.getpid()}"
        while True:
            try:
                async with leader.leading(self.pg_dsn, name) as lease:
                    log.info("this operator leads", fence=lease.fence)
                    self.metrics.leads.set(1)
                    await loops.run(self.loops(), lease, self.control, self.metrics)
                    log.warning("this operator no longer leads", fence=lease.fence)
            except StoreUnavailable as error:
                log.warning("PostgreSQL does not answer; retrying", reason=str(error))
            finally:
                self.metrics.leads.set(0)
            await asyncio.sleep(STORE_RETRY_S)


def audit_reconcile(control: postgres.Postgres, engine: clickhouse.Engine, metrics: AuditMetrics) -> Loop:
    """Return the audit reconciler as a loop whose tick returns its result, for the command that runs it now."""
    return Loop(
        AUDIT_RECONCILE, audit_reconciler.PERIOD_S, lambda fence: AuditReconciler(control, engine, metrics).tick()
    )


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
        queue = await connect_queue(settings.dsn(settings.stream_variable), variable=settings.stream_variable)
        stack.push_async_callback(queue.close)
        control_role = await redis_control.connect(redis_url)
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
