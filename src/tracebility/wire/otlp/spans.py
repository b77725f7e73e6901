"""Finds the offsets of all fields and attributes of many OTLP spans at once, without decoding them.

Creating an object for every attribute is the main cost of reading OTLP in Python. Here all spans are walked together,
field by field: a step is a few array operations over thousands of spans.

Protobuf allows several encodings of one message. Nearly all exporters use the same one, called *usual* here. A span in
another encoding, or with very many fields, is decoded by protobuf and encoded again; see `Spans.decoded`.

Source: the protobuf wire format (protobuf.dev/programming-guides/encoding) and opentelemetry-proto's trace.proto.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Numbers: TypeAlias = npt.NDArray[np.uint64]
Bytes: TypeAlias = npt.NDArray[np.uint8]

# Zeros before the first body and after the last, so that reads past a span's end stay within the buffer. The byte at
# EMPTY is also an empty string in Native format: a length of 0.
PADDING = 32
EMPTY = 0

# A span with more fields is decoded by protobuf: a step costs 50 us, even for a single span.
MAX_STEPS = 256

# Tags of a span's fields, number << 3 | wire type, in their usual order.
_TRACE_ID, _SPAN_ID, _TRACE_STATE, _PARENT, _NAME, _KIND = 0x0A, 0x12, 0x1A, 0x22, 0x2A, 0x30
_START, _END, _ATTRIBUTE, _DROPPED_ATTRIBUTES, _EVENT = 0x39, 0x41, 0x4A, 0x50, 0x5A
_DROPPED_EVENTS, _LINK, _DROPPED_LINKS, _STATUS = 0x60, 0x6A, 0x70, 0x7A
_FLAGS = (0x85, 0x01)  # number 16: two bytes
_IDS = {_TRACE_ID: 16, _SPAN_ID: 8, _PARENT: 8}
# Tags of a key-value pair's fields, and of the status' fields.
_KEY, _VALUE = 0x0A, 0x12
_MESSAGE, _CODE = 0x12, 0x18

# Tags of the one field of an AnyValue, which tell its type. NOTHING: the value is empty or missing.
NOTHING, STRING, BOOL, INT, DOUBLE, ARRAY, PAIRS, BYTES = 0, 0x0A, 0x10, 0x18, 0x21, 0x2A, 0x32, 0x3A
_WITH_LENGTH = np.zeros(256, np.bool_)
_WITH_LENGTH[[STRING, ARRAY, PAIRS, BYTES]] = True
_VALUES = frozenset(
    {"string_value", "bool_value", "int_value", "double_value", "array_value", "kvlist_value", "bytes_value"}
)
_MAX_NUMBER_BYTES = 10
_MAX_LENGTH_BYTES = 4


class Attributes(NamedTuple):
    """Offsets of the attributes of all spans, in the order of the spans and of their attributes.

    For a string, ``text_at`` to ``end`` is its length and its text: the same bytes as in Native format.
    """

    span: Ints  # position of the span
    key_at: Ints
    key_end: Ints
    form: Bytes  # the type of the value, as a tag: STRING, INT, ...
    text_at: Ints  # the byte after that tag
    end: Ints


class Spans(NamedTuple):
    """Offsets and numbers of the fields of all spans. A missing text has the offsets of an empty string."""

    buffer: bytes
    data: Bytes
    trace_at: Ints
    span_at: Ints
    parent_at: Ints  # 0: none
    name_at: Ints  # its length prefix
    name_end: Ints
    kind: Ints
    start_ns: Numbers
    end_ns: Numbers
    status: Ints
    message_at: Ints  # its length prefix
    message_end: Ints
    has_more: Flags  # the span has events, links, a trace state or dropped counts, which `more` returns
    attributes: Attributes
    starts: Ints
    ends: Ints
    decoded: dict[int, Span]  # by position: spans in an unusual encoding, without their attributes

    def more(self, position: int) -> Span:
        """Decode the span at ``position``. Its attributes may be missing.

        Raises:
            DecodeError: when it is not valid protobuf.
        """
        known = self.decoded.get(position)
        return Span.FromString(self.buffer[self.starts[position] : self.ends[position]]) if known is None else known


class BadIds(ValueError):
    """A span without a trace id of 16 bytes and a span id of 8. The edge rejects such spans."""


def find(bodies: Sequence[bytes], starts: Sequence[int] | Ints, ends: Sequence[int] | Ints) -> Spans:
    """Find the fields of all spans. ``starts`` and ``ends`` are offsets into the joined ``bodies``.

    Raises:
        DecodeError: when the bytes between them are not a span.
        BadIds: when a span has no valid ids.
    """
    buffer = b"".join((bytes(PADDING), *bodies, bytes(PADDING)))
    at, end = np.array(starts, np.int64) + PADDING, np.array(ends, np.int64) + PADDING
    walk = _Walk(np.frombuffer(buffer, np.uint8), at.copy(), end.copy())
    walk.run()
    attributes, usual = _attributes(walk.data, walk.pairs(walk.is_usual))
    walk.is_usual[attributes.span[~usual]] = False
    decoded: dict[int, Span] = {}
    if not walk.is_usual.all():
        unusual = np.flatnonzero(~walk.is_usual)
        buffer = _encode_again(walk, buffer, unusual, at, end, decoded)
        attributes, usual = _attributes(walk.data, walk.pairs(walk.is_usual))
        if not usual.all():
            raise AssertionError("protobuf must encode attributes as usual")
    if not ((walk.ids[_TRACE_ID] > 0) & (walk.ids[_SPAN_ID] > 0)).all():
        raise BadIds("a span needs a trace id of 16 bytes and a span id of 8")
    return Spans(
        buffer, walk.data, walk.ids[_TRACE_ID], walk.ids[_SPAN_ID], walk.ids[_PARENT], walk.name_at, walk.name_end,
        walk.kind, walk.start_ns, walk.end_ns, walk.status, walk.message_at, walk.message_end, walk.has_more,
        attributes, at, end, decoded,
    )  # fmt: skip


def cut(buffer: bytes, at: Ints, end: Ints) -> list[bytes]:
    """The bytes from each start to its end."""
    return [buffer[a:b] for a, b in zip(at.tolist(), end.tolist(), strict=True)]


def numbers_at(data: Bytes, offsets: Ints) -> Numbers:
    """The little-endian 64-bit number at each of ``offsets``."""
    return words_at(data, offsets, 8).view("<u8").ravel()


def words_at(data: Bytes, offsets: Ints, size: int) -> Bytes:
    """A row of ``size`` bytes for each of ``offsets``."""
    windows = np.lib.stride_tricks.as_strided(data, (len(data) - size + 1, size), (1, 1), writeable=False)
    return windows[offsets]


def varints_at(data: Bytes, offsets: Ints, max_bytes: int) -> tuple[Numbers, Ints]:
    """The varint at each of ``offsets``, and its end.

    The end is 0 for a varint that has more than ``max_bytes`` bytes, or is padded.
    """
    first = data[offsets]
    value = (first & 0x7F).astype(np.uint64)
    ends = offsets + 1
    going = np.flatnonzero(first >= 0x80)
    for nth in range(1, max_bytes):
        if not going.size:
            return value, ends
        byte = data[offsets[going] + nth]
        value[going] |= (byte & 0x7F).astype(np.uint64) << np.uint64(7 * nth)
        ends[going] += 1
        ends[going[byte == 0]] = 0
        going = going[byte >= 0x80]
    ends[going] = 0
    return value, ends


def _encode_again(walk: "_Walk", buffer: bytes, unusual: Ints, at: Ints, end: Ints, decoded: dict[int, Span]) -> bytes:
    """Decode the ``unusual`` spans, append them to the buffer in the usual encoding, and walk them there.

    A span is appended without its attributes, then each of its attributes.
    """
    heads: list[int] = []
    pairs: list[tuple[int, int, int, int]] = []
    pieces, size = [buffer[:-PADDING]], len(buffer) - PADDING
    for position in unusual.tolist():
        span = decoded[position] = Span.FromString(buffer[at[position] : end[position]])
        span.DiscardUnknownFields()
        encoded = [_usual(pair).SerializeToString() for pair in span.attributes]
        span.ClearField("attributes")
        head = Span()
        head.CopyFrom(span)
        for field in ("events", "links"):
            head.ClearField(field)
        pieces.append(head.SerializeToString())
        heads += (size, size + len(pieces[-1]))
        size = heads[-1]
        for nth, pair in enumerate(encoded):
            pairs.append((position, nth, size, size + len(pair)))
            size += len(pair)
        pieces += encoded
    whole = b"".join((*pieces, bytes(PADDING)))
    walk.walk_again(np.frombuffer(whole, np.uint8), unusual, np.array(heads, np.int64).reshape(-1, 2), pairs)
    return whole


def _usual(pair: KeyValue) -> KeyValue:
    """Copy the key and the value. Fields that only profiles use are indexes into a missing table: copy the number."""
    made = KeyValue(key=pair.key)
    which = pair.value.WhichOneof("value")
    if which in _VALUES:
        made.value.CopyFrom(pair.value)
    elif which is not None:
        made.value.int_value = getattr(pair.value, which)
    return made


def _attributes(data: Bytes, pairs: tuple[Ints, Ints, Ints]) -> tuple[Attributes, Flags]:
    """The attributes at ``pairs``, and whether each is encoded as usual: a key, then a value with one field."""
    span, at, end = pairs
    has_key = (data[at] == _KEY) & (at < end)
    length, key_at = varints_at(data, at + 1, _MAX_LENGTH_BYTES)
    key_end = key_at + length.astype(np.int64)
    usual = ~has_key | ((key_at > 0) & (key_end <= end))
    np.copyto(key_at, at, where=~(has_key & usual))
    np.copyto(key_end, at, where=~(has_key & usual))
    has_value = key_end < end
    length, value_at = varints_at(data, key_end + 1, _MAX_LENGTH_BYTES)
    usual &= ~has_value | ((data[key_end] == _VALUE) & (value_at > 0) & (value_at + length.astype(np.int64) == end))
    has_value &= usual & (length > 0)
    np.copyto(value_at, end, where=~has_value)
    form = np.where(has_value, data[value_at], NOTHING).astype(np.uint8)
    text_at = np.minimum(value_at + 1, end)
    value_end = np.where(form == DOUBLE, text_at + 8, 0)
    with_length = np.flatnonzero(_WITH_LENGTH[form])
    length, start = varints_at(data, text_at[with_length], _MAX_LENGTH_BYTES)
    value_end[with_length] = np.where(start > 0, start + length.astype(np.int64), 0)
    numbers = np.flatnonzero((form == INT) | (form == BOOL))
    value_end[numbers] = varints_at(data, text_at[numbers], _MAX_NUMBER_BYTES)[1]
    usual &= (value_end == end) | ~has_value
    return Attributes(span, key_at, key_end, form, text_at, end), usual


class _Walk:
    """A walk over the fields of all spans together. ``at``: the offset of each span's current field."""

    def __init__(self, data: Bytes, at: Ints, end: Ints) -> None:
        count = len(at)
        self.data, self.at, self.end = data, at, end
        self.is_usual: Flags = np.ones(count, np.bool_)
        self.has_more: Flags = np.zeros(count, np.bool_)
        self.ids = {tag: np.zeros(count, np.int64) for tag in _IDS}
        self.name_at, self.name_end = np.full(count, EMPTY), np.full(count, EMPTY + 1)
        self.message_at, self.message_end = np.full(count, EMPTY), np.full(count, EMPTY + 1)
        self.kind, self.status = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.start_ns, self.end_ns = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        self.pair_counts = np.zeros(count, np.int64)
        # For each step that found attributes: the spans, the attribute's number within its span, start and end.
        self.steps: list[tuple[Ints, Ints, Ints, Ints]] = []

    def run(self) -> None:
        going = np.flatnonzero(self.at < self.end)
        for _ in range(MAX_STEPS):
            if not going.size:
                return
            tags = self.data[self.at[going]]
            for tag in np.flatnonzero(np.bincount(tags, minlength=256)).tolist():
                step = _STEPS.get(tag)
                some = going[tags == tag]
                if step is None:
                    self.is_usual[some] = False
                else:
                    step(self, some, tag)
            self.is_usual[going[self.at[going] > self.end[going]]] = False
            going = going[self.is_usual[going] & (self.at[going] < self.end[going])]
        self.is_usual[going] = False

    def walk_again(self, data: Bytes, spans: Ints, heads: Ints, pairs: list[tuple[int, int, int, int]]) -> None:
        """Walk ``spans`` at their new offsets ``heads``; ``pairs`` are the offsets of their attributes.

        Raises:
            BadIds: when the length of an id is wrong.
        """
        for position, one in enumerate(self.steps):
            kept = self.is_usual[one[0]]
            if not kept.all():
                self.steps[position] = (one[0][kept], one[1][kept], one[2][kept], one[3][kept])
        fresh = _Walk(data, heads[:, 0].copy(), heads[:, 1].copy())
        fresh.run()
        if not fresh.is_usual.all():
            raise BadIds("a span needs a trace id of 16 bytes, a span id of 8, and a parent id of 8 or none")
        for name in ("name_at", "name_end", "message_at", "message_end", "kind", "status", "start_ns", "end_ns"):
            getattr(self, name)[spans] = getattr(fresh, name)
        for tag, offsets in fresh.ids.items():
            self.ids[tag][spans] = offsets
        self.data = data
        self.has_more[spans] = True
        self.is_usual[spans] = True
        columns = np.array(pairs, np.int64).reshape(-1, 4)
        self.steps.append((columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3]))
        self.pair_counts[spans] = np.bincount(columns[:, 0], minlength=len(self.at))[spans]

    def pairs(self, wanted: Flags) -> tuple[Ints, Ints, Ints]:
        """Span, start and end of each attribute of the ``wanted`` spans, in order."""
        steps = self.steps or [(np.zeros(0, np.int64),) * 4]
        span, nth, at, end = (np.concatenate(columns) for columns in zip(*steps, strict=True))
        if not wanted.all():
            kept = wanted[span]
            span, nth, at, end = span[kept], nth[kept], at[kept], end[kept]
        counts = np.bincount(span, minlength=len(self.at))
        order = np.empty(len(span), np.int64)
        order[(np.cumsum(counts) - counts)[span] + nth] = np.arange(len(span))
        return span[order], at[order], end[order]

    def read_id(self, spans: Ints, tag: int) -> None:
        at, size = self.at[spans], _IDS[tag]
        length = self.data[at + 1]
        if tag == _PARENT:  # some exporters send an empty parent id for a root
            is_empty = length == 0
            self._check(spans, ~is_empty & (length != size))
            self.ids[tag][spans] = np.where(is_empty, 0, at + 2)
            self.at[spans] = at + 2 + np.where(is_empty, 0, size)
            return
        self._check(spans, length != size)
        self.ids[tag][spans] = at + 2
        self.at[spans] = at + 2 + size

    def read_name(self, spans: Ints, _: int) -> None:
        at, end = self._text(spans, self.at[spans] + 1, self.end[spans])
        self.name_at[spans], self.name_end[spans] = at, end
        self.at[spans] = end

    def read_kind(self, spans: Ints, _: int) -> None:
        self.at[spans] = self._number(self.kind, spans, self.at[spans] + 1)

    def read_time(self, spans: Ints, tag: int) -> None:
        times = self.start_ns if tag == _START else self.end_ns
        times[spans] = numbers_at(self.data, np.minimum(self.at[spans] + 1, len(self.data) - 8))
        self.at[spans] += 9

    def read_attribute(self, spans: Ints, _: int) -> None:
        length, start = varints_at(self.data, self.at[spans] + 1, _MAX_LENGTH_BYTES)
        end = start + length.astype(np.int64)
        self._check(spans, (start == 0) | (end > self.end[spans]))
        self.steps.append((spans, self.pair_counts[spans], start, end))
        self.pair_counts[spans] += 1
        self.at[spans] = end

    def skip_message(self, spans: Ints, tag: int) -> None:
        _, end = self._text(spans, self.at[spans] + 1, self.end[spans])
        self.at[spans] = end
        self.has_more[spans] = True

    def skip_number(self, spans: Ints, tag: int) -> None:
        _, end = varints_at(self.data, self.at[spans] + 1, _MAX_NUMBER_BYTES)
        self._check(spans, end == 0)
        self.at[spans] = end
        self.has_more[spans] |= tag != _DROPPED_LINKS

    def read_status(self, spans: Ints, _: int) -> None:
        """Read a status: an optional message, then an optional code."""
        length, at = varints_at(self.data, self.at[spans] + 1, _MAX_LENGTH_BYTES)
        end = at + length.astype(np.int64)
        bad = (at == 0) | (end > self.end[spans])
        self._check(spans, bad)
        if bad.any():
            spans, at, end = spans[~bad], at[~bad], end[~bad]
        self.at[spans] = end
        some = (self.data[at] == _MESSAGE) & (at < end)
        self.message_at[spans[some]], at[some] = self._text(spans[some], at[some] + 1, end[some])
        self.message_end[spans[some]] = at[some]
        some = (self.data[at] == _CODE) & (at < end)
        at[some] = self._number(self.status, spans[some], at[some] + 1)
        self._check(spans, at != end)

    def read_flags(self, spans: Ints, _: int) -> None:
        self._check(spans, self.data[self.at[spans] + 1] != _FLAGS[1])
        self.at[spans] += 6

    def _text(self, spans: Ints, at: Ints, limit: Ints) -> tuple[Ints, Ints]:
        """Start and end of a string, its length prefix at ``at`` included. It must not end after ``limit``."""
        length, start = varints_at(self.data, at, _MAX_LENGTH_BYTES)
        end = start + length.astype(np.int64)
        bad = (start == 0) | (end > limit)
        self._check(spans, bad)
        return at, np.where(bad, at + 1, end)

    def _number(self, numbers: Ints, spans: Ints, at: Ints) -> Ints:
        """Store an enum's number in ``numbers`` and return its end."""
        value, end = varints_at(self.data, at, _MAX_NUMBER_BYTES)
        self._check(spans, end == 0)
        numbers[spans] = value.view(np.int64)
        return np.where(end == 0, at + 1, end)

    def _check(self, spans: Ints, bad: Flags) -> None:
        """Leave the ``bad`` ones of ``spans`` to protobuf."""
        self.is_usual[spans[bad]] = False


_STEPS: dict[int, Callable[[Any, Ints, int], None]] = {
    _TRACE_ID: _Walk.read_id,
    _SPAN_ID: _Walk.read_id,
    _TRACE_STATE: _Walk.skip_message,
    _PARENT: _Walk.read_id,
    _NAME: _Walk.read_name,
    _KIND: _Walk.read_kind,
    _START: _Walk.read_time,
    _END: _Walk.read_time,
    _ATTRIBUTE: _Walk.read_attribute,
    _DROPPED_ATTRIBUTES: _Walk.skip_number,
    _EVENT: _Walk.skip_message,
    _DROPPED_EVENTS: _Walk.skip_number,
    _LINK: _Walk.skip_message,
    _DROPPED_LINKS: _Walk.skip_number,
    _STATUS: _Walk.read_status,
    _FLAGS[0]: _Walk.read_flags,
}
