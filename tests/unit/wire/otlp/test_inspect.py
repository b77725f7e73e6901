"""OTLP requests of either form: what can be kept is found, what cannot is named, and nothing else is lost."""

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebility.errors import BadRequest, PayloadTooLarge
from tracebility.wire import limits, otlp
from tracebility.wire.inspection import Inspection
from tracebility.wire.otlp import protobuf

NOW = 1_769_860_800 * 10**9


def good(number: int = 1, **fields: Any) -> Span:
    return Span(
        **{
            "trace_id": number.to_bytes(16, "big"),
            "span_id": number.to_bytes(8, "big"),
            "name": f"span {number}",
            "start_time_unix_nano": NOW,
            "end_time_unix_nano": NOW + 1,
            "attributes": [KeyValue(key="a", value=AnyValue(int_value=number))],
        }
        | fields
    )


def request(*groups: list[Span]) -> ExportTraceServiceRequest:
    """A request with a resource and a scope for each group of spans."""
    made = ExportTraceServiceRequest()
    for number, spans in enumerate(groups):
        resource = made.resource_spans.add(schema_url=f"resource {number}")
        resource.resource.attributes.add(key="service.name").value.string_value = f"service {number}"
        scope = resource.scope_spans.add(schema_url=f"scope {number}")
        scope.scope.name = f"library {number}"
        scope.spans.extend(spans)
    return made


def kept(body: bytes, found: Inspection, content_type: str = "protobuf") -> list[Span]:
    """The spans that a worker would store."""
    if not found.items:
        return []
    if not found.parts:
        spans = list(otlp.spans_of(otlp.decode(body, content_type)))
        return [span for index, span in enumerate(spans) if index not in found.skipped]
    stored = []
    for part in found.parts:
        spans = list(otlp.spans_of(otlp.decode(part.body, content_type)))
        assert len(spans) == part.items + len(part.rejected)
        stored += [span for index, span in enumerate(spans) if index not in part.rejected]
    return stored


def inspected(body: bytes, content_type: str) -> Inspection | None:
    """What is found in ``body``; None when it is refused in words."""
    try:
        return otlp.inspect(body, content_type)
    except (BadRequest, PayloadTooLarge):
        return None


BAD: list[tuple[dict[str, Any], str]] = [
    ({"trace_id": b""}, "trace_id"),
    ({"trace_id": bytes(16)}, "trace_id"),
    ({"trace_id": b"short"}, "trace_id"),
    ({"span_id": b""}, "span_id"),
    ({"span_id": bytes(8)}, "span_id"),
    ({"span_id": b"much too long"}, "span_id"),
    ({"parent_span_id": b"abc"}, "parent_span_id"),
    ({"start_time_unix_nano": 2**63}, "start_time_unix_nano"),
    ({"end_time_unix_nano": 2**64 - 1}, "end_time_unix_nano"),
    ({"name": "x" * (limits.NAME_CHARS + 1)}, "name"),
    ({"attributes": [KeyValue(key="a")] * (limits.ATTRIBUTES + 1)}, "attributes"),
]


@pytest.mark.parametrize(("fields", "word"), BAD)
def test_a_bad_span_is_named_and_the_others_are_kept(fields: dict[str, Any], word: str) -> None:
    spans = [good(1), good(2, **fields), good(3)]
    body = request(spans[:2], spans[2:]).SerializeToString()
    found = otlp.inspect(body, "protobuf")
    assert (found.items, [one.index for one in found.rejected]) == (2, [1])
    assert word in found.rejected[0].error
    assert kept(body, found) == [spans[0], spans[2]]


def test_a_good_request_travels_as_it_came() -> None:
    found = otlp.inspect(request([good(1), good(2)], [], [good(3)]).SerializeToString(), "protobuf")
    assert found == Inspection(3, [])


def test_an_empty_request_is_well() -> None:
    assert otlp.inspect(b"", "protobuf") == Inspection(0, [])
    assert otlp.inspect(b"{}", "json") == Inspection(0, [])
    assert otlp.inspect(b'{"resourceSpans":null}', "json") == Inspection(0, [])


def test_a_span_without_times_or_with_zero_parent_is_kept() -> None:
    body = request([good(1, start_time_unix_nano=0, end_time_unix_nano=0, parent_span_id=bytes(8))]).SerializeToString()
    assert otlp.inspect(body, "protobuf").items == 1


def field(number: int, value: bytes) -> bytes:
    """A field on the wire."""
    length = len(value)
    head = [number << 3 | 2]
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes([*head, length]) + value


def nested(depth: int) -> bytes:
    """An attribute of a span, so many arrays deep: more than a message can be made of, so on the wire."""
    value = b""
    for _ in range(depth):
        value = field(5, field(1, value))
    return field(9, field(1, b"deep") + field(2, value))


UNREADABLE: dict[str, Callable[[bytes], bytes]] = {
    "invalid UTF-8": lambda span: span.replace(b"span 2", b"span \xff"),
    "cut off inside": lambda span: span[:-3] + b"\xff\xff\xff",
    "too deep": lambda span: span + nested(48),
    "much too deep": lambda span: span + nested(1000),
}


def test_values_may_be_as_deep_as_a_parser_takes() -> None:
    body = field(1, field(2, field(2, good(1).SerializeToString() + nested(47))))
    assert otlp.inspect(body, "protobuf") == Inspection(1, [])


@pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE)
def test_a_span_that_no_parser_takes_is_refused_alone(damage: Callable[[bytes], bytes]) -> None:
    spans = [good(1), good(2), good(3)]
    damaged = damage(spans[1].SerializeToString())
    # A placeholder of the right length is swapped for the damaged bytes, which no serialiser would write.
    template = request([spans[0], Span(trace_state="?")], [spans[2]])
    holder = template.resource_spans[0].scope_spans[0].spans[1]
    holder.trace_state = "?" * (len(damaged) - (2 if len(damaged) < 130 else 3))
    placeholder = holder.SerializeToString()
    assert len(placeholder) == len(damaged)
    body = template.SerializeToString().replace(placeholder, damaged)
    with pytest.raises(DecodeError):
        ExportTraceServiceRequest.FromString(body)
    found = otlp.inspect(body, "protobuf")
    assert (found.items, [one.index for one in found.rejected]) == (2, [1])
    assert kept(body, found) == [spans[0], spans[2]]
    remade = [otlp.decode(part.body, "protobuf") for part in found.parts]
    assert remade == [request([spans[0]], [spans[2]])]


def test_a_body_that_is_cut_off_is_refused() -> None:
    body = request([good(number) for number in range(1, 20)]).SerializeToString()
    for length in range(1, len(body), 37):
        with pytest.raises(BadRequest, match="byte"):
            otlp.inspect(body[:length], "protobuf")


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for content_type in ("protobuf", "json"):
        found = inspected(body, content_type)
        if found is not None:
            assert len(kept(body, found, content_type)) == found.items


@given(st.data())
@settings(max_examples=2 * settings().max_examples)
def test_flipped_bits_never_cost_more_than_the_request(data: st.DataObject) -> None:
    body = bytearray(request([good(1), good(2)], [good(3)]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    found = inspected(bytes(body), "protobuf")
    if found is not None:
        assert all(map(slow_verdict, kept(bytes(body), found)))


# --- against a slow reference ---


def slow_verdict(span: Span) -> bool:
    return (
        len(span.trace_id) == 16
        and any(span.trace_id)
        and len(span.span_id) == 8
        and any(span.span_id)
        and len(span.parent_span_id) in (0, 8)
        and 0 <= span.start_time_unix_nano < 2**63
        and 0 <= span.end_time_unix_nano < 2**63
        and len(span.name) <= limits.NAME_CHARS
        and len(span.attributes) <= limits.ATTRIBUTES
    )


spans = st.builds(
    Span,
    trace_id=st.sampled_from([b"", bytes(16), b"t" * 15]) | st.binary(min_size=16, max_size=16),
    span_id=st.sampled_from([b"", bytes(8), b"s" * 9]) | st.binary(min_size=8, max_size=8),
    parent_span_id=st.sampled_from([b"", b"p", b"p" * 8]),
    name=st.text(max_size=5),
    start_time_unix_nano=st.sampled_from([0, NOW, 2**63 - 1, 2**63, 2**64 - 1]),
    end_time_unix_nano=st.sampled_from([0, NOW, 2**63 - 1, 2**63]),
)


def as_json(made: ExportTraceServiceRequest) -> bytes:
    """The request as JavaScript's exporter writes it."""
    return json.dumps(
        {
            "resourceSpans": [
                {
                    "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "s"}}]},
                    "scopeSpans": [
                        {
                            "scope": {"name": "library"},
                            "spans": [
                                {
                                    "traceId": span.trace_id.hex().upper(),
                                    "spanId": span.span_id.hex(),
                                    "parentSpanId": span.parent_span_id.hex(),
                                    "name": span.name,
                                    "startTimeUnixNano": str(span.start_time_unix_nano),
                                    "endTimeUnixNano": span.end_time_unix_nano,
                                }
                                for span in scope.spans
                            ],
                        }
                        for scope in resource.scope_spans
                    ],
                }
                for resource in made.resource_spans
            ]
        }
    ).encode()


@given(st.lists(st.lists(spans, max_size=5), max_size=3), st.sampled_from(["protobuf", "json"]), st.booleans())
def test_verdicts_are_those_of_a_slow_reference(groups: list[list[Span]], content_type: str, in_parts: bool) -> None:
    made = request(*groups)
    body = made.SerializeToString() if content_type == "protobuf" else as_json(made)
    everything = [span for group in groups for span in group]
    verdicts = [slow_verdict(span) for span in everything]
    with pytest.MonkeyPatch.context() as patch:
        if in_parts:
            patch.setattr(limits, "ENVELOPE_BYTES", 100)
        found = otlp.inspect(body, content_type)
        assert [one.index for one in found.rejected] == [index for index, fits in enumerate(verdicts) if not fits]
        assert found.items == sum(verdicts)
        assert kept(body, found, content_type) == [
            span for span, fits in zip(everything, verdicts, strict=True) if fits
        ]


# --- large ones ---


def test_a_large_request_travels_in_parts_that_hold_the_same() -> None:
    filler = [KeyValue(key="text", value=AnyValue(string_value="x" * 200_000))]
    groups = [[good(number, attributes=filler) for number in range(first, first + 7)] for first in (1, 20)]
    made = request(*groups)
    body = made.SerializeToString()
    found = otlp.inspect(body, "protobuf")
    assert found.items == 14
    assert len(found.parts) == 3
    assert all(len(part.body) < limits.ENVELOPE_BYTES * 1.01 for part in found.parts)
    assert kept(body, found) == groups[0] + groups[1]
    services = [
        group.resource.attributes[0].value.string_value
        for part in found.parts
        for group in otlp.decode(part.body, "protobuf").resource_spans
    ]
    assert services == ["service 0", "service 0", "service 1", "service 1"]


def test_bounds_of_one_span_cost_that_span() -> None:
    huge = good(1, attributes=[KeyValue(key="text", value=AnyValue(string_value="x" * limits.ITEM_BYTES))])
    many = good(2, attributes=[KeyValue(key="list", value=AnyValue(kvlist_value={"values": [KeyValue()] * 600_000}))])
    found = otlp.inspect(request([huge, many, good(3)]).SerializeToString(), "protobuf")
    assert found.items == 1
    assert "10 MiB" in found.rejected[0].error
    assert "attributes" in found.rejected[1].error


@pytest.mark.parametrize("shell", [b"\x0a\x00", b"\x0a\x02\x12\x00", b"\x0a\x04\x12\x02\x12\x00"])
def test_a_million_empty_shells_are_refused_before_they_are_parsed(shell: bytes) -> None:
    with pytest.raises(PayloadTooLarge):
        otlp.inspect(shell * 1_000_000, "protobuf")


@pytest.mark.parametrize(
    "body",
    [
        b'{"resourceSpans":[' + b"{}," * 1_000_000 + b"{}]}",
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b"{}," * 1_000_000 + b"{}]}]}]}",
    ],
)
def test_a_million_empty_shells_in_json_are_refused_before_they_are_made(body: bytes) -> None:
    with pytest.raises(PayloadTooLarge):
        otlp.inspect(body, "json")


def shells(group: bytes, times: int, last: bytes = b"") -> bytes:
    return field(1, group * times + last)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (field(1, field(2, b"\x12\x00" * (limits.ITEMS + 1))), "protobuf"),
        (shells(b"\x12\x00", limits.GROUPS), "protobuf"),
        (b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b"{}," * limits.ITEMS + b"{}]}]}]}", "json"),
        (b'{"resourceSpans":[{"scopeSpans":[' + b"{}," * limits.GROUPS + b"{}]}]}", "json"),
    ],
)
def test_shells_in_a_small_body_are_counted_too(body: bytes, content_type: str) -> None:
    assert len(body) <= limits.ENVELOPE_BYTES
    for look in (otlp.inspect, otlp.inspect_inline):
        with pytest.raises(PayloadTooLarge):
            look(body, content_type)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (field(1, field(2, b"\x12\x00" * 50_000)), "protobuf"),
        (shells(field(2, b"\x12\x00"), 50_000), "protobuf"),
        (field(1, field(2, b"\x12\x00" * 50_000 + b"\x12\x01\xff")), "protobuf"),
        (b'{"resourceSpans":[{"scopeSpans":[' + b'{"spans":[{}]},' * 50_000 + b'{"spans":[{}]}]}]}', "json"),
        (b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b"{}," * 50_000 + b'{"name":1}]}]}]}', "json"),
    ],
)
def test_an_inline_inspection_gives_up_on_what_takes_long(body: bytes, content_type: str) -> None:
    assert otlp.inspect_inline(body, content_type) is None
    found = otlp.inspect(body, content_type)
    assert (found.items, len(found.rejected) in (50_000, 50_001)) == (0, True)
    assert all(one.error for one in found.rejected[: limits.REJECTIONS_NAMED])
    assert not any(one.error for one in found.rejected[limits.REJECTIONS_NAMED :])


@pytest.mark.parametrize("content_type", ["protobuf", "json"])
def test_an_inline_inspection_finds_what_a_full_one_finds(content_type: str) -> None:
    made = request([good(1), good(2, name="x" * 5000)], [good(3)])
    body = made.SerializeToString() if content_type == "protobuf" else as_json(made)
    assert otlp.inspect_inline(body, content_type) == otlp.inspect(body, content_type)


def test_equal_surroundings_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []

    def look(around: Any) -> str:
        looked.append(around)
        return ""

    monkeypatch.setattr(protobuf, "scope_problem", look)
    body = shells(field(2, b"\x12\x00"), 100, field(2, b"\x12\x01\xff"))
    assert len(otlp.inspect(body, "protobuf").rejected) == 101
    assert len(looked) == 1


def test_the_answer_counts_what_was_rejected() -> None:
    assert otlp.partial_success(0, "").SerializeToString() == b""
    answer = otlp.partial_success(2, "why")
    assert (answer.partial_success.rejected_spans, answer.partial_success.error_message) == (2, "why")


def test_doubles_keep_their_bits() -> None:
    value = struct.unpack("<d", b"\x01\x00\x00\x00\x00\x00\xf0\x7f")[0]
    body = request([good(1, attributes=[KeyValue(key="nan", value=AnyValue(double_value=value))])]).SerializeToString()
    assert otlp.inspect(body, "protobuf").items == 1


@pytest.mark.parametrize("content_type", ["protobuf", "json"])
@pytest.mark.parametrize("size", [10, 1_200_000], ids=["whole", "in parts"])
def test_a_start_before_1973_is_warned_of(content_type: str, size: int) -> None:
    now = 1_769_860_800_000_000_000
    for start, early in ((now // 1_000_000, 2), (now // 1_000, 2), (0, 2), (now, 0)):
        made = request(
            [good(number, start_time_unix_nano=start) for number in (1, 2)],
            [good(3, start_time_unix_nano=start, trace_id=b"bad")],
        )
        if content_type == "protobuf":
            made.resource_spans[1].scope_spans[0].spans[0].attributes.add(key="x").value.string_value = "x" * size
            body = made.SerializeToString()
        else:
            body = as_json(made) + b" " * size
        found = otlp.inspect(body, content_type)
        assert (found.items, bool(found.parts)) == (2, size > 10)
        assert [f"before 1973: {early};" in one.warning for one in found.warnings] == [True] * bool(early)
