"""The metrics of the edge. Labels never name tenants."""

from tracebility.telemetry import Metrics, RequestMetrics
from tracebility.wire.protocols import PROTOCOLS

_SOURCES = [protocol.source for protocol in PROTOCOLS]

# From the fsync of a good disk to the deadline after which an envelope goes to the disk buffer.
_ENQUEUE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


class IngestMetrics:
    """The metrics of one edge."""

    def __init__(self, metrics: Metrics) -> None:
        self.all = metrics
        self.requests = RequestMetrics(metrics, "ingest-api")
        items = metrics.counter(
            "tracebility_ingest_items",
            "Spans and runs, by source and by what became of them: accepted or rejected.",
            ("source", "outcome"),
        )
        self.accepted = {source: items.labels(source, "accepted") for source in _SOURCES}
        self.rejected = {source: items.labels(source, "rejected") for source in _SOURCES}
        self.same = metrics.counter(
            "tracebility_ingest_same_items", "Spans and runs of bodies that were kept before, and answered again."
        )
        self.degraded = metrics.counter(
            "tracebility_ingest_degraded_requests", "Requests let in while the usage of their org could not be known."
        )
        self.overflowed = metrics.counter(
            "tracebility_ingest_overflowed_envelopes",
            "Envelopes of orgs that had more than their share in a shard's stream; they wait beside it.",
        )
        self.received_bytes = metrics.counter("tracebility_ingest_received_bytes", "Bytes of bodies, as sent.")
        kept = metrics.counter(
            "tracebility_ingest_envelopes",
            "Envelopes, by where they were kept before the answer: queue, spool, or nowhere (refused).",
            ("kept",),
        )
        self.queued, self.buffered, self.refused = kept.labels("queue"), kept.labels("spool"), kept.labels("refused")
        self.enqueue_seconds = metrics.histogram(
            "tracebility_ingest_enqueue_seconds",
            "Time from an envelope being ready to the queue's answer.",
            buckets=_ENQUEUE_BUCKETS_S,
        )
        self.bytes_in_flight = metrics.gauge(
            "tracebility_ingest_bytes_in_flight", "Bytes of bodies that are read and not yet answered."
        )
        self.queue_away = metrics.gauge(
            "tracebility_ingest_queue_away", "1 while the queue does not take envelopes and the disk buffer does."
        )
        self.store_missing = metrics.gauge(
            "tracebility_ingest_store_missing",
            "1 for a store that did not answer when readiness was last asked for; ingest goes on without it.",
            ("store",),
        )
        self.disk_buffer_bytes = metrics.gauge("tracebility_spool_bytes", "Bytes in the disk buffer.")
        self.disk_buffer_segments = metrics.gauge("tracebility_spool_segments", "Files in the disk buffer.")
        self.disk_buffer_replayed = metrics.counter(
            "tracebility_spool_replayed_envelopes", "Envelopes that went from the disk buffer to the queue."
        )
        self.disk_buffer_damaged = metrics.counter(
            "tracebility_spool_damaged_bytes", "Bytes of the disk buffer that were unreadable and are set aside."
        )
        self.disk_buffer_torn = metrics.counter(
            "tracebility_spool_torn_bytes", "Bytes at the end of files that a crash cut off before the answer."
        )
        self.disk_buffer_errors = metrics.counter("tracebility_spool_write_errors", "Failed writes to the disk buffer.")
