"""OTLP spans become rows: every column from the best source there is, and nothing that was said is lost."""

import base64
import json
from types import SimpleNamespace as Wire
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tracebility.errors import BadRequest
from tracebility.wire.conventions import SOURCES
from tracebility.wire.envelope import MalformedEnvelope
from tracebility.wire.limits import LABEL_CHARS, MAX_UNIX_NANO, MESSAGE_CHARS, NAME_CHARS, TAGS
from tracebility.worker import mapping
from tracebility.worker.batch import event_id


def test_a_genai_chat_span_fills_its_columns(wire: Wire) -> None:
    messages = '[{"role":"user","parts":[{"type":"text","content":"hi"}]}]'
    mapped = wire.map_span(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.model": "gpt-4o-2024-08-06",
            "gen_ai.input.messages": messages,
            "gen_ai.output.messages": "[]",
            "gen_ai.usage.input_tokens": 1000,
            "gen_ai.usage.output_tokens": 100,
            "gen_ai.usage.cache_read.input_tokens": 400,
            "gen_ai.conversation.id": "c1",
            "user.id": "u1",
            "gen_ai.response.time_to_first_chunk": 0.25,
            "gen_ai.request.temperature": 0.5,
            "gen_ai.response.finish_reasons": ["stop"],
        },
        name="chat gpt-4o",
        kind=Span.SPAN_KIND_CLIENT,
        parent_span_id=bytes([9] * 8),
    )
    row = mapped.row()
    assert (row.trace_id, row.span_id, row.parent_span_id) == (bytes(range(16)).hex(), bytes(range(8)).hex(), "09" * 8)
    assert (row.name, row.kind, row.otel_kind, row.status) == ("chat gpt-4o", "llm", "client", "unset")
    assert (row.start_ns, row.end_ns) == (wire.START_NS, wire.START_NS + 10**9)
    assert (row.model, row.request_model, row.provider) == ("gpt-4o-2024-08-06", "gpt-4o", "openai")
    assert (row.inputs, row.outputs) == (messages, "[]")
    assert (row.input_tokens, row.output_tokens, row.total_tokens, row.cache_read_tokens) == (1000, 100, 1100, 400)
    assert (row.cost, row.cost_source) == (600 * 2500 + 400 * 1250 + 100 * 10_000, "priced")
    assert (row.session_id, row.user_id, row.time_to_first_token_ns) == ("c1", "u1", 250_000_000)
    assert mapped.attributes() == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.temperature": "0.5",
        "gen_ai.response.finish_reasons": '["stop"]',
    }


def test_an_openinference_span_fills_its_columns(wire: Wire) -> None:
    mapped = wire.map_span(
        {
            "openinference.span.kind": "LLM",
            "llm.model_name": "gpt-4o",
            "llm.provider": "openai",
            "llm.input_messages.1.message.role": "user",
            "llm.input_messages.1.message.content": "hi",
            "llm.input_messages.0.message.role": "system",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "look",
            "llm.token_count.prompt": 10,
            "llm.token_count.completion": 5,
            "llm.token_count.total": 15,
            "llm.cost.total": 0.5,
            "input.value": '{"raw": 1}',
            "input.mime_type": "application/json",
            "metadata": '{"plan": "pro", "seats": 3}',
            "tag.tags": ["a", "b"],
            "session.id": "s1",
        }
    )
    row = mapped.row()
    assert (row.kind, row.model, row.provider) == ("llm", "gpt-4o", "openai")
    assert json.loads(row.inputs) == [{"role": "system"}, {"role": "user", "content": "hi"}]
    assert json.loads(row.outputs) == [{"tool_calls": [{"function": {"name": "look"}}]}]
    assert (row.total_tokens, row.cost, row.cost_source) == (15, 500_000_000, "reported")
    assert mapped.metadata() == {"plan": "pro", "seats": "3"}
    assert row.tags == ["a", "b"]
    assert mapped.attributes() == {
        "openinference.span.kind": "LLM",
        "input.value": '{"raw": 1}',
        "input.mime_type": "application/json",
    }


@pytest.mark.parametrize("reverse", [False, True])
def test_the_better_source_wins_in_either_order_and_the_other_stays(wire: Wire, reverse: bool) -> None:
    pairs = [("input.value", "raw"), ("gen_ai.prompt", "older"), ("gen_ai.input.messages", "best")]
    mapped = wire.map_span(dict(reversed(pairs) if reverse else pairs))
    assert mapped.row().inputs == "best"
    assert mapped.attributes() == {"input.value": "raw", "gen_ai.prompt": "older"}


def test_what_cannot_be_read_leaves_its_place_to_the_next_source(wire: Wire) -> None:
    mapped = wire.map_span({"gen_ai.usage.input_tokens": "many", "llm.token_count.prompt": 7, "session.id": ""})
    assert mapped.row().input_tokens == 7
    assert mapped.attributes() == {"gen_ai.usage.input_tokens": "many", "session.id": ""}


def test_a_list_of_messages_yields_to_a_better_source_and_stays(wire: Wire) -> None:
    mapped = wire.map_span({"llm.input_messages.0.message.role": "user", "gen_ai.input.messages": "best"})
    assert mapped.row().inputs == "best"
    assert mapped.attributes() == {"llm.input_messages.0.message.role": "user"}


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({}, "chain"),
        ({"openinference.span.kind": "UNKNOWN", "gen_ai.operation.name": "embeddings"}, "embedding"),
        ({"gen_ai.tool.name": "look"}, "tool"),
        ({"gen_ai.request.model": "m"}, "llm"),
        ({"gen_ai.operation.name": "agent_step"}, "chain"),
        ({"openinference.span.kind": "PROMPT"}, "chain"),
    ],
)
def test_a_span_has_a_kind_whatever_it_says(wire: Wire, attributes: dict[str, Any], kind: str) -> None:
    assert wire.map_span(attributes).row().kind == kind


def test_a_tool_is_called_by_its_name_and_another_span_is_not(wire: Wire) -> None:
    tool = wire.map_span(
        {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look"}, name="execute_tool look"
    )
    assert tool.row().name == "look"
    assert tool.attributes()["otel.span.name"] == "execute_tool look"
    chat = wire.map_span({"gen_ai.operation.name": "chat", "gen_ai.tool.name": "look"}, name="chat")
    assert chat.row().name == "chat"
    assert chat.attributes()["gen_ai.tool.name"] == "look"


def test_an_agent_takes_no_model_and_no_price_from_what_it_calls(wire: Wire) -> None:
    mapped = wire.map_span(
        {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.model": "gpt-4o",
            "gen_ai.usage.input_tokens": 1000,
        }
    )
    row = mapped.row()
    assert (row.model, row.request_model, row.input_tokens, row.cost, row.cost_source) == ("", "gpt-4o", 1000, None, "")
    assert mapped.attributes()["gen_ai.response.model"] == "gpt-4o"


def test_usage_that_leaves_cached_tokens_out_is_completed(wire: Wire) -> None:
    row = wire.map_span(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.usage.input_tokens": 10,
            "gen_ai.usage.cache_read.input_tokens": 500,
            "gen_ai.usage.output_tokens": 1,
        }
    ).row()
    assert (row.input_tokens, row.total_tokens) == (510, 511)


def test_parts_of_a_cost_make_the_cost_and_stay(wire: Wire) -> None:
    mapped = wire.map_span({"llm.cost.prompt": 0.25, "llm.cost.completion": 0.5})
    assert (mapped.row().cost, mapped.row().cost_source) == (750_000_000, "reported")
    assert mapped.attributes() == {"llm.cost.prompt": "0.25", "llm.cost.completion": "0.5"}


def test_a_cost_ends_where_its_column_does(wire: Wire) -> None:
    parts = wire.map_span({"llm.cost.prompt": 9e8, "llm.cost.completion": 9e8})
    assert (parts.row().cost, parts.row().cost_source) == (10**18 - 1, "reported")
    assert wire.map_span({"llm.cost.total": 1e9}).row().cost == 10**18 - 1
    assert wire.map_span({"llm.cost.total": 2e9}).row().cost is None


def test_system_instructions_come_before_the_messages(wire: Wire) -> None:
    instructions = '[{"type":"text","content":"be brief"}]'
    for messages, rest in (("[]", []), ('[{"role":"user"}]', [{"role": "user"}]), (None, [])):
        attributes = {"gen_ai.system_instructions": instructions, "gen_ai.input.messages": messages}
        row = wire.map_span({key: value for key, value in attributes.items() if value}).row()
        assert json.loads(row.inputs) == [{"role": "system", "parts": json.loads(instructions)}, *rest]
    row = wire.map_span({"gen_ai.system_instructions": "be brief", "input.value": "no JSON"}).row()
    assert [message["parts"][0]["content"] for message in json.loads(row.inputs)] == ["be brief", "no JSON"]


def test_messages_in_events_are_inputs_and_outputs(wire: Wire) -> None:
    events = [
        wire.make_event("gen_ai.user.message", {"content": "hi", "gen_ai.system": "openai"}),
        wire.make_event("gen_ai.choice", {"index": 0, "message": "hello"}),
        wire.make_event("other", {}),
    ]
    row = wire.map_span({}, events=events).row()
    assert json.loads(row.inputs) == [{"role": "user", "content": "hi"}]
    assert json.loads(row.outputs) == [{"role": "assistant", "index": 0, "message": "hello"}]
    assert [event["name"] for event in json.loads(row.events)] == ["other"]


def test_messages_in_events_stay_there_where_the_span_says_better(wire: Wire) -> None:
    events = [wire.make_event("gen_ai.user.message", {"content": "hi"})]
    row = wire.map_span({"gen_ai.input.messages": "best"}, events=events).row()
    assert row.inputs == "best"
    assert [event["name"] for event in json.loads(row.events)] == ["gen_ai.user.message"]


def test_the_event_with_operation_details_gives_its_messages(wire: Wire) -> None:
    details = {"gen_ai.input.messages": "[1]", "gen_ai.output.messages": "[2]"}
    event = wire.make_event("gen_ai.client.inference.operation.details", details)
    mapped = wire.map_span({"input.value": "raw"}, events=[event])
    assert (mapped.row().inputs, mapped.row().outputs, mapped.row().events) == ("[1]", "[2]", "")
    assert mapped.attributes() == {"input.value": "raw"}


def test_a_failed_span_tells_what_the_exception_was(wire: Wire) -> None:
    events = [
        wire.make_event("exception", {"exception.type": "ValueError", "exception.message": "no"}, wire.START_NS + 1)
    ]
    row = wire.map_span({}, status=Status(code=Status.STATUS_CODE_ERROR), events=events).row()
    assert (row.status, row.status_message, row.error_type) == ("error", "no", "ValueError")
    assert json.loads(row.events) == [
        {
            "name": "exception",
            "time": "2026-11-24T11:59:55.000000001Z",
            "attributes": {"exception.type": "ValueError", "exception.message": "no"},
        }
    ]


@pytest.mark.parametrize(
    ("attributes", "escaped", "code", "status"),
    [
        ({"error.type": "timeout"}, None, Status.STATUS_CODE_UNSET, "error"),
        ({"error.type": "timeout"}, None, Status.STATUS_CODE_OK, "ok"),
        ({}, "false", Status.STATUS_CODE_UNSET, "unset"),
        ({}, "true", Status.STATUS_CODE_UNSET, "error"),
        ({}, None, 77, "unset"),
    ],
)
def test_a_span_failed_when_it_says_so(
    wire: Wire, attributes: dict[str, str], escaped: str | None, code: int, status: str
) -> None:
    events = [wire.make_event("exception", {"exception.escaped": escaped})] if escaped else []
    assert wire.map_span(attributes, status=Status(code=code), events=events).row().status == status  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "end", "stored"),
    [
        (5, 9, (5, 9)),
        (5, 0, (5, None)),
        (9, 5, (9, 9)),
        (0, 9, (9, 9)),
        ((1 << 64) - 1, (1 << 64) - 1, (MAX_UNIX_NANO, MAX_UNIX_NANO)),
    ],
)
def test_times_fit_their_columns(wire: Wire, start: int, end: int, stored: tuple[int, int | None]) -> None:
    row = wire.map_span({}, start_time_unix_nano=start, end_time_unix_nano=end).row()
    assert (row.start_ns, row.end_ns) == stored


def test_a_span_without_times_began_when_it_came(wire: Wire) -> None:
    row = wire.map_span({}, start_time_unix_nano=0, end_time_unix_nano=0).row()
    assert (row.start_ns, row.end_ns) == (wire.ACCEPTED_AT_US * 1000, None)


def test_what_has_no_column_is_kept_beside_the_attributes(wire: Wire) -> None:
    request = wire.make_request(
        wire.make_span({"a": b"\x00\xff", "b": {"c": [1, None, True]}, "d": float("nan")}, trace_state="v=1"),
        resource={"service.name": "shop", "deployment.environment": "prod", "session.id": "r"},
        scope="lib",
    )
    request.resource_spans[0].scope_spans[0].scope.attributes.append(wire.make_span({"k": "v"}).attributes[0])
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.dropped_attributes_count = 3
    span.links.add(trace_id=bytes([1] * 16), span_id=bytes([2] * 8))
    batch = wire.Mapped()
    mapping.add(batch, wire.make_envelope(request.SerializeToString()))
    assert batch.attributes() == {
        "a": "AP8=",
        "b": '{"c":[1,null,true]}',
        "d": "nan",
        "otel.trace_state": "v=1",
        "otel.dropped_attributes_count": "3",
        "otel.scope.k": "v",
    }
    row = batch.row()
    assert (row.scope_name, row.environment, row.session_id) == ("lib", "prod", "r")
    assert json.loads(row.links)[0]["span_id"] == "02" * 8
    assert row.resource == {"service.name": "shop", "deployment.environment": "prod", "session.id": "r"}


LONG = "x" * (LABEL_CHARS + 1)


@pytest.mark.parametrize(
    ("column", "attribute"),
    [
        ("model", "gen_ai.response.model"),
        ("request_model", "gen_ai.request.model"),
        ("provider", "gen_ai.provider.name"),
        ("session_id", "session.id"),
        ("user_id", "user.id"),
        ("environment", "deployment.environment.name"),
        ("error_type", "error.type"),
    ],
)
def test_a_long_label_is_cut_and_stays_whole_as_an_attribute(wire: Wire, column: str, attribute: str) -> None:
    mapped = wire.map_span({"openinference.span.kind": "LLM", attribute: LONG, "gen_ai.usage.input_tokens": 5})
    assert getattr(mapped.row(), column) == LONG[:LABEL_CHARS]
    assert mapped.attributes() == {"openinference.span.kind": "LLM", attribute: LONG}


def test_what_a_long_label_says_is_an_attribute_once(wire: Wire) -> None:
    mapped = wire.map_span({"openinference.span.kind": "AGENT", "llm.model_name": LONG, "tool.name": LONG})
    assert mapped.row().model == ""
    assert sorted(mapped.attributes()) == ["llm.model_name", "openinference.span.kind", "tool.name"]


def test_long_names_are_cut_and_stay_whole_as_attributes(wire: Wire) -> None:
    name = "x" * (NAME_CHARS + 1)
    mapped = wire.map_span({}, name=name)
    assert (mapped.row().name, mapped.attributes()) == (name[:NAME_CHARS], {"otel.span.name": name})
    mapped = wire.map_span({"openinference.span.kind": "TOOL", "tool.name": LONG}, name="")
    assert (mapped.row().name, mapped.attributes()["tool.name"]) == (LONG[:LABEL_CHARS], LONG)


def test_tags_that_are_long_or_many_are_cut_and_stay_whole_as_an_attribute(wire: Wire) -> None:
    mapped = wire.map_span({"tag.tags": ["a", LONG]})
    assert (mapped.row().tags, mapped.attributes()) == (
        ["a", LONG[:LABEL_CHARS]],
        {"tag.tags": json.dumps(["a", LONG], separators=(",", ":"))},
    )
    mapped = wire.map_span({"tag.tags": ["a"] * (TAGS + 1)})
    assert (mapped.row().tags, list(mapped.attributes())) == (["a"] * TAGS, ["tag.tags"])


def test_a_long_status_message_is_cut_and_stays_whole_as_an_attribute(wire: Wire) -> None:
    message = "x" * (MESSAGE_CHARS + 1)
    exception = wire.make_event("exception", {"exception.type": LONG})
    mapped = wire.map_span({}, status=Status(code=Status.STATUS_CODE_ERROR, message=message), events=[exception])
    assert (mapped.row().status_message, mapped.row().error_type) == (message[:-1], LONG[:-1])
    assert mapped.attributes() == {"otel.status_description": message}


@pytest.mark.parametrize("name", [LONG, "llm.input_messages.0." + LONG])
def test_long_names_of_attributes_are_cut(wire: Wire, name: str) -> None:
    request = wire.make_request(wire.make_span({name: "v"}), resource={name: "r"}, scope=name * 4)
    scope = request.resource_spans[0].scope_spans[0].scope
    scope.version = name
    scope.attributes.append(wire.make_span({name: "s"}).attributes[0])
    batch = wire.Mapped()
    mapping.add(batch, wire.make_envelope(request.SerializeToString()))
    assert batch.attributes() == {name[:LABEL_CHARS]: "v", f"otel.scope.{name}"[:LABEL_CHARS]: "s"}
    assert batch.row().resource == {name[:LABEL_CHARS]: "r"}
    assert (batch.row().scope_name, batch.row().scope_version) == ((name * 4)[:NAME_CHARS], name[:LABEL_CHARS])


def test_metadata_with_a_long_name_stays_an_attribute(wire: Wire) -> None:
    metadata = json.dumps({LONG: 1})
    mapped = wire.map_span({"metadata": metadata})
    assert (mapped.metadata(), mapped.attributes()) == ({}, {"metadata": metadata})


def test_spans_get_short_labels_of_their_resource(wire: Wire) -> None:
    batch = wire.Mapped()
    resource = {"session.id": LONG}
    mapping.add(batch, wire.make_envelope(wire.make_request(wire.make_span(), resource=resource).SerializeToString()))
    assert (batch.row().session_id, batch.row().resource) == (LONG[:LABEL_CHARS], {"session.id": LONG})


def test_spans_that_the_edge_refused_are_passed_over(wire: Wire) -> None:
    spans = [wire.make_span({}, name=str(number), span_id=bytes([number + 1] * 8)) for number in range(4)]
    batch = wire.Mapped()
    mapping.add(batch, wire.make_envelope(wire.make_request(*spans).SerializeToString(), rejected=(0, 2), items=2))
    assert [batch.row(index).name for index in range(2)] == ["1", "3"]
    assert [batch.row(index).size for index in range(2)] == [spans[1].ByteSize(), spans[3].ByteSize()]


@pytest.mark.parametrize("items", [1, 3])
def test_a_body_of_more_or_fewer_spans_than_were_accepted_is_not_stored(wire: Wire, items: int) -> None:
    batch = wire.Mapped()
    body = wire.make_request(wire.make_span(), wire.make_span()).SerializeToString()
    with pytest.raises(MalformedEnvelope, match=f"the edge accepted {items}"):
        mapping.add(batch, wire.make_envelope(body, items=items))
    assert len(batch) == 0


def test_the_event_id_is_of_the_span_and_not_of_its_envelope(wire: Wire) -> None:
    body = wire.make_request(wire.make_span()).SerializeToString()
    ids = set()
    for envelope in (wire.make_envelope(body), wire.make_envelope(body, id=UUID(int=8), accepted_at_us=9)):
        batch = wire.Mapped()
        mapping.add(batch, envelope)
        ids.add(batch.row().event_id)
        assert event_id(envelope.header, batch.row().trace_id, batch.row().span_id).bytes == batch.row().event_id
    assert len(ids) == 1
    other = wire.Mapped()
    mapping.add(other, wire.make_envelope(body, org_id=UUID(int=99)))
    assert other.row().event_id not in ids


OUTPUT, USAGE = {"output.value": "said"}, {"gen_ai.usage.input_tokens": 5}


def test_versions_favour_copies_that_say_more_and_then_the_newest(wire: Wire) -> None:
    copies: list[tuple[dict[str, Any], dict[str, int]]] = [
        ({}, {"end_time_unix_nano": 0}),
        (USAGE, {"end_time_unix_nano": 0}),
        ({}, {}),
        (OUTPUT, {}),
        (OUTPUT | USAGE, {}),
    ]
    versions = [wire.map_span(attributes, **times).sent()[0]["version"] for attributes, times in copies]
    assert versions == sorted(set(versions))
    runs = [{"end_time": None}, {}, {"outputs": "said"}, {"outputs": "said", "usage": {"input_tokens": 5}}]
    versions = [wire.map_run(**fields).sent()[0]["version"] for fields in runs]
    assert versions == sorted(set(versions))
    body = wire.make_request(wire.make_span(OUTPUT)).SerializeToString()
    for accepted_at_us in (1, 2):
        batch = wire.Mapped()
        mapping.add(batch, wire.make_envelope(body, accepted_at_us=accepted_at_us))
        assert batch.sent()[0]["version"] % (1 << 52) == accepted_at_us


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "deflate"])
def test_a_compressed_body_is_read(wire: Wire, encoding: str) -> None:
    import zlib

    from backports import zstd

    body = wire.make_request(wire.make_span(name="here")).SerializeToString()
    packers = {"gzip": lambda data: zlib.compress(data, wbits=31), "deflate": zlib.compress, "zstd": zstd.compress}
    batch = wire.Mapped()
    mapping.add(batch, wire.make_envelope(packers[encoding](body), content_encoding=encoding))
    assert batch.row().name == "here"


def test_a_body_that_cannot_be_read_leaves_the_batch_as_it_was(wire: Wire) -> None:
    batch = wire.Mapped()
    mapping.add(batch, as_json(wire, wire.make_request(wire.make_span(name="kept"))))
    before = (len(batch), batch.pending_bytes, batch.bytes)
    for body in (b"{", b'{"resourceSpans": [{"scopeSpans": 1}]}'):
        with pytest.raises(BadRequest):
            mapping.add(batch, wire.make_envelope(body, content_type="json"))
    good = {
        "id": "0192f0c1-0000-7000-8000-000000000001",
        "name": "r",
        "kind": "llm",
        "start_time": "2026-11-24T12:00:00Z",
    }
    runs = json.dumps({"runs": [good, good | {"start_time": "no time"}]}).encode()
    with pytest.raises(MalformedEnvelope, match="run 1 was accepted"):
        mapping.add(batch, wire.make_envelope(runs, source="native", items=2))
    assert (len(batch), batch.pending_bytes, batch.bytes) == before
    assert batch.row().name == "kept"


def test_a_request_in_json_is_stored_as_the_same_in_protobuf(wire: Wire) -> None:
    span = wire.make_span({"gen_ai.response.model": "gpt-4o", "n": 1, "x": 0.5, "l": ["a"]}, kind=3)
    span.events.append(wire.make_event("x", {"e": "f"}))
    request = wire.make_request(span, resource={"service.name": "shop"}, scope="lib")
    rows = []
    for envelope in (as_json(wire, request), wire.make_envelope(request.SerializeToString())):
        batch = wire.Mapped()
        mapping.add(batch, envelope)
        rows.append(batch.sent())
    assert rows[0] == rows[1]


def as_json(wire: Wire, request: Any, **fields: Any) -> Any:
    """An envelope of the request as OTLP's JSON has it."""
    body = MessageToDict(request, always_print_fields_with_no_presence=False)
    for span in body["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for field in ("traceId", "spanId"):
            span[field] = base64.b64decode(span[field]).hex()
    return wire.make_envelope(json.dumps(body).encode(), content_type="json", **fields)


NAMES = st.sampled_from(
    [name.replace("*", "0.message.role") for names in SOURCES.values() for name in names if not name.startswith("(")]
    + ["llm.input_messages.1", "llm.input_messages.1.message.tool_calls.0", "app.x", ""]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from(["LLM", "chat", "invoke_agent", "[]", "{}", '{"a":1}', "gpt-4o", "openai"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(NAMES, VALUES, max_size=12),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.lists(
        st.tuples(st.sampled_from(["exception", "gen_ai.choice", "x"]), st.dictionaries(NAMES, VALUES, max_size=3))
    ),
)
def test_no_span_stops_the_mapping_and_every_row_fits_its_columns(
    wire: Wire, attributes: dict[str, Any], start: int, end: int, events: list[tuple[str, dict[str, Any]]]
) -> None:
    mapped = wire.map_span(
        attributes,
        start_time_unix_nano=start,
        end_time_unix_nano=end,
        events=[wire.make_event(name, said, start) for name, said in events],
    )
    assert len(mapped.sent()) == 1
    lost = set(attributes) - set(mapped.attributes())
    assert all(mapped.names.table[name] is not None for name in lost)


def test_a_resource_that_would_be_repeated_without_bound_is_not_mapped(wire: Wire) -> None:
    """A body of 1 MiB would become gigabytes: each row carries its resource."""
    spans = [Span(trace_id=bytes(range(16)), span_id=number.to_bytes(8, "big")) for number in range(1, 1001)]
    body = wire.make_request(*spans, resource={"k": "x" * (300 << 10)}).SerializeToString()
    batch = wire.Mapped()
    with pytest.raises(MalformedEnvelope, match="repeated for each of their spans"):
        mapping.add(batch, wire.make_envelope(body, items=len(spans)))
    assert len(batch) == 0
