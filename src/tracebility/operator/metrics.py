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
        self.lag = metrics.gauge(
            "tracebility_operator_loop_lag_seconds",
            "How long after it was due each loop last began: since its last success, and its period.",
            ("loop",),
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
        self.shard_skew = metrics.gauge(
            "tracebility_shard_skew", "Items of the last hours on the hottest shard over the mean; 1 is even."
        )
        self.shard_items = metrics.gauge(
            "tracebility_shard_items", "Items of the last hours, each on the shard where its org is now.", ("shard",)
        )
        self.shard_epoch = metrics.gauge("tracebility_shard_map_epoch", "Number of the latest change of the shard map.")
        self.shard_placed = metrics.gauge(
            "tracebility_shard_placed_orgs", "Orgs that are not on the shard of their hash alone."
        )
        self.shard_moves = metrics.counter("tracebility_shard_moves", "Orgs that the operator moved by itself.")
        self.erased = metrics.counter(
            "tracebility_erased_rows", "Rows removed from the data plane: retention, deletion, or late ones.", ("why",)
        )
        self.deletions = metrics.counter("tracebility_deletions", "Deletions that are certified, by kind.", ("kind",))
        self.deletions_waiting = metrics.gauge("tracebility_deletions_waiting", "Deletions that are not done yet.")
