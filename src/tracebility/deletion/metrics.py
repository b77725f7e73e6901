"""Metrics of deletion and retention."""

from tracebility.telemetry import Metrics


class DeletionMetrics:
    """Counters of removed rows and finished deletions."""

    def __init__(self, metrics: Metrics) -> None:
        self.erased = metrics.counter(
            "tracebility_erased_rows",
            "Rows removed from ClickHouse, by reason: retention, deletion, or late.",
            ("why",),
        )
        self.certified = metrics.counter(
            "tracebility_deletions", "Finished and certified deletions, by kind.", ("kind",)
        )
        self.waiting = metrics.gauge("tracebility_deletions_waiting", "Deletions that are not finished yet.")
