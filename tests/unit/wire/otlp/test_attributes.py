"""A span may hold so many attributes, events, links and nested values, however they are put, in either form."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tracebility.wire import limits, otlp

MOST = limits.ATTRIBUTES
AN_INT = {"intValue": "1"}
A_LONG_TEXT = {"key": "text", "value": {"stringValue": "\n" * limits.ENVELOPE_BYTES}}


def attribute(value: dict[str, Any]) -> dict[str, Any]:
    return {"key": "a", "value": value}


def array(items: list[Any]) -> dict[str, Any]:
    return {"arrayValue": {"values": items}}


def pairs(items: list[Any]) -> dict[str, Any]:
    return {"kvlistValue": {"values": items}}


# Of so many things in all.
SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {
    "attributes": lambda most: {"attributes": [attribute(AN_INT)] * most},
    "an array": lambda most: {"attributes": [attribute(array([AN_INT] * (most - 1)))]},
    "an array of nothing": lambda most: {"attributes": [attribute(array([{}] * (most - 1)))]},
    "a list of pairs": lambda most: {"attributes": [attribute(pairs([attribute(AN_INT)] * (most - 1)))]},
    "arrays of arrays": lambda most: {"attributes": [attribute(array([array([{}] * 8)] * (most // 9)))] * (most % 9)},
    "many arrays": lambda most: {"attributes": [attribute(array([{}] * 99))] * (most // 100) + [{}] * (most % 100)},
    "events": lambda most: {"events": [{}] * most},
    "attributes of events": lambda most: {"events": [{"attributes": [attribute(AN_INT)] * (most - 1)}]},
    "an array in an event": lambda most: {"events": [{"attributes": [attribute(array([{}] * (most - 2)))]}]},
    "links": lambda most: {"links": [{}] * most},
    "an array in a link": lambda most: {"links": [{"attributes": [attribute(array([{}] * (most - 2)))]}]},
}  # fmt: skip


def span(number: int, **fields: Any) -> dict[str, Any]:
    return {"traceId": f"{number:032x}", "spanId": f"{number:016x}", "name": f"span {number}"} | fields


def bodies(*spans: dict[str, Any]) -> dict[str, bytes]:
    text = msgspec.json.encode({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})
    return {"json": text, "protobuf": otlp.decode(text, "json").SerializeToString()}


def count_of(fields: dict[str, Any]) -> int:
    """A slow count, by the words of docs/limits.md."""

    def within(value: Any) -> int:
        if isinstance(value, list):
            return sum(1 + within(item) for item in value)
        return sum(map(within, value.values())) if isinstance(value, dict) else 0

    return within(fields)


@pytest.mark.parametrize("content_type", ["protobuf", "json"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beside", ["nothing", "many spans", "a long text"])
def test_as_many_as_allowed_are_kept_and_one_more_is_not(shape: str, beside: str, content_type: str) -> None:
    make = SHAPES[shape]
    fields, more = make(MOST - 1), make(MOST + 1)
    if beside == "a long text":
        fields = fields | {"attributes": [*fields.get("attributes", []), A_LONG_TEXT]}
        more = more | {"attributes": [*more.get("attributes", []), A_LONG_TEXT]}
    assert count_of(fields) <= MOST
    assert count_of(more) > MOST
    others = [span(number) for number in range(1, 30 if beside == "many spans" else 1)]
    body = bodies(*others, span(100, **fields), span(101, **more))[content_type]
    for look in (otlp.inspect, otlp.inspect_inline):
        found = look(body, content_type)
        if look is otlp.inspect_inline and found is None:
            continue
        assert found is not None
        assert found.items == len(others) + 1
        [refused] = found.rejected
        assert refused.index == len(others) + 1
        assert f"more than {MOST}" in refused.error
