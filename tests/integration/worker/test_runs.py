"""What a run's row says of its spans: its status, and whose usage counts."""

import json
from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]


@pytest.fixture
def stored(tenant: Any, worker: Make) -> Make:
    """Spans or a native run, drained; the run's row."""

    async def drain(sent: Any) -> dict[str, Any]:
        if isinstance(sent, dict):
            await tenant.send(json.dumps(sent).encode(), source="native")
        else:
            await tenant.send(sent)
        async with worker() as running:
            await running.drained(tenant)
        [run] = await tenant.rows("run", "status, total_tokens, toString(cost) AS cost")
        return run

    return drain


async def test_a_run_of_unknown_cost_has_none(stored: Make, spans: Make) -> None:
    assert (await stored([spans(0)]))["cost"] is None


@pytest.mark.parametrize(("changes", "status"), [({}, "running"), ({"error": "it broke"}, "error")])
async def test_a_run_that_has_not_ended_is_running_unless_it_failed(stored: Make, changes: Any, status: str) -> None:
    run = {"id": "0192f0c1-0000-7000-8000-000000000001", "name": "r", "kind": "agent", "start_time": 1_795_521_600}
    assert (await stored(run | changes))["status"] == status


def said(make: Make, number: int, parent: int | None, operation: str, tokens: int = 0, cost: float = 0.0) -> Any:
    """A span that says so many tokens and dollars, or nothing of them."""
    usage: dict[str, Any] = {"gen_ai__usage__input_tokens": tokens} if tokens else {}
    usage |= {"llm__cost__total": cost} if cost else {}
    return make(number, parent, gen_ai__operation__name=operation, **usage)


TREES: dict[str, tuple[list[tuple[Any, ...]], int, str | None]] = {
    "a span that is its own parent": ([(0, 0, "chat", 7)], 7, None),
    "two calls that are each other's parent": ([(0, 1, "chat", 7, 1.0), (1, 0, "chat", 7, 1.0)], 7, "1"),
    "a chain between a call and its wrapper": (
        [(0, None, "chat", 10, 1.0), (1, 0, "plan"), (2, 1, "chat", 7, 0.5), (3, 1, "chat", 2, 0.25)],
        9,
        "0.75",
    ),
    "chains between a call and its wrapper": (
        [(0, None, "chat", 10, 1.0), (1, 0, "plan"), (2, 1, "plan"), (3, 2, "chat", 7, 0.5), (4, 2, "chat", 2, 0.25)],
        9,
        "0.75",
    ),
    "forty chains between a call and its wrapper": (
        [(0, None, "chat", 10, 1.0), *((n, n - 1, "plan") for n in range(1, 41)), (41, 40, "chat", 7, 0.5)],
        7,
        "0.5",
    ),
    "wrappers of wrappers": (
        [(0, None, "chat", 9), (1, 0, "chat", 9), (2, 1, "plan"), (3, 2, "chat", 8), (4, 3, "chat", 7), (5, 0, "plan")],
        7,
        None,
    ),
    "a call in between that only knows its cost": (
        [(0, None, "chat", 10, 1.0), (1, 0, "chat", 0, 0.5), (2, 1, "chat", 7)],
        7,
        "0.5",
    ),
    "an embedding deep below an embedding and a call": (
        [(0, None, "embeddings", 7), (1, 0, "chat", 5), (2, 1, "plan"), (3, 2, "embeddings", 7)],
        12,
        None,
    ),
    "three calls in a circle": (
        [(0, 1, "chat", 7, 1.0), (1, 2, "chat", 7, 1.0), (2, 0, "chat", 7, 1.0)],
        7,
        "1",
    ),
    "calls in a circle that say different things": (
        [(0, 1, "chat", 7), (1, 2, "chat", 5), (2, 3, "chat", 7), (3, 0, "chat", 2)],
        14,
        None,
    ),
    "a call and a chain in a circle": ([(0, 1, "chat", 7, 1.0), (1, 0, "plan")], 7, "1"),
    "a circle of calls beside a call and its wrapper": (
        [(0, 1, "chat", 7), (1, 2, "chat", 7), (2, 0, "chat", 7), (3, None, "chat", 10), (4, 3, "chat", 5)],
        12,
        None,
    ),
    "calls below a circle of agents": (
        [(0, 1, "invoke_agent"), (1, 0, "invoke_agent"), (2, 0, "chat", 7), (3, 1, "chat", 7), (4, 3, "plan")],
        14,
        None,
    ),
    "a call in a tool of a call": (
        [(0, None, "chat", 10), (1, 0, "execute_tool"), (2, 1, "chat", 7)],
        17,
        None,
    ),
    "an embedding below a call": ([(0, None, "chat", 10, 1.0), (1, 0, "embeddings", 7, 0.5)], 17, "1.5"),
    "an embedding below an embedding": ([(0, None, "embeddings", 7), (1, 0, "embeddings", 7)], 7, None),
    "a cost that only the wrapper knows": ([(0, None, "chat", 10, 1.0), (1, 0, "chat", 10)], 10, "1"),
    "a cost that only the agent knows": ([(0, None, "invoke_agent", 20, 1.0), (1, 0, "chat", 10)], 10, "1"),
    "agents below a root that says nothing": (
        [(0, None, "plan"), (1, 0, "invoke_agent", 10, 1.0), (2, 1, "invoke_agent", 7, 0.5), (3, 0, "plan", 5)],
        15,
        "1",
    ),
    "an agent deep below a root that says nothing": (
        [(0, None, "plan"), (1, 0, "plan"), (2, 1, "invoke_agent", 10), (3, 2, "invoke_agent", 7)],
        10,
        None,
    ),
    "costs beyond what a column holds": ([(0, None, "chat", 1, 9e8), (1, None, "chat", 1, 9e8)], 2, "999999999"),
    "nothing": ([(0, None, "chat"), (1, 0, "plan")], 0, None),
}


@pytest.mark.parametrize("tree", TREES)
async def test_usage_that_is_said_twice_counts_once(stored: Make, spans: Make, tree: str) -> None:
    sent, tokens, cost = TREES[tree]
    run = await stored([said(spans, *one) for one in sent])
    assert (run["total_tokens"], run["cost"]) == (tokens, cost)
