"""The benchmarks' loads: recorded spans with fresh ids and times, in whole trees, a known share of them failed."""

import time

import numpy as np
import pytest
from benchmarks import loads
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tests.data import otlp_corpus

A_MINUTE_NS = 60 * 10**9


def _spans(body: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(body)
    return [span for block in request.resource_spans for scope in block.scope_spans for span in scope.spans]


@pytest.mark.parametrize("load", [loads.PLAIN, "otel_genai_events", "vercel_ai_5"])
def test_a_request_is_sent_again_as_new_traces_of_the_present(load: str) -> None:
    [request] = loads.requests_of(load, 1)
    numbers = np.random.default_rng(1)
    seen: set[bytes] = set()
    for _ in range(2):
        stamp = request.renew(numbers)
        spans = _spans(bytes(request.view))
        ids = {span.span_id for span in spans}
        assert len(ids) == len(spans) == 50
        assert sorted(map(int, stamp.spans)) == sorted(int.from_bytes(one) for one in ids)
        assert {span.parent_span_id for span in spans} <= {b"", *ids}
        assert not ids & seen
        seen |= ids
        times = [moment for span in spans for moment in (span.start_time_unix_nano, span.end_time_unix_nano)]
        times += [event.time_unix_nano for span in spans for event in span.events]
        assert all(0 <= time.time_ns() - moment < A_MINUTE_NS for moment in times)


def test_texts_are_new_in_each_copy_and_names_are_the_recorded_ones() -> None:
    dialect = "openinference_langchain"
    recorded = [span for body in otlp_corpus.bodies(dialect) for span in _spans(body)]
    made = [span for request in loads.requests_of(dialect, 10) for span in _spans(bytes(request.view))]
    assert {_names(span) for span in made} <= {_names(span) for span in recorded}
    said = [one.value.string_value for span in made for one in span.attributes if one.key == "input.value"]
    assert not set(said) & {one.value.string_value for span in recorded for one in span.attributes}
    assert len(set(said)) > 0.5 * len(said)  # within a trace, spans hand texts on to each other
    failed = sum(span.status.code == Status.STATUS_CODE_ERROR for span in made) / len(made)
    assert 0 < failed < 3 * loads.FAILED_SHARE


def _names(span: Span) -> tuple[str, ...]:
    return tuple(one.key for one in span.attributes)
