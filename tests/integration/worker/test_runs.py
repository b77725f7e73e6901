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
