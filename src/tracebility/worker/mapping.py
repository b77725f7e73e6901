"""Envelopes to rows of `span`: an envelope gets into the batch whole or not at all.

OTLP spans wait until there are enough to be mapped together; native runs become rows at once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter

import numpy as np
import structlog
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tracebility.wire import otlp
from tracebility.wire.conventions import RESOURCE_SLOTS, RuleTable, Slot, as_text
from tracebility.wire.encoding import decompress
from tracebility.wire.envelope import Envelope, Header, MalformedEnvelope
from tracebility.wire.limits import INFLATED_BYTES, LABEL_CHARS, NAME_CHARS, REPEATED_BYTES
from tracebility.wire.otlp import spans as wire_spans
from tracebility.wire.otlp.protobuf import Group, Malformed, groups
from tracebility.wire.otlp.values import read_any
from tracebility.worker.batch import Batch, Pending
from tracebility.worker.native_rows import add_runs
from tracebility.worker.span_chunks import span_chunk
from tracebility.worker.span_reader import ResourceScope, SpanReader

# Spans are mapped together once there are so many, or so many bytes of them: the price of a step over all of them is
# small for each then, and they hold up the event loop for 0.1 s at most.
CHUNK_SPANS = 4_096
CHUNK_BYTES = 8 << 20

log = structlog.get_logger()

_RESOURCE_SLOTS = frozenset(map(int, RESOURCE_SLOTS))


def add(batch: Batch, envelope: Envelope) -> int:
    """Add every item of ``envelope`` that the edge accepted; how many.

    Raises whatever reading it raises, or that the body holds more or fewer than were accepted; then the batch is as it
    was. What is in an OTLP span is read when it is mapped: an envelope that fails there is in ``batch.refused``.
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
    """Have the spans of ``body`` that the edge accepted mapped with those of other envelopes; how many there are."""
    if header.content_type == otlp.JSON:
        body = otlp.decode(body, header.content_type).SerializeToString()
    try:
        found = list(groups(body))
    except Malformed:  # a spelling that only protobuf follows; or it is no request, and protobuf says so
        request = otlp.decode(body, header.content_type)
        request.DiscardUnknownFields()
        body = request.SerializeToString()
        found = list(groups(body))
    rejected = frozenset(header.rejected)
    places: list[tuple[int, int]] = []
    owners: list[tuple[ResourceScope, int]] = []
    repeated = position = 0
    for group in found:
        owner = _owner(batch, group)
        repeated += owner.chars * len(group.spans)
        if repeated > REPEATED_BYTES:
            raise MalformedEnvelope(
                f"resources and scopes, repeated for each of their spans, are over {REPEATED_BYTES >> 20} MiB"
            )
        spans = group.spans
        if rejected:
            spans = [place for nth, place in enumerate(spans, position) if nth not in rejected]
        position += len(group.spans)
        places += spans
        owners.append((owner, len(spans)))
    if places:
        starts, ends = list(map(itemgetter(0), places)), list(map(itemgetter(1), places))
        batch.add_pending(Pending(header, body, starts, ends, owners))
    return len(places)


# How to add a body, by the ``source`` of its protocol: every record of `tracebility.wire.protocols` has a line here.
MAPPERS: Mapping[str, Callable[[Batch, Header, bytes], int]] = {"otlp": _add_spans, "native": add_runs}


def map_pending(batch: Batch) -> None:
    """Map all spans that wait. An envelope of which one cannot be read has none stored; it is in ``batch.refused``."""
    pending = batch.take_pending()
    if pending:
        _map_or_refuse(batch, pending)


def _map_or_refuse(batch: Batch, pending: Sequence[Pending]) -> None:
    try:
        _map(batch, pending)
    except MemoryError:
        raise
    except Exception as error:
        # The edge lets no such span in. Whichever envelope it is in must not hold up the others.
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
    owners = [owner for one in pending for owner in one.owners]
    owner_of = np.repeat(np.arange(len(owners)), [spans for _, spans in owners])
    accepted_us = np.repeat([one.header.accepted_at_us for one in pending], counts)
    spans = wire_spans.find([one.body for one in pending], starts, ends)
    reader = SpanReader(batch.names, batch.prices, spans, [owner for owner, _ in owners], owner_of, accepted_us)
    headers = [(one.header, count) for one, count in zip(pending, counts, strict=True)]
    batch.chunks.append(span_chunk(reader.read(), batch.names, headers, owners, (ends - starts).tolist()))


def _owner(batch: Batch, group: Group) -> ResourceScope:
    """Resource and scope of spans. Requests of one process repeat them, so what was read is remembered."""
    key = (group.resource, group.scope)
    known = batch.owners.get(key)
    if known is None:
        known = batch.owners[key] = read_owner(
            batch.names.table, Resource.FromString(group.resource), InstrumentationScope.FromString(group.scope)
        )
    return known


def read_owner(table: RuleTable, resource: Resource, scope: InstrumentationScope) -> ResourceScope:
    """What a resource and a scope say about their spans, as text.

    A long name of a scope is only cut: as an attribute it would be stored with every span.
    """
    texts, taken = _read_resource(table, resource.attributes)
    attributes = tuple(
        (f"otel.scope.{pair.key}"[:LABEL_CHARS], as_text(read_any(pair.value))) for pair in scope.attributes
    )
    return ResourceScope(
        keys=tuple(texts),
        values=tuple(texts.values()),
        environment=taken.get(Slot.ENVIRONMENT, ""),
        session_id=taken.get(Slot.SESSION_ID, ""),
        user_id=taken.get(Slot.USER_ID, ""),
        scope_name=scope.name[:NAME_CHARS],
        scope_version=scope.version[:LABEL_CHARS],
        scope_attributes=attributes,
        chars=sum(map(len, chain(texts, texts.values(), *attributes))),
    )


def _read_resource(table: RuleTable, attributes: Iterable[KeyValue]) -> tuple[dict[str, str], dict[int, str]]:
    """A resource's attributes, and what its spans take from it, by slot."""
    texts: dict[str, str] = {}
    taken: dict[int, str] = {}
    best: dict[int, int] = {}
    for pair in attributes:
        text = texts[pair.key[:LABEL_CHARS]] = as_text(read_any(pair.value))
        rule = table[pair.key]
        if rule is not None and rule.slot in _RESOURCE_SLOTS and text and rule.rank < best.get(rule.slot, 1 << 30):
            best[rule.slot] = rule.rank
            taken[rule.slot] = text[:LABEL_CHARS]
    return texts, taken
