"""Metrics of the alert checks."""

from tracebility.telemetry import Metrics


class AlertMetrics:
    """Registered once per process."""

    def __init__(self, metrics: Metrics) -> None:
        self.standing = metrics.gauge("tracebility_alert", "1 while an alert of this kind stands.", ("kind",))
        self.missing = metrics.gauge(
            "tracebility_books_missing_envelopes",
            "Envelopes that are in flight by the books and in no stream any more. Anything but 0 is data loss.",
        )
