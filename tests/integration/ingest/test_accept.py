"""What a client sends is in the queue of its org, stamped, before the client is told so."""

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from backports import zstd
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tracebility.ingest.enqueue import MAX_IN_FLIGHT
from tracebility.wire import encoding, limits, native, otlp

PROTOBUF, JSON = "application/x-protobuf", "application/json"


def request(count: int, *, bad: int = 0, size: int = 10) -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    scope = made.resource_spans.add().scope_spans.add()
    for number in range(1, count + 1):
        span = scope.spans.add(
            trace_id=number.to_bytes(16, "big"),
            span_id=number.to_bytes(8, "big"),
            name=f"span {number}",
            start_time_unix_nano=time.time_ns(),
        )
        span.attributes.add(key="text").value.string_value = "x" * size
        if number <= bad:
            span.trace_id = b"bad"
    return made


def as_json(made: ExportTraceServiceRequest) -> bytes:
    spans = [
        {
            "traceId": span.trace_id.hex(),
            "spanId": span.span_id.hex(),
            "name": span.name,
            "startTimeUnixNano": str(span.start_time_unix_nano),
        }
        for span in otlp.spans_of(made)
    ]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()


def run(**changes: Any) -> dict[str, Any]:
    return {"id": str(uuid4()), "name": "n", "kind": "llm", "start_time": "2026-01-31T12:00:00Z"} | changes


async def test_an_envelope_carries_the_tenant_and_the_body_as_it_came(edge: Any, tenant: Any) -> None:
    body = gzip.compress(request(3).SerializeToString())
    before = time.time_ns() // 1000
    answer = await edge.traces(tenant, body, PROTOBUF, **{"content-encoding": "gzip"})
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, PROTOBUF, b"")
    [envelope] = await tenant.envelopes()
    header = envelope.header
    assert envelope.body == body
    assert (header.org_id, header.workspace_id, header.project_id) == (
        tenant.org_id,
        tenant.workspace_id,
        tenant.project_id,
    )
    assert header.key_id == tenant.key.split("_")[1]
    assert before <= header.accepted_at_us <= time.time_ns() // 1000
    assert header.period == time.strftime("%Y-%m", time.gmtime(header.accepted_at_us / 1e6))
    assert (header.source, header.content_type, header.content_encoding) == ("otlp", "protobuf", "gzip")
    assert (header.items, header.bytes, header.rejected) == (3, len(request(3).SerializeToString()), ())
    assert header.id.version == 7


@pytest.mark.parametrize("compression", Compression)
async def test_the_python_exporter_is_understood(edge: Any, tenant: Any, compression: Compression) -> None:
    def export() -> None:
        exporter = OTLPSpanExporter(
            f"http://127.0.0.1:{edge.port}/v1/traces",
            headers={"authorization": f"Bearer {tenant.key}"},
            compression=compression,
        )
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        with provider.get_tracer("test").start_as_current_span("exported") as span:
            span.set_attribute("gen_ai.request.model", "m")
        provider.shutdown()

    await asyncio.to_thread(export)
    [envelope] = await tenant.envelopes()
    body = encoding.decompress(envelope.body, envelope.header.content_encoding, limits.INFLATED_BYTES)
    assert [span.name for span in otlp.spans_of(otlp.decode(body, envelope.header.content_type))] == ["exported"]


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("content_encoding", COMPRESS)
async def test_chunked_json_as_the_javascript_exporter_sends_it(edge: Any, tenant: Any, content_encoding: str) -> None:
    body = COMPRESS[content_encoding](as_json(request(5)))

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    answer = await edge.traces(tenant, chunks(), JSON, **{"content-encoding": content_encoding})
    assert (answer.status_code, answer.json()) == (200, {})
    [envelope] = await tenant.envelopes()
    assert envelope.body == body
    assert envelope.header.items == 5


async def test_bad_spans_are_counted_and_named(edge: Any, tenant: Any) -> None:
    made = request(5, bad=2)
    answer = await edge.traces(tenant, made.SerializeToString(), PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert (answer.status_code, partial.rejected_spans) == (200, 2)
    assert "span 0 ('span 1'): trace_id" in partial.error_message
    answer = await edge.traces(tenant, as_json(made), JSON)
    partial = answer.json()["partialSuccess"]
    assert (answer.status_code, partial["rejectedSpans"]) == (200, "2")
    assert "trace_id" in partial["errorMessage"]
    assert [(one.header.items, one.header.rejected) for one in await tenant.envelopes()] == [(3, (0, 1))] * 2


async def test_what_holds_nothing_to_keep_is_answered_and_not_queued(edge: Any, tenant: Any) -> None:
    empty = await edge.traces(tenant, b"", PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(empty.content).partial_success
    assert (empty.status_code, partial.rejected_spans, "no span" in partial.error_message) == (200, 0, True)
    assert (await edge.traces(tenant, request(2, bad=2).SerializeToString(), PROTOBUF)).status_code == 200
    refused = await edge.runs(tenant, json.dumps(run(kind="banana")))
    assert (refused.status_code, refused.json()["accepted"], refused.json()["rejected"][0]["index"]) == (422, 0, 0)
    answer = await edge.runs(tenant, b'{"runs": []}')
    assert (answer.status_code, answer.json()) == (202, {"accepted": 0, "rejected": []})
    assert await tenant.envelopes() == []


async def test_a_long_list_of_bad_spans_is_counted_and_cut(edge: Any, tenant: Any) -> None:
    answer = await edge.traces(tenant, request(5000, bad=5000).SerializeToString(), PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert partial.rejected_spans == 5000
    assert len(partial.error_message) < 40_000
    assert partial.error_message.endswith("and 4900 more")


async def test_native_runs_are_kept_and_the_bad_ones_named(edge: Any, tenant: Any) -> None:
    good, bad = run(), run(kind="banana")
    answer = await edge.runs(tenant, json.dumps({"runs": [good, bad, good]}))
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    [rejected] = answer.json()["rejected"]
    assert rejected["index"] == 1
    assert "banana" in rejected["error"]
    answer = await edge.runs(tenant, json.dumps(good))
    assert answer.json() == {"accepted": 1, "rejected": []}
    first, second = await tenant.envelopes()
    assert (first.header.source, first.header.items, first.header.rejected) == ("native", 2, (1,))
    assert native.decode_runs(second.body)[0].id == good["id"]  # type: ignore[union-attr]


TYPED = {"content-type": JSON}


@pytest.mark.parametrize("path", ["/v1/traces/", "//v1/traces", "/v1/runs/", "/V1/runs", "/v1/traces/v1/traces"])
async def test_an_address_may_be_spelled_otherwise(edge: Any, tenant: Any, path: str) -> None:
    body = as_json(request(1)) if "traces" in path else json.dumps(run()).encode()
    url = f"http://127.0.0.1:{edge.port}{path}"
    answer = await edge.client.post(url, content=body, headers=tenant.headers | TYPED)
    assert answer.is_success, answer.text
    assert len(await tenant.envelopes()) == 1


async def test_unknown_fields_are_named_beside_the_202(edge: Any, tenant: Any) -> None:
    answer = await edge.runs(tenant, json.dumps(run(input="q")))
    assert (answer.status_code, answer.json()) == (
        202,
        {
            "accepted": 1,
            "rejected": [],
            "warnings": [{"index": 0, "warning": "unknown field 'input' is not stored; did you mean 'inputs'?"}],
        },
    )


@pytest.mark.parametrize("content_encoding", ["identity", "zstd"])
async def test_a_large_request_is_queued_in_parts(edge: Any, tenant: Any, content_encoding: str) -> None:
    made = request(100, bad=1, size=50_000)
    body = COMPRESS[content_encoding](made.SerializeToString())
    answer = await edge.traces(tenant, body, PROTOBUF, **{"content-encoding": content_encoding})
    assert ExportTraceServiceResponse.FromString(answer.content).partial_success.rejected_spans == 1
    envelopes = await tenant.envelopes()
    assert len(envelopes) == 5
    assert len({envelope.header.id for envelope in envelopes}) == 5
    assert sum(envelope.header.items for envelope in envelopes) == 99
    spans = [span for one in envelopes for span in otlp.spans_of(otlp.decode(one.body, "protobuf"))]
    assert spans == list(otlp.spans_of(made))[1:]


async def test_concurrent_requests_all_arrive_once(edge: Any, tenant: Any) -> None:
    bodies = [json.dumps(run()).encode() for _ in range(MAX_IN_FLIGHT)]
    answers = await asyncio.gather(*(edge.runs(tenant, body) for body in bodies))
    assert {answer.status_code for answer in answers} == {202}
    assert sorted(envelope.body for envelope in await tenant.envelopes()) == sorted(bodies)
