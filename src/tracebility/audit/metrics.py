"""Metrics of the audit relay and reconciler."""

from tracebility.telemetry import Metrics


class AuditMetrics:
    """Counters of the audit relay and the audit reconciler."""

    def __init__(self, metrics: Metrics) -> None:
        self.relayed = metrics.counter("tracebility_audit_relayed_events", "Audit events copied to ClickHouse.")
        self.gaps = metrics.counter(
            "tracebility_audit_gaps",
            "Differences between PostgreSQL and ClickHouse that audit reconciliation found, by kind.",
            ("kind",),
        )
