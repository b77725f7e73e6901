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
from structlog.testing import capture_logs

from tracebility.errors import BadRequest
from tracebility.wire.conventions import SOURCES, RuleTable, Slot
from tracebility.wire.envelope import Envelope
from tracebility.wire.limits import LABEL_CHARS, NAME_CHARS
from tracebility.wire.pricing import PriceTable
from tracebility.worker import rows
from tracebility.worker.batch import Batch
from tracebility.worker.columns import meter_block, span_block
from tracebility.worker.otlp_rows import add_spans
from tracebility.worker.plain_columns import map_waiting

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
LONG = "ü" * 700
NAMES = {slot: [name for name in names if name[-1] not in ")*"] for slot, names in SOURCES.items()}
# What fits the column, or nearly does; for slots not named here, any text.
FITTING: dict[Slot, st.SearchStrategy[Any]] = {
    Slot.KIND: st.sampled_from(["chat", "execute_tool", "LLM", "TOOL", "no kind"]),
    Slot.TOOL_NAME: st.sampled_from(["tool", "step"]),
    Slot.INPUT_TOKENS: st.sampled_from([0, 1, 1000, 10**12, 10**12 + 1, -1, 0.5]),
    Slot.OUTPUT_TOKENS: st.sampled_from([0, 7, -3, 2.0]),
    Slot.CACHE_READ_TOKENS: st.sampled_from([0, 400, 5000]),
    Slot.COST: st.sampled_from([0.5, 0, float("nan"), -1.0, 1e30]),
    Slot.TIME_TO_FIRST_TOKEN: st.sampled_from([0.25, 2, -1.0]),
    Slot.METADATA: st.just('{"k": 1}'),
    Slot.TAGS: st.just(["a"]),
}
NUMBERS = {slot for slot in Slot if slot.name.endswith(("TOKENS", "COST"))}
TEXTS = st.sampled_from(["gpt-4o", "openai", "some text", "x" * 300, "é"])
PLAIN = {slot for slot in NAMES if slot not in (Slot.METADATA, Slot.TAGS, Slot.SYSTEM_INSTRUCTIONS)}
OTHERS = st.one_of(
    st.text(max_size=8),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(),
    st.booleans(),
    st.binary(max_size=4),
    st.lists(st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(-9, 9), max_size=2),
)
# One of these makes a span one that is not mapped with the others, or must be seen not to.
RARE_ATTRIBUTES = st.sampled_from(
    [
        ("metadata", '{"k": 1}'),
        ("tag.tags", ["a"]),
        ("gen_ai.response.model", LONG * 2),
        ("gen_ai.response.model", ""),
        ("gen_ai.response.model", 4),
        ("user.id", LONG * 2),
        ("llm.input_messages.0.message.content", "hi"),
        ("k" * (LABEL_CHARS + 1), "v"),
        ("", "v"),
        ("app.none", None),
    ]
)


@st.composite
def said(draw: st.DrawFn) -> tuple[str, Any]:
    """An attribute that most spans could have."""
    slot = draw(st.sampled_from(sorted(PLAIN)))
    numbers = st.integers(0, 9) if slot in NUMBERS else TEXTS
    return draw(st.sampled_from(NAMES[slot])), draw(FITTING.get(slot, numbers))


@st.composite
def spans(draw: st.DrawFn, wire: Wire) -> Span:
    start = draw(st.sampled_from([1_795_521_595_000_000_000] * 4 + [0, 1, (1 << 63) - 1, (1 << 64) - 1]))
    made = wire.make_span(
        trace_id=bytes([draw(st.integers(1, 3))] * 16),
        span_id=draw(st.integers(1, 1 << 40)).to_bytes(8, "big"),
        parent_span_id=draw(st.sampled_from([b"", bytes(8), b"abcdefgh"])),
        name=draw(st.sampled_from(["step", "tool", "", "n" * 200] * 3 + ["é" * (NAME_CHARS + 1)])),
        kind=draw(st.integers(0, 6)),
        start_time_unix_nano=start,
        end_time_unix_nano=draw(st.sampled_from([start, start, start, min(start + 10**9, (1 << 64) - 1), 0, 5])),
    )
    # In the order they come in: which of several sources is taken depends on all.
    pairs = draw(st.lists(said(), min_size=2, max_size=9, unique_by=lambda pair: pair[0]))
    if draw(st.booleans()):
        pairs.append(("app.x", draw(OTHERS)))
    if draw(st.integers(0, 5)) == 0:
        rare = draw(RARE_ATTRIBUTES)
        pairs = [pair for pair in pairs if pair[0] != rare[0]] + [rare]
    for name, value in pairs:
        made.attributes.add(key=name, value=wire.any_value(value))
    if draw(st.booleans()):
        message = draw(st.sampled_from(["", "it failed", "m" * 130]))
        made.status.CopyFrom(Status(code=draw(st.integers(0, 3)), message=message))
    field = draw(st.sampled_from([""] * 12 + ["event", "link", "flags", "trace_state", "dropped"]))
    if field == "event":
        made.events.append(wire.make_event("exception", {"exception.type": "E", "exception.message": "m"}))
    elif field == "link":
        made.links.add(trace_id=bytes(16), span_id=bytes(8))
    elif field == "flags":
        made.flags = 257
    elif field == "trace_state":
        made.trace_state = "a=b"
    elif field == "dropped":
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


@settings(max_examples=3 * settings().max_examples)
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
    batch = wire.Mapped()
    with capture_logs() as logs:
        for envelope in envelopes:
            rows.add(batch, envelope)
        batch.sent()
    assert logs == []  # such as that spans could not be mapped together after all
    alone = one_by_one(envelopes)
    assert [without_previews(row) for row in stored(wire, batch)] == [
        without_previews(row) for row in stored(wire, alone)
    ]
    assert sorted(batch.traces()) == sorted(alone.traces())
    assert metered(wire, batch) == metered(wire, alone)


def without_previews(row: dict[str, Any]) -> dict[str, Any]:
    """Which spans carry one depends on which are mapped together; that no run shows it is tested of previews."""
    return {name: repr(_sorted(value)) for name, value in row.items() if not name.endswith("_preview")}


def _sorted(value: Any) -> Any:
    return sorted(value.items()) if isinstance(value, dict) else value


def metered(wire: Wire, batch: Batch) -> list[tuple[Any, ...]]:
    made = wire.decoded(meter_block(batch))
    return sorted((row["meter"], row["event_id"], row["qty"], row["period"], row["project_id"]) for row in made)


def together(wire: Wire, *made: Span, **request: Any) -> Any:
    """The spans in one envelope, all mapped together."""
    envelopes = envelopes_of(wire, [wire.make_request(*made, **request)])
    batch = wire.Mapped()
    for envelope in envelopes:
        rows.add(batch, envelope)
    batch.sent()
    return batch


def test_of_an_attribute_that_comes_twice_the_first_is_taken(wire: Wire) -> None:
    span = wire.make_span({"gen_ai.operation.name": "chat"})
    for model in ("first", "second"):
        span.attributes.add(key="gen_ai.response.model", value=wire.any_value(model))
    batch = together(wire, span)
    assert (batch.row().model, batch.attributes()["gen_ai.response.model"]) == ("first", "second")
    assert not batch.rows


def test_what_a_scope_says_is_kept_with_its_spans(wire: Wire) -> None:
    request = wire.make_request(wire.make_span(CHAT))
    request.resource_spans[0].scope_spans[0].scope.attributes.extend(wire.make_span({"team": "search"}).attributes)
    batch = wire.Mapped()
    rows.add(batch, wire.make_envelope(request.SerializeToString()))
    assert batch.attributes()["otel.scope.team"] == "search"


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


@given(
    st.lists(st.tuples(st.integers(1, 2), st.booleans(), st.integers(1, 9), st.integers(0, 3), st.booleans())),
    st.integers(0, 9),
)
@example([(1, False, 1, 1, True), (1, False, 2, 1, True)], 1)
def test_previews_are_on_the_spans_that_a_run_may_show(
    wire: Wire, made: list[tuple[int, bool, int, int, bool]], cut: int
) -> None:
    """The second envelope is of another project, where the same id is another trace."""
    sent = [
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
    envelopes = envelopes_of(wire, [wire.make_request(*part) for part in (sent[:cut], sent[cut:]) if part])
    batch = wire.Mapped()
    for envelope in envelopes:
        rows.add(batch, envelope)
    map_waiting(batch)
    assert not batch.rows
    assert stored(wire, batch) == stored(wire, one_by_one(envelopes))


def test_an_envelope_that_cannot_be_read_is_given_back_alone_and_whole(wire: Wire) -> None:
    """Its bytes look well until a nested value is read; the span before it is well."""
    good, torn = (wire.make_span({"a": [marker]}, span_id=marker.encode() * 8) for marker in ("g", "t"))
    also = wire.make_span(CHAT, span_id=b"alsogood", events=[wire.make_event("x", {"torn": "t"})])
    bodies = [wire.make_request(*some).SerializeToString() for some in ([good], [good, torn], [good, also])]
    bodies[1] = bodies[1].replace(b"\x0a\x01t", b"\x0a\x09t")
    bodies[2] = bodies[2].replace(b"\x0a\x01t", b"\x0a\x09t")
    batch = wire.Mapped()
    for number, body in enumerate(bodies):
        rows.add(batch, wire.make_envelope(body, id=UUID(int=number + 1), items=2 if number else 1))
    map_waiting(batch)
    assert [envelope_id for envelope_id, _ in batch.refused] == [UUID(int=2), UUID(int=3)]
    assert [row["envelope_id"] for row in wire.decoded(span_block(batch))] == [UUID(int=1)]
    assert len(batch) == 1


def test_only_what_is_not_plain_is_refused_where_the_rest_can_be_mapped_together(wire: Wire) -> None:
    bad = wire.make_span(span_id=b"badevent", events=[wire.make_event("x", {"e": "t"})])
    bodies = [
        wire.make_request(wire.make_span(CHAT, span_id=b"alongbad"), bad).SerializeToString(),
        wire.make_request(wire.make_span(CHAT, span_id=b"goodgood")).SerializeToString(),
    ]
    bodies[0] = bodies[0].replace(b"\x0a\x01t", b"\x0a\x09t")
    batch = wire.Mapped()
    for number, body in enumerate(bodies):
        rows.add(batch, wire.make_envelope(body, id=UUID(int=number + 1), items=2 - number))
    map_waiting(batch)
    assert [envelope_id for envelope_id, _ in batch.refused] == [UUID(int=1)]
    assert [row["span_id"] for row in wire.decoded(span_block(batch))] == [b"goodgood".hex()]
    assert [chunk.rows for chunk in batch.chunks] == [1]


def test_a_body_whose_parts_reach_beyond_each_other_is_not_read(wire: Wire) -> None:
    whole = wire.make_request(wire.make_span()).SerializeToString()
    scope = whole.index(b"\x12", 2)
    body = whole[: scope + 1] + bytes([whole[scope + 1] + 8]) + whole[scope + 2 :] + b"\x1a\x06abcdef"
    batch = wire.Mapped()
    with pytest.raises(BadRequest):
        rows.add(batch, wire.make_envelope(body))
    assert len(batch) == 0
