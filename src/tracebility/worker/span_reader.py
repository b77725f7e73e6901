"""OTLP spans to values by column, for thousands of spans together. Most of the worker's CPU time is spent here.

The meaning of each attribute name is looked up once (`AttributeNames`), and so is the list that a sequence of names
spells (`ListPlans`). All spans take this path; a value of an unusual type costs only its own decoding.

Nothing that a client sends is dropped: a value that fills no column stays an attribute under the client's name, and so
does a value that is too long for its column. Labels are cut because the engine keeps them in dictionaries, where one
long text slows every query.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebility.stores import native_format as native
from tracebility.wire.conventions import DEFAULT_KIND, MODEL_KINDS, as_text
from tracebility.wire.limits import LABEL_CHARS, MAX_UNIX_NANO, MESSAGE_CHARS, NAME_CHARS
from tracebility.wire.otlp import spans as wire_spans
from tracebility.wire.otlp.spans import INT, STRING, Spans
from tracebility.wire.pricing import PriceTable
from tracebility.wire.span_columns import SPAN_COLUMNS
from tracebility.worker import slots
from tracebility.worker.attribute_names import AttributeNames
from tracebility.worker.attribute_values import AttributeValues, Numbers
from tracebility.worker.message_assembly import MESSAGE_NAMES, EventMessages, from_events, with_system
from tracebility.worker.resource_scope import ResourceScope
from tracebility.worker.slot_values import SlotValues
from tracebility.worker.slots import Flags
from tracebility.worker.span_events import RecordedException, events_json, exception_of, links_json
from tracebility.worker.usage import settle

# Indexed by OpenTelemetry's enum numbers. A number out of range is read as 0.
SPAN_KINDS = ("", "internal", "server", "client", "producer", "consumer")
STATUSES = ("unset", "ok", "error")
_UNSET, _ERROR = 0, 2

_TOOL_KIND, _LLM_KIND, _CHAIN_KIND = map(native.text, ("tool", "llm", DEFAULT_KIND))
_MODEL_KINDS = tuple(map(native.text, sorted(MODEL_KINDS)))
_NO_MESSAGES = EventMessages({}, set())


@dataclass(slots=True)
class MappedSpans:
    """Values by column, one for each span. Labels are indexes into ``labels``; texts are cells of Native format."""

    spans: Spans
    labels: list[bytes]
    label: dict[str, Numbers]  # by column name
    count: dict[str, Numbers]
    texts: dict[str, list[bytes]]
    has_parent: Flags
    start_ns: Numbers
    end_ns: Numbers  # 0: not ended
    cost: Numbers  # nanodollars
    has_cost: Flags
    tags: list[Sequence[bytes]]
    metadata: list[tuple[Sequence[int], Sequence[bytes]]]  # indexes into `metadata_keys`, and values
    metadata_keys: list[bytes]
    attribute_names: Numbers  # of all spans in order: numbers of `AttributeNames`
    attribute_texts: list[bytes]
    attribute_counts: Numbers


@dataclass(slots=True)
class _RareFields:
    """Fields that few spans have, by position of the span."""

    events: dict[int, bytes] = field(default_factory=dict)
    links: dict[int, bytes] = field(default_factory=dict)
    exceptions: dict[int, RecordedException] = field(default_factory=dict)
    # Stored with the span's own attributes: position of the span, number of the name, text.
    attributes: list[tuple[int, int, bytes]] = field(default_factory=list)


class SpanReader:
    """Reads the spans of one chunk. ``scope_of[i]`` is the index in ``scopes`` of span ``i``."""

    def __init__(
        self,
        names: AttributeNames,
        prices: PriceTable,
        spans: Spans,
        scopes: Sequence[ResourceScope],
        scope_of: Numbers,
        accepted_us: Numbers,
    ) -> None:
        names.reset_if_full()
        self._names, self._prices, self._spans = names, prices, spans
        self._scopes, self._scope_of, self._accepted_us = scopes, scope_of, accepted_us
        self._count = len(spans.starts)
        self._values = AttributeValues(names, spans)
        self._labels = self._values.labels
        self._rare = _RareFields()

    def read(self) -> MappedSpans:
        """Read all spans.

        Raises:
            DecodeError: when a value is not valid protobuf.
        """
        self._values.read()
        self._slots = SlotValues(self._values)
        self._slots.read_lists()
        self._read_rare_fields()
        return self._mapped()

    # --- fields that few spans have ---

    def _read_rare_fields(self) -> None:
        """Read events, links, trace state and dropped counts; add the scope's attributes to each of its spans."""
        names, rare = self._names, self._rare
        for position in np.flatnonzero(self._spans.has_more).tolist():
            span = self._spans.more(position)
            if span.events:
                self._read_events(position, span)
            if span.links:
                rare.links[position] = native.text(links_json(span.links))
            for name, text in (
                ("otel.trace_state", span.trace_state),
                ("otel.dropped_attributes_count", str(span.dropped_attributes_count or "")),
                ("otel.dropped_events_count", str(span.dropped_events_count or "")),
            ):
                if text:
                    rare.attributes.append((position, names.number(name), native.text(text)))
        for number, scope in enumerate(self._scopes):
            if scope.scope_attributes:
                added = [(names.number(name), native.text(text)) for name, text in scope.scope_attributes]
                for position in np.flatnonzero(self._scope_of == number).tolist():
                    rare.attributes += [(position, name, text) for name, text in added]

    def _read_events(self, position: int, span: Span) -> None:
        events = list(span.events)
        names = [event.name for event in events]
        found = _NO_MESSAGES
        if not MESSAGE_NAMES.isdisjoint(names):
            found = from_events(events, names, self._names.table, lambda slot: self._slots.best_rank(slot, position))
        self._slots.replace(position, found.texts)
        remaining = events_json(events, names, found.spent)
        if remaining:
            self._rare.events[position] = native.cell(remaining)
        exception = exception_of(events, names)
        if exception is not None:
            self._rare.exceptions[position] = exception

    # --- columns ---

    def _mapped(self) -> MappedSpans:
        spans, labels, values, chosen = self._spans, self._labels, self._values, self._slots.chosen
        label = {slot: values.label[chosen[slot]] for slot in slots.LABELS}
        kind, model, name = self._kind_model_name(label)
        start_ns, end_ns = self._times()
        status, error_type, messages = self._status(label[slots.ERROR_TYPE])
        label |= {slots.KIND: kind, slots.MODEL: model, slots.ERROR_TYPE: error_type}
        environment = label[slots.ENVIRONMENT]
        label[slots.ENVIRONMENT] = np.where(environment > 0, environment, self._scope_labels("environment"))
        tokens, cost, has_cost, source = self._usage(kind, label[slots.PROVIDER], model, start_ns)
        texts = {slot: self._texts(slot) for slot in slots.TEXTS}
        self._add_system_instructions(texts[slots.INPUTS], texts[slots.SYSTEM])
        for slot, field_name in ((slots.SESSION, "session_id"), (slots.USER, "user_id")):
            self._fill_from_resource(texts[slot], field_name)
        by_column = {column.name: int(column.slot) for column in SPAN_COLUMNS if column.slot is not None}
        span_kinds = np.array([labels[native.text(kind)] for kind in SPAN_KINDS], np.int64)
        statuses = np.array([labels[native.text(name)] for name in STATUSES], np.int64)
        counts = {slot: values.number[chosen[slot]] for slot in slots.COUNTS} | tokens
        attribute_names, attribute_texts, attribute_counts = self._attributes()
        return MappedSpans(
            spans=spans,
            label={column: label[slot] for column, slot in by_column.items() if slot in label}
            | {
                "name": name,
                "otel_kind": span_kinds[_in_range(spans.kind, len(SPAN_KINDS))],
                "status": statuses[_in_range(status, len(STATUSES))],
                "cost_source": source,
                "scope_name": self._scope_labels("scope_name"),
                "scope_version": self._scope_labels("scope_version"),
            },
            count={column: counts[slot] for column, slot in by_column.items() if slot in counts},
            texts={column: texts[slot] for column, slot in by_column.items() if slot in texts}
            | {
                "status_message": messages,
                "events": self._sparse(self._rare.events),
                "links": self._sparse(self._rare.links),
            },
            labels=list(labels),
            has_parent=(spans.parent_at > 0) & wire_spans.words_at(spans.data, spans.parent_at, 8).any(axis=1),
            start_ns=start_ns,
            end_ns=end_ns,
            cost=cost,
            has_cost=has_cost,
            tags=list(map(values.tags.__getitem__, values.number[chosen[slots.TAGS]].tolist())),
            metadata=list(map(values.metadata.__getitem__, values.number[chosen[slots.METADATA]].tolist())),
            metadata_keys=list(map(native.text, values.metadata_keys)),
            attribute_names=attribute_names,
            attribute_texts=attribute_texts,
            attribute_counts=attribute_counts,
        )

    def _kind_model_name(self, label: Mapping[int, Numbers]) -> tuple[Numbers, Numbers, Numbers]:
        """Labels of kind, model and name. A tool's span is named after its tool; only model kinds have a model."""
        labels, chosen, spans = self._labels, self._slots.chosen, self._spans
        tool, model, request_model = label[slots.TOOL], label[slots.MODEL], label[slots.REQUEST_MODEL]
        tool_kind = labels[_TOOL_KIND]
        guessed = np.where(
            tool > 0, tool_kind, np.where((model > 0) | (request_model > 0), labels[_LLM_KIND], labels[_CHAIN_KIND])
        )
        kind = np.where(chosen[slots.KIND] >= 0, label[slots.KIND], guessed)
        is_tool, has_model = kind == tool_kind, np.isin(kind, [labels[cell] for cell in _MODEL_KINDS])
        self._values.is_kept[chosen[slots.TOOL][(tool > 0) & ~is_tool]] = True
        self._values.is_kept[chosen[slots.MODEL][(model > 0) & ~has_model]] = True
        model = np.where(has_model, np.where(model > 0, model, request_model), 0)
        sent = wire_spans.cut(spans.buffer, spans.name_at, spans.name_end)
        name = np.fromiter(map(labels.__getitem__, sent), np.int64, self._count)
        is_named = is_tool & (tool > 0)
        is_cut = np.zeros(self._count, np.bool_)
        for position in np.flatnonzero(spans.name_end - spans.name_at > NAME_CHARS).tolist():
            text = native.read_text(sent[position])
            if len(text) > NAME_CHARS:
                is_cut[position] = True
                name[position] = labels[native.text(text[:NAME_CHARS])]
        renamed = np.flatnonzero((is_named & (name != tool) & (name > 0)) | is_cut)
        if renamed.size:
            number = self._names.number("otel.span.name")
            self._rare.attributes += [(position, number, sent[position]) for position in renamed.tolist()]
        return kind, model, np.where(is_named, tool, name)

    def _status(self, error_type: Numbers) -> tuple[Numbers, Numbers, list[bytes]]:
        """Status, label of the error type, and message. An exception event fills what the span leaves empty."""
        spans, labels = self._spans, self._labels
        messages = wire_spans.cut(spans.buffer, spans.message_at, spans.message_end)
        failed = (error_type > 0) & (spans.status == _UNSET)
        status = np.where(failed, _ERROR, spans.status)
        for position, exception in self._rare.exceptions.items():
            if not error_type[position]:
                error_type[position] = labels[native.text(exception.type[:LABEL_CHARS])]
            sent_status = int(spans.status[position])
            if sent_status == _UNSET:
                status[position] = _ERROR if exception.escaped else _UNSET
                messages[position] = native.text(exception.message) if exception.escaped else messages[position]
            elif sent_status == _ERROR and messages[position] == native.EMPTY_TEXT:
                messages[position] = native.text(exception.message)
        for position, cell in enumerate(messages):
            if len(cell) > MESSAGE_CHARS:
                text = native.read_text(cell)
                if len(text) > MESSAGE_CHARS:
                    self._rare.attributes.append((position, self._names.number("otel.status_description"), cell))
                    messages[position] = native.text(text[:MESSAGE_CHARS])
        return status, error_type, messages

    def _times(self) -> tuple[Numbers, Numbers]:
        """Start and end, clamped to the range of the columns. A missing start is the end, or else the accept time."""
        start, end = self._spans.start_ns, self._spans.end_ns
        accepted_ns = np.maximum(self._accepted_us, 0).astype(np.uint64) * np.uint64(1000)
        latest = np.uint64(MAX_UNIX_NANO)
        start_ns = np.minimum(np.where(start > 0, start, np.where(end > 0, end, accepted_ns)), latest)
        end_ns = np.where(end > 0, np.minimum(np.maximum(end, start_ns), latest), 0)
        return start_ns.astype(np.int64), end_ns.astype(np.int64)

    def _texts(self, slot: int) -> list[bytes]:
        """The texts of a slot, a cell for each span."""
        attributes, chosen = self._spans.attributes, self._slots.chosen[slot]
        at, end = np.append(attributes.text_at, wire_spans.EMPTY), np.append(attributes.end, wire_spans.EMPTY + 1)
        cells = wire_spans.cut(self._spans.buffer, at[chosen], end[chosen])
        for attribute, cell in self._values.changed_cells.items():
            if self._values.slot[attribute] == slot:
                position = attributes.span[attribute]
                if chosen[position] == attribute:
                    cells[position] = cell
        for position, cell in self._slots.assembled.get(slot, {}).items():
            cells[position] = cell
        return cells

    def _add_system_instructions(self, inputs: list[bytes], system: list[bytes]) -> None:
        for position, cell in enumerate(system):
            if cell != native.EMPTY_TEXT:
                messages = with_system(native.read_text(cell), native.read_text(inputs[position]))
                inputs[position] = native.text(messages)

    def _fill_from_resource(self, cells: list[bytes], field_name: str) -> None:
        """Where a span's cell is empty, use the value of its resource."""
        for number, scope in enumerate(self._scopes):
            text = getattr(scope, field_name)
            if text:
                default = native.text(text)
                for position in np.flatnonzero(self._scope_of == number).tolist():
                    if cells[position] == native.EMPTY_TEXT:
                        cells[position] = default

    def _scope_labels(self, field_name: str) -> Numbers:
        """The label of each span's resource or scope."""
        labels = [self._labels[native.text(getattr(scope, field_name))] for scope in self._scopes]
        return np.array(labels, np.int64)[self._scope_of]

    def _sparse(self, cells: Mapping[int, bytes]) -> list[bytes]:
        """A cell for each span: those of ``cells`` by position, and empty texts."""
        column = [native.EMPTY_TEXT] * self._count
        for position, cell in cells.items():
            column[position] = cell
        return column

    def _usage(
        self, kind: Numbers, provider: Numbers, model: Numbers, start_ns: Numbers
    ) -> tuple[dict[int, Numbers], Numbers, Flags, Numbers]:
        """Tokens by slot, cost, whether there is one, and its source. Spans without any usage are skipped."""
        chosen = self._slots.chosen[list(slots.USAGE)]
        spans = np.flatnonzero((chosen >= 0).any(axis=0))
        texts = [native.read_text(cell) for cell in self._labels]
        sent = np.where(chosen[:, spans] < 0, -1, self._values.number[chosen[:, spans]])
        settled = [
            settle(self._prices, texts[a], texts[b], texts[c], start, [None if one < 0 else one for one in numbers])
            for numbers, a, b, c, start in zip(
                sent.T.tolist(),
                kind[spans].tolist(), provider[spans].tolist(), model[spans].tolist(), start_ns[spans].tolist(),
                strict=True,
            )
        ]  # fmt: skip
        tokens, cost = np.zeros((6, self._count), np.int64), np.zeros(self._count, np.int64)
        has_cost, source = np.zeros(self._count, np.bool_), np.zeros(self._count, np.int64)
        if settled:
            *six, costs, sources = zip(*settled, strict=True)
            tokens[:, spans] = six
            has_cost[spans] = [one is not None for one in costs]
            cost[spans] = [one or 0 for one in costs]
            source[spans] = [self._labels[native.text(one)] for one in sources]
        return dict(zip(slots.USAGE, tokens, strict=False)), cost, has_cost, source

    def _attributes(self) -> tuple[Numbers, list[bytes], Numbers]:
        """Attributes that fill no column, as they were sent: their names, their texts, and their number by span."""
        spans, values, attributes = self._spans, self._values, self._spans.attributes
        in_column = values.is_usable & ~values.is_kept
        candidates = np.flatnonzero(in_column & (values.slot < slots.OTHER))
        in_column[candidates] = self._slots.chosen[values.slot[candidates], attributes.span[candidates]] == candidates
        left = np.flatnonzero(~in_column)
        name, span, form = values.key[left], attributes.span[left], attributes.form[left]
        texts = wire_spans.cut(spans.buffer, attributes.text_at[left], attributes.end[left])
        ints = np.flatnonzero(form == INT)
        numbers = wire_spans.varints_at(spans.data, attributes.text_at[left[ints]], 10)[0].view(np.int64)
        for place, number in zip(ints.tolist(), numbers.tolist(), strict=True):
            texts[place] = native.text(repr(number))
        converted: dict[tuple[int, bytes], bytes] = {}
        for place in np.flatnonzero((form != STRING) & (form != INT)).tolist():
            encoded = int(form[place]), texts[place]
            text = converted.get(encoded)
            if text is None:
                text = converted[encoded] = native.text(as_text(values.decoded(int(left[place]))))
            texts[place] = text
        if self._rare.attributes:
            positions, names, added = zip(*self._rare.attributes, strict=True)
            span, name = np.concatenate([span, positions]), np.concatenate([name, names])
            order = np.argsort(span, kind="stable")
            name, texts = name[order], list(map([*texts, *added].__getitem__, order.tolist()))
        return name, texts, np.bincount(span, minlength=self._count)


def _in_range(numbers: Numbers, bound: int) -> Numbers:
    return np.where((numbers >= 0) & (numbers < bound), numbers, 0)
