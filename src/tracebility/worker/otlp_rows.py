"""OTLP spans to rows, in one pass over each span's attributes: what the whole product's speed depends on.

Everything a span says is kept: what fills no column of its own stays an attribute, in the client's words, and so does
what is too long for its column. The engine keeps dictionaries of labels, where one long text costs everybody.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebility.wire import otlp
from tracebility.wire.conventions import (
    DEFAULT_KIND,
    MODEL_KINDS,
    READERS,
    RESOURCE_SLOTS,
    RuleTable,
    Slot,
    as_text,
    read_text,
)
from tracebility.wire.envelope import Header, MalformedEnvelope
from tracebility.wire.limits import LABEL_CHARS, MAX_UNIX_NANO, MESSAGE_CHARS, NAME_CHARS, REPEATED_BYTES, TAGS
from tracebility.wire.otlp_sizes import span_sizes
from tracebility.wire.otlp_values import read_any
from tracebility.worker.batch import Batch, Resource, identity
from tracebility.worker.otlp_values import is_better, put_back
from tracebility.worker.rarer_sources import Filler, with_system
from tracebility.worker.span_events import events_json, exception_of, links_json
from tracebility.worker.usage import settle

# By OpenTelemetry's numbers; a number beyond them is the first.
SPAN_KINDS = ("", "internal", "server", "client", "producer", "consumer")
STATUSES = ("unset", "ok", "error")

_UNSET, _ERROR = 0, 2
_NO_PARENT = bytes(8)  # what some exporters send for a root
_EMPTY: list[Any] = [None] * len(Slot)
_TOOL_NAME, _MODEL = int(Slot.TOOL_NAME), int(Slot.MODEL)
# The slots between these are what `usage.settle` reads, in its order.
_FIRST_USAGE, _END_OF_USAGE = int(Slot.INPUT_TOKENS), int(Slot.OUTPUT_COST) + 1
# Their columns do not say all that the attribute said, so that stays too.
KEPT = frozenset({int(Slot.KIND), int(Slot.INPUT_COST), int(Slot.OUTPUT_COST)})
_RESOURCE_SLOTS = frozenset(map(int, RESOURCE_SLOTS))
_LABEL_SLOTS = tuple(int(slot) for slot in Slot if slot not in READERS)
_TAGS = int(Slot.TAGS)


class Owner:
    """What a resource says for its spans."""

    __slots__ = ("environment", "session_id", "user_id")

    def __init__(self) -> None:
        self.environment = self.session_id = self.user_id = ""


def add_spans(batch: Batch, header: Header, body: bytes, done: Collection[int] = ()) -> None:
    """Add a row for every span of ``body`` that the edge accepted, but for those at the positions ``done``."""
    request = otlp.decode(body, header.content_type)
    sizes = span_sizes(body, request) if header.content_type == otlp.PROTOBUF else None
    passed_over = frozenset(header.rejected).union(done)
    hashed = identity(header)
    position = -1
    repeated = 0
    for resource_spans in request.resource_spans:
        keys, values, owner = read_resource(batch.table, resource_spans.resource.attributes)
        around = sum(map(len, keys)) + sum(map(len, values))
        before = len(batch.rows)
        for scope_spans in resource_spans.scope_spans:
            scope = read_scope(scope_spans.scope)
            around_scope = around + sum(len(key) + len(text) for key, text in scope[2])
            repeated += around_scope * len(scope_spans.spans)
            check_repeated(repeated)
            for span in scope_spans.spans:
                position += 1
                if position in passed_over:
                    continue
                size = sizes[position] if sizes else span.ByteSize()
                _add_span(batch, span, size, header.accepted_at_us, hashed, owner, scope)
        if len(batch.rows) > before:
            batch.resources.append(Resource(keys, values, len(batch.rows) - before))


def check_repeated(size: int) -> None:
    """Refuse an envelope whose resources and scopes, repeated for each of their spans, are of ``size`` bytes."""
    if size > REPEATED_BYTES:
        raise MalformedEnvelope(
            f"resources and scopes, repeated for each of their spans, are over {REPEATED_BYTES >> 20} MiB"
        )


def read_scope(scope: InstrumentationScope) -> tuple[str, str, list[tuple[str, str]]]:
    """Name, version and attributes. A long name is only cut: as an attribute it would be stored with every span."""
    attributes = [(f"otel.scope.{pair.key}"[:LABEL_CHARS], as_text(read_any(pair.value))) for pair in scope.attributes]
    return scope.name[:NAME_CHARS], scope.version[:LABEL_CHARS], attributes


def read_resource(table: RuleTable, attributes: Iterable[KeyValue]) -> tuple[tuple[str, ...], tuple[str, ...], Owner]:
    """A resource's attributes as text, and what its spans take from it."""
    texts: dict[str, str] = {}
    owner = Owner()
    best: dict[int, int] = {}
    for pair in attributes:
        text = texts[pair.key[:LABEL_CHARS]] = as_text(read_any(pair.value))
        rule = table[pair.key]
        if rule is not None and rule.slot in _RESOURCE_SLOTS and text and rule.rank < best.get(rule.slot, 1 << 30):
            best[rule.slot] = rule.rank
            setattr(owner, Slot(rule.slot).name.lower(), text[:LABEL_CHARS])
    return tuple(texts), tuple(texts.values()), owner


def _add_span(
    batch: Batch,
    span: Span,
    size: int,
    accepted_at_us: int,
    hashed: Any,
    owner: Owner,
    scope: tuple[str, str, Sequence[tuple[str, str]]],
) -> None:
    table = batch.table
    keys = batch.attribute_keys
    add_key, add_text = keys.append, batch.attribute_values.append
    first_key = len(keys)
    values = _EMPTY[:]
    origins: list[KeyValue | None] = _EMPTY[:]
    parts: list[tuple[Any, ...]] = []
    is_long = False
    for pair in span.attributes:
        key = pair.key
        sent = pair.value
        value = sent.string_value or sent.int_value or read_any(sent)
        rule = table[key]
        if rule is None:
            add_key(key)
            add_text(value if type(value) is str else as_text(value))
            continue
        slot, _, read, path = rule
        if read is None:
            taken = value or None if type(value) is str else read_text(value)
            if taken is not None and len(taken) > LABEL_CHARS:
                is_long = True
        elif path is not None:
            parts.append((rule, value, key))
            continue
        else:
            taken = read(value)
            if slot in KEPT and taken is not None:
                add_key(key)
                add_text(as_text(value))
        if taken is not None and origins[slot] is None:
            values[slot] = taken
            origins[slot] = pair
        elif taken is not None and is_better(rule, origins[slot], table):
            if slot not in KEPT:
                put_back(origins[slot], add_key, add_text)
            values[slot] = taken
            origins[slot] = pair
        elif slot not in KEPT or taken is None:
            add_key(key)
            add_text(as_text(value))
    events, links = span.events, span.links
    spent: Collection[int] = ()
    exception = None
    if parts or events:
        filler = Filler(table, values, origins, add_key, add_text)
        if parts:
            filler.take_lists(parts)
        if events:
            spent = filler.take_messages(events)
            exception = exception_of(events)
    if is_long:
        _shorten_labels(values, origins, add_key, add_text)

    (
        kind, tool_name, model, request_model, provider, inputs, system, outputs,
        _, _, _, _, _, _, _, _, _,
        session_id, user_id, tags, metadata, environment, error_type, first_token,
    ) = values  # fmt: skip
    if kind is None:
        kind = "tool" if tool_name else "llm" if model or request_model else DEFAULT_KIND
    name = span.name
    if tool_name is not None:
        if kind != "tool":
            put_back(origins[_TOOL_NAME], add_key, add_text)
        elif name != tool_name:
            if name:
                add_key("otel.span.name")
                add_text(name)
            name = tool_name
    if len(name) > NAME_CHARS:
        add_key("otel.span.name")
        add_text(name)
        name = name[:NAME_CHARS]
    if kind in MODEL_KINDS:
        model = model or request_model or ""
    elif model is not None:
        put_back(origins[_MODEL], add_key, add_text)
        model = ""
    if system is not None:
        inputs = with_system(system, inputs)
    scope_name, scope_version, scope_attributes = scope
    if span.trace_state or span.dropped_attributes_count or span.dropped_events_count or scope_attributes:
        _add_rare(span, scope_attributes, add_key, add_text)

    start: int = span.start_time_unix_nano
    end: int | None = span.end_time_unix_nano
    if not 0 < start <= end <= MAX_UNIX_NANO:  # type: ignore[operator]
        start, end = _sane_times(start, end or 0, accepted_at_us)
    said = span.status
    status: int = said.code
    message = said.message
    if exception is not None:
        error_type = error_type or exception.type[:LABEL_CHARS]
        if status == _ERROR:
            message = message or exception.message
        elif status == _UNSET and exception.escaped:
            status, message = _ERROR, exception.message
    elif error_type is not None and status == _UNSET:
        status = _ERROR
    if len(message) > MESSAGE_CHARS:
        add_key("otel.status_description")
        add_text(message)
        message = message[:MESSAGE_CHARS]
    input_tokens, output_tokens, total_tokens, read_tokens, write_tokens, reasoning_tokens, cost, cost_source = settle(
        batch.prices, kind, provider, model, start, values[_FIRST_USAGE:_END_OF_USAGE]
    )
    trace_id, span_id = span.trace_id.hex(), span.span_id.hex()
    event_hash = hashed.copy()
    event_hash.update(f"{trace_id}|{span_id}|span".encode())
    if tags is not None:
        if len(tags) > TAGS or max(map(len, tags)) > LABEL_CHARS:
            put_back(origins[_TAGS], add_key, add_text)
            tags = [tag[:LABEL_CHARS] for tag in tags[:TAGS]]
        batch.tags += tags
    if metadata is not None:
        batch.metadata_keys += metadata
        batch.metadata_values += metadata.values()
    batch.rows.append(
        (
            trace_id,
            span_id,
            parent.hex() if (parent := span.parent_span_id) != _NO_PARENT else "",
            name,
            kind,
            SPAN_KINDS[span.kind if 0 <= span.kind < len(SPAN_KINDS) else 0],
            start,
            end,
            STATUSES[status if 0 <= status < len(STATUSES) else 0],
            message,
            error_type or "",
            model or "",
            request_model or "",
            provider or "",
            input_tokens,
            output_tokens,
            total_tokens,
            read_tokens,
            write_tokens,
            reasoning_tokens,
            cost,
            cost_source,
            first_token or 0,
            inputs or "",
            outputs or "",
            session_id or owner.session_id,
            user_id or owner.user_id,
            len(tags) if tags else 0,
            len(metadata) if metadata else 0,
            len(keys) - first_key,
            scope_name,
            scope_version,
            environment or owner.environment,
            events_json(events, spent) if events else "",
            links_json(links) if links else "",
            event_hash.digest(),
            size,
        )
    )


def _shorten_labels(values: list[Any], origins: list[KeyValue | None], add_key: Any, add_text: Any) -> None:
    """Cut labels that are too long; the attributes they came from stay, whole."""
    for slot in _LABEL_SLOTS:
        label = values[slot]
        if label is not None and len(label) > LABEL_CHARS:
            values[slot] = label[:LABEL_CHARS]
            put_back(origins[slot], add_key, add_text)
            origins[slot] = None


def _sane_times(start: int, end: int, accepted_at_us: int) -> tuple[int, int | None]:
    """Start and end within what the column holds; a span without a start began when it ended, or came."""
    start = min(start or end or accepted_at_us * 1000, MAX_UNIX_NANO)
    return start, min(max(end, start), MAX_UNIX_NANO) if end else None


def _add_rare(span: Span, scope_attributes: Iterable[tuple[str, str]], add_key: Any, add_text: Any) -> None:
    """What is rarely there, under the names OpenTelemetry gives it where a format has no field for it."""
    if span.trace_state:
        add_key("otel.trace_state")
        add_text(span.trace_state)
    if span.dropped_attributes_count:
        add_key("otel.dropped_attributes_count")
        add_text(str(span.dropped_attributes_count))
    if span.dropped_events_count:
        add_key("otel.dropped_events_count")
        add_text(str(span.dropped_events_count))
    for key, text in scope_attributes:
        add_key(key)
        add_text(text)
