"""Spans and envelopes as clients send them, and the rows they become."""

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tracebility.wire.conventions import RuleTable
from tracebility.wire.envelope import Envelope, Header
from tracebility.wire.pricing import PriceTable
from tracebility.worker import rows
from tracebility.worker.batch import Batch, Row

ACCEPTED_AT_US = 1_795_521_600_000_000
START_NS = ACCEPTED_AT_US * 1000 - 5 * 10**9


def any_value(value: Any) -> AnyValue:
    """``value`` as OTLP has it."""
    match value:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=value)
        case str():
            return AnyValue(string_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case bytes():
            return AnyValue(bytes_value=value)
        case list():
            return AnyValue(array_value=ArrayValue(values=map(any_value, value)))
        case dict():
            return AnyValue(kvlist_value=KeyValueList(values=pairs(value)))
    raise TypeError(type(value))


def pairs(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


def make_span(attributes: Mapping[str, Any] | None = None, **fields: Any) -> Span:
    """A span of one second with these attributes."""
    given = {
        "trace_id": bytes(range(16)),
        "span_id": bytes(range(8)),
        "name": "step",
        "start_time_unix_nano": START_NS,
        "end_time_unix_nano": START_NS + 10**9,
        "attributes": pairs(attributes or {}),
    }
    return Span(**(given | fields))


def make_event(name: str, attributes: Mapping[str, Any], at_ns: int = START_NS) -> Span.Event:
    return Span.Event(name=name, time_unix_nano=at_ns, attributes=pairs(attributes))


def make_request(*spans: Span, resource: Mapping[str, Any] | None = None, scope: str = "") -> ExportTraceServiceRequest:
    scoped = ScopeSpans(spans=spans)
    scoped.scope.name = scope
    whole = ResourceSpans(scope_spans=[scoped])
    whole.resource.attributes.extend(pairs(resource or {}))
    return ExportTraceServiceRequest(resource_spans=[whole])


def make_envelope(body: bytes, *, source: str = "otlp", **fields: Any) -> Envelope:
    given = {
        "id": UUID(int=7),
        "org_id": UUID(int=1),
        "workspace_id": UUID(int=2),
        "project_id": UUID(int=3),
        "key_id": "key",
        "accepted_at_us": ACCEPTED_AT_US,
        "period": "2026-11",
        "source": source,
        "content_type": "protobuf" if source == "otlp" else "json",
        "content_encoding": "identity",
        "items": 1,
        "bytes": len(body),
    }
    return Envelope(Header(**(given | fields)), body)


class Mapped(Batch):
    """A batch that shows its rows by name."""

    def __init__(self) -> None:
        super().__init__(RuleTable(), PriceTable())

    def row(self, index: int = 0) -> Row:
        return Row(*self.rows[index])

    def attributes(self, index: int = 0) -> dict[str, str]:
        return self._part(self.attribute_keys, self.attribute_values, "attributes", index)

    def metadata(self, index: int = 0) -> dict[str, str]:
        return self._part(self.metadata_keys, self.metadata_values, "metadata", index)

    def _part(self, keys: list[str], values: list[str], field: str, index: int) -> dict[str, str]:
        counts = [getattr(Row(*row), field) for row in self.rows]
        start = sum(counts[:index])
        end = start + counts[index]
        assert len(keys) == len(values) == sum(counts)
        return dict(zip(keys[start:end], values[start:end], strict=True))


def map_span(attributes: Mapping[str, Any] | None = None, **fields: Any) -> Mapped:
    """The one row that a span with these attributes becomes."""
    batch = Mapped()
    rows.add(batch, make_envelope(make_request(make_span(attributes, **fields)).SerializeToString()))
    return batch


def map_run(**fields: Any) -> Mapped:
    """The one row that a native run becomes."""
    given = {
        "id": "0192f0c1-0000-7000-8000-000000000001",
        "name": "run",
        "kind": "llm",
        "start_time": "2026-11-24T12:00:00Z",
        "end_time": "2026-11-24T12:00:01.5Z",
    }
    batch = Mapped()
    rows.add(batch, make_envelope(json.dumps(given | fields).encode(), source="native"))
    return batch


@pytest.fixture(scope="session", name="wire")
def _wire() -> SimpleNamespace:
    """The makers above, for tests: ``wire.map_span({...}).row().name``."""
    return SimpleNamespace(
        Mapped=Mapped,
        any_value=any_value,
        make_envelope=make_envelope,
        make_event=make_event,
        make_request=make_request,
        make_span=make_span,
        map_run=map_run,
        map_span=map_span,
        START_NS=START_NS,
        ACCEPTED_AT_US=ACCEPTED_AT_US,
    )
