"""Retention over the real stores: each project's rows go when they are older than it keeps them, and no others."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tracebility.deletion.metrics import DeletionMetrics
from tracebility.deletion.retention import Retention
from tracebility.ids import SENTINEL, OrgId, ProjectId, uuid7
from tracebility.stores import clickhouse, postgres
from tracebility.stores.redis_control import RedisControl
from tracebility.telemetry import Metrics
from tracebility.tenant.resends import removal_key

TABLES = {
    "span": ("trace_id", "start_time", "accepted_at"),
    "run": ("run_id", "start_time", "accepted_at"),
    "eval_score": ("run_id", "created_at"),
    "replay_capture": ("run_id", "captured_at"),
    "replay_run": ("run_id", "started_at"),
}


@dataclass
class Keeper:
    """An org with two projects, and rows in them of several ages."""

    org_id: OrgId
    first: ProjectId
    second: ProjectId
    control: postgres.Postgres
    engine: clickhouse.Engine

    async def add(self, project: ProjectId, days: float, table: str = "span", came: float | None = None) -> None:
        run, *times = TABLES[table]
        moments = [moment(days), moment(days if came is None else came)]
        row = {"org_id": self.org_id, "project_id": project, run: f"{days} days", "version": 1}
        row |= dict(zip(times, moments, strict=False))
        extra = {"span": "span_id", "eval_score": "score_id", "replay_run": "replay_id"}
        row |= {extra[table]: uuid4()} if table in extra else {}
        row |= {"content_hash": "0" * 32} if table == "replay_capture" else {}
        await self.engine.insert_rows(table, list(row), [list(row.values())])

    async def left(self, table: str = "span") -> list[tuple[str, str]]:
        """What is left, as the project's place and the run's name."""
        result = await self.engine.query(
            f"SELECT project_id, {TABLES[table][0]} FROM {table} WHERE org_id = {{org:UUID}} ORDER BY ALL",
            {"org": str(self.org_id)},
        )
        names = {str(self.first): "first", str(self.second): "second"}
        return sorted((names[str(project)], run) for project, run in result.rows)

    async def keep(self, days: int | None) -> None:
        await self.control.execute("UPDATE org SET retention_days = $2 WHERE id = $1", self.org_id, days)


def moment(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S")


@pytest.fixture
async def two_keepers(two_orgs: Any, control: postgres.Postgres, engine: clickhouse.Engine) -> list[Keeper]:
    keepers = []
    for tenant in two_orgs:
        second = ProjectId(uuid7())
        await control.execute("insert_project", second, tenant.workspace_id, "second")
        keepers.append(Keeper(tenant.org_id, tenant.project_id, second, control, engine))
    return keepers


@pytest.fixture
def retention(
    control: postgres.Postgres, engine: clickhouse.Engine, hot_store: RedisControl, monkeypatch: pytest.MonkeyPatch
) -> Retention:
    monkeypatch.setattr("tracebility.deletion.erase.PAUSE_S", 0.0)
    return Retention(control, engine, hot_store, DeletionMetrics(Metrics()))


async def test_old_rows_go_from_every_table_and_other_orgs_keep_theirs(
    two_keepers: Any, retention: Retention, hot_store: RedisControl
) -> None:
    brief, long = two_keepers
    await brief.keep(1)
    for keeper in two_keepers:
        for table in TABLES:
            for days in (0, 5, 40):
                await keeper.add(keeper.first, days, table)
    await retention.tick()
    for table in TABLES:
        assert await brief.left(table) == [("first", "0 days")], table
        assert len(await long.left(table)) == 3, "no retention is for ever"
    assert (await retention.tick()).rows == {}
    noted = [await hot_store.command("EXISTS", removal_key(keeper.org_id)) for keeper in two_keepers]
    assert noted == [1, 0], "a body whose rows are gone is new when it is sent again"


async def test_a_change_of_plan_holds_for_what_is_stored_already(
    two_keepers: Any, retention: Retention, control: postgres.Postgres
) -> None:
    keeper, _ = two_keepers
    for days in (0, 5, 20):
        await keeper.add(keeper.first, days)
    plans = {days: f"p{uuid4().hex[:12]}" for days in (30, 10, 2)}
    left = {30: 3, 10: 2, 2: 1}
    for days, name in plans.items():
        await control.execute("INSERT INTO plan (name, retention_days) VALUES ($1, $2)", name, days)
        await control.execute("UPDATE org SET plan = $2 WHERE id = $1", keeper.org_id, name)
        await retention.tick()
        assert len(await keeper.left()) == left[days]


async def test_an_orgs_own_retention_goes_before_its_plans(
    two_keepers: Any, retention: Retention, control: postgres.Postgres
) -> None:
    keeper, _ = two_keepers
    name = f"p{uuid4().hex[:12]}"
    await control.execute("INSERT INTO plan (name, retention_days) VALUES ($1, 3)", name)
    await control.execute("UPDATE org SET plan = $2, retention_days = 30 WHERE id = $1", keeper.org_id, name)
    await keeper.add(keeper.first, 10)
    await retention.tick()
    assert len(await keeper.left()) == 1


async def test_a_project_may_keep_less_and_never_more_than_its_org(
    two_keepers: Any, retention: Retention, control: postgres.Postgres
) -> None:
    keeper, _ = two_keepers
    for project in (keeper.first, keeper.second):
        for days in (0, 5, 20):
            await keeper.add(project, days)
    await keeper.keep(10)
    await control.execute("set_project_retention", keeper.first, 2)
    await control.execute("set_project_retention", keeper.second, 400)
    await retention.tick()
    assert await keeper.left() == [("first", "0 days"), ("second", "0 days"), ("second", "5 days")]


async def test_a_start_long_ago_is_old_on_arrival_and_one_to_come_ages_from_its_arrival(
    two_keepers: Any, retention: Retention
) -> None:
    keeper, _ = two_keepers
    await keeper.keep(10)
    await keeper.add(keeper.first, 700, came=0)
    await keeper.add(keeper.first, -700, came=0)
    await keeper.add(keeper.second, -700, came=20)
    await retention.tick()
    assert await keeper.left() == [("first", "-700 days")]


async def test_rows_of_before_tenancy_age_with_their_project(two_keepers: Any, retention: Retention) -> None:
    keeper, other = two_keepers
    await keeper.keep(1)
    for one in two_keepers:
        row = [SENTINEL, one.first, "old", "s", moment(9), moment(9), 1]
        names = ["org_id", "project_id", "trace_id", "span_id", "start_time", "accepted_at", "version"]
        await one.engine.insert_rows("span_v1", names, [row])
    await retention.tick()
    result = await keeper.engine.query(
        "SELECT project_id FROM span_v1 WHERE project_id IN {projects:Array(UUID)}",
        {"projects": [str(keeper.first), str(other.first)]},
    )
    assert [str(project) for (project,) in result.rows] == [str(other.first)]


async def test_a_row_is_kept_until_the_day_is_over(
    two_keepers: Any, control: Any, engine: Any, hot_store: RedisControl
) -> None:
    keeper, _ = two_keepers
    await keeper.keep(10)
    midnight = time.time() // 86_400 * 86_400
    names = ["org_id", "project_id", "trace_id", "span_id", "start_time", "accepted_at", "version"]
    for name, at in (("before", midnight - 10 * 86_400 - 1), ("after", midnight - 10 * 86_400)):
        when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        await engine.insert_rows("span", names, [[keeper.org_id, keeper.first, name, "s", when, when, 1]])
    metrics = DeletionMetrics(Metrics())
    await Retention(control, engine, hot_store, metrics, lambda: midnight + 1).tick()
    assert await keeper.left() == [("first", "after")]
