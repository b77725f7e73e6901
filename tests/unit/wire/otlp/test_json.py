"""OTLP in JSON, in every spelling that exporters use."""

import json
import math
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

from tracebility.errors import BadRequest
from tracebility.wire import limits, otlp
from tracebility.wire.otlp.json import Unfit, check_span, fill_span
from tracebility.wire.otlp.json_structs import Span

SPAN = {
    "traceId": "5B8EFFF798038103D269B633813FC60C",
    "spanId": "eee19b7ec3c1b174",
    "name": "chat",
    "startTimeUnixNano": "1769860800000000000",
}


def span(**changes: Any) -> dict[str, Any]:
    return SPAN | changes


def body(*spans: Any, **around: Any) -> bytes:
    group = {"resource": {"attributes": []}, "scopeSpans": [{"scope": {"name": "s"}, "spans": spans}]} | around
    return json.dumps({"resourceSpans": [group]}).encode()


def decoded(**changes: Any) -> Any:
    text = body(span(**changes))
    assert otlp.inspect(text, "json").items == 1
    return next(otlp.spans_of(otlp.decode(text, "json")))


def attribute(value: Any) -> AnyValue:
    found: AnyValue = decoded(attributes=[{"key": "a", "value": value}]).attributes[0].value
    return found


def test_ids_are_hex_of_either_case() -> None:
    found = decoded(parentSpanId="EEE19B7EC3C1B174")
    assert found.trace_id.hex() == SPAN["traceId"].lower()
    assert found.span_id == found.parent_span_id == bytes.fromhex(SPAN["spanId"])


@pytest.mark.parametrize("kind", [3, "3", "SPAN_KIND_CLIENT"])
def test_enums_are_numbers_or_names(kind: int | str) -> None:
    assert decoded(kind=kind).kind == 3
    assert decoded(status={"code": "STATUS_CODE_ERROR", "message": "m"}).status.code == 2


@pytest.mark.parametrize("moment", ["1769860800000000001", 1769860800000000001])
def test_large_numbers_are_text_or_numbers(moment: int | str) -> None:
    assert decoded(endTimeUnixNano=moment).end_time_unix_nano == 1769860800000000001


def test_every_kind_of_value_is_read() -> None:
    assert attribute({"stringValue": "x"}).string_value == "x"
    assert attribute({"stringValue": ""}).WhichOneof("value") == "string_value"
    assert attribute({"intValue": "-9223372036854775808"}).int_value == -(2**63)
    assert attribute({"intValue": 7}).int_value == 7
    assert attribute({"boolValue": False}).WhichOneof("value") == "bool_value"
    assert attribute({"doubleValue": 1.5}).double_value == 1.5
    assert attribute({"doubleValue": "-Infinity"}).double_value == -math.inf
    assert math.isnan(attribute({"doubleValue": "NaN"}).double_value)
    assert attribute({"bytesValue": "_-8="}).bytes_value == b"\xff\xef"
    assert attribute({"arrayValue": {}}).WhichOneof("value") == "array_value"
    nested = attribute(
        {"kvlistValue": {"values": [{"key": "k", "value": {"arrayValue": {"values": [{"intValue": 1}]}}}]}}
    )
    assert nested.kvlist_value.values[0].value.array_value.values[0].int_value == 1
    assert attribute({}).WhichOneof("value") is None
    assert attribute(None).WhichOneof("value") is None


def test_events_and_links_are_read() -> None:
    found = decoded(
        events=[{"name": "e", "timeUnixNano": "5", "attributes": [{"key": "a", "value": {"boolValue": True}}]}],
        links=[{"traceId": SPAN["traceId"], "spanId": SPAN["spanId"], "traceState": "x=y"}],
    )
    assert (found.events[0].name, found.events[0].time_unix_nano) == ("e", 5)
    assert found.links[0].trace_state == "x=y"


def test_unknown_fields_and_nulls_are_passed_over() -> None:
    nulls = dict.fromkeys(["attributes", "events", "links", "status", "parentSpanId", "kind", "droppedLinksCount"])
    assert decoded(**nulls, ofTomorrow={"a": [1]}).name == "chat"


BAD = [
    {"traceId": "xyz"},
    {"spanId": "ee e1 9b 7e c3 c1 b1"},
    {"traceId": None},
    {"traceId": 5},
    {"spanId": "00"},
    {"name": ["a"]},
    {"kind": "SPAN_KIND_BANANA"},
    {"kind": "²"},
    {"kind": "--5"},
    {"kind": "-"},
    {"kind": "٣"},
    {"status": {"code": "²"}},
    {"startTimeUnixNano": "soon"},
    {"startTimeUnixNano": -1},
    {"startTimeUnixNano": 2**63},
    {"startTimeUnixNano": 1.5},
    {"attributes": "none"},
    {"attributes": [{"key": "a", "value": {"intValue": "x"}}]},
    {"attributes": [{"key": "a", "value": {"intValue": 2**63}}]},
    {"attributes": [{"key": "a", "value": {"bytesValue": "*"}}]},
    {"attributes": [{"key": "a", "value": {"doubleValue": "many"}}]},
    {"attributes": [{"key": "a", "value": "bare"}]},
    {"attributes": [{"key": "a"}] * (limits.ATTRIBUTES + 1)},
    {"status": {"code": {}}},
    None,
    3,
    [],
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: str(bad)[:40])
def test_a_bad_span_is_named_and_the_others_are_kept(bad: Any) -> None:
    text = body(span(name="first"), span(**bad) if isinstance(bad, dict) else bad, span(name="last"))
    found = otlp.inspect(text, "json")
    assert (found.items, [one.index for one in found.rejected]) == (2, [1])
    assert "span 1" in found.rejected[0].error
    bodies = [(part.body, part.rejected) for part in found.parts] or [(text, found.skipped)]
    stored = [
        one.name
        for part, rejected in bodies
        for index, one in enumerate(otlp.spans_of(otlp.decode(part, "json")))
        if index not in rejected
    ]
    assert stored == ["first", "last"]


numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3))
maybe = st.none() | numbers
values = st.deferred(
    lambda: st.fixed_dictionaries(
        {},
        optional={
            "stringValue": st.none() | st.text(max_size=3),
            "intValue": maybe | st.sampled_from(["1", str(2**63), "-9223372036854775808", "1e3"]),
            "boolValue": st.none() | st.booleans(),
            "doubleValue": maybe | st.sampled_from(["NaN", "-Infinity", "1.5"]),
            "bytesValue": st.none() | st.sampled_from(["", "AA==", "AA", "A", "*", "_-8="]),
            "arrayValue": st.fixed_dictionaries({}, optional={"values": st.lists(values | st.none(), max_size=3)}),
            "kvlistValue": st.fixed_dictionaries({}, optional={"values": attributes}),
        },
    )
)
attributes = st.lists(
    st.fixed_dictionaries({}, optional={"key": st.text(max_size=3), "value": st.none() | values}), max_size=4
)


@given(attributes, attributes, st.one_of(maybe, st.sampled_from(["SPAN_KIND_SERVER", "5"])), maybe)
def test_the_edge_accepts_exactly_what_a_message_can_hold(
    own: list[Any], of_event: list[Any], kind: Any, moment: Any
) -> None:
    sent = span(attributes=own, kind=kind, events=[{"attributes": of_event, "timeUnixNano": moment}])
    try:
        read = msgspec.json.decode(json.dumps(sent), type=Span)
    except msgspec.ValidationError:
        return
    assert unfit(check_span, read) == unfit(fill_span, read)


def unfit(look: Any, read: Span) -> str:
    try:
        look(Message(), read)
    except Unfit as error:
        return str(error)
    return ""


@pytest.mark.parametrize("levels", [60, 400, 5000])
@pytest.mark.parametrize("kind", ["arrayValue", "kvlistValue"])
def test_a_span_that_is_too_deep_is_refused_alone(levels: int, kind: str) -> None:
    opening, closing = {
        "arrayValue": ('{"arrayValue":{"values":[', "]}}"),
        "kvlistValue": ('{"kvlistValue":{"values":[{"value":', "}]}}"),
    }[kind]
    value = opening * levels + ("{}" if kind == "kvlistValue" else "") + closing * levels
    deep = json.dumps(SPAN)[:-1] + f',"attributes":[{{"key":"a","value":{value}}}]}}'
    text = body(span(name="?"), span(name="kept")).replace(json.dumps(span(name="?")).encode(), deep.encode())
    found = otlp.inspect(text, "json")
    assert found.items == 1
    assert "deep" in found.rejected[0].error


@pytest.mark.parametrize("levels", [60, 400, 5000])
def test_depth_that_nobody_stores_costs_nothing(levels: int) -> None:
    deep = json.dumps(span(name="kept"))[:-1] + ',"ofTomorrow":' + "[" * levels + "]" * levels + "}"
    text = body(span(name="?")).replace(json.dumps(span(name="?")).encode(), deep.encode())
    assert otlp.inspect(text, "json").items == 1
    assert [one.name for one in otlp.spans_of(otlp.decode(text, "json"))] == ["kept"]


def test_invalid_utf8_costs_its_span() -> None:
    found = otlp.inspect(body(span(name="?"), span()).replace(b'"?"', b'"\xff"'), "json")
    assert (found.items, found.rejected[0].index) == (1, 0)
    assert "UTF-8" in found.rejected[0].error


def test_half_surrogates_are_stored_as_replacement_characters() -> None:
    assert decoded(name="\ud800!").name == "\ufffd!"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b"{",
        b'{"resourceSpans":{}}',
        b'{"resourceSpans":[1]}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":{}}]}]}',
        b'{"resourceSpans":[{"scopeSpans":3}]}',
        b'{"resourceSpans":[NaN]}',
    ],
)
def test_what_is_no_request_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest):
        otlp.inspect(text, "json")


@pytest.mark.parametrize("attributes", [3, [{"key": "a", "value": {"intValue": "x"}}], [{"key": 3}]])
def test_a_resource_that_cannot_be_read_costs_its_own_spans(attributes: Any) -> None:
    groups = (
        json.loads(body(span(name="lost"), span()))["resourceSpans"]
        + json.loads(body(span(name="kept")))["resourceSpans"]
    )
    groups[0]["resource"]["attributes"] = attributes
    found = otlp.inspect(json.dumps({"resourceSpans": groups}).encode(), "json")
    assert (found.items, [one.index for one in found.rejected]) == (1, [0, 1])
    assert "resource" in found.rejected[0].error
    [part] = found.parts
    assert [one.name for one in otlp.spans_of(otlp.decode(part.body, "json"))] == ["kept"]


@pytest.mark.parametrize("number", [257, "257", 257.0])
def test_numbers_of_every_integer_type_may_be_text(number: int | float | str) -> None:
    counts = dict.fromkeys(["droppedAttributesCount", "droppedEventsCount", "droppedLinksCount", "flags"], number)
    link = {"traceId": SPAN["traceId"], "spanId": SPAN["spanId"], "flags": number, "droppedAttributesCount": number}
    found = decoded(**counts, links=[link], events=[{"name": "e", "droppedAttributesCount": number}])
    assert {found.flags, found.dropped_attributes_count, found.dropped_events_count, found.dropped_links_count} == {257}
    assert {found.links[0].flags, found.links[0].dropped_attributes_count} == {257}
    assert found.events[0].dropped_attributes_count == 257
    around = {"resource": {"droppedAttributesCount": number}}
    assert otlp.inspect(body(span(), **around), "json").items == 1


def _in_proto_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {re.sub("[A-Z]", lambda c: "_" + c[0].lower(), k): _in_proto_names(v) for k, v in value.items()}
    return [_in_proto_names(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("spans", [1, 8_000], ids=["whole", "cut along its spans"])
def test_the_names_of_the_proto_file_are_read_as_those_of_json(spans: int) -> None:
    text = 'say "trace_id": 1, \\ "span_id" : "resource_spans"'
    values = [{"stringValue": text}, {"intValue": "1"}, {"arrayValue": {"values": [{"boolValue": True}]}}]
    whole = span(
        parentSpanId=SPAN["spanId"], endTimeUnixNano="1769860800000000001", droppedEventsCount=1, traceState="a=b",
        attributes=[{"key": "trace_id", "value": value} for value in values],
        events=[{"timeUnixNano": "1769860800000000001", "name": "start_time_unix_nano"}],
        links=[{"traceId": SPAN["traceId"], "spanId": SPAN["spanId"]}],
    )  # fmt: skip
    camel = json.loads(body(*[whole] * spans, schemaUrl="https://x"))
    proto = json.dumps(_in_proto_names(camel), indent=1).encode()
    inspections = [otlp.inspect(json.dumps(camel).encode(), "json"), otlp.inspect(proto, "json")]
    assert [found.items for found in inspections] == [spans, spans]
    assert bool(inspections[1].parts) == (spans > 1)
    read = [part.body for part in inspections[1].parts] or [proto]
    found = [one for part in read for one in otlp.spans_of(otlp.decode(part, "json"))]
    assert found == list(otlp.spans_of(otlp.decode(json.dumps(camel).encode(), "json")))
    assert found[0].attributes[0].value.string_value == text
