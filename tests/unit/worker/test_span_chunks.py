"""Spans mapped together say what protobuf and a plain reading of the conventions find in each, and lose nothing."""

import json
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace as Wire
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from structlog.testing import capture_logs

from tracebility.errors import BadRequest
from tracebility.wire.conventions import SOURCES, RuleTable, Slot, as_text, read_text
from tracebility.wire.envelope import Envelope
from tracebility.wire.limits import LABEL_CHARS, NAME_CHARS
from tracebility.wire.otlp.values import read_any
from tracebility.worker import mapping
from tracebility.worker.attribute_names import AttributeNames
from tracebility.worker.batch import Batch
from tracebility.worker.columns import meter_block, span_block
from tracebility.worker.message_assembly import ListPlans
from tracebility.worker.previews import PREVIEW_CHARS

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
OTHERS = st.one_of(
    st.text(max_size=8),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(),
    st.booleans(),
    st.binary(max_size=4),
    st.lists(st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(-9, 9), max_size=2),
)
# Values and names that few spans have.
RARE_ATTRIBUTES = st.sampled_from(
    [
        ("metadata", '{"k": 1}'),
        ("metadata", "no object"),
        ("tag.tags", '["a", "b"]'),
        ("gen_ai.input.messages", [{"role": "user"}]),
        ("session.id", 7),
        ("gen_ai.usage.input_tokens", "12"),
        ("llm.input_messages.0", "whole"),
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
    slot = draw(st.sampled_from(sorted(NAMES)))
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
    field = draw(st.sampled_from([""] * 9 + ["event", "message", "link", "flags", "trace_state", "dropped"]))
    if field == "event":
        made.events.append(wire.make_event("exception", {"exception.type": "E", "exception.message": "m"}))
    elif field == "message":
        made.events.append(wire.make_event("gen_ai.user.message", {"content": "hi"}))
    elif field == "link":
        made.links.add(trace_id=bytes(16), span_id=bytes(8))
    elif field == "flags":
        made.flags = 257
    elif field == "trace_state":
        made.trace_state = "a=b"
    elif field == "dropped":
        made.dropped_attributes_count = 3
    return made


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


@st.composite
def requests(draw: st.DrawFn, wire: Wire) -> list[ExportTraceServiceRequest]:
    resource = st.sampled_from([{}, {"session.id": "s", "deployment.environment": "prod"}, {"user.id": "u" * 2000}])
    return draw(
        st.lists(
            st.builds(
                lambda some, resource, scope: wire.make_request(*some, resource=resource, scope=scope),
                st.lists(spans(wire), min_size=1, max_size=4, unique_by=lambda span: span.span_id),
                resource,
                st.sampled_from(["", "scope"]),
            ),
            min_size=1,
            max_size=3,
        )
    )


def mapped(wire: Wire, *envelopes: Envelope) -> Any:
    batch = wire.Mapped()
    with capture_logs() as logs:
        for envelope in envelopes:
            mapping.add(batch, envelope)
        mapping.map_pending(batch)
    assert (logs, batch.refused) == ([], [])  # such as that spans could not be mapped together after all
    return batch


def stored(wire: Wire, batch: Batch) -> list[dict[str, Any]]:
    return sorted(wire.decoded(span_block(batch)), key=lambda row: (row["envelope_id"], row["event_id"]))


@given(data=st.data())
def test_spans_are_stored_alike_whichever_others_they_are_mapped_with(wire: Wire, data: st.DataObject) -> None:
    envelopes = envelopes_of(wire, data.draw(requests(wire)))
    batch = mapped(wire, *envelopes)
    alone = [mapped(wire, envelope) for envelope in envelopes]
    rows = sorted(
        (row for one in alone for row in stored(wire, one)), key=lambda row: (row["envelope_id"], row["event_id"])
    )
    assert list(map(without_previews, stored(wire, batch))) == list(map(without_previews, rows))
    assert batch.traces() == sorted({trace for one in alone for trace in one.traces()})
    assert metered(wire, batch) == sorted(line for one in alone for line in metered(wire, one))


def without_previews(row: dict[str, Any]) -> dict[str, Any]:
    """Which spans carry one depends on which are mapped together; that no run shows it is tested of previews."""
    return {name: repr(_sorted(value)) for name, value in row.items() if not name.endswith("_preview")}


def _sorted(value: Any) -> Any:
    return sorted(value.items()) if isinstance(value, dict) else value


def metered(wire: Wire, batch: Batch) -> list[tuple[Any, ...]]:
    made = wire.decoded(meter_block(batch))
    return sorted((row["meter"], row["event_id"], row["qty"], row["period"], row["project_id"]) for row in made)


# By slot: the column that says what the best attribute of the slot said, and nothing else.
COLUMNS = {
    Slot.PROVIDER: "provider",
    Slot.REQUEST_MODEL: "request_model",
    Slot.SESSION_ID: "session_id",
    Slot.USER_ID: "user_id",
    Slot.ENVIRONMENT: "environment",
    Slot.OUTPUTS: "outputs",
    Slot.TAGS: "tags",
    Slot.METADATA: "metadata",
    Slot.CACHE_READ_TOKENS: "cache_read_tokens",
    Slot.TIME_TO_FIRST_TOKEN: "time_to_first_token_ns",
}
KEPT = {Slot.KIND, Slot.INPUT_COST, Slot.OUTPUT_COST}


def read(span: Span) -> tuple[dict[Slot, Any], Counter[tuple[str, str]]]:
    """The oracle: of each slot the value of its best source, and the attributes that no column says."""
    table = RuleTable()
    best: dict[int, tuple[int, int, Any]] = {}
    for position, pair in enumerate(span.attributes):
        rule = table[pair.key]
        if rule is not None and rule.slot >= 0 and rule.path is None:
            value = (rule.read or read_text)(read_any(pair.value))
            if value is not None:
                best[rule.slot] = min(best.get(rule.slot, (99, 0, None)), (rule.rank, position, value))
    chosen = {Slot(slot): value for slot, (_, _, value) in best.items()}
    in_columns = {position for slot, (_, position, _) in best.items() if Slot(slot) not in KEPT}
    left = Counter(
        (pair.key, as_text(read_any(pair.value)))
        for position, pair in enumerate(span.attributes)
        if position not in in_columns
    )
    return chosen, left


@given(data=st.data())
def test_columns_say_what_a_plain_reading_of_the_conventions_finds(wire: Wire, data: st.DataObject) -> None:
    span = data.draw(spans(wire))
    if span.events or any(".0" in pair.key or len(pair.key) > LABEL_CHARS for pair in span.attributes):
        return  # what spells messages has tests of its own
    [row] = stored(wire, mapped(wire, *envelopes_of(wire, [wire.make_request(span)])))
    chosen, left = read(span)
    for slot, column in COLUMNS.items():
        value = chosen.get(slot)
        if isinstance(value, str) and slot is not Slot.OUTPUTS:
            value = value[:LABEL_CHARS]
        assert row[column] == (value or type(row[column])()), column
    assert row["trace_id"] == span.trace_id.hex()
    assert row["span_id"] == span.span_id.hex()
    assert row["name"] == (chosen[Slot.TOOL_NAME] if is_tool(row, chosen) else span.name[:NAME_CHARS])
    kept = Counter(row["attributes"].items())
    # Only these may be there besides: what was cut, or belongs to another kind of span, or has a name of OTel's own.
    may_stay = {name for slot in (Slot.TOOL_NAME, Slot.MODEL) for name in SOURCES[slot]}
    for name, text in kept - left:
        assert name in may_stay or name.startswith("otel.") or len(text) > LABEL_CHARS
    assert not left - kept


def is_tool(row: dict[str, Any], chosen: dict[Slot, Any]) -> bool:
    return row["kind"] == "tool" and Slot.TOOL_NAME in chosen


def together(wire: Wire, *made: Span, **request: Any) -> Any:
    """The spans in one envelope, all mapped together."""
    return mapped(wire, *envelopes_of(wire, [wire.make_request(*made, **request)]))


def test_of_an_attribute_that_comes_twice_the_first_is_taken(wire: Wire) -> None:
    span = wire.make_span({"gen_ai.operation.name": "chat"})
    for model in ("first", "second"):
        span.attributes.add(key="gen_ai.response.model", value=wire.any_value(model))
    batch = together(wire, span)
    assert (batch.row().model, batch.attributes()["gen_ai.response.model"]) == ("first", "second")


def test_what_a_scope_says_is_kept_with_its_spans(wire: Wire) -> None:
    request = wire.make_request(wire.make_span(CHAT))
    request.resource_spans[0].scope_spans[0].scope.attributes.extend(wire.make_span({"team": "search"}).attributes)
    batch = wire.Mapped()
    mapping.add(batch, wire.make_envelope(request.SerializeToString()))
    assert batch.attributes()["otel.scope.team"] == "search"


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
    together = stored(wire, mapped(wire, *envelopes))
    for envelope, part in zip(envelopes, [part for part in (sent[:cut], sent[cut:]) if part], strict=True):
        mine = {row["span_id"]: row for row in together if row["envelope_id"] == envelope.header.id}
        for column, said, preview in (("inputs", "inputs", "input_preview"), ("outputs", "outputs", "output_preview")):
            expected = previewed(part, column == "outputs")
            assert {one for one, row in mine.items() if row[preview]} == {one for one in expected if mine[one][said]}
            assert all(row[preview] in ("", row[said][:PREVIEW_CHARS]) for row in mine.values())


def previewed(spans: Sequence[Span], is_output: bool) -> set[str]:
    """The spans whose texts a run may show: roots, and of each trace the top, and the first or last that has one."""
    shown = {span.span_id.hex() for span in spans if not span.parent_span_id}
    for trace in {span.trace_id for span in spans}:
        below = [
            (span.start_time_unix_nano, -span.end_time_unix_nano, place, span)
            for place, span in enumerate(spans)
            if span.trace_id == trace and span.parent_span_id
        ]
        if not below:
            continue
        says = [one for one in below if one[3].attributes]
        shown.add(min(below, key=lambda one: one[:3])[3].span_id.hex())
        if says and is_output:
            shown.add(max(says, key=lambda one: (-one[1], one[2]))[3].span_id.hex())
        elif says:
            shown.add(min(says, key=lambda one: one[:3])[3].span_id.hex())
    return shown


def test_an_envelope_that_cannot_be_read_is_given_back_alone_and_whole(wire: Wire) -> None:
    """Its bytes look well until a nested value is read; the span before it is well."""
    good, torn = (wire.make_span({"a": [marker]}, span_id=marker.encode() * 8) for marker in ("g", "t"))
    also = wire.make_span(CHAT, span_id=b"alsogood", events=[wire.make_event("x", {"torn": "t"})])
    bodies = [wire.make_request(*some).SerializeToString() for some in ([good], [good, torn], [good, also])]
    bodies[1] = bodies[1].replace(b"\x0a\x01t", b"\x0a\x09t")
    bodies[2] = bodies[2].replace(b"\x0a\x01t", b"\x0a\x09t")
    batch = wire.Mapped()
    for number, body in enumerate(bodies):
        mapping.add(batch, wire.make_envelope(body, id=UUID(int=number + 1), items=2 if number else 1))
    mapping.map_pending(batch)
    assert [envelope_id for envelope_id, _ in batch.refused] == [UUID(int=2), UUID(int=3)]
    assert [row["envelope_id"] for row in wire.decoded(span_block(batch))] == [UUID(int=1)]
    assert len(batch) == 1


def test_an_event_that_cannot_be_read_refuses_its_envelope_only(wire: Wire) -> None:
    bad = wire.make_span(span_id=b"badevent", events=[wire.make_event("x", {"e": "t"})])
    bodies = [
        wire.make_request(wire.make_span(CHAT, span_id=b"alongbad"), bad).SerializeToString(),
        wire.make_request(wire.make_span(CHAT, span_id=b"goodgood")).SerializeToString(),
    ]
    bodies[0] = bodies[0].replace(b"\x0a\x01t", b"\x0a\x09t")
    batch = wire.Mapped()
    for number, body in enumerate(bodies):
        mapping.add(batch, wire.make_envelope(body, id=UUID(int=number + 1), items=2 - number))
    mapping.map_pending(batch)
    assert [envelope_id for envelope_id, _ in batch.refused] == [UUID(int=1)]
    assert [row["span_id"] for row in wire.decoded(span_block(batch))] == [b"goodgood".hex()]
    assert [chunk.rows for chunk in batch.chunks] == [1]


def test_a_body_whose_parts_reach_beyond_each_other_is_not_read(wire: Wire) -> None:
    whole = wire.make_request(wire.make_span()).SerializeToString()
    scope = whole.index(b"\x12", 2)
    body = whole[: scope + 1] + bytes([whole[scope + 1] + 8]) + whole[scope + 2 :] + b"\x1a\x06abcdef"
    batch = wire.Mapped()
    with pytest.raises(BadRequest):
        mapping.add(batch, wire.make_envelope(body))
    assert len(batch) == 0


def test_usual_spans_are_mapped_without_being_decoded(wire: Wire) -> None:
    """Each decoded span costs as much as all the rest of its mapping."""
    envelopes = envelopes_of(
        wire, [wire.make_request(wire.make_span(CHAT, span_id=bytes([one] * 8), kind=3)) for one in (1, 2, 3)]
    )
    batch = mapped(wire, *envelopes)
    assert [chunk.rows for chunk in batch.chunks] == [3]


WAYS = {
    "llm.input_messages": '[{"role": "user"}]',
    "llm.input_messages.0": "whole",
    "llm.input_messages.0.message.content": "part",
    "llm.input_messages.0.content": "part again",
}


@pytest.mark.parametrize("reverse", [False, True])
def test_messages_given_in_several_ways_are_all_kept(wire: Wire, reverse: bool) -> None:
    said = dict(reversed(WAYS.items())) if reverse else WAYS
    batch = wire.map_span(said)
    row, attributes = batch.row(), batch.attributes()
    for name, text in said.items():
        assert attributes.get(name) == text or json.dumps(text) in row.inputs, name


def test_a_list_that_events_say_better_stays(wire: Wire) -> None:
    details = wire.make_event("gen_ai.client.inference.operation.details", {"gen_ai.input.messages": "[1]"})
    batch = wire.map_span({"llm.input_messages.0.message.content": "part"}, events=[details])
    assert batch.row().inputs == "[1]"
    assert batch.attributes() == {"llm.input_messages.0.message.content": "part"}


@pytest.mark.parametrize(
    ("sent", "tags"),
    [
        ('["a", "b"]', ["a", "b"]),
        (' [1, {"k": 2}]', ["1", '{"k":2}']),
        ("a, b", ["a, b"]),
        ("[not json", ["[not json"]),
        ('["a"', ['["a"']),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_tags_may_be_a_list_or_its_json(wire: Wire, sent: Any, tags: list[str]) -> None:
    batch = wire.map_span({"tag.tags": sent})
    assert (batch.row().tags, batch.attributes()) == (tags, {})


def test_an_empty_list_of_tags_is_none(wire: Wire) -> None:
    batch = wire.map_span({"tag.tags": "[]"})
    assert (batch.row().tags, batch.attributes()) == ([], {"tag.tags": "[]"})


def test_names_and_plans_of_hostile_spans_are_forgotten(wire: Wire) -> None:
    batch = wire.Mapped()
    names = batch.names
    for number in range(4):
        attributes = {f"llm.input_messages.{one}.x{number}": "v" for one in range(9_000)}
        envelope = wire.make_envelope(wire.make_request(wire.make_span(attributes)).SerializeToString())
        mapping.add(batch, envelope)
        mapping.map_pending(batch)
        assert len(names) <= AttributeNames.MAX_NAMES + 9_000
    assert len(names.plans) == 0  # of so many parts none is kept
    small = wire.make_request(*(wire.make_span({f"llm.input_messages.0.x{one}": "v"}) for one in range(2_100)))
    mapping.add(batch, wire.make_envelope(small.SerializeToString(), items=2_100))
    mapping.map_pending(batch)
    assert len(names.plans) == ListPlans.MAX_PLANS
