"""Spans of many OTLP bodies at once: where each field and attribute lies in their bytes, found for all spans in step.

A message object for every attribute is what reading OTLP costs in Python. Here nothing is decoded: all spans are walked
field by field together, each step a few array operations over thousands of them, and what comes out are offsets. A span
that spells anything in a rarer way (see `Spans.is_plain`) is not followed further: `otlp.decode` reads those.

Source: the protobuf wire format (protobuf.dev/programming-guides/encoding) and opentelemetry-proto's trace.proto.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Places: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Numbers: TypeAlias = npt.NDArray[np.uint64]
Bytes: TypeAlias = npt.NDArray[np.uint8]

# Zeros after the last body: reading past a span's end by a number or an id stays within the buffer. The first of them
# is also an empty string as the engine's format has it, a length of nought.
PADDING = 32

# Tags of a span's fields, number << 3 | wire type, in their usual order. Those of rarer fields are not here.
_TRACE_ID, _SPAN_ID, _PARENT, _NAME, _KIND = 0x0A, 0x12, 0x22, 0x2A, 0x30
_START, _END, _ATTRIBUTE, _STATUS = 0x39, 0x41, 0x4A, 0x7A
_FLAGS = (0x85, 0x01)  # number 16: two bytes
_IDS = ((_TRACE_ID, 16), (_SPAN_ID, 8), (_PARENT, 8))
# Of a key-value pair, and of the status.
_KEY, _VALUE = 0x0A, 0x12
_MESSAGE, _CODE = 0x12, 0x18

# Tags of a value's one field: what it holds.
STRING, BOOL, INT, DOUBLE, ARRAY, PAIRS, BYTES = 0x0A, 0x10, 0x18, 0x21, 0x2A, 0x32, 0x3A
_WITH_LENGTH = (STRING, ARRAY, PAIRS, BYTES)
_MOST_NUMBER_BYTES = 10
_MOST_LENGTH_BYTES = 4


class Attributes(NamedTuple):
    """Attributes of all plain spans, those of a span together and in its order.

    Lengths precede what they count, as they do in the engine's format: ``text_at`` to ``end`` of a string is its length
    and its text.
    """

    span: Places  # position among the spans
    key_at: Places
    key_end: Places
    form: Bytes  # the tag of what the value is
    text_at: Places  # of what follows the tag
    end: Places


class Spans(NamedTuple):
    """Places of what the spans hold. Where a field is missing its places are those of an empty string."""

    buffer: bytes
    data: Bytes
    is_plain: Flags
    trace_at: Places
    span_at: Places
    parent_at: Places  # 0: none
    name_at: Places  # of its length
    name_end: Places
    kind: Bytes
    start_ns: Numbers
    end_ns: Numbers
    status: Bytes
    message_at: Places  # of its length
    message_end: Places
    attributes: Attributes


def find(bodies: Sequence[bytes], starts: Sequence[int], ends: Sequence[int]) -> Spans:
    """What the spans hold that lie from ``starts`` to ``ends`` in ``bodies`` put one after the other."""
    buffer = b"".join((*bodies, bytes(PADDING)))
    data = np.frombuffer(buffer, np.uint8)
    at, end = np.array(starts, np.int64), np.array(ends, np.int64)
    walk = _Walk(data, at, end)
    walk.run()
    attributes = _attributes(data, walk)
    return Spans(
        buffer, data, walk.is_plain & walk.has_ids(), walk.ids[_TRACE_ID], walk.ids[_SPAN_ID], walk.ids[_PARENT],
        walk.name_at, walk.name_end, walk.kind, walk.start_ns, walk.end_ns, walk.status, walk.message_at,
        walk.message_end, attributes,
    )  # fmt: skip


def cut(buffer: bytes, at: Places, end: Places) -> list[bytes]:
    """The bytes from each of ``at`` to its ``end``."""
    return [buffer[a:b] for a, b in zip(at.tolist(), end.tolist(), strict=True)]


def numbers_at(data: Bytes, places: Places) -> Numbers:
    """The eight bytes at each of ``places``, the lowest first, as a number."""
    return words_at(data, places, 8).view("<u8").ravel()


def words_at(data: Bytes, places: Places, size: int) -> Bytes:
    """``size`` bytes at each of ``places``: one row each."""
    windows = np.lib.stride_tricks.as_strided(data, (len(data) - size + 1, size), (1, 1), writeable=False)
    return windows[places]


def varints_at(data: Bytes, places: Places, most: int) -> tuple[Numbers, Places]:
    """The base-128 number at each of ``places``, and where it ends.

    Its end is 0 when it has more than ``most`` bytes, or more than it needs.
    """
    first = data[places]
    value = (first & 0x7F).astype(np.uint64)
    ends = places + 1
    going = np.flatnonzero(first >= 0x80)
    for nth in range(1, most):
        if not going.size:
            return value, ends
        byte = data[places[going] + nth]
        value[going] |= (byte & 0x7F).astype(np.uint64) << np.uint64(7 * nth)
        ends[going] += 1
        ends[going[byte == 0]] = 0
        going = going[byte >= 0x80]
    ends[going] = 0
    return value, ends


def _attributes(data: Bytes, walk: "_Walk") -> Attributes:
    """The attributes of plain spans. A span is not plain any more when one of them is not a key and a value."""
    steps = walk.pairs or [(np.zeros(0, np.int64),) * 4]
    span, nth, at, end = (np.concatenate(columns) for columns in zip(*steps, strict=True))
    kept = walk.is_plain[span]
    span, nth, at, end = span[kept], nth[kept], at[kept], end[kept]
    order = np.empty(len(span), np.int64)
    counts = np.bincount(span, minlength=len(walk.at))
    order[(np.cumsum(counts) - counts)[span] + nth] = np.arange(len(span))
    span, at, end = span[order], at[order], end[order]

    length, key_at = varints_at(data, at + 1, _MOST_LENGTH_BYTES)
    key_end = key_at + length.astype(np.int64)
    good = (data[at] == _KEY) & (key_at > 0) & (key_end < end)
    key_end = np.where(good, key_end, at)
    length, value_at = varints_at(data, key_end + 1, _MOST_LENGTH_BYTES)
    good &= (data[key_end] == _VALUE) & (value_at > 0) & (value_at + length.astype(np.int64) == end) & (length > 0)
    value_at = np.where(good, value_at, at)
    form, text_at = data[value_at], value_at + 1
    value_end = np.where(form == DOUBLE, text_at + 8, 0)
    has_length = np.isin(form, _WITH_LENGTH)
    length, start = varints_at(data, text_at[has_length], _MOST_LENGTH_BYTES)
    value_end[has_length] = np.where(start > 0, start + length.astype(np.int64), 0)
    is_number = (form == INT) | (form == BOOL)
    value_end[is_number] = varints_at(data, text_at[is_number], _MOST_NUMBER_BYTES)[1]
    good &= value_end == end
    walk.is_plain[span[~good]] = False
    return Attributes(span, key_at, key_end, form, text_at, end)


class _Walk:
    """All spans, each at one of its fields."""

    def __init__(self, data: Bytes, at: Places, end: Places) -> None:
        count = len(at)
        empty = len(data) - PADDING
        self.data, self.at, self.end = data, at, end
        self.is_plain: Flags = np.ones(count, np.bool_)
        self.ids = {tag: np.zeros(count, np.int64) for tag, _ in _IDS}
        self.name_at, self.name_end = np.full(count, empty), np.full(count, empty + 1)
        self.message_at, self.message_end = np.full(count, empty), np.full(count, empty + 1)
        self.kind, self.status = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
        self.start_ns, self.end_ns = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        self.pair_counts = np.zeros(count, np.int64)
        # By step: the spans, which of their attributes it is, and where that lies.
        self.pairs: list[tuple[Places, Places, Places, Places]] = []

    def run(self) -> None:
        going = np.flatnonzero(self.at < self.end)
        while going.size:
            tags = self.data[self.at[going]]
            known = np.zeros(len(going), np.bool_)
            for tag, step in _STEPS:
                here = tags == tag
                if here.any():
                    known |= here
                    step(self, going if here.all() else going[here], tag)
            self.is_plain[going[~known]] = False
            self.is_plain[going[self.at[going] > self.end[going]]] = False
            going = going[self.is_plain[going] & (self.at[going] < self.end[going])]

    def has_ids(self) -> Flags:
        return (self.ids[_TRACE_ID] > 0) & (self.ids[_SPAN_ID] > 0)

    def take_id(self, spans: Places, tag: int) -> None:
        at = self.at[spans]
        size = dict(_IDS)[tag]
        self.is_plain[spans[self.data[at + 1] != size]] = False
        self.ids[tag][spans] = at + 2
        self.at[spans] = at + 2 + size

    def take_name(self, spans: Places, _: int) -> None:
        at, end = self._text(spans, self.at[spans] + 1)
        self.name_at[spans], self.name_end[spans] = at, end
        self.at[spans] = end

    def take_kind(self, spans: Places, _: int) -> None:
        self._small(self.kind, spans, self.at[spans] + 1)
        self.at[spans] += 2

    def take_moment(self, spans: Places, tag: int) -> None:
        moments = self.start_ns if tag == _START else self.end_ns
        moments[spans] = numbers_at(self.data, np.minimum(self.at[spans] + 1, len(self.data) - 8))
        self.at[spans] += 9

    def take_attribute(self, spans: Places, _: int) -> None:
        length, start = varints_at(self.data, self.at[spans] + 1, _MOST_LENGTH_BYTES)
        end = start + length.astype(np.int64)
        self._check(spans, (start == 0) | (end > self.end[spans]))
        self.pairs.append((spans, self.pair_counts[spans], start, end))
        self.pair_counts[spans] += 1
        self.at[spans] = end

    def take_status(self, spans: Places, _: int) -> None:
        """A message and a code at most, in this order, in fewer than 128 bytes."""
        length = self.data[self.at[spans] + 1]
        at = self.at[spans] + 2
        end = at + length
        self._check(spans, (length >= 0x80) | (end > self.end[spans]))
        has_message = (self.data[at] == _MESSAGE) & (at < end)
        some = spans[has_message]
        self.message_at[some], self.message_end[some] = self._text(some, at[has_message] + 1)
        at[has_message] = self.message_end[some]
        has_code = (self.data[at] == _CODE) & (at < end)
        self._small(self.status, spans[has_code], at[has_code] + 1)
        at[has_code] += 2
        self._check(spans, at != end)
        self.at[spans] = end

    def take_flags(self, spans: Places, _: int) -> None:
        self._check(spans, self.data[self.at[spans] + 1] != _FLAGS[1])
        self.at[spans] += 6

    def _text(self, spans: Places, at: Places) -> tuple[Places, Places]:
        """Where a string lies whose length is at ``at``, with its length."""
        length, start = varints_at(self.data, at, _MOST_LENGTH_BYTES)
        end = start + length.astype(np.int64)
        bad = (start == 0) | (end > self.end[spans])
        self._check(spans, bad)
        return at, np.where(bad, at + 1, end)

    def _small(self, numbers: Bytes, spans: Places, at: Places) -> None:
        """A number below 128, in its one byte."""
        numbers[spans] = self.data[at]
        self._check(spans, self.data[at] >= 0x80)

    def _check(self, spans: Places, bad: Flags) -> None:
        self.is_plain[spans[bad]] = False


_STEPS: Sequence[tuple[int, Any]] = (
    (_ATTRIBUTE, _Walk.take_attribute),
    (_TRACE_ID, _Walk.take_id),
    (_SPAN_ID, _Walk.take_id),
    (_PARENT, _Walk.take_id),
    (_NAME, _Walk.take_name),
    (_KIND, _Walk.take_kind),
    (_START, _Walk.take_moment),
    (_END, _Walk.take_moment),
    (_STATUS, _Walk.take_status),
    (_FLAGS[0], _Walk.take_flags),
)
