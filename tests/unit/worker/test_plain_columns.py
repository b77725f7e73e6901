"""Spans mapped together from their bytes become what they become one by one, whatever they say."""

from collections.abc import Sequence
from types import SimpleNamespace as Wire
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tracebility.wire.conventions import SOURCES, RuleTable
from tracebility.wire.envelope import Envelope
from tracebility.wire.limits import LABEL_CHARS, NAME_CHARS
from tracebility.wire.pricing import PriceTable
from tracebility.worker import rows
from tracebility.worker.batch import Batch
from tracebility.worker.columns import meter_block, span_block
from tracebility.worker.otlp_rows import add_spans

CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.response.model": "gpt-4o-2024-08-06",
    "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"hé"}]}]',
    "gen_ai.output.messages": "[]",
    "gen_ai.usage.input_tokens": 1000,
    "gen_ai.usage.output_tokens": 100,
    "gen_ai.response.time_to_first_chunk": 0.25,
    "gen_ai.response.finish_reasons": ["stop"],
    "app.flag": True,
    "app.raw": b"\x00\xff",
    "app.note": "",
}
EXACT = [name for names in SOURCES.values() for name in names if not name.startswith("(") and "*" not in name]
NAMES = st.sampled_from([*EXACT, "app.x", "app.y", "llm.input_messages.0.message.content", "k" * (LABEL_CHARS + 1), ""])
LONG = "ü" * 700
VALUES = st.one_of(
    st.sampled_from(["LLM", "chat", "execute_tool", "invoke_agent", "gpt-4o", "openai", "tool", "", LONG, "x" * 300]),
    st.text(max_size=8),
    st.integers(-3, 5000),
    st.sampled_from([(1 << 63) - 1, -(1 << 63), 10**12, 10**12 + 1]),
    st.floats(),
    st.booleans(),
    st.none(),
    st.binary(max_size=4),
    st.lists(st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(-9, 9), max_size=2),
)
# In the order they come in: which of several sources is taken depends on all.
ATTRIBUTES = st.lists(st.tuples(NAMES, VALUES), max_size=12, unique_by=lambda pair: pair[0])
MOMENTS = st.sampled_from([0, 1, 1_795_521_595_000_000_000, 1_795_521_596_000_000_000, (1 << 63) - 1, (1 << 64) - 1])


@st.composite
def spans(draw: st.DrawFn, wire: Wire) -> Span:
    made = wire.make_span(
        trace_id=bytes([draw(st.integers(1, 3))] * 16),
        span_id=draw(st.integers(1, 1 << 40)).to_bytes(8, "big"),
        parent_span_id=draw(st.sampled_from([b"", bytes(8), b"abcdefgh"])),
        name=draw(st.sampled_from(["step", "", "tool", "n" * 200, "é" * NAME_CHARS])),
        kind=draw(st.integers(0, 6)),
        start_time_unix_nano=draw(MOMENTS),
        end_time_unix_nano=draw(MOMENTS),
    )
    for name, value in draw(ATTRIBUTES):
        made.attributes.add(key=name, value=wire.any_value(value))
    if draw(st.booleans()):
        message = draw(st.sampled_from(["", "it failed", "m" * 130]))
        made.status.CopyFrom(Status(code=draw(st.integers(0, 3)), message=message))
    rare = draw(st.sampled_from(["", "", "", "event", "link", "flags", "trace_state", "dropped"]))
    if rare == "event":
        made.events.append(wire.make_event("exception", {"exception.type": "E", "exception.message": "m"}))
    elif rare == "link":
        made.links.add(trace_id=bytes(16), span_id=bytes(8))
    elif rare == "flags":
        made.flags = 257
    elif rare == "trace_state":
        made.trace_state = "a=b"
    elif rare == "dropped":
        made.dropped_attributes_count = 3
    return made


def one_by_one(envelopes: Sequence[Envelope]) -> Batch:
    batch = Batch(RuleTable(), PriceTable())
    for envelope in envelopes:
        before = len(batch.rows)
        add_spans(batch, envelope.header, envelope.body)
        batch.envelopes.append((envelope.header, len(batch.rows) - before))
    return batch


def stored(wire: Wire, batch: Batch) -> list[dict[str, Any]]:
    return sorted(wire.decoded(span_block(batch)), key=lambda row: (row["envelope_id"], row["event_id"]))


def envelopes_of(wire: Wire, requests: Sequence[ExportTraceServiceRequest]) -> list[Envelope]:
    return [
        wire.make_envelope(
            request.SerializeToString(),
            id=UUID(int=100 + number),
            project_id=UUID(int=3 + number % 2),
            items=sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans),
        )
        for number, request in enumerate(requests)
    ]


@settings(max_examples=300)
@given(data=st.data())
def test_spans_mapped_together_are_stored_as_those_mapped_one_by_one(wire: Wire, data: st.DataObject) -> None:
    requests = data.draw(
        st.lists(
            st.builds(
                lambda some, resource, scope: wire.make_request(*some, resource=resource, scope=scope),
                st.lists(spans(wire), min_size=1, max_size=4, unique_by=lambda span: span.span_id),
                st.sampled_from([{}, {"session.id": "s", "deployment.environment": "prod"}, {"user.id": "u" * 2000}]),
                st.sampled_from(["", "scope"]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    envelopes = envelopes_of(wire, requests)
    together = wire.Mapped()
    for envelope in envelopes:
        rows.add(together, envelope)
    together.sent()
    alone = one_by_one(envelopes)
    assert [without_previews(row) for row in stored(wire, together)] == [
        without_previews(row) for row in stored(wire, alone)
    ]
    assert sorted(together.traces()) == sorted(alone.traces())
    assert metered(wire, together) == metered(wire, alone)


def without_previews(row: dict[str, Any]) -> dict[str, Any]:
    """Which spans carry one depends on which are mapped together; that no run shows it is tested of previews."""
    return {name: repr(_sorted(value)) for name, value in row.items() if not name.endswith("_preview")}


def _sorted(value: Any) -> Any:
    return sorted(value.items()) if isinstance(value, dict) else value


def metered(wire: Wire, batch: Batch) -> list[tuple[Any, ...]]:
    made = wire.decoded(meter_block(batch))
    return sorted((row["meter"], row["event_id"], row["qty"], row["period"], row["project_id"]) for row in made)


@pytest.mark.parametrize("count", [1, 7])
def test_usual_spans_are_mapped_together(wire: Wire, count: int) -> None:
    requests = [
        wire.make_request(wire.make_span(CHAT, span_id=bytes([number] * 8), kind=3), resource={"service.name": "a"})
        for number in range(1, count + 1)
    ]
    batch = wire.Mapped()
    for envelope in envelopes_of(wire, requests):
        rows.add(batch, envelope)
    assert len(batch.sent()) == count
    assert (len(batch.rows), [chunk.rows for chunk in batch.chunks]) == (0, [count])


@given(st.lists(st.tuples(st.integers(1, 2), st.booleans(), st.integers(1, 9), st.integers(0, 3), st.booleans())))
@example([(1, False, 1, 1, True)])
def test_previews_are_on_the_spans_that_a_run_may_show(
    wire: Wire, made: list[tuple[int, bool, int, int, bool]]
) -> None:
    said = [
        wire.make_span(
            {"input.value": f"é{number}" * 150, "output.value": f"out {number}"} if speaks else {},
            trace_id=bytes([trace] * 16),
            span_id=number.to_bytes(8, "big"),
            parent_span_id=b"" if is_root else b"abcdefgh",
            start_time_unix_nano=start,
            end_time_unix_nano=start + length,
        )
        for number, (trace, is_root, start, length, speaks) in enumerate(made, 1)
    ]
    envelopes = envelopes_of(wire, [wire.make_request(*said)] if said else [])
    together = wire.Mapped()
    for envelope in envelopes:
        rows.add(together, envelope)
    if said:
        together.sent()
    assert not together.rows
    assert stored(wire, together) == stored(wire, one_by_one(envelopes))


def test_an_envelope_that_cannot_be_read_is_given_back_alone(wire: Wire) -> None:
    """Its bytes look well until a nested value is read."""
    good, torn = (wire.make_span({"a": [marker]}, span_id=marker.encode() * 8) for marker in ("g", "t"))
    bodies = [wire.make_request(one).SerializeToString() for one in (good, torn)]
    bodies[1] = bodies[1].replace(b"\x0a\x01t", b"\x0a\x09t")
    batch = wire.Mapped()
    for number, body in enumerate(bodies):
        rows.add(batch, wire.make_envelope(body, id=UUID(int=number + 1)))
    from tracebility.worker.plain_columns import map_waiting

    map_waiting(batch)
    assert [envelope_id for envelope_id, _ in batch.refused] == [UUID(int=2)]
    assert [row["span_id"] for row in wire.decoded(span_block(batch))] == [b"g".hex() * 8]
    assert len(batch) == 1
