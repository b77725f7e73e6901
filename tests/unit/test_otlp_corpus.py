"""The recorded OTLP bodies are whole, and hold what golden tests and the benchmark are to meet."""

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from tests.data import otlp_corpus


@pytest.mark.parametrize("dialect", otlp_corpus.DIALECTS)
def test_every_dialect_has_the_spans_that_the_index_names(dialect: str) -> None:
    requests = [ExportTraceServiceRequest.FromString(body) for body in otlp_corpus.bodies(dialect)]
    spans = [
        span for one in requests for block in one.resource_spans for scope in block.scope_spans for span in scope.spans
    ]
    assert (len(requests), len(spans)) == (
        otlp_corpus.INDEX[dialect]["requests"],
        otlp_corpus.INDEX[dialect]["spans"],
    )
    assert any(span.status.code == Status.STATUS_CODE_ERROR for span in spans)
    assert {span.parent_span_id for span in spans} <= {b"", *(span.span_id for span in spans)}
