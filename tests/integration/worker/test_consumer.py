"""What is in the queue gets into the engine once, whatever happens on the way, and runs are right in any order."""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]

TRACE = [(0, None), (1, 0), (2, 1), (3, 0)]


def call(spans: Make, number: int, parent: int | None, trace: bytes = b"", **more: Any) -> Any:
    return spans(
        number,
        parent,
        trace,
        gen_ai__operation__name="chat",
        gen_ai__request__model="gpt-4o",
        gen_ai__provider__name="openai",
        gen_ai__usage__input_tokens=1000,
        gen_ai__usage__output_tokens=100,
        **more,
    )


async def test_a_trace_becomes_its_spans_its_run_and_its_meter(tenant: Any, worker: Make, spans: Make) -> None:
    root = spans(0, None, gen_ai__operation__name="invoke_agent", input__value="question", output__value="answer")
    sent = [root, call(spans, 1, 0, session__id="s"), spans(2, 0, error__type="timeout", user__id="u")]
    await tenant.send(sent)
    async with worker() as running:
        await running.drained(tenant)
    assert [row["name"] for row in await tenant.rows("span", "name", "name")] == ["span 0", "span 1", "span 2"]
    [run] = await tenant.rows("run", "* EXCEPT (version, accepted_at)")
    assert {key: run[key] for key in ("name", "kind", "status", "root_span_id", "span_count", "error_count")} == {
        "name": "span 0",
        "kind": "agent",
        "status": "ok",
        "root_span_id": "0000000000000001",
        "span_count": 3,
        "error_count": 1,
    }
    assert (run["input_preview"], run["output_preview"]) == ("question", "answer")
    assert (run["session_id"], run["user_id"], run["models"]) == ("s", "u", ["gpt-4o"])
    assert (run["input_tokens"], run["output_tokens"], run["total_tokens"], str(run["cost"])) == (
        1000,
        100,
        1100,
        "0.003500000",
    )
    assert (run["end_time"] - run["start_time"]).total_seconds() == 3
    assert await tenant.metered() == {"spans": 3, "bytes": sum(span.ByteSize() for span in sent)}


@pytest.mark.parametrize("seed", range(3))
async def test_a_run_is_right_whatever_order_its_spans_come_in(
    tenant: Any, worker: Make, spans: Make, seed: int
) -> None:
    order = [[call(spans, number, parent) if number == 2 else spans(number, parent)] for number, parent in TRACE]
    random.Random(seed).shuffle(order)
    async with worker() as running:
        for one in order:
            await tenant.send(one)
            await running.drained(tenant)
    [run] = await tenant.rows("run", "name, status, span_count, total_tokens, root_span_id")
    assert list(run.values()) == ["span 0", "ok", 4, 1100, "0000000000000001"]


async def test_a_run_without_its_root_shows_its_first_span(tenant: Any, worker: Make, spans: Make) -> None:
    await tenant.send([spans(2, 1), spans(1, 0)])
    async with worker() as running:
        await running.drained(tenant)
    [run] = await tenant.rows("run", "name, status, span_count, root_span_id")
    assert list(run.values()) == ["span 1", "ok", 2, "0000000000000002"]


async def test_a_root_that_has_not_ended_is_running_until_it_has(tenant: Any, worker: Make) -> None:
    run = {"id": "0192f0c1-0000-7000-8000-000000000001", "name": "r", "kind": "agent", "start_time": 1_795_521_600}
    async with worker() as running:
        await tenant.send(json.dumps(run).encode(), source="native")
        await running.drained(tenant)
        assert [row["status"] for row in await tenant.rows("run", "status")] == ["running"]
        await tenant.send(json.dumps(run | {"end_time": 1_795_521_601}).encode(), source="native")
        await running.drained(tenant)
    assert [row["status"] for row in await tenant.rows("run", "status")] == ["ok"]
    assert await tenant.rows("span", "count()", "1") == [{"count()": 1}]


async def test_usage_that_a_wrapper_repeats_counts_once(tenant: Any, worker: Make, spans: Make) -> None:
    agent = spans(0, None, gen_ai__operation__name="invoke_agent", gen_ai__usage__input_tokens=9000)
    await tenant.send([agent, call(spans, 1, 0), call(spans, 2, 1), call(spans, 3, 0)])
    async with worker() as running:
        await running.drained(tenant)
    [run] = await tenant.rows("run", "input_tokens, total_tokens, toString(cost) AS cost")
    assert list(run.values()) == [2000, 2200, "0.007"]


async def test_a_run_without_calls_has_its_root_s_usage(tenant: Any, worker: Make, spans: Make) -> None:
    agent = spans(0, None, gen_ai__operation__name="invoke_agent", gen_ai__usage__input_tokens=9, llm__cost__total=0.5)
    await tenant.send([agent, spans(1, 0)])
    async with worker() as running:
        await running.drained(tenant)
    [run] = await tenant.rows("run", "input_tokens, toString(cost) AS cost")
    assert list(run.values()) == [9, "0.5"]


async def test_a_failed_root_makes_a_failed_run(tenant: Any, worker: Make, spans: Make) -> None:
    root = spans(0, None, error__type="boom")
    root.status.message = "it broke"
    await tenant.send([root, spans(1, 0)])
    async with worker() as running:
        await running.drained(tenant)
    [run] = await tenant.rows("run", "status, error_message, error_count")
    assert list(run.values()) == ["error", "it broke", 1]


async def test_spans_sent_again_in_other_envelopes_are_one_row_each(tenant: Any, worker: Make, spans: Make) -> None:
    sent = [spans(number, parent) for number, parent in TRACE]
    async with worker() as running:
        await tenant.send(sent[:2], sent[1:3])
        await running.drained(tenant)
        await tenant.send(sent, sent[2:])
        await running.drained(tenant)
    assert len(await tenant.rows("span", "span_id")) == 4
    assert [row["span_count"] for row in await tenant.rows("run", "span_count")] == [4]
    assert (await tenant.metered())["spans"] == 4


@pytest.mark.parametrize("finished_first", [True, False])
async def test_a_finished_span_is_not_lost_to_a_copy_of_its_start(
    tenant: Any, worker: Make, spans: Make, finished_first: bool
) -> None:
    finished, begun = call(spans, 1, 0), spans(1, 0)
    begun.end_time_unix_nano = 0
    async with worker() as running:
        for copy in (finished, begun) if finished_first else (begun, finished):
            await tenant.send([copy])
            await running.drained(tenant)
    [row] = await tenant.rows("span", "total_tokens, end_time")
    assert row["total_tokens"] > 0
    assert row["end_time"] is not None
    [run] = await tenant.rows("run", "status, total_tokens")
    assert list(run.values()) == ["ok", row["total_tokens"]]
    assert (await tenant.metered())["spans"] == 1


async def test_the_newest_accept_of_a_span_wins_in_either_order(tenant: Any, worker: Make, spans: Make) -> None:
    old, new = spans(0), spans(0)
    new.name = "new"
    async with worker() as running:
        await tenant.send([new], accepted_at_us=2_000_000)
        await running.drained(tenant)
        await tenant.send([old], accepted_at_us=1_000_000)
        await running.drained(tenant)
    assert [row["name"] for row in await tenant.rows("span", "name")] == ["new"]
    assert [row["name"] for row in await tenant.rows("run", "name")] == ["new"]


async def test_traces_of_one_id_in_two_projects_are_two_runs(tenant: Any, worker: Make, spans: Make) -> None:
    other = type(tenant)(tenant.queue, tenant.engine, org_id=tenant.org_id)
    await tenant.send([spans(0)])
    await other.send([spans(0), spans(1, 0)])
    async with worker() as running:
        await running.drained(tenant)
    runs = await tenant.rows("run", "project_id, span_count", "span_count")
    assert [(run["project_id"], run["span_count"]) for run in runs] == [(tenant.project_id, 1), (other.project_id, 2)]


async def test_workers_side_by_side_store_everything_once(tenant: Any, worker: Make, spans: Make) -> None:
    traces = [bytes([number] * 16) for number in range(1, 21)]
    bodies = [[spans(number, parent, trace)] for number, parent in TRACE for trace in traces]
    random.Random(1).shuffle(bodies)
    async with worker() as first, worker() as second, worker() as third:
        for body in bodies:
            await tenant.send(body)
            await asyncio.sleep(0)
        await first.drained(tenant)
        assert not second.task.done()
        assert not third.task.done()
    assert len(await tenant.rows("span", "span_id")) == 80
    assert [run["span_count"] for run in await tenant.rows("run", "span_count")] == [4] * 20
    assert (await tenant.metered())["spans"] == 80


async def test_every_column_of_a_span_is_stored_as_it_was_mapped(tenant: Any, worker: Make, spans: Make) -> None:
    span = call(spans, 1, 0, app__note="é\0'\\", metadata='{"plan": "pro"}', tag__tags="t", session__id="s")
    span.events.add(name="e", time_unix_nano=5)
    span.links.add(trace_id=bytes([3] * 16), span_id=bytes([4] * 8))
    await tenant.send([span])
    async with worker() as running:
        await running.drained(tenant)
    [row] = await tenant.rows("span", "*, toUnixTimestamp64Nano(start_time) AS start_ns, toString(cost) AS dollars")
    assert row["workspace_id"] == tenant.workspace_id
    assert row["attributes"] == {"app.note": "é\0'\\", "gen_ai.operation.name": "chat"}
    assert (row["metadata"], row["tags"], row["session_id"]) == ({"plan": "pro"}, ["t"], "s")
    assert (row["start_ns"], row["dollars"], row["cost_source"]) == (span.start_time_unix_nano, "0.0035", "priced")
    assert json.loads(row["events"])[0]["name"] == "e"
    assert json.loads(row["links"])[0]["trace_id"] == "03" * 16
    assert row["version"] % (1 << 52) == row["accepted_at"].timestamp() * 1e6
