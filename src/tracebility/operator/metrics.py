"""Metrics of the operator's loops, and of the domains it schedules. Labels name loops and kinds, never tenants."""

from tracebility.alerts.metrics import AlertMetrics
from tracebility.audit.metrics import AuditMetrics
from tracebility.deletion.metrics import DeletionMetrics
from tracebility.shards.metrics import ShardMetrics
from tracebility.telemetry import Metrics


class OperatorMetrics:
    """The metrics of one operator process."""

    def __init__(self, metrics: Metrics) -> None:
        self.all = metrics
        self.leads = metrics.gauge("tracebility_operator_leads", "1 while this operator is the one that leads.")
        self.last_success = metrics.gauge(
            "tracebility_operator_loop_last_success_seconds",
            "Unix time at which each loop last succeeded in this process.",
            ("loop",),
        )
        self.seconds = metrics.gauge(
            "tracebility_operator_loop_duration_seconds", "How long the last tick of each loop took.", ("loop",)
        )
        self.lag = metrics.gauge(
            "tracebility_operator_loop_lag_seconds",
            "How long after it was due each loop last began: since its last success, and its period.",
            ("loop",),
        )
        self.failures = metrics.counter(
            "tracebility_operator_loop_failures", "Ticks of each loop that failed; they are tried again.", ("loop",)
        )
        self.audit = AuditMetrics(metrics)
        self.alerts = AlertMetrics(metrics)
        self.shards = ShardMetrics(metrics)
        self.deletion = DeletionMetrics(metrics)
