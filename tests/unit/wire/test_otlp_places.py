"""Places found in the bytes of spans are those of what protobuf decodes there; other bytes are never followed."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tracebility.wire import otlp_places
from tracebility.wire.otlp_places import INT, STRING, Spans, find

VALUES = st.one_of(
    st.builds(lambda text: AnyValue(string_value=text), st.text(max_size=200)),
    st.builds(lambda number: AnyValue(int_value=number), st.integers(-(1 << 63), (1 << 63) - 1)),
    st.builds(lambda number: AnyValue(double_value=number), st.floats()),
    st.builds(lambda flag: AnyValue(bool_value=flag), st.booleans()),
    st.just(AnyValue(array_value=ArrayValue(values=[AnyValue(string_value="a")]))),
    st.just(AnyValue()),
)
SPANS = st.builds(
    Span,
    trace_id=st.just(bytes(range(16))),
    span_id=st.just(bytes(range(8))),
    parent_span_id=st.sampled_from([b"", b"parentid"]),
    name=st.text(max_size=150),
    kind=st.integers(0, 5),
    start_time_unix_nano=st.integers(0, (1 << 64) - 1),
    end_time_unix_nano=st.integers(0, (1 << 64) - 1),
    attributes=st.lists(st.builds(lambda k, v: KeyValue(key=k, value=v), st.text(max_size=150), VALUES), max_size=5),
    status=st.builds(Status, message=st.text(max_size=9), code=st.integers(0, 2)),
    flags=st.sampled_from([0, 1, 1 << 31]),
)


def places(bodies: list[bytes]) -> Spans:
    ends = np.cumsum([len(body) for body in bodies]).tolist()
    return find(bodies, [0, *ends[:-1]], ends)


def text(spans: Spans, at: int, end: int) -> str:
    """What a cell holds: its length, then the text."""
    length, start = otlp_places.varints_at(spans.data, np.array([at]), 4)
    assert start[0] + int(length[0]) == end
    return spans.buffer[int(start[0]) : end].decode()


def assert_same(spans: Spans, nth: int, span: Span) -> None:
    buffer = spans.buffer
    assert buffer[spans.trace_at[nth] : spans.trace_at[nth] + 16] == span.trace_id
    assert buffer[spans.span_at[nth] : spans.span_at[nth] + 8] == span.span_id
    parent = int(spans.parent_at[nth])
    assert (buffer[parent : parent + 8] if parent else b"") == span.parent_span_id
    assert text(spans, spans.name_at[nth], spans.name_end[nth]) == span.name
    assert (spans.kind[nth], spans.status[nth]) == (span.kind, span.status.code)
    assert (spans.start_ns[nth], spans.end_ns[nth]) == (span.start_time_unix_nano, span.end_time_unix_nano)
    assert text(spans, spans.message_at[nth], spans.message_end[nth]) == span.status.message
    found = spans.attributes
    mine = np.flatnonzero(found.span == nth).tolist()
    assert [buffer[found.key_at[one] : found.key_end[one]].decode() for one in mine] == [
        pair.key for pair in span.attributes
    ]
    for one, pair in zip(mine, span.attributes, strict=True):
        assert AnyValue.FromString(buffer[found.text_at[one] - 1 : found.end[one]]) == pair.value
        if found.form[one] == STRING:
            assert text(spans, found.text_at[one], found.end[one]) == pair.value.string_value
        elif found.form[one] == INT:
            number = otlp_places.varints_at(spans.data, found.text_at[[one]], 10)[0].view(np.int64)
            assert number[0] == pair.value.int_value


@given(st.lists(SPANS, max_size=6))
@example([])
def test_what_plain_spans_hold_is_found(made: list[Span]) -> None:
    spans = places([span.SerializeToString() for span in made])
    for nth, span in enumerate(made):
        is_usual = all(pair.key and pair.value.WhichOneof("value") for pair in span.attributes)
        assert spans.is_plain[nth] == is_usual
        if is_usual:
            assert_same(spans, nth, span)


USUAL = Span(
    trace_id=bytes(range(16)),
    span_id=bytes(range(8)),
    parent_span_id=b"parentid",
    name="chat",
    kind=3,
    start_time_unix_nano=7,
    end_time_unix_nano=9,
    attributes=[
        KeyValue(key="text", value=AnyValue(string_value="value")),
        KeyValue(key="int", value=AnyValue(int_value=-300)),
        KeyValue(key="double", value=AnyValue(double_value=0.5)),
        KeyValue(key="flag", value=AnyValue(bool_value=True)),
        KeyValue(key="list", value=AnyValue(array_value=ArrayValue(values=[AnyValue(string_value="a")]))),
    ],
    status=Status(message="it failed", code=2),
    flags=257,
)
NEXT = Span(trace_id=bytes(16), span_id=bytes(8), name="next", attributes=USUAL.attributes[:1])


def test_damaged_bytes_are_read_as_protobuf_reads_them_or_not_at_all() -> None:
    """Every cut, and every byte put to each of many values; each beside a whole span, which is not drawn into it."""
    whole, neighbour = USUAL.SerializeToString(), NEXT.SerializeToString()
    values = sorted({*range(0, 256, 9), *range(20), 0x22, 0x2A, 0x30, 0x39, 0x41, 0x4A, 0x7A, 0x7F, 0x80, 0x85, 0xFF})
    damaged = [whole[:cut] for cut in range(len(whole))]
    damaged += [whole[:at] + bytes([value]) + whole[at + 1 :] for at in range(len(whole)) for value in values]
    spans = places([part for one in damaged for part in (one, neighbour)])
    assert spans.is_plain[1::2].all()
    seen = 0
    for nth, one in enumerate(damaged):
        if spans.is_plain[2 * nth]:
            try:
                decoded = Span.FromString(one)
            except DecodeError:
                # Text that is not UTF-8, or an array that is torn: the edge has refused it. A cut makes neither.
                assert len(one) == len(whole)
                continue
            assert_same(spans, 2 * nth, decoded)
            seen += 1
    assert 1000 < seen < len(damaged)
    for nth in (1, len(damaged), 2 * len(damaged) - 1):
        assert_same(spans, nth // 2 * 2 + 1, NEXT)


def status(message: bytes) -> bytes:
    said = Status(message=message.decode()).SerializeToString()
    return b"\x7a" + bytes([len(said) & 127 | 128, len(said) >> 7]) + said


def attribute(pair: bytes) -> bytes:
    return b"\x4a" + bytes([len(pair)]) + pair


IDS = NEXT.SerializeToString()[:28]


@pytest.mark.parametrize(
    "body",
    [
        Span(trace_id=bytes(15), span_id=bytes(8)).SerializeToString(),
        Span(trace_id=bytes(16), span_id=bytes(9)).SerializeToString(),
        Span(trace_id=bytes(16)).SerializeToString(),
        Span(span_id=bytes(8)).SerializeToString(),
        IDS + b"\x22\x00",  # a parent of no bytes
        IDS + b"\x30\x80\x01",  # kind 128
        # Numbers and lengths of two bytes, the second of which begins something else for who reads only the first.
        IDS + b"\x30\x80\x4a\x2a\x0a\x01k\x12\x25\x0a\x23abcd\x39abcdefgh" + b"\x30\x03" * 11,
        IDS + b"\x7a\x81\x12\x7dabcd\x72\xf9\x11" + b"0\x03" * 59 + b"\x18\x01" + b"\x39abcdefgh" + b"\x30\x03" * 1084,
        IDS + b"\x7a\x03\x18\x80\x01",  # status 128
        IDS + status(b"m" * 130),
        IDS + b"\x7a\x04\x18\x02\x12\x00",  # the code before the message
        IDS + b"\x2a\x81\x00n",  # a length in more bytes than it needs
        IDS + b"\x85\x02abcd",  # field 32
        IDS + b"\x1a\x01s",  # trace state
        IDS + attribute(b""),
        IDS + attribute(b"\x0a\x01k"),
        IDS + attribute(b"\x12\x03\x0a\x01v\x0a\x01k"),
        IDS + attribute(b"\x0a\x01k\x12\x00"),
        IDS + attribute(b"\x0a\x01k\x12\x03\x0a\x01v\x18\x01"),  # something after the value
        IDS + attribute(b"\x0a\x01k\x12\x05\x0a\x01v\x10\x01"),  # two values: the later one counts
        IDS + attribute(b"\x0a\x01k\x12\x03\x18\x81\x00"),
    ],
)
def test_rarer_spellings_are_left_to_protobuf(body: bytes) -> None:
    spans = places([body, NEXT.SerializeToString()])
    assert spans.is_plain.tolist() == [False, True]
    assert_same(spans, 1, NEXT)
