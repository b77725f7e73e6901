"""Spans and envelopes as clients send them, and the rows they become."""

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver.query import QueryContext
from clickhouse_connect.driver.transform import NativeTransform
from clickhouse_connect.driverc.buffer import ResponseBuffer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tracebility.wire.conventions import RuleTable
from tracebility.wire.envelope import Envelope, Header
from tracebility.wire.pricing import PriceTable
from tracebility.worker import mapping
from tracebility.worker.attribute_names import AttributeNames
from tracebility.worker.batch import Batch
from tracebility.worker.columns import BYTES_METER, SPANS_METER, Block, meter_block, span_block

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


class _Bytes:
    """What the driver reads an answer from."""

    exception_tag = None

    def __init__(self, data: bytes) -> None:
        self.gen = iter([data])

    def close(self) -> None:
        """Nothing is held."""


def decoded(block: Block) -> list[dict[str, Any]]:
    """The rows of a block, as ClickHouse's own driver reads them; moments as ticks."""
    context = QueryContext(query_formats={"DateTime64": "int"}, use_none=True)
    result = NativeTransform().parse_response(ResponseBuffer(_Bytes(block.data)), context)
    made = [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]
    assert len(made) == block.rows
    return made


class Mapped(Batch):
    """A batch that shows what it would send to the engine, by name."""

    def __init__(self) -> None:
        super().__init__(AttributeNames(RuleTable()), PriceTable())

    def sent(self) -> list[dict[str, Any]]:
        """The rows of ``span``; and of the meter what belongs to them, as ``size``."""
        mapping.map_pending(self)
        assert self.refused == []
        meter = decoded(meter_block(self))
        sizes = {row["event_id"]: row["qty"] for row in meter if row["meter"] == BYTES_METER}
        assert [row["qty"] for row in meter if row["meter"] == SPANS_METER] == [1] * (len(meter) // 2)
        return [row | {"size": sizes[row["event_id"]]} for row in decoded(span_block(self))]

    def row(self, index: int = 0) -> SimpleNamespace:
        """A row by the names and in the units of `Row`."""
        row = self.sent()[index]
        cost = row["cost"]
        return SimpleNamespace(
            **row
            | {
                "start_ns": row["start_time"],
                "end_ns": row["end_time"],
                "cost": None if cost is None else int(cost.scaleb(9)),
                "event_id": row["event_id"].bytes,
            }
        )

    def attributes(self, index: int = 0) -> dict[str, str]:
        return self.sent()[index]["attributes"]

    def metadata(self, index: int = 0) -> dict[str, str]:
        return self.sent()[index]["metadata"]


def map_span(attributes: Mapping[str, Any] | None = None, **fields: Any) -> Mapped:
    """The one row that a span with these attributes becomes."""
    batch = Mapped()
    mapping.add(batch, make_envelope(make_request(make_span(attributes, **fields)).SerializeToString()))
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
    mapping.add(batch, make_envelope(json.dumps(given | fields).encode(), source="native"))
    return batch


@pytest.fixture(scope="session", name="wire")
def _wire() -> SimpleNamespace:
    """The makers above, for tests: ``wire.map_span({...}).row().name``."""
    return SimpleNamespace(
        Mapped=Mapped,
        decoded=decoded,
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
