"""Metrics of the shard balance."""

from tracebility.telemetry import Metrics


class ShardMetrics:
    """Registered once per process."""

    def __init__(self, metrics: Metrics) -> None:
        self.skew = metrics.gauge(
            "tracebility_shard_skew", "Items of the last hours on the hottest shard over the mean; 1 is even."
        )
        self.items = metrics.gauge(
            "tracebility_shard_items", "Items of the last hours, each on the shard where its org is now.", ("shard",)
        )
        self.epoch = metrics.gauge("tracebility_shard_map_epoch", "Number of the latest change of the shard map.")
        self.placed = metrics.gauge(
            "tracebility_shard_placed_orgs", "Orgs that are not on the shard of their hash alone."
        )
        self.moves = metrics.counter("tracebility_shard_moves", "Orgs that the operator moved by itself.")
