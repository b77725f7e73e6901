"""Metrics of the audit relay and reconciler."""

from tracebility.telemetry import Metrics


class AuditMetrics:
    """Registered once per process."""

    def __init__(self, metrics: Metrics) -> None:
        self.relayed = metrics.counter("tracebility_audit_relayed_events", "Audit events written to the data plane.")
        self.gaps = metrics.counter(
            "tracebility_audit_gaps",
            "Audit events that a reconciliation found wrong in the data plane, by kind.",
            ("kind",),
        )
