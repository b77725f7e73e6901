"""Envelopes to rows: each source has its reader, and an envelope gets into the batch whole or not at all."""

from collections.abc import Callable, Mapping

from google.protobuf.message import DecodeError

from tracebility.wire import otlp
from tracebility.wire.encoding import decompress
from tracebility.wire.envelope import Envelope, Header, MalformedEnvelope
from tracebility.wire.limits import INFLATED_BYTES
from tracebility.worker.batch import Batch
from tracebility.worker.native_rows import add_runs
from tracebility.worker.otlp_rows import add_spans
from tracebility.worker.plain_columns import CHUNK_SPANS, map_waiting, wait

SOURCES: Mapping[str, Callable[[Batch, Header, bytes], None]] = {"otlp": add_spans, "native": add_runs}


def add(batch: Batch, envelope: Envelope) -> int:
    """Add every item of ``envelope`` that the edge accepted; how many.

    Raises whatever reading it raises, or that the body holds more or fewer than were accepted, which would be lost
    without a word; and then the batch is as it was. Spans in protobuf wait for more of them: what cannot be read only
    shows when they are mapped, and is in ``batch.refused`` then.
    """
    header = envelope.header
    if header.source not in SOURCES:
        raise MalformedEnvelope(f"envelope of source {header.source!r}, this program reads {', '.join(SOURCES)}")
    with batch.whole():
        body = decompress(envelope.body, header.content_encoding, INFLATED_BYTES)
        added = _add(batch, header, body)
        if added != header.items:
            raise MalformedEnvelope(
                f"the body holds {added} items besides the rejected, the edge accepted {header.items}"
            )
    batch.bytes += len(body)
    if batch.waiting_spans >= CHUNK_SPANS:
        map_waiting(batch)
    return added


def _add(batch: Batch, header: Header, body: bytes) -> int:
    if header.source == "otlp" and header.content_type == otlp.PROTOBUF:
        try:
            return wait(batch, header, body)
        except (ValueError, IndexError, DecodeError):
            pass  # a spelling that is not followed there; or it is no request, and is told so below
    before = len(batch.rows)
    SOURCES[header.source](batch, header, body)
    added = len(batch.rows) - before
    if added:
        batch.envelopes.append((header, added))
    return added
