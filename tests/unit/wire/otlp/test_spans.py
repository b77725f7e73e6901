"""What is found in the bytes of spans is what protobuf decodes there, in whichever spelling they come."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tracebility.wire.otlp import spans as wire_spans
from tracebility.wire.otlp.spans import INT, NOTHING, STRING, BadIds, Spans, find

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
    return find(bodies, [0, *ends[:-1]][: len(ends)], ends)


def text(spans: Spans, at: int, end: int) -> str:
    """What a cell holds: its length, then the text."""
    length, start = wire_spans.varints_at(spans.data, np.array([at]), 4)
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
        if found.form[one] == NOTHING:
            assert pair.value.WhichOneof("value") is None
            continue
        value = AnyValue.FromString(buffer[found.text_at[one] - 1 : found.end[one]])
        value.DiscardUnknownFields()
        assert value == pair.value
        if found.form[one] == STRING:
            assert text(spans, found.text_at[one], found.end[one]) == pair.value.string_value
        elif found.form[one] == INT:
            number = wire_spans.varints_at(spans.data, found.text_at[[one]], 10)[0].view(np.int64)
            assert number[0] == pair.value.int_value


@given(st.lists(SPANS, max_size=6))
@example([])
def test_what_spans_hold_is_found(made: list[Span]) -> None:
    spans = places([span.SerializeToString() for span in made])
    assert not spans.decoded
    for nth, span in enumerate(made):
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


def damaged() -> list[bytes]:
    """Every cut of a usual span, and every byte put to each of many values."""
    whole = USUAL.SerializeToString()
    values = sorted({*range(0, 256, 9), *range(20), 0x22, 0x2A, 0x30, 0x39, 0x41, 0x4A, 0x7A, 0x7F, 0x80, 0x85, 0xFF})
    cuts = [whole[:cut] for cut in range(len(whole))]
    return cuts + [whole[:at] + bytes([value]) + whole[at + 1 :] for at in range(len(whole)) for value in values]


def decoded(body: bytes) -> Span | None:
    try:
        span = Span.FromString(body)
    except DecodeError:
        return None
    span.DiscardUnknownFields()
    return span


def has_ids(span: Span) -> bool:
    return (len(span.trace_id), len(span.span_id)) == (16, 8) and len(span.parent_span_id) in (0, 8)


def test_damaged_bytes_are_read_as_protobuf_reads_them() -> None:
    """All of them together, each beside a whole span that is not drawn into it."""
    readable = [(one, span) for one in damaged() if (span := decoded(one)) is not None and has_ids(span)]
    spans = places([part for one, _ in readable for part in (one, NEXT.SerializeToString())])
    for nth, (_, span) in enumerate(readable):
        assert_same(spans, 2 * nth, span)
    for nth in (1, len(readable), 2 * len(readable) - 1):
        assert_same(spans, nth // 2 * 2 + 1, NEXT)
    assert len(readable) > 1000


def test_bytes_that_are_no_span_are_refused_or_read_without_harm_to_others() -> None:
    """The walk does not see that text is not UTF-8, or an array torn: the edge has refused those."""
    unreadable = [one for one in damaged() if (span := decoded(one)) is None or not has_ids(span)]
    refused = 0
    for one in unreadable[::7]:
        try:
            spans = places([one, NEXT.SerializeToString()])
        except (DecodeError, BadIds):
            refused += 1
        else:
            assert_same(spans, 1, NEXT)
    assert refused > len(unreadable[::7]) // 2


def test_a_span_of_many_fields_is_decoded_in_linear_time() -> None:
    """In step with others each of its fields would cost as much as a field of thousands of spans."""
    crowded = Span(trace_id=bytes(16), span_id=bytes(8), name="crowded")
    for number in range(9_000):
        crowded.attributes.add(key=f"k{number}").value.int_value = number
        crowded.events.add(name="e")
    spans = places([crowded.SerializeToString(), USUAL.SerializeToString()])
    assert list(spans.decoded) == [0]
    assert_same(spans, 0, crowded)
    assert_same(spans, 1, USUAL)
    assert len(spans.more(0).events) == 9_000


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
def test_rarer_spellings_say_the_same(body: bytes) -> None:
    span = Span.FromString(body)
    if not has_ids(span):
        with pytest.raises(BadIds):
            places([body, NEXT.SerializeToString()])
        return
    spans = places([body, NEXT.SerializeToString()])
    assert_same(spans, 0, span)
    assert_same(spans, 1, NEXT)
