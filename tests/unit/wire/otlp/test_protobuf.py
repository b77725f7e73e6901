import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tracebility.wire.otlp import spans_of
from tracebility.wire.otlp.protobuf import Malformed, groups, spans_above


@given(st.lists(st.lists(st.lists(st.tuples(st.text(max_size=300), st.integers(0, 1 << 63)))), max_size=4))
def test_spans_lie_where_protobuf_finds_them(shape: list[list[list[tuple[str, int]]]]) -> None:
    request = ExportTraceServiceRequest()
    for scopes in shape:
        resource = request.resource_spans.add(schema_url="x")
        resource.resource.dropped_attributes_count = 300
        for spans in scopes:
            scope = resource.scope_spans.add(schema_url="y" * 200)
            scope.scope.name = "lib"
            for name, start in spans:
                scope.spans.add(name=name, start_time_unix_nano=start, trace_id=bytes(16))
    body = request.SerializeToString()
    found = [body[start:end] for group in groups(body) for start, end in group.spans]
    assert found == [span.SerializeToString() for span in spans_of(request)]


def test_what_only_a_decoder_follows_is_malformed_here() -> None:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="a")
    with pytest.raises(Malformed, match="wire type"):
        list(groups(request.SerializeToString() + b"\x7b\x7c"))  # an unknown group, field 15


BOUND = 20_000


@given(st.lists(st.lists(st.lists(st.sampled_from([0, 1, 100, 9_000, 17_000, 19_979, 19_980, 40_000]))), max_size=3))
def test_large_spans_are_found_among_others(shape: list[list[list[int]]]) -> None:
    request = ExportTraceServiceRequest()
    for scopes in shape:
        resource = request.resource_spans.add(schema_url="x")
        for sizes in scopes:
            scope = resource.scope_spans.add(schema_url="y" * 200)
            scope.scope.name = "lib"
            for size in sizes:
                scope.spans.add(name="n" * size, trace_id=b"t" * 15)
    expected = {
        index: span.SerializeToString() for index, span in enumerate(spans_of(request)) if span.ByteSize() > BOUND
    }
    body = request.SerializeToString()
    assert spans_above(body, request, BOUND) == expected
    assert spans_above(body + b"\x7b\x7c", request, BOUND) == expected
