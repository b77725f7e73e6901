"""What the worker counts. Labels name kinds, never tenants."""

from tracebility.telemetry import Metrics

# From an idle worker's linger to the backlog of an outage.
_LAG_BUCKETS_S = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class WorkerMetrics:
    """The metrics of one worker."""

    def __init__(self, metrics: Metrics) -> None:
        self.all = metrics
        self.spans = metrics.counter("tracebility_worker_spans", "Spans written to the engine and acknowledged.")
        self.envelopes = metrics.counter("tracebility_worker_envelopes", "Envelopes written and acknowledged.")
        self.batches = metrics.counter("tracebility_worker_batches", "Batches written.")
        self.dead = metrics.counter("tracebility_worker_dead_letters", "Envelopes moved to the dead letters.")
        self.dropped = metrics.counter(
            "tracebility_worker_dropped_envelopes",
            "Envelopes dropped after their accept: legacy or degraded ones of an org that was over its quota.",
        )
        self.legacy = metrics.counter(
            "tracebility_worker_legacy_envelopes", "Envelopes read from the stream from before the shards."
        )
        self.legacy_unknown = metrics.counter(
            "tracebility_worker_legacy_unknown_envelopes",
            "Of those, envelopes of a project that nobody knows; they are kept under the sentinel tenant.",
        )
        self.reclaimed = metrics.counter(
            "tracebility_worker_reclaimed_envelopes", "Envelopes taken over from a worker that fell silent."
        )
        self.lost = metrics.counter(
            "tracebility_worker_lost_entries",
            "Entries that vanished from a stream while they were pending. Anything but 0 is data loss.",
        )
        self.stale_runs = metrics.counter(
            "tracebility_worker_stale_runs", "Runs whose row could not be computed; their spans are stored."
        )
        self.runs_behind = metrics.gauge(
            "tracebility_worker_runs_behind", "Large runs whose row does not show all of their spans yet."
        )
        self.waits = metrics.counter(
            "tracebility_worker_store_failures", "Calls that a store did not answer; they are tried again.", ("store",)
        )
        self.stage_seconds = metrics.histogram(
            "tracebility_worker_stage_seconds",
            "Time a batch spends in each stage: map, encode, spans, runs, meter, ack.",
            ("stage",),
        )
        self.lag_seconds = metrics.histogram(
            "tracebility_worker_lag_seconds",
            "Time from an envelope's accept to its acknowledgement.",
            buckets=_LAG_BUCKETS_S,
        )
        self.held_bytes = metrics.gauge(
            "tracebility_worker_held_bytes", "Bytes of envelopes read and not acknowledged."
        )
        self.queue_length = metrics.gauge("tracebility_queue_entries", "Entries in each shard's stream.", ("shard",))
        self.queue_oldest_seconds = metrics.gauge(
            "tracebility_queue_oldest_seconds", "Age of the oldest entry in any stream; 0 when all are empty."
        )
