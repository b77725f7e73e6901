"""What surrounds spans is stored with each of them: where that is too much, the request is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tracebility.errors import PayloadTooLarge
from tracebility.wire import limits, otlp

TEXT = "x" * (200 << 10)


def bodies(spans: int, resource: Any, scope: Any, groups: int = 1) -> dict[str, bytes]:
    sent = [
        {"traceId": f"{number:032x}", "spanId": f"{number:016x}", "startTimeUnixNano": "1"}
        for number in range(1, spans // groups + 1)
    ]
    group = {"resource": {"attributes": resource}, "scopeSpans": [{"scope": {"attributes": scope}, "spans": sent}]}
    text = json.dumps({"resourceSpans": [group] * groups}).encode()
    return {"json": text, "protobuf": otlp.decode(text, "json").SerializeToString()}


def attribute(value: Any) -> list[Any]:
    return [{"key": "k", "value": value}]


ENOUGH = limits.REPEATED_BYTES // len(TEXT)  # spans

AROUND: dict[str, tuple[Any, Any]] = {
    "a resource": (attribute({"stringValue": TEXT}), []),
    "a scope": ([], attribute({"stringValue": TEXT})),
    "an array": (attribute({"arrayValue": {"values": [{"stringValue": TEXT}]}}), []),
    "texts that grow": (attribute({"arrayValue": {"values": [{"stringValue": "\x01" * (len(TEXT) // 6)}]}}), []),
    "nothing, often": ([], [{}] * 20_000),
}


@pytest.mark.parametrize("content_type", ["protobuf", "json"])
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("look", [otlp.inspect, otlp.inspect_inline])
def test_what_would_be_repeated_without_bound_is_refused(
    look: Callable[[bytes, str], Any], groups: int, around: str, content_type: str
) -> None:
    body = bodies(ENOUGH + 4, *AROUND[around], groups=groups)[content_type]
    assert len(body) < limits.ENVELOPE_BYTES
    with pytest.raises(PayloadTooLarge, match="with each of their spans"):
        look(body, content_type)


@pytest.mark.parametrize("content_type", ["protobuf", "json"])
def test_what_is_repeated_within_the_bound_is_kept(content_type: str) -> None:
    spans = ENOUGH - 1
    assert otlp.inspect(bodies(spans, *AROUND["a resource"])[content_type], content_type).items == spans


@pytest.mark.parametrize("content_type", ["protobuf", "json"])
def test_a_request_that_travels_in_parts_is_bounded_as_a_whole(content_type: str) -> None:
    body = bodies(50_000, attribute({"stringValue": "x" * 5000}), attribute({"stringValue": "y" * 500}))[content_type]
    assert len(body) > limits.ENVELOPE_BYTES
    with pytest.raises(PayloadTooLarge, match="with each of their spans"):
        otlp.inspect(body, content_type)
