"""OTLP spans to values by column, thousands at a time: what the whole product's speed depends on.

What an attribute's name means is worked out once and kept (`AttributeNames`). Where names together spell a list, what
they mean is worked out once for each sequence of names (`ListPlans`). All spans take this one path. Texts are cut out
of the body with the length before them and never become strings; a value that must be decoded costs only itself.

Everything a span says is kept: what fills no column of its own stays an attribute, in the client's words, and so does
what is too long for its column. The engine keeps dictionaries of labels, where one long text costs everybody.
"""

from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebility.stores import native_format as native
from tracebility.wire.conventions import (
    DEFAULT_KIND,
    MAX_TOKENS,
    MODEL_KINDS,
    READERS,
    RuleTable,
    Slot,
    as_text,
    read_kind,
    read_object,
    read_payload,
    read_strings,
    read_text,
)
from tracebility.wire.limits import LABEL_CHARS, MAX_UNIX_NANO, MESSAGE_CHARS, NAME_CHARS, TAGS
from tracebility.wire.otlp import spans as wire_spans
from tracebility.wire.otlp.spans import DOUBLE, INT, NOTHING, STRING, Places, Spans
from tracebility.wire.otlp.values import read_any
from tracebility.wire.pricing import PriceTable
from tracebility.wire.span_columns import COUNT, LABEL, SPAN_COLUMNS, TEXT
from tracebility.worker.message_assembly import MESSAGE_NAMES, EventMessages, ListPlans, from_events, with_system
from tracebility.worker.span_events import events_json, exception_of, links_json
from tracebility.worker.usage import settle

Codes: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

# By OpenTelemetry's numbers; a number beyond them is the first.
SPAN_KINDS = ("", "internal", "server", "client", "producer", "consumer")
STATUSES = ("unset", "ok", "error")
_UNSET, _ERROR = 0, 2

_TOOL_KIND, _LLM, _CHAIN = map(native.text, ("tool", "llm", DEFAULT_KIND))
_MODEL_KINDS = tuple(map(native.text, sorted(MODEL_KINDS)))

_KIND, _TOOL, _MODEL, _REQUEST_MODEL, _PROVIDER = map(
    int, (Slot.KIND, Slot.TOOL_NAME, Slot.MODEL, Slot.REQUEST_MODEL, Slot.PROVIDER)
)
_ENVIRONMENT, _ERROR_TYPE, _SESSION, _USER = map(
    int, (Slot.ENVIRONMENT, Slot.ERROR_TYPE, Slot.SESSION_ID, Slot.USER_ID)
)
_INPUTS, _OUTPUTS, _SYSTEM = int(Slot.INPUTS), int(Slot.OUTPUTS), int(Slot.SYSTEM_INSTRUCTIONS)
_TAGS, _METADATA = int(Slot.TAGS), int(Slot.METADATA)
# What `usage.settle` reads, in its order.
_USAGE = tuple(range(int(Slot.INPUT_TOKENS), int(Slot.OUTPUT_COST) + 1))
# Their columns do not say all that the attribute said, so that stays too.
_KEPT = (_KIND, int(Slot.INPUT_COST), int(Slot.OUTPUT_COST))

# Slots by how their values are read. Short ones end after LABEL_CHARS.
LABEL_SLOTS = tuple(int(column.slot) for column in SPAN_COLUMNS if column.type == LABEL and column.slot is not None)
_LABELS = (*LABEL_SLOTS, _TOOL)
TEXT_SLOTS = tuple(int(column.slot) for column in SPAN_COLUMNS if column.type == TEXT and column.slot is not None)
_TEXTS = (*TEXT_SLOTS, _SYSTEM)
_SHORT = tuple(slot for slot in (*_LABELS, *_TEXTS) if Slot(slot) not in READERS)
COUNT_SLOTS = tuple(
    int(column.slot)
    for column in SPAN_COLUMNS
    if column.type == COUNT and column.slot is not None and int(column.slot) not in _USAGE
)
_NUMBERS = (*_USAGE, *COUNT_SLOTS)
_TOKENS = tuple(int(slot) for slot in Slot if slot.name.endswith("_TOKENS"))

# Of a name that is of no slot: an attribute like any other, and a part of a list.
_OTHER, _LIST = len(Slot), len(Slot) + 1


def _are(slots: Collection[int]) -> Flags:
    are = np.zeros(len(Slot) + 2, np.bool_)
    are[list(slots)] = True
    return are


_IS_LABEL, _IS_TEXT, _IS_SHORT, _IS_NUMBER, _IS_TOKENS, _IS_KEPT = map(
    _are, (_LABELS, _TEXTS, _SHORT, _NUMBERS, _TOKENS, _KEPT)
)
_NO_RANK = 1 << 30
_NO_MESSAGES = EventMessages({}, set())


class ResourceScope(NamedTuple):
    """What a resource and a scope say about their spans."""

    keys: tuple[str, ...]
    values: tuple[str, ...]
    environment: str
    session_id: str
    user_id: str
    scope_name: str
    scope_version: str
    scope_attributes: tuple[tuple[str, str], ...]
    chars: int


class AttributeNames(dict[bytes, int]):
    """Names of attributes, numbered as they come, and what each is for. Names come from outside: few are kept."""

    MOST_NAMES = 20_000
    MOST_BYTES = 4 << 20

    def __init__(self, table: RuleTable) -> None:
        super().__init__()
        self.table = table
        self.plans = ListPlans()
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.clear()
        self.plans.clear()
        self.slots = array("q")
        self.list_slots = array("q")
        self.ranks = array("q")
        self.paths: list[tuple[int | str, ...]] = []
        self.cells: list[bytes] = []
        self._bytes = 0

    def forget_many(self) -> None:
        """Begin anew if there are too many. Numbers are good until then."""
        if len(self) > self.MOST_NAMES or self._bytes > self.MOST_BYTES:
            self.forget()

    def __missing__(self, name: bytes) -> int:
        text = name.decode()
        rule = self.table[text]
        is_attribute = rule is None or rule.slot < 0
        self.slots.append(_OTHER if rule is None or is_attribute else _LIST if rule.path is not None else rule.slot)
        self.list_slots.append(_OTHER if rule is None else rule.slot)
        self.ranks.append(0 if rule is None else rule.rank)
        self.paths.append(() if rule is None else rule.path or ())
        self.cells.append(native.text(text[:LABEL_CHARS]))
        self._bytes += len(name)
        number = self[name] = len(self)
        return number

    def of(self, text: str) -> int:
        """The number of a name."""
        return self[text.encode("utf-8", "replace")]


class _Labels(dict[bytes, int]):
    """Texts that repeat, with their length before them, numbered as they come; the empty one is 0."""

    def __init__(self) -> None:
        super().__init__({native.EMPTY_TEXT: 0})

    def __missing__(self, text: bytes) -> int:
        number = self[text] = len(self)
        return number


@dataclass(slots=True)
class MappedSpans:
    """Values of spans by column, one a span. Labels are numbers of ``labels``; texts are cells of Native format."""

    spans: Spans
    labels: list[bytes]
    label: dict[str, Codes]  # by name of the column
    count: dict[str, Codes]
    texts: dict[str, list[bytes]]
    has_parent: Flags
    start_ns: Codes
    end_ns: Codes  # 0: it has not ended
    cost: Codes  # nanodollars
    has_cost: Flags
    tags: list[Sequence[bytes]]
    metadata: list[tuple[Sequence[int], Sequence[bytes]]]  # numbers of keys, and texts
    metadata_keys: list[bytes]
    attribute_names: Codes  # of all spans in order, numbers of `AttributeNames`
    attribute_texts: list[bytes]
    attribute_counts: Codes


@dataclass(slots=True)
class _More:
    """What few spans have, by position."""

    events: dict[int, bytes] = field(default_factory=dict)
    links: dict[int, bytes] = field(default_factory=dict)
    exceptions: dict[int, Any] = field(default_factory=dict)
    # Attributes that none of the span's own is: position, number of the name, text.
    attributes: list[tuple[int, int, bytes]] = field(default_factory=list)


class SpanReader:
    """Reads the spans of one chunk."""

    def __init__(
        self,
        names: AttributeNames,
        prices: PriceTable,
        spans: Spans,
        owners: Sequence[ResourceScope],
        owner_of: Codes,
        accepted_us: Codes,
    ) -> None:
        names.forget_many()
        self._names, self._prices, self._spans = names, prices, spans
        self._owners, self._owner_of, self._accepted_us = owners, owner_of, accepted_us
        self._count = len(spans.starts)
        self._labels = _Labels()
        self._more = _More()
        attributes = spans.attributes
        cut = wire_spans.cut(spans.buffer, attributes.key_at, attributes.key_end)
        self._key = np.fromiter(map(names.__getitem__, cut), np.int64, len(cut))
        self._slot = np.array(names.slots, np.int64)[self._key]
        self._rank = np.array(names.ranks, np.int64)[self._key]
        self._is_text = attributes.form == STRING
        # Of each attribute: whether its value can be read as its slot's kind; and whether it stays an attribute too.
        self._is_taken = np.zeros(len(cut), np.bool_)
        self._stays = _IS_KEPT[self._slot]
        self._label = np.zeros(len(cut) + 1, np.int64)
        self._number = np.zeros(len(cut) + 1, np.int64)
        self._cells: dict[int, bytes] = {}  # of attributes whose text is not as it was sent
        self._tags: list[Sequence[bytes]] = [()]
        self._metadata: list[tuple[Sequence[int], Sequence[bytes]]] = [((), ())]
        self._metadata_keys: dict[str, int] = {}
        self._filled: dict[int, dict[int, bytes]] = {slot: {} for slot in (_INPUTS, _OUTPUTS, _SYSTEM)}
        self._list_parts: dict[tuple[int, int], tuple[int, Codes]] = {}

    def read(self) -> MappedSpans:
        """The values of all spans.

        Raises:
            DecodeError: when a value is not what it looked like.
        """
        self._read_labels()
        self._read_texts()
        self._read_numbers()
        self._read_structures()
        self._chosen = _choose(self._slot, self._rank, self._spans.attributes.span, self._is_taken, self._count)
        self._read_lists()
        self._read_more()
        return self._mapped()

    # --- values of attributes ---

    def _value(self, attribute: int) -> Any:
        """An attribute's value, decoded."""
        attributes = self._spans.attributes
        if attributes.form[attribute] == NOTHING:
            return None
        at = attributes.text_at[attribute] - 1
        return read_any(AnyValue.FromString(self._spans.buffer[at : attributes.end[attribute]]))

    def _sent(self, which: Codes) -> list[bytes]:
        attributes = self._spans.attributes
        return wire_spans.cut(self._spans.buffer, attributes.text_at[which], attributes.end[which])

    def _split(self, is_wanted: Flags) -> tuple[Codes, Codes]:
        """Of the attributes whose slot is wanted: those that are text and say something, and those of another kind."""
        attributes = self._spans.attributes
        wanted = is_wanted[self._slot]
        return (
            np.flatnonzero(wanted & self._is_text & (attributes.end - attributes.text_at > 1)),
            np.flatnonzero(wanted & ~self._is_text),
        )

    def _read_labels(self) -> None:
        texts, others = self._split(_IS_LABEL)
        labels, buffer, attributes = self._labels, self._spans.buffer, self._spans.attributes
        sent = self._sent(texts)
        self._label[texts] = np.fromiter(map(labels.__getitem__, sent), np.int64, len(sent))
        self._is_taken[texts] = True
        sizes = attributes.end[texts] - attributes.text_at[texts]
        for attribute in texts[sizes > LABEL_CHARS].tolist():
            text = native.read_text(buffer[attributes.text_at[attribute] : attributes.end[attribute]])
            if len(text) > LABEL_CHARS and self._slot[attribute] != _KIND:
                self._label[attribute] = labels[native.text(text[:LABEL_CHARS])]
                self._stays[attribute] = True
        for attribute in others.tolist():
            number = read_text(self._value(attribute))
            if number is not None and self._slot[attribute] != _KIND:
                self._label[attribute] = labels[native.text(number)]
                self._is_taken[attribute] = True
        kinds = np.flatnonzero(self._slot == _KIND)
        known = np.unique(self._label[kinds])
        cells = list(labels)
        meant = np.zeros(len(cells), np.int64)
        for code in known.tolist():
            kind = read_kind(native.read_text(cells[code]))
            meant[code] = 0 if kind is None else labels[native.text(kind)]
        self._label[kinds] = meant[self._label[kinds]]
        self._is_taken[kinds] = self._label[kinds] > 0

    def _read_texts(self) -> None:
        texts, others = self._split(_IS_TEXT)
        attributes = self._spans.attributes
        self._is_taken[texts] = True
        is_long = _IS_SHORT[self._slot[texts]] & (attributes.end[texts] - attributes.text_at[texts] > LABEL_CHARS)
        for attribute in texts[is_long].tolist():
            [sent] = self._sent(np.array([attribute]))
            text = native.read_text(sent)
            if len(text) > LABEL_CHARS:
                self._cells[attribute] = native.text(text[:LABEL_CHARS])
                self._stays[attribute] = True
        for attribute in others.tolist():
            read = read_text if _IS_SHORT[self._slot[attribute]] else read_payload
            said = read(self._value(attribute))
            if said is not None:
                self._cells[attribute] = native.text(said)
                self._is_taken[attribute] = True

    def _read_numbers(self) -> None:
        attributes, data = self._spans.attributes, self._spans.data
        is_number = _IS_NUMBER[self._slot]
        ints = np.flatnonzero(is_number & (attributes.form == INT))
        values = wire_spans.varints_at(data, attributes.text_at[ints], 10)[0].view(np.int64)
        is_usual = _IS_TOKENS[self._slot[ints]] & (values >= 0) & (values <= MAX_TOKENS)
        self._number[ints[is_usual]] = values[is_usual]
        self._is_taken[ints[is_usual]] = True
        doubles = np.flatnonzero(is_number & (attributes.form == DOUBLE))
        floats = wire_spans.numbers_at(data, attributes.text_at[doubles]).view(np.float64)
        others = np.flatnonzero(is_number & (attributes.form != INT) & (attributes.form != DOUBLE))
        self._take_numbers(ints[~is_usual], values[~is_usual].tolist())
        self._take_numbers(doubles, floats.tolist())
        self._take_numbers(others, map(self._value, others.tolist()))

    def _take_numbers(self, which: Codes, values: Iterable[Any]) -> None:
        for attribute, slot, value in zip(which.tolist(), self._slot[which].tolist(), values, strict=True):
            number = _NUMBER_READERS[slot](value)
            if number is not None:
                self._number[attribute] = number
                self._is_taken[attribute] = True

    def _read_structures(self) -> None:
        """Tags and metadata: the spans of a trace often send the same, so each is read once."""
        known: dict[tuple[int, int, bytes], tuple[int, bool]] = {}
        which = np.flatnonzero((self._slot == _TAGS) | (self._slot == _METADATA))
        if not which.size:
            return
        sent, forms, slots = self._sent(which), self._spans.attributes.form[which].tolist(), self._slot[which].tolist()
        for attribute, one in zip(which.tolist(), zip(slots, forms, sent, strict=True), strict=True):
            found = known.get(one)
            if found is None:
                found = known[one] = self._read_structure(one[0], self._value(attribute))
            number, is_cut = found
            if number:
                self._number[attribute] = number
                self._is_taken[attribute] = True
                self._stays[attribute] = is_cut

    def _read_structure(self, slot: int, value: Any) -> tuple[int, bool]:
        """Where the tags or the metadata are kept (0: they cannot be read), and whether they say less than was sent."""
        if slot == _METADATA:
            members = read_object(value)
            if members is None:
                return 0, False
            keys = self._metadata_keys
            numbers = [keys.setdefault(key, len(keys)) for key in members]
            self._metadata.append((numbers, list(map(native.text, members.values()))))
            return len(self._metadata) - 1, False
        tags = read_strings(value)
        if tags is None:
            return 0, False
        self._tags.append([native.text(tag[:LABEL_CHARS]) for tag in tags[:TAGS]])
        return len(self._tags) - 1, len(tags) > TAGS or max(map(len, tags)) > LABEL_CHARS

    # --- lists spelled by index ---

    def _read_lists(self) -> None:
        parts = np.flatnonzero(self._slot == _LIST)
        if not parts.size:
            return
        names, attributes = self._names, self._spans.attributes
        slot = np.array(names.list_slots, np.int64)[self._key[parts]]
        rank = self._rank[parts]
        group = (attributes.span[parts] * len(Slot) + slot) << 16 | rank
        order = np.argsort(group, kind="stable")
        parts, group, slot, rank = parts[order], group[order], slot[order], rank[order]
        begins = np.flatnonzero(np.diff(group, prepend=-1))
        keys = self._key[parts].tolist()
        values = self._as_json(parts)
        bounds = [*begins.tolist(), len(parts)]
        spans = attributes.span[parts[begins]].tolist()
        for nth, (position, to, its_rank) in enumerate(
            zip(spans, slot[begins].tolist(), rank[begins].tolist(), strict=True)
        ):
            begin, end = bounds[nth], bounds[nth + 1]
            if its_rank >= self._best_rank(to, position):
                continue
            plan = names.plans.plan(tuple(keys[begin:end]), names.paths)
            self._filled[to][position] = native.cell(plan.fill(values[begin:end]))
            mine = parts[begin:end]
            self._list_parts[to, position] = its_rank, mine
            self._is_taken[mine] = True
            self._is_taken[mine[plan.unplaced]] = False
            self._chosen[to, position] = -1

    def _best_rank(self, slot: int, position: int) -> int:
        """The rank of what fills a slot of a span so far."""
        known = self._list_parts.get((slot, position))
        if known is not None:
            return known[0]
        chosen = self._chosen[slot, position]
        return int(self._rank[chosen]) if chosen >= 0 else _NO_RANK

    def _as_json(self, which: Codes) -> list[bytes]:
        attributes, is_text = self._spans.attributes, self._is_text[which]
        texts, encode = which[is_text], msgspec.json.encode
        _, start = wire_spans.varints_at(self._spans.data, attributes.text_at[texts], 4)
        encoded = [encode(text.decode()) for text in wire_spans.cut(self._spans.buffer, start, attributes.end[texts])]
        if len(texts) == len(which):
            return encoded
        made = [b""] * len(which)
        for place, text in zip(np.flatnonzero(is_text).tolist(), encoded, strict=True):
            made[place] = text
        for place in np.flatnonzero(~is_text).tolist():
            made[place] = encode(self._value(int(which[place])))
        return made

    # --- what few spans have ---

    def _read_more(self) -> None:
        names, more = self._names, self._more
        for position in np.flatnonzero(self._spans.has_more).tolist():
            span = self._spans.more(position)
            if span.events:
                self._read_events(position, span)
            if span.links:
                more.links[position] = native.text(links_json(span.links))
            for name, text in (
                ("otel.trace_state", span.trace_state),
                ("otel.dropped_attributes_count", str(span.dropped_attributes_count or "")),
                ("otel.dropped_events_count", str(span.dropped_events_count or "")),
            ):
                if text:
                    more.attributes.append((position, names.of(name), native.text(text)))
        for number, owner in enumerate(self._owners):
            if owner.scope_attributes:
                added = [(names.of(name), native.text(text)) for name, text in owner.scope_attributes]
                for position in np.flatnonzero(self._owner_of == number).tolist():
                    more.attributes += [(position, name, text) for name, text in added]

    def _read_events(self, position: int, span: Span) -> None:
        events = list(span.events)
        names = [event.name for event in events]
        found = _NO_MESSAGES
        if not MESSAGE_NAMES.isdisjoint(names):
            found = from_events(events, names, self._names.table, lambda slot: self._best_rank(slot, position))
        for slot, text in found.texts.items():
            self._filled[slot][position] = native.text(text)
            self._chosen[slot, position] = -1
            parts = self._list_parts.pop((slot, position), None)
            if parts is not None:
                self._is_taken[parts[1]] = False
        said = events_json(events, names, found.spent)
        if said:
            self._more.events[position] = native.cell(said)
        exception = exception_of(events, names)
        if exception is not None:
            self._more.exceptions[position] = exception

    # --- columns ---

    def _mapped(self) -> MappedSpans:
        spans, labels, chosen = self._spans, self._labels, self._chosen
        label = {slot: self._label[chosen[slot]] for slot in _LABELS}
        kind, model, name = self._kind_model_name(label)
        start_ns, end_ns = self._times()
        status, error_type, messages = self._status(label[_ERROR_TYPE])
        label |= {_KIND: kind, _MODEL: model, _ERROR_TYPE: error_type}
        label[_ENVIRONMENT] = self._or_owners(label[_ENVIRONMENT], "environment")
        tokens, cost, has_cost, source = self._usage(kind, label[_PROVIDER], model, start_ns)
        texts = {slot: self._texts(slot) for slot in _TEXTS}
        self._put_system_first(texts[_INPUTS], texts[_SYSTEM])
        for slot, default in ((_SESSION, "session_id"), (_USER, "user_id")):
            self._fill_empty(texts[slot], default)
        by_column = {column.name: int(column.slot) for column in SPAN_COLUMNS if column.slot is not None}
        span_kinds = np.array([labels[native.text(one)] for one in SPAN_KINDS], np.int64)
        statuses = np.array([labels[native.text(one)] for one in STATUSES], np.int64)
        counts = {slot: self._number[chosen[slot]] for slot in COUNT_SLOTS} | tokens
        attribute_names, attribute_texts, attribute_counts = self._attributes()
        return MappedSpans(
            spans=spans,
            label={column: label[slot] for column, slot in by_column.items() if slot in label}
            | {
                "name": name,
                "otel_kind": span_kinds[_within(spans.kind, len(SPAN_KINDS))],
                "status": statuses[_within(status, len(STATUSES))],
                "cost_source": source,
                "scope_name": self._of_owners("scope_name"),
                "scope_version": self._of_owners("scope_version"),
            },
            count={column: counts[slot] for column, slot in by_column.items() if slot in counts},
            texts={column: texts[slot] for column, slot in by_column.items() if slot in texts}
            | {
                "status_message": messages,
                "events": self._of_few(self._more.events),
                "links": self._of_few(self._more.links),
            },
            labels=list(labels),
            has_parent=(spans.parent_at > 0) & wire_spans.words_at(spans.data, spans.parent_at, 8).any(axis=1),
            start_ns=start_ns,
            end_ns=end_ns,
            cost=cost,
            has_cost=has_cost,
            tags=list(map(self._tags.__getitem__, self._number[chosen[_TAGS]].tolist())),
            metadata=list(map(self._metadata.__getitem__, self._number[chosen[_METADATA]].tolist())),
            metadata_keys=list(map(native.text, self._metadata_keys)),
            attribute_names=attribute_names,
            attribute_texts=attribute_texts,
            attribute_counts=attribute_counts,
        )

    def _kind_model_name(self, label: Mapping[int, Codes]) -> tuple[Codes, Codes, Codes]:
        labels, chosen, spans = self._labels, self._chosen, self._spans
        tool, model, request_model = label[_TOOL], label[_MODEL], label[_REQUEST_MODEL]
        tool_kind = labels[_TOOL_KIND]
        guessed = np.where(
            tool > 0, tool_kind, np.where((model > 0) | (request_model > 0), labels[_LLM], labels[_CHAIN])
        )
        kind = np.where(chosen[_KIND] >= 0, label[_KIND], guessed)
        is_tool, has_model = kind == tool_kind, np.isin(kind, [labels[one] for one in _MODEL_KINDS])
        self._stays[chosen[_TOOL][(tool > 0) & ~is_tool]] = True
        self._stays[chosen[_MODEL][(model > 0) & ~has_model]] = True
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
            number = self._names.of("otel.span.name")
            self._more.attributes += [(position, number, sent[position]) for position in renamed.tolist()]
        return kind, model, np.where(is_named, tool, name)

    def _status(self, error_type: Codes) -> tuple[Codes, Codes, list[bytes]]:
        """Status, type of the error, and its message."""
        spans, labels = self._spans, self._labels
        messages = wire_spans.cut(spans.buffer, spans.message_at, spans.message_end)
        failed = (error_type > 0) & (spans.status == _UNSET)
        status = np.where(failed, _ERROR, spans.status)
        for position, exception in self._more.exceptions.items():
            if not error_type[position]:
                error_type[position] = labels[native.text(exception.type[:LABEL_CHARS])]
            said = int(spans.status[position])
            if said == _UNSET:
                status[position] = _ERROR if exception.escaped else _UNSET
                messages[position] = native.text(exception.message) if exception.escaped else messages[position]
            elif said == _ERROR and messages[position] == native.EMPTY_TEXT:
                messages[position] = native.text(exception.message)
        for position, cell in enumerate(messages):
            if len(cell) > MESSAGE_CHARS:
                text = native.read_text(cell)
                if len(text) > MESSAGE_CHARS:
                    self._more.attributes.append((position, self._names.of("otel.status_description"), cell))
                    messages[position] = native.text(text[:MESSAGE_CHARS])
        return status, error_type, messages

    def _times(self) -> tuple[Codes, Codes]:
        """Start and end within what the columns hold; a span without a start began when it ended, or was accepted."""
        start, end = self._spans.start_ns, self._spans.end_ns
        accepted_ns = np.maximum(self._accepted_us, 0).astype(np.uint64) * np.uint64(1000)
        most = np.uint64(MAX_UNIX_NANO)
        began = np.minimum(np.where(start > 0, start, np.where(end > 0, end, accepted_ns)), most)
        ended = np.where(end > 0, np.minimum(np.maximum(end, began), most), 0)
        return began.astype(np.int64), ended.astype(np.int64)

    def _texts(self, slot: int) -> list[bytes]:
        """The cells of a slot's texts."""
        attributes, chosen = self._spans.attributes, self._chosen[slot]
        at, end = np.append(attributes.text_at, wire_spans.EMPTY), np.append(attributes.end, wire_spans.EMPTY + 1)
        cells = wire_spans.cut(self._spans.buffer, at[chosen], end[chosen])
        for attribute, cell in self._cells.items():
            if self._slot[attribute] == slot:
                position = attributes.span[attribute]
                if chosen[position] == attribute:
                    cells[position] = cell
        for position, cell in self._filled.get(slot, {}).items():
            cells[position] = cell
        return cells

    def _put_system_first(self, inputs: list[bytes], system: list[bytes]) -> None:
        for position, cell in enumerate(system):
            if cell != native.EMPTY_TEXT:
                said = with_system(native.read_text(cell), native.read_text(inputs[position]))
                inputs[position] = native.text(said)

    def _fill_empty(self, cells: list[bytes], default: str) -> None:
        """Give spans that say nothing what their resource says for them."""
        for number, owner in enumerate(self._owners):
            text = getattr(owner, default)
            if text:
                said = native.text(text)
                for position in np.flatnonzero(self._owner_of == number).tolist():
                    if cells[position] == native.EMPTY_TEXT:
                        cells[position] = said

    def _of_owners(self, field_name: str) -> Codes:
        codes = [self._labels[native.text(getattr(owner, field_name))] for owner in self._owners]
        return np.array(codes, np.int64)[self._owner_of]

    def _or_owners(self, codes: Codes, field_name: str) -> Codes:
        return np.where(codes > 0, codes, self._of_owners(field_name))

    def _of_few(self, cells: Mapping[int, bytes]) -> list[bytes]:
        made = [native.EMPTY_TEXT] * self._count
        for position, cell in cells.items():
            made[position] = cell
        return made

    def _usage(
        self, kind: Codes, provider: Codes, model: Codes, start_ns: Codes
    ) -> tuple[dict[int, Codes], Codes, Flags, Codes]:
        """Tokens by slot, cost and its source, settled span by span where anything of them is said."""
        chosen = self._chosen[list(_USAGE)]
        which = np.flatnonzero((chosen >= 0).any(axis=0))
        texts = [native.read_text(text) for text in self._labels]
        said = np.where(chosen[:, which] < 0, -1, self._number[chosen[:, which]])
        settled = [
            settle(self._prices, texts[a], texts[b], texts[c], start, [None if one < 0 else one for one in numbers])
            for numbers, a, b, c, start in zip(
                said.T.tolist(),
                kind[which].tolist(), provider[which].tolist(), model[which].tolist(), start_ns[which].tolist(),
                strict=True,
            )
        ]  # fmt: skip
        tokens, cost = np.zeros((6, self._count), np.int64), np.zeros(self._count, np.int64)
        has_cost, source = np.zeros(self._count, np.bool_), np.zeros(self._count, np.int64)
        if settled:
            *six, costs, sources = zip(*settled, strict=True)
            tokens[:, which] = six
            has_cost[which] = [one is not None for one in costs]
            cost[which] = [one or 0 for one in costs]
            source[which] = [self._labels[native.text(one)] for one in sources]
        return dict(zip(_USAGE, tokens, strict=False)), cost, has_cost, source

    def _attributes(self) -> tuple[Codes, list[bytes], Codes]:
        """What fills no column, as the client said it: names, texts, and how many of them each span has."""
        attributes, spans = self._spans.attributes, self._spans
        in_column = self._is_taken & ~self._stays
        slots = np.flatnonzero(in_column & (self._slot < _OTHER))
        in_column[slots] = self._chosen[self._slot[slots], attributes.span[slots]] == slots
        left = np.flatnonzero(~in_column)
        name, span, form = self._key[left], attributes.span[left], attributes.form[left]
        texts = wire_spans.cut(spans.buffer, attributes.text_at[left], attributes.end[left])
        ints = np.flatnonzero(form == INT)
        values = wire_spans.varints_at(spans.data, attributes.text_at[left[ints]], 10)[0].view(np.int64)
        for place, value in zip(ints.tolist(), values.tolist(), strict=True):
            texts[place] = native.text(repr(value))
        known: dict[tuple[int, bytes], bytes] = {}
        for place in np.flatnonzero((form != STRING) & (form != INT)).tolist():
            one = int(form[place]), texts[place]
            text = known.get(one)
            if text is None:
                text = known[one] = native.text(as_text(self._value(int(left[place]))))
            texts[place] = text
        if self._more.attributes:
            positions, names, added = zip(*self._more.attributes, strict=True)
            span, name = np.concatenate([span, positions]), np.concatenate([name, names])
            order = np.argsort(span, kind="stable")
            name, texts = name[order], list(map([*texts, *added].__getitem__, order.tolist()))
        return name, texts, np.bincount(span, minlength=self._count)


_NUMBER_READERS: Mapping[int, Callable[[Any], int | None]] = {slot: READERS[Slot(slot)] for slot in _NUMBERS}


def _within(numbers: Codes, most: int) -> Codes:
    return np.where((numbers >= 0) & (numbers < most), numbers, 0)


def _choose(slot: Codes, rank: Codes, span: Places, is_taken: Flags, spans: int) -> Codes:
    """By slot and span: the attribute of the best rank, and of those the first; -1 for none."""
    chosen = np.full((len(Slot), spans), -1, np.int64)
    taken = np.flatnonzero(is_taken & (slot < _OTHER))
    slots = slot[taken]
    for one in np.flatnonzero(np.bincount(slots, minlength=len(Slot))):
        which = taken[slots == one][::-1]
        ranks = rank[which]
        if ranks.min() != ranks.max():
            which = which[np.argsort(-ranks, kind="stable")]
        chosen[one, span[which]] = which  # of several for one place the last one stays
    return chosen
