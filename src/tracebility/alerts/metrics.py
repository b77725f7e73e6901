"""Metrics of the alert checks."""

from tracebility.telemetry import Metrics


class AlertMetrics:
    """Gauges of the current alerts."""

    def __init__(self, metrics: Metrics) -> None:
        self.standing = metrics.gauge("tracebility_alert", "1 while an alert of this kind fires.", ("kind",))
        self.missing = metrics.gauge(
            "tracebility_books_missing_envelopes",
            "Envelopes that the ledger has in flight but that are in no stream. Any value above 0 is data loss.",
        )
