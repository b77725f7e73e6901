"""The demo's traces are complete, varied, and the same for the same seed."""

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tracebility.commands.demo.stories import Storyteller

START_NS = 1_790_000_000 * 10**9


def told(seed: int, count: int) -> list[list[Span]]:
    teller = Storyteller(seed)
    return [list(teller.tell(START_NS).scope_spans[0].spans) for _ in range(count)]


def test_the_same_seed_tells_the_same_traces() -> None:
    assert told(5, 50) == told(5, 50)
    assert told(5, 5) != told(6, 5)


def test_every_trace_is_one_tree_of_ended_spans() -> None:
    for spans in told(1, 200):
        ids = {span.span_id for span in spans}
        assert len(ids) == len(spans)
        assert [span.parent_span_id for span in spans].count(b"") == 1
        assert all(span.parent_span_id in ids or not span.parent_span_id for span in spans)
        assert len({span.trace_id for span in spans}) == 1
        assert all(START_NS <= span.start_time_unix_nano < span.end_time_unix_nano for span in spans)


def test_there_are_errors_retries_tools_long_histories_sessions_models_and_both_dialects() -> None:
    traces = told(2, 300)
    keys = {pair.key for spans in traces for span in spans for pair in span.attributes}
    assert {"gen_ai.request.model", "llm.model_name", "gen_ai.tool.name", "openinference.span.kind"} <= keys
    assert any(span.status.code == Status.STATUS_CODE_ERROR for spans in traces for span in spans)
    assert max(len(spans) for spans in traces) > 40
    models = {
        pair.value.string_value
        for spans in traces
        for span in spans
        for pair in span.attributes
        if pair.key in ("gen_ai.request.model", "llm.model_name")
    }
    assert len(models) >= 4
    sessions = [pair.value.string_value for spans in traces for pair in spans[0].attributes if pair.key == "session.id"]
    assert len(sessions) == len(traces)
    assert len(set(sessions)) < len(traces) / 2
