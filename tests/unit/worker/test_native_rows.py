"""Native runs become rows by the same columns as spans."""

import json
from decimal import Decimal
from types import SimpleNamespace as Wire

import pytest

from tracebility.wire.envelope import MalformedEnvelope
from tracebility.wire.limits import MESSAGE_CHARS
from tracebility.worker import mapping

GOOD = {"id": "0192f0c1-0000-7000-8000-000000000001", "name": "r", "kind": "llm", "start_time": 1_795_521_600}


def test_a_run_fills_its_columns(wire: Wire) -> None:
    mapped = wire.map_run(
        trace_id="0192f0c1-0000-7000-8000-000000000000",
        parent_id="0192f0c1-0000-7000-8000-000000000009",
        inputs={"q": 1},
        outputs="plain",
        model="gpt-4o",
        provider="openai",
        usage={"input_tokens": 1000, "output_tokens": 100, "reasoning_tokens": 5},
        session_id="s",
        user_id="u",
        tags=["a"],
        metadata={"k": {"x": 1}},
    )
    row = mapped.row()
    assert (row.trace_id[-1], row.span_id[-1], row.parent_span_id[-1]) == ("0", "1", "9")
    assert (row.kind, row.status, row.end_ns and row.end_ns - row.start_ns) == ("llm", "ok", 1_500_000_000)
    assert (row.inputs, row.outputs) == ('{"q": 1}', "plain")
    assert (row.model, row.provider, row.total_tokens, row.reasoning_tokens) == ("gpt-4o", "openai", 1100, 5)
    assert (row.cost, row.cost_source) == (3_500_000, "priced")
    assert (row.session_id, row.user_id, row.tags, mapped.metadata()) == ("s", "u", ["a"], {"k": '{"x": 1}'})


def test_a_reported_cost_is_kept(wire: Wire) -> None:
    row = wire.map_run(model="gpt-4o", usage={"input_tokens": 10}, cost=0.000000001).row()
    assert (Decimal(row.cost or 0), row.cost_source) == (1, "reported")


@pytest.mark.parametrize("dollars", ["1000001", "999999999.999999999"])
def test_a_large_reported_cost_is_kept_too(wire: Wire, dollars: str) -> None:
    batch = wire.Mapped()
    body = json.dumps(GOOD | {"cost": 0}).replace('"cost": 0', f'"cost": {dollars}').encode()
    mapping.add(batch, wire.make_envelope(body, source="native"))
    assert Decimal(batch.row().cost or 0) / 10**9 == Decimal(dollars)


@pytest.mark.parametrize(("kind", "model", "priced"), [("agent", "", False), ("llm", "gpt-4o", True)])
def test_only_calls_have_a_model_and_a_price(wire: Wire, kind: str, model: str, priced: bool) -> None:
    row = wire.map_run(kind=kind, model="gpt-4o", usage={"input_tokens": 10}).row()
    assert (row.model, row.request_model, row.cost is not None) == (model, "gpt-4o", priced)


def test_a_run_that_has_not_ended_has_no_end(wire: Wire) -> None:
    row = wire.map_run(end_time=None).row()
    assert (row.end_ns, row.status) == (None, "unset")


def test_an_error_makes_a_failed_row(wire: Wire) -> None:
    row = wire.map_run(error={"type": "Timeout", "message": "too slow"}).row()
    assert (row.status, row.error_type, row.status_message) == ("error", "Timeout", "too slow")


def test_a_long_error_is_cut_and_stays_whole_as_an_attribute(wire: Wire) -> None:
    mapped = wire.map_run(error="x" * (MESSAGE_CHARS + 1))
    assert mapped.row().status_message == "x" * MESSAGE_CHARS
    assert mapped.attributes() == {"error": "x" * (MESSAGE_CHARS + 1)}


def test_counts_beyond_any_call_are_cut(wire: Wire) -> None:
    row = wire.map_run(usage={"input_tokens": (1 << 63) - 1, "cache_read_tokens": (1 << 63) - 1}).row()
    assert (row.input_tokens, row.cache_read_tokens) == (10**12, 10**12)


def test_a_run_that_was_accepted_and_cannot_be_read_is_not_passed_over(wire: Wire) -> None:
    batch = wire.Mapped()
    body = json.dumps({"runs": [GOOD, GOOD | {"kind": "?"}]}).encode()
    with pytest.raises(MalformedEnvelope, match="run 1 was accepted and cannot be read: kind"):
        mapping.add(batch, wire.make_envelope(body, source="native"))
    assert (batch.runs, batch.sizes, batch.envelopes) == ([], [], [])
    mapping.add(batch, wire.make_envelope(body, source="native", rejected=(1,)))
    assert [row.span_id for row in map(batch.row, range(len(batch)))] == [GOOD["id"]]
