"""Maps envelopes to rows of `span`. A batch holds all rows of an envelope or none.

OTLP spans wait until enough of them can be mapped together. Native runs become rows at once.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter

import numpy as np
import structlog
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tracebility.wire import otlp
from tracebility.wire.encoding import decompress
from tracebility.wire.envelope import Envelope, Header, MalformedEnvelope
from tracebility.wire.limits import INFLATED_BYTES, REPEATED_BYTES
from tracebility.wire.otlp import spans as wire_spans
from tracebility.wire.otlp.protobuf import Group, Malformed, groups
from tracebility.worker.batch import Batch, Pending
from tracebility.worker.native_rows import add_runs
from tracebility.worker.resource_scope import ResourceScope, read_resource_scope
from tracebility.worker.span_chunks import span_chunk
from tracebility.worker.span_reader import SpanReader

# Size of a chunk of spans that are mapped together: enough to make the fixed cost of an array operation small for each
# span, and few enough to block the event loop for at most 0.1 s.
CHUNK_SPANS = 4_096
CHUNK_BYTES = 8 << 20

log = structlog.get_logger()


def add(batch: Batch, envelope: Envelope) -> int:
    """Add all items of ``envelope`` that the edge accepted, and return their number.

    Raises any error of reading the body, and `MalformedEnvelope` when the number of items differs from the header's.
    The batch is unchanged then. The content of OTLP spans is read later, when they are mapped; an envelope that fails
    there is added to ``batch.refused``.
    """
    header = envelope.header
    mapper = MAPPERS.get(header.source)
    if mapper is None:
        raise MalformedEnvelope(f"envelope of source {header.source!r}, this program reads {', '.join(MAPPERS)}")
    with batch.whole():
        body = decompress(envelope.body, header.content_encoding, INFLATED_BYTES)
        added = mapper(batch, header, body)
        if added != header.items:
            raise MalformedEnvelope(
                f"the body holds {added} items besides the rejected, the edge accepted {header.items}"
            )
    batch.bytes += len(body)
    if batch.pending_spans >= CHUNK_SPANS or batch.pending_bytes >= CHUNK_BYTES:
        map_pending(batch)
    return added


def _add_spans(batch: Batch, header: Header, body: bytes) -> int:
    """Add the accepted spans of ``body`` to those that wait to be mapped, and return their number."""
    if header.content_type == otlp.JSON:
        body = otlp.decode(body, header.content_type).SerializeToString()
    try:
        found = list(groups(body))
    except Malformed:  # a rare encoding that only protobuf reads, or not a request: then protobuf raises
        request = otlp.decode(body, header.content_type)
        request.DiscardUnknownFields()
        body = request.SerializeToString()
        found = list(groups(body))
    rejected = frozenset(header.rejected)
    places: list[tuple[int, int]] = []
    scopes: list[tuple[ResourceScope, int]] = []
    repeated = position = 0
    for group in found:
        scope = _resource_scope(batch, group)
        repeated += scope.chars * len(group.spans)
        if repeated > REPEATED_BYTES:
            raise MalformedEnvelope(
                f"resources and scopes, repeated for each of their spans, are over {REPEATED_BYTES >> 20} MiB"
            )
        spans = group.spans
        if rejected:
            spans = [place for nth, place in enumerate(spans, position) if nth not in rejected]
        position += len(group.spans)
        places += spans
        scopes.append((scope, len(spans)))
    if places:
        starts, ends = list(map(itemgetter(0), places)), list(map(itemgetter(1), places))
        batch.add_pending(Pending(header, body, starts, ends, scopes))
    return len(places)


# How to add a body, by the ``source`` of its protocol. Each protocol of `tracebility.wire.protocols` has a line here.
MAPPERS: Mapping[str, Callable[[Batch, Header, bytes], int]] = {"otlp": _add_spans, "native": add_runs}


def map_pending(batch: Batch) -> None:
    """Map all waiting spans. An envelope with an unreadable span is added to ``batch.refused``, and not stored."""
    pending = batch.take_pending()
    if pending:
        _map_or_refuse(batch, pending)


def _map_or_refuse(batch: Batch, pending: Sequence[Pending]) -> None:
    try:
        _map(batch, pending)
    except MemoryError:
        raise
    except Exception as error:
        # The edge rejects such spans, so this is a bug. Find the envelope by halves and store the others.
        if len(pending) == 1:
            batch.refused.append((pending[0].header.id, error))
            return
        log.exception("spans cannot be mapped together", envelopes=len(pending))
        middle = len(pending) // 2
        for half in (pending[:middle], pending[middle:]):
            _map_or_refuse(batch, half)


def _map(batch: Batch, pending: Sequence[Pending]) -> None:
    counts = [len(one.starts) for one in pending]
    begins = np.cumsum([0, *(len(one.body) for one in pending[:-1])])
    offsets = np.repeat(begins, counts)
    starts = np.fromiter(chain.from_iterable(one.starts for one in pending), np.int64) + offsets
    ends = np.fromiter(chain.from_iterable(one.ends for one in pending), np.int64) + offsets
    scopes = [scope for one in pending for scope in one.scopes]
    scope_of = np.repeat(np.arange(len(scopes)), [spans for _, spans in scopes])
    accepted_us = np.repeat([one.header.accepted_at_us for one in pending], counts)
    spans = wire_spans.find([one.body for one in pending], starts, ends)
    reader = SpanReader(batch.names, batch.prices, spans, [scope for scope, _ in scopes], scope_of, accepted_us)
    headers = [(one.header, count) for one, count in zip(pending, counts, strict=True)]
    batch.chunks.append(span_chunk(reader.read(), batch.names, headers, scopes, (ends - starts).tolist()))


def _resource_scope(batch: Batch, group: Group) -> ResourceScope:
    """Resource and scope of a group. Requests of one process repeat them, so each is converted once for a batch."""
    key = (group.resource, group.scope)
    known = batch.scopes.get(key)
    if known is None:
        known = batch.scopes[key] = read_resource_scope(
            batch.names.table, Resource.FromString(group.resource), InstrumentationScope.FromString(group.scope)
        )
    return known
