"""Two tenants with rows in every table, and an operator who deletes without pauses."""

from typing import Any

import pytest
from tests.harness.erasure import Filled, Work, later

from tracebility.deletion.metrics import DeletionMetrics
from tracebility.deletion.runner import Deleter
from tracebility.ids import ProjectId, uuid7
from tracebility.orgs.projects import ProjectPlace
from tracebility.stores import clickhouse, postgres, redis_control
from tracebility.stores.queue import Queue
from tracebility.telemetry import Metrics


@pytest.fixture
async def filled(two_orgs: Any, control: postgres.Postgres, engine: clickhouse.Engine) -> tuple[Filled, Filled]:
    made = []
    for tenant in two_orgs:
        second = ProjectId(uuid7())
        await control.execute("insert_project", second, tenant.workspace_id, "second")
        place = ProjectPlace(tenant.org_id, tenant.workspace_id, tenant.project_id)
        made.append(Filled(tenant.org_id, place, second, engine))
        await made[-1].fill()
    return made[0], made[1]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracebility.deletion.erase.PAUSE_S", 0.0)
    monkeypatch.setattr("tracebility.deletion.erase.POLL_S", 0.02)


@pytest.fixture
async def work(
    control: postgres.Postgres, engine: clickhouse.Engine, streams: Queue, store: redis_control.RedisControl
) -> Work:
    """The clock is past the wait for what is under way."""
    await control.execute("UPDATE deletion_job SET state = 'failed' WHERE state IN ('queued', 'running')")
    metrics = DeletionMetrics(Metrics())
    return Work(control, Deleter(control, engine, streams, store, metrics, later))
