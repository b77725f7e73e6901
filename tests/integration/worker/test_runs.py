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
