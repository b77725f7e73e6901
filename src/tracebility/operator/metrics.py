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
        self.leads = metrics.gauge("tracebility_operator_leads", "1 while this operator is the leader.")
        self.last_success = metrics.gauge(
            "tracebility_operator_loop_last_success_seconds",
            "Unix time at which each loop last succeeded in this process.",
            ("loop",),
        )
        self.seconds = metrics.gauge(
            "tracebility_operator_loop_duration_seconds", "Duration of the last tick of each loop.", ("loop",)
        )
        self.lag = metrics.gauge(
            "tracebility_operator_loop_lag_seconds",
            "Delay of each loop's last tick after its due time, which is a period after its last success.",
            ("loop",),
        )
        self.failures = metrics.counter(
            "tracebility_operator_loop_failures", "Failed ticks of each loop; they are retried.", ("loop",)
        )
        self.audit = AuditMetrics(metrics)
        self.alerts = AlertMetrics(metrics)
        self.shards = ShardMetrics(metrics)
        self.deletion = DeletionMetrics(metrics)
