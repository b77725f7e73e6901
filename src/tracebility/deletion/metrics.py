"""Metrics of deletion and retention."""

from tracebility.telemetry import Metrics


class DeletionMetrics:
    """Registered once per process."""

    def __init__(self, metrics: Metrics) -> None:
        self.erased = metrics.counter(
            "tracebility_erased_rows", "Rows removed from the data plane: retention, deletion, or late ones.", ("why",)
        )
        self.certified = metrics.counter("tracebility_deletions", "Deletions that are certified, by kind.", ("kind",))
        self.waiting = metrics.gauge("tracebility_deletions_waiting", "Deletions that are not done yet.")
