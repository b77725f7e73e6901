"""Envelopes to rows: each source has its reader, and an envelope gets into the batch whole or not at all."""

from collections.abc import Callable, Mapping

from tracebility.wire.encoding import decompress
from tracebility.wire.envelope import Envelope, Header, MalformedEnvelope
from tracebility.wire.limits import INFLATED_BYTES
from tracebility.worker.batch import Batch
from tracebility.worker.native_rows import add_runs
from tracebility.worker.otlp_rows import add_spans

SOURCES: Mapping[str, Callable[[Batch, Header, bytes], None]] = {"otlp": add_spans, "native": add_runs}


def add(batch: Batch, envelope: Envelope) -> int:
    """Add every item of ``envelope`` that the edge accepted; how many.

    Raises whatever reading it raises, or that the body holds more or fewer than were accepted, which would be lost
    without a word; and then the batch is as it was.
    """
    header = envelope.header
    if header.source not in SOURCES:
        raise MalformedEnvelope(f"envelope of source {header.source!r}, this program reads {', '.join(SOURCES)}")
    before = len(batch.rows)
    with batch.whole():
        body = decompress(envelope.body, header.content_encoding, INFLATED_BYTES)
        SOURCES[header.source](batch, header, body)
        added = len(batch.rows) - before
        if added != header.items:
            raise MalformedEnvelope(
                f"the body holds {added} items besides the rejected, the edge accepted {header.items}"
            )
        if added:
            batch.envelopes.append((header, added))
    batch.bytes += len(body)
    return added
