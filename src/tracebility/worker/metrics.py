"""Metrics of the worker. Labels name kinds of things, never tenants."""

from tracebility.telemetry import Metrics

# From the linger time of an idle worker to the backlog after an outage.
_LAG_BUCKETS_S = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class WorkerMetrics:
    """The metrics of one worker."""

    def __init__(self, metrics: Metrics) -> None:
        self.all = metrics
        self.spans = metrics.counter("tracebility_worker_spans", "Spans written to ClickHouse and acknowledged.")
        self.envelopes = metrics.counter("tracebility_worker_envelopes", "Envelopes written and acknowledged.")
        self.batches = metrics.counter("tracebility_worker_batches", "Batches written.")
        self.dead = metrics.counter("tracebility_worker_dead_letters", "Envelopes moved to the dead letters.")
        self.dropped = metrics.counter(
            "tracebility_worker_dropped_envelopes",
            "Accepted envelopes that were dropped: legacy or degraded ones of an org over its quota.",
        )
        self.legacy = metrics.counter("tracebility_worker_legacy_envelopes", "Envelopes read from the legacy stream.")
        self.legacy_unknown = metrics.counter(
            "tracebility_worker_legacy_unknown_envelopes",
            "Legacy envelopes of unknown projects, stored under the sentinel tenant.",
        )
        self.reclaimed = metrics.counter(
            "tracebility_worker_reclaimed_envelopes", "Envelopes claimed from a worker that died or hung."
        )
        self.lost = metrics.counter(
            "tracebility_worker_lost_entries",
            "Pending entries that are missing in their stream. Any value above 0 is data loss.",
        )
        self.stale_runs = metrics.counter(
            "tracebility_worker_stale_runs", "Runs whose row could not be recomputed; their spans are stored."
        )
        self.runs_behind = metrics.gauge(
            "tracebility_worker_runs_behind", "Large runs whose row does not include all of their spans yet."
        )
        self.waits = metrics.counter(
            "tracebility_worker_store_failures", "Failed calls of a store; they are retried.", ("store",)
        )
        self.stage_seconds = metrics.histogram(
            "tracebility_worker_stage_seconds",
            "Time a batch spends in each stage: map, encode, spans, runs, meter, ack.",
            ("stage",),
        )
        self.lag_seconds = metrics.histogram(
            "tracebility_worker_lag_seconds",
            "Time from the acceptance of an envelope to its acknowledgement.",
            buckets=_LAG_BUCKETS_S,
        )
        self.held_bytes = metrics.gauge(
            "tracebility_worker_held_bytes", "Bytes of pending envelopes: read and not acknowledged."
        )
        self.queue_length = metrics.gauge("tracebility_queue_entries", "Entries in each shard's stream.", ("shard",))
        self.queue_oldest_seconds = metrics.gauge(
            "tracebility_queue_oldest_seconds", "Age of the oldest entry in any stream; 0 when all are empty."
        )
