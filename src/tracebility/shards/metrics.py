"""Metrics of the shard balance."""

from tracebility.telemetry import Metrics


class ShardMetrics:
    """Metrics of the shard map and the load of the shards."""

    def __init__(self, metrics: Metrics) -> None:
        self.skew = metrics.gauge(
            "tracebility_shard_skew", "Load of the hottest shard over the mean load, in the last hours; 1 is even."
        )
        self.items = metrics.gauge(
            "tracebility_shard_items", "Items of the last hours by the current shard of their org.", ("shard",)
        )
        self.epoch = metrics.gauge("tracebility_shard_map_epoch", "Epoch of the latest change of the shard map.")
        self.placed = metrics.gauge("tracebility_shard_placed_orgs", "Orgs that the shard map has moved or split.")
        self.moves = metrics.counter("tracebility_shard_moves", "Moves of orgs that the operator made automatically.")
