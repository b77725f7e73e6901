"""Places found in the bytes of spans are those of what protobuf decodes there; other bytes are never followed."""

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
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


@settings(max_examples=1000)
@given(
    SPANS,
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    st.data(),
)
def test_damaged_bytes_are_read_as_protobuf_reads_them_or_not_at_all(
    span: Span, damage: list[tuple[float, int]], data: st.DataObject
) -> None:
    body = bytearray(span.SerializeToString())
    for where, byte in damage:
        body[int(where * len(body))] = byte
    cut = data.draw(st.integers(0, len(body)))
    whole = SPANS_AFTER  # a neighbour, which must not be drawn into it
    for damaged in (bytes(body), bytes(body[:cut])):
        spans = places([damaged, whole.SerializeToString()])
        assert spans.is_plain[1]
        assert_same(spans, 1, whole)
        try:
            decoded = Span.FromString(damaged)
        except DecodeError:
            continue
        if spans.is_plain[0]:
            assert_same(spans, 0, decoded)


SPANS_AFTER = Span(
    trace_id=bytes(16), span_id=bytes(8), name="next", attributes=[KeyValue(key="k", value=AnyValue(string_value="v"))]
)
