"""Runs are listed newest first, each once, and one opens with its spans as a tree."""

import random
import time
from typing import Any

import httpx
import pytest

from tracebility.api import run_reads
from tracebility.stores import scoped
from tracebility.stores.queries import query
from tracebility.wire.limits import MAX_UNIX_NANO

NOW_NS = time.time_ns()
SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS


def runs_of(tenant: Any) -> str:
    return f"/v1/projects/{tenant.project_id}/runs"


async def pages(api: httpx.AsyncClient, tenant: Any, **parameters: Any) -> list[list[dict[str, Any]]]:
    """Every page of the list."""
    found = []
    while True:
        answer = await api.get(runs_of(tenant), params=parameters, headers=tenant.headers())
        assert answer.status_code == 200, answer.text
        body = answer.json()
        found.append(body["items"])
        if body["next_cursor"] is None:
            return found
        parameters["cursor"] = body["next_cursor"]


def ids(found: list[list[dict[str, Any]]]) -> list[str]:
    return [run["id"] for page in found for run in page]


async def test_an_empty_project_has_an_empty_list(api: httpx.AsyncClient, tenants: Any) -> None:
    answer = await api.get(runs_of(tenants[0].tenant), headers=tenants[0].tenant.headers())
    assert answer.json() == {"items": [], "next_cursor": None}


async def test_a_run_shows_what_is_stored_of_it(api: httpx.AsyncClient, tenants: Any) -> None:
    writer, _ = tenants
    start_ns = 1_790_000_000_123_456_789
    await writer.runs(
        [
            {
                "run_id": "ab" * 16, "name": "crew", "kind": "agent", "status": "error", "error_message": "it broke",
                "start_ns": start_ns, "end_ns": start_ns + 1_500_000, "span_count": 7, "error_count": 2,
                "models": ["a", "b"], "input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "cost": 0.25,
                "input_preview": "in", "output_preview": "out", "session_id": "s", "user_id": "u", "tags": ["x"],
                "environment": "production",
            }
        ]
    )  # fmt: skip
    [[run]] = await pages(api, writer.tenant)
    assert run == {
        "id": "ab" * 16, "trace_id": "ab" * 16, "name": "crew", "kind": "agent", "status": "error", "error": "it broke",
        "start_time": "2026-09-21T14:13:20.123456Z", "end_time": "2026-09-21T14:13:20.124956Z", "latency_ms": 1.5,
        "input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "cost": 0.25, "span_count": 7, "error_count": 2,
        "models": ["a", "b"], "input_preview": "in", "output_preview": "out", "session_id": "s", "user_id": "u",
        "tags": ["x"], "environment": "production",
    }  # fmt: skip


async def test_pages_hold_every_run_once_newest_first_whatever_versions_are_stored(
    api: httpx.AsyncClient, tenants: Any, without_merges: None
) -> None:
    """Against the engine's own FINAL, for runs of many versions whose starts move and collide."""
    writer, other = tenants
    rng = random.Random(7)
    rows = []
    for run in range(60):
        for version in range(rng.randint(1, 12)):
            start_ns = NOW_NS - rng.choice((rng.randint(0, 9), rng.randint(0, 90 * 86_400))) * SECOND_NS
            rows.append(
                {"run_id": f"run-{run:02d}", "start_ns": start_ns, "version": version + 1, "span_count": version}
            )
    rng.shuffle(rows)
    for part in range(0, len(rows), 40):  # several parts, so that versions are not merged on the way
        await writer.runs(rows[part : part + 40])
    await other.runs([{"run_id": f"run-{run:02d}", "start_ns": NOW_NS} for run in range(60)])

    latest: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["version"] >= latest.get(row["run_id"], row)["version"]:
            latest[row["run_id"]] = row
    expected = sorted(latest.values(), key=lambda row: (row["start_ns"], row["run_id"]), reverse=True)
    for limit in (1, 7, 60, 200):
        found = await pages(api, writer.tenant, limit=limit)
        assert ids(found) == [row["run_id"] for row in expected]
        assert all(len(page) == limit for page in found[:-1])
        assert [run["span_count"] for page in found for run in page] == [row["span_count"] for row in expected]


async def test_a_page_stays_where_it_is_while_new_runs_arrive(api: httpx.AsyncClient, tenants: Any) -> None:
    writer, _ = tenants
    await writer.runs({"run_id": f"old-{n}", "start_ns": NOW_NS - n * SECOND_NS} for n in range(10))
    first = (await api.get(runs_of(writer.tenant), params={"limit": 4}, headers=writer.tenant.headers())).json()
    await writer.runs({"run_id": f"new-{n}", "start_ns": NOW_NS + (1 + n) * SECOND_NS} for n in range(5))
    rest = await pages(api, writer.tenant, limit=4, cursor=first["next_cursor"])
    assert [run["id"] for run in first["items"]] + ids(rest) == [f"old-{n}" for n in range(10)]


async def test_from_is_included_and_to_is_not_and_the_cursor_keeps_both(api: httpx.AsyncClient, tenants: Any) -> None:
    writer, _ = tenants
    await writer.runs({"run_id": f"{n}", "start_ns": n * 3600 * SECOND_NS} for n in range(10))
    window = {"from": "1970-01-01T02:00:00Z", "to": "1970-01-01T08:00:00+01:00"}
    assert ids(await pages(api, writer.tenant, **window)) == ["6", "5", "4", "3", "2"]
    first = await api.get(runs_of(writer.tenant), params=window | {"limit": 2}, headers=writer.tenant.headers())
    cursor = first.json()["next_cursor"]
    assert ids(await pages(api, writer.tenant, limit=2, cursor=cursor)) == ["4", "3", "2"]
    assert ids(await pages(api, writer.tenant, limit=2, cursor=cursor, **window)) == ["4", "3", "2"]
    other = await api.get(
        runs_of(writer.tenant),
        params={"cursor": cursor, "from": "1970-01-01T00:00:00Z"},
        headers=writer.tenant.headers(),
    )
    assert other.status_code == 400
    assert "cursor" in other.json()["detail"]


async def test_runs_at_the_ends_of_time_are_listed(api: httpx.AsyncClient, tenants: Any) -> None:
    writer, _ = tenants
    starts = [MAX_UNIX_NANO, MAX_UNIX_NANO - 1, MAX_UNIX_NANO - 800_000_000, NOW_NS, 0]
    await writer.runs({"run_id": f"{n}", "start_ns": start} for n, start in enumerate(starts))
    for parameters in ({}, {"limit": 1}, {"to": "9999-01-01T00:00:00Z"}, {"from": "1000-01-01T00:00:00Z"}):
        assert ids(await pages(api, writer.tenant, **parameters)) == ["0", "1", "2", "3", "4"]
    assert ids(await pages(api, writer.tenant, to="2262-04-11T23:47:16.854775807Z")) == ["1", "2", "3", "4"]
    for parameters in ({"from": "9999-01-01T00:00:00Z"}, {"to": "1000-01-01T00:00:00Z"}):
        assert ids(await pages(api, writer.tenant, **parameters)) == []


async def test_runs_of_long_ago_are_found_without_a_time_range(api: httpx.AsyncClient, tenants: Any) -> None:
    writer, _ = tenants
    starts = [NOW_NS, NOW_NS - 15 * DAY_NS, NOW_NS - 90 * DAY_NS, 0, NOW_NS + 5 * DAY_NS]
    await writer.runs({"run_id": f"{n}", "start_ns": start} for n, start in enumerate(starts))
    assert ids(await pages(api, writer.tenant)) == ["4", "0", "1", "2", "3"]
    assert ids(await pages(api, writer.tenant, limit=1)) == ["4", "0", "1", "2", "3"]


async def test_a_run_opens_with_its_spans_as_a_tree(api: httpx.AsyncClient, tenants: Any) -> None:
    writer, _ = tenants
    await writer.runs([{"run_id": "r", "name": "whole"}])
    await writer.spans(
        [
            {"span_id": "late", "parent_span_id": "root", "start_ns": NOW_NS + 9},
            {
                "span_id": "leaf",
                "parent_span_id": "early",
                "start_ns": NOW_NS + 2,
                "inputs": '{"q": [1]}',
                "outputs": "a",
            },
            {"span_id": "early", "parent_span_id": "root", "start_ns": NOW_NS + 1},
            {"span_id": "root", "start_ns": NOW_NS},
            {"span_id": "orphan", "parent_span_id": "gone", "start_ns": NOW_NS + 3},
            {"span_id": "other", "trace_id": "another run", "start_ns": NOW_NS},
        ]
    )
    await writer.spans(
        [{"span_id": "leaf", "parent_span_id": "early", "start_ns": NOW_NS + 2, "name": "again", "version": 2}]
    )
    answer = await api.get(f"{runs_of(writer.tenant)}/r", headers=writer.tenant.headers())
    run = answer.json()
    assert (run["id"], run["name"]) == ("r", "whole")

    def outline(spans: list[dict[str, Any]]) -> list[Any]:
        return [(span["id"], span["depth"], outline(span["children"])) for span in spans]

    assert outline(run["spans"]) == [
        ("root", 0, [("early", 1, [("leaf", 2, [])]), ("late", 1, [])]),
        ("orphan", 0, []),
    ]
    leaf = run["spans"][0]["children"][0]["children"][0]
    assert (leaf["name"], leaf["parent_id"]) == ("again", "early")


@pytest.mark.parametrize("run_id", ["ab" * 16, "550e8400-e29b-41d4-a716-446655440abc"])
async def test_a_run_opens_by_its_id_in_letters_of_either_case(
    api: httpx.AsyncClient, tenants: Any, run_id: str
) -> None:
    writer, _ = tenants
    await writer.runs([{"run_id": run_id}])
    await writer.spans([{"trace_id": run_id, "span_id": "a"}])
    found = await api.get(f"{runs_of(writer.tenant)}/{run_id.upper()}", headers=writer.tenant.headers())
    assert found.status_code == 200, found.text
    assert (found.json()["id"], len(found.json()["spans"])) == (run_id, 1)


async def test_a_span_shows_everything_that_is_stored_of_it(api: httpx.AsyncClient, tenants: Any) -> None:
    writer, _ = tenants
    stored = {
        "trace_id": "r", "span_id": "s", "name": "chat", "kind": "llm", "otel_kind": "client", "start_ns": 5 *
        SECOND_NS, "end_ns": 6 * SECOND_NS, "status": "error", "status_message": "refused", "error_type":
        "RateLimit", "model": "m", "request_model": "m-latest", "provider": "p", "input_tokens": 6, "output_tokens":
        5, "total_tokens": 11, "cache_read_tokens": 4, "cache_write_tokens": 3, "reasoning_tokens": 2, "cost":
        0.000000001, "cost_source": "priced", "time_to_first_token_ns": 250_000, "inputs": '{"a": 1}', "outputs":
        "text", "session_id": "se", "user_id": "us", "tags": ["t"], "metadata": {"m": "1", "n": '{"x": 1}'},
        "attributes": {"k": "v"}, "resource": {"service.name": "s"}, "scope_name": "lib", "scope_version": "1",
        "environment": "production", "events": '[{"name": "e"}]', "links": "[]", "source": "otlp",
        "accepted_at": "1970-01-01 00:00:07.000000",
    }  # fmt: skip
    await writer.runs([{"run_id": "r"}])
    await writer.spans([stored])
    [span] = (await api.get(f"{runs_of(writer.tenant)}/r", headers=writer.tenant.headers())).json()["spans"]
    assert span == {
        "id": "s", "trace_id": "r", "parent_id": None, "depth": 0, "name": "chat", "kind": "llm", "otel_kind": "client",
        "status": "error", "error": "refused", "error_type": "RateLimit", "start_time": "1970-01-01T00:00:05.000000Z",
        "end_time": "1970-01-01T00:00:06.000000Z", "latency_ms": 1000.0, "model": "m", "request_model": "m-latest",
        "provider": "p", "input_tokens": 6, "output_tokens": 5, "total_tokens": 11, "cache_read_tokens": 4,
        "cache_write_tokens": 3, "reasoning_tokens": 2, "cost": 1e-9, "cost_source": "priced",
        "time_to_first_token_ms": 0.25, "inputs": {"a": 1}, "outputs": "text", "session_id": "se", "user_id": "us",
        "tags": ["t"], "metadata": {"m": "1", "n": {"x": 1}}, "attributes": {"k": "v"},
        "resource": {"service.name": "s"}, "scope_name": "lib", "scope_version": "1", "environment": "production",
        "events": [{"name": "e"}], "links": [], "source": "otlp", "accepted_at": "1970-01-01T00:00:07.000000Z",
        "children": [],
    }  # fmt: skip


async def test_of_a_run_that_is_too_large_the_earliest_spans_are_answered(
    api: httpx.AsyncClient, tenants: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, _ = tenants
    await writer.runs([{"run_id": "r", "span_count": 2000}])
    await writer.spans({"span_id": f"{n:04d}", "start_ns": NOW_NS + n, "inputs": "x" * 1000} for n in range(2000))
    path = f"{runs_of(writer.tenant)}/r"

    async def answered() -> tuple[list[str], int]:
        run = (await api.get(path, headers=writer.tenant.headers())).json()
        return [span["id"] for span in run["spans"]], run["spans_left_out"]

    every = [f"{n:04d}" for n in range(2000)]
    assert await answered() == (every, 0)
    monkeypatch.setattr(run_reads, "MOST_SPANS", 700)
    assert await answered() == (every[:700], 1300)
    monkeypatch.setattr(run_reads, "MOST_SPANS", 20_000)
    few = scoped.ANSWER_BOUNDS["read_run_spans"] | {"max_result_bytes": "300000"}
    monkeypatch.setattr(scoped, "ANSWER_BOUNDS", {"read_run_spans": few})
    given, left_out = await answered()
    assert 0 < len(given) < 2000
    assert (given, left_out) == (every[: len(given)], 2000 - len(given))


async def test_texts_of_any_length_make_no_large_page(api: httpx.AsyncClient, tenants: Any) -> None:
    writer, _ = tenants
    long = {"name": "n", "error_message": "e", "session_id": "s", "user_id": "u", "environment": "v"}
    whole = {name: letter * 5000 for name, letter in long.items()} | {
        "tags": [f"{n:04d}" + "t" * 1000 for n in range(400)],
        "models": [f"{n:04d}" + "m" * 1000 for n in range(400)],
        "input_preview": "é" * 5000,
        "output_preview": "o" * 5000,
    }
    await writer.runs({"run_id": f"{n}", **whole} for n in range(25))
    answer = await api.get(runs_of(writer.tenant), params={"limit": 25}, headers=writer.tenant.headers())
    assert len(answer.json()["items"]) == 25
    assert len(answer.content) < 25 * 50_000
    listed = answer.json()["items"][0]
    assert (listed["session_id"], listed["error"]) == ("s" * 1024, "e" * 1024)
    assert (len(listed["tags"]), len(listed["tags"][0])) == (64, 256)

    run = (await api.get(f"{runs_of(writer.tenant)}/0", headers=writer.tenant.headers())).json()
    assert (run["session_id"], run["tags"], run["models"]) == (whole["session_id"], whole["tags"], whole["models"])


@pytest.mark.parametrize(
    "bounds", [{"max_result_bytes": "1000", "result_overflow_mode": "throw"}, {"max_memory_usage": "1000000"}]
)
async def test_what_is_too_large_for_one_answer_is_not_told_to_be_asked_for_again(
    api: httpx.AsyncClient, tenants: Any, engine: Any, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, str]
) -> None:
    writer, _ = tenants
    await writer.runs([{"run_id": "r"}])
    await writer.spans({"span_id": f"{n}", "inputs": "x" * 100_000} for n in range(200))
    if "max_memory_usage" in bounds:  # not the reader's to set, so the owner's engine is asked in its place
        monkeypatch.setattr(scoped, "REQUEST_SETTINGS", {"use_query_cache": "0"})
        monkeypatch.setattr(scoped.ScopedEngine, "within", lambda _, scope: scoped.ScopedClickHouse(engine, scope))
    monkeypatch.setattr(scoped, "ANSWER_BOUNDS", {"read_run_spans": bounds})
    answer = await api.get(f"{runs_of(writer.tenant)}/r", headers=writer.tenant.headers())
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:tracebility:error:answer-too-large")
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("shape", ["wide", "deep"])
async def test_a_run_of_twelve_thousand_spans_opens(api: httpx.AsyncClient, tenants: Any, shape: str) -> None:
    writer, _ = tenants
    await writer.runs([{"run_id": "r"}])
    await writer.spans(
        {
            "span_id": f"{n:05d}",
            "parent_span_id": "" if n == 0 else f"{n - 1 if shape == 'deep' else 0:05d}",
            "start_ns": NOW_NS + n,
            "inputs": '{"messages": [{"role": "user", "content": "hello"}]}',
        }
        for n in range(12_000)
    )
    run = (await api.get(f"{runs_of(writer.tenant)}/r", headers=writer.tenant.headers())).json()
    waiting, seen = list(reversed(run["spans"])), []
    while waiting:
        span = waiting.pop()
        seen.append(span["id"])
        waiting += reversed(span["children"])
    assert seen == [f"{n:05d}" for n in range(12_000)]


async def test_a_run_is_there_as_soon_as_its_spans_are(api: httpx.AsyncClient, tenants: Any) -> None:
    """The worker computes the row of a run after it has stored the spans; both answers say the same."""
    writer, other = tenants
    start, org = NOW_NS - 3600 * SECOND_NS, str(writer.tenant.context.org_id)
    call = {"kind": "llm", "model": "m", "input_tokens": 5, "output_tokens": 2, "total_tokens": 7, "cost": 0.5}
    traces: dict[str, list[dict[str, Any]]] = {
        "whole": [
            {"span_id": "root", "name": "crew", "kind": "agent", "status": "ok", "inputs": "q" * 300, "tags": ["b"]},
            {"span_id": "wrapper", "parent_span_id": "root", "user_id": "u", "tags": ["a"], **call},
            {"span_id": "call", "parent_span_id": "wrapper", **call, "model": "n", "outputs": "answer"},
            {"span_id": "tool", "parent_span_id": "call", "kind": "tool", "status": "error", "status_message": "no"},
            {"span_id": "inner", "parent_span_id": "tool", "session_id": "s", "environment": "test", **call},
        ],
        "without a root": [
            {"span_id": "child", "parent_span_id": "elsewhere", "name": "child", "status": "error", **call},
            {"span_id": "late", "parent_span_id": "child", "inputs": "x", "outputs": "y", "status": "ok"},
        ],
        "without a call": [
            {"span_id": "root", "name": "n", "kind": "chain", "input_tokens": 3, "total_tokens": 3, "status": "ok"},
            {"span_id": "part", "parent_span_id": "root", "kind": "chain", "input_tokens": 3, "total_tokens": 3},
        ],
    }
    for name, spans in traces.items():
        await writer.spans(
            {"trace_id": name, "start_ns": start + at * SECOND_NS, "end_ns": start + (9 - at) * SECOND_NS}
            | {"input_preview": span.get("inputs", "")[:200], "output_preview": span.get("outputs", "")}
            | span
            for at, span in enumerate(spans)
        )
    await writer.spans([{"trace_id": "open", "span_id": "root", "name": "n", "start_ns": start}])
    paths = [f"{runs_of(writer.tenant)}/{name}" for name in (*traces, "open")]
    provisional = [(await api.get(path, headers=writer.tenant.headers())).json() for path in paths]
    parameters = {"traces": [*traces, "open"], "orgs": [org], "apart": [], "version": 2}
    await writer.engine.execute(query("recompute_runs"), parameters)
    assert provisional == [(await api.get(path, headers=writer.tenant.headers())).json() for path in paths]
    assert [(run["status"], run["total_tokens"], run["cost"], run["span_count"]) for run in provisional] == [
        ("ok", 14, 1.0, 5), ("error", 7, 0.5, 2), ("ok", 3, None, 2), ("running", 0, None, 1)
    ]  # fmt: skip
    foreign = f"{runs_of(other.tenant)}/whole"
    assert (await api.get(foreign, headers=other.tenant.headers())).status_code == 404
