"""What the operator counts. Labels name loops and kinds, never tenants."""

from tracebility.telemetry import Metrics


class OperatorMetrics:
    """The metrics of one operator."""

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
        self.failures = metrics.counter(
            "tracebility_operator_loop_failures", "Ticks of each loop that failed; they are tried again.", ("loop",)
        )
        self.alerts = metrics.gauge("tracebility_alert", "1 while an alert of this kind stands.", ("kind",))
        self.missing = metrics.gauge(
            "tracebility_books_missing_envelopes",
            "Envelopes that are in flight by the books and in no stream any more. Anything but 0 is data loss.",
        )
        self.relayed = metrics.counter("tracebility_audit_relayed_events", "Audit events written to the data plane.")
        self.gaps = metrics.counter(
            "tracebility_audit_gaps",
            "Audit events that a reconciliation found wrong in the data plane, by kind.",
            ("kind",),
        )
