"""Migration 0006 on a data plane that holds rows: each keeps what it says and gets its tenant, wherever a run dies."""

import asyncio
import os
import signal
from typing import Any

import pytest

from tracebility.ids import SENTINEL
from tracebility.stores.migrations import SchemaError, data_plane, migrate, roll_back, status
from tracebility.stores.migrations.files import discover, rollback_file, steps
from tracebility.stores.policies import DATA_TABLES

SPANS = 200_000
FEW = 2_000
TENANTS = "SELECT DISTINCT project_id, org_id, workspace_id FROM {table:Identifier} FINAL"

[TENANT_COLUMNS] = [migration for migration in discover("clickhouse") if migration.number == 6]


async def tenants(plane: Any, table: str) -> dict[Any, tuple[Any, Any]]:
    rows = (await plane.engine.query(TENANTS, {"table": table})).rows
    assert len({row[0] for row in rows}) == len(rows)
    return {project: (org, workspace) for project, org, workspace in rows}


async def test_every_row_gets_its_tenant_and_keeps_what_it_says(old_plane: Any) -> None:
    await old_plane.fill(spans=SPANS, others=FEW)
    before = await old_plane.fingerprints()
    assert before["span"][0] == SPANS
    made_before = await old_plane.schema()

    applied = await migrate(*old_plane.dsns)
    assert [standing.number for standing in applied if standing.store == "clickhouse"] == [6, 7, 8, 9]

    assert await old_plane.fingerprints() == before
    assert await old_plane.fingerprints("_v1") == before
    expected = old_plane.tenants | {old_plane.orphan: (SENTINEL, SENTINEL)}
    for table in DATA_TABLES:
        found = await tenants(old_plane, table)
        assert found == {project: expected[project] for project in found}, table
    assert await tenants(old_plane, "span") == expected

    made = await old_plane.schema()
    assert not {name for name in made if name.endswith("_v2") or name.startswith("project_tenant")}
    for table in DATA_TABLES:
        # Columns, codecs and indexes are those of before, behind the two new ones; so are partitions and settings.
        assert columns(made[table])[2:] == columns(made_before[table])
        assert after(made[table], "PARTITION BY", "ORDER BY") == after(made_before[table], "PARTITION BY", "ORDER BY")
        assert made[table].partition("SETTINGS")[2] == made_before[table].partition("SETTINGS")[2]
    wrong_previews = "SELECT count() FROM span WHERE input_preview != leftUTF8(inputs, 200)"
    assert (await old_plane.engine.query(wrong_previews)).rows == [(0,)]

    assert await migrate(*old_plane.dsns) == []
    assert await old_plane.fingerprints() == before


async def test_the_way_back_keeps_what_was_written_since_and_leads_forward_again(old_plane: Any) -> None:
    await old_plane.fill(spans=FEW, others=FEW)
    before = await old_plane.fingerprints()
    await migrate(*old_plane.dsns)
    org_id, workspace_id = old_plane.tenants[project := next(iter(old_plane.tenants))]
    await old_plane.engine.execute(
        "INSERT INTO span (org_id, workspace_id, project_id, trace_id, span_id, name, version) "
        "VALUES ({org:UUID}, {workspace:UUID}, {project:UUID}, 'new', 'new', 'written since', 1)",
        {"org": org_id, "workspace": workspace_id, "project": project},
    )
    since = await old_plane.fingerprints()
    assert since["span"][0] == before["span"][0] + 1

    await roll_back(6, *old_plane.dsns)
    assert await old_plane.fingerprints() == since
    assert "ORDER BY (project_id, trace_id, span_id)" in (await old_plane.schema())["span"]
    assert {
        standing.number: standing.state for standing in await status(*old_plane.dsns) if standing.store == "clickhouse"
    }[6] == "pending"
    with pytest.raises(SchemaError, match="is not applied, so it cannot be rolled back"):
        await roll_back(6, *old_plane.dsns)

    await migrate(*old_plane.dsns)
    assert await old_plane.fingerprints() == since
    assert (await tenants(old_plane, "span"))[project] == (org_id, workspace_id)


async def test_a_run_killed_at_each_statement_is_resumed(old_plane: Any, runners: Any) -> None:
    """SIGKILL after each statement of 0006 and 0007, before it is recorded; each run starts from what that left."""
    await old_plane.fill(spans=400, others=50)
    before = await old_plane.fingerprints()
    files = [(migration, steps(migration.text)) for migration in discover("clickhouse") if migration.number >= 6]
    for migration, todo in files:
        for step in todo:
            if passed_over(step):
                continue
            assert await runners.run((migration.number, step.number, "after")) == -signal.SIGKILL, step
    await migrate(*old_plane.dsns)
    assert await old_plane.fingerprints() == before
    assert {table: old_plane.tenants.items() <= (await tenants(old_plane, table)).items() for table in DATA_TABLES} == (
        dict.fromkeys(DATA_TABLES, True)
    )
    assert await shape_of_a_clean_run(old_plane) == await old_plane.schema()


async def test_a_way_back_killed_at_each_statement_is_resumed(old_plane: Any, runners: Any) -> None:
    await old_plane.fill(spans=400, others=50)
    before = await old_plane.fingerprints()
    await migrate(*old_plane.dsns)
    for step in steps(rollback_file(6).text):
        if not passed_over(step):
            assert await runners.run((6, step.number, "after"), back=True) == -signal.SIGKILL, step
    await roll_back(6, *old_plane.dsns)
    assert await old_plane.fingerprints() == before
    assert {name for name in await old_plane.schema() if name.endswith("_v1")} == set()


async def test_a_way_back_may_be_turned_round_half_way(old_plane: Any, runners: Any) -> None:
    await old_plane.fill(spans=400, others=50)
    before = await old_plane.fingerprints()
    await migrate(*old_plane.dsns)
    last_of_run = next(
        step for step in steps(rollback_file(6).text) if str(step.action).startswith("RENAME TABLE run TO")
    )
    await runners.run((6, last_of_run.number, "before"), back=True)
    await old_plane.engine.execute("RENAME TABLE run TO run_v2")  # half of it
    await roll_back(6, *old_plane.dsns)
    assert await old_plane.fingerprints() == before
    await runners.run((6, 12, "after"))
    await roll_back(6, *old_plane.dsns)
    assert await old_plane.fingerprints() == before
    await migrate(*old_plane.dsns)
    assert await old_plane.fingerprints() == before
    assert await shape_of_a_clean_run(old_plane) == await old_plane.schema()


async def test_a_rename_that_died_half_way_is_finished(old_plane: Any, runners: Any) -> None:
    await old_plane.fill(spans=FEW, others=50)
    before = await old_plane.fingerprints()
    rename = next(step for step in steps(TENANT_COLUMNS.text) if str(step.action).startswith("RENAME TABLE span TO"))
    assert await runners.run((6, rename.number, "before")) == -signal.SIGKILL
    await old_plane.engine.execute("RENAME TABLE span TO span_v1")
    await migrate(*old_plane.dsns)
    assert await old_plane.fingerprints() == before
    assert await shape_of_a_clean_run(old_plane) == await old_plane.schema()


async def test_a_run_killed_in_the_middle_of_a_backfill_doubles_nothing(old_plane: Any, runners: Any) -> None:
    await old_plane.fill(spans=SPANS, others=50)
    before = await old_plane.fingerprints()
    pid = await runners.start()
    while not await copying(old_plane):  # noqa: ASYNC110  (the engine tells nobody that a query began)
        await asyncio.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    assert await runners.ended() == -signal.SIGKILL
    said: list[str] = []
    await migrate(*old_plane.dsns, say=said.append)
    assert "schemas/clickhouse/0006_tenant_columns.sql: going on" in said
    assert await old_plane.fingerprints() == before
    [[rows]] = (await old_plane.engine.query("SELECT count() FROM span")).rows
    assert rows == SPANS


async def test_rows_written_while_a_table_is_copied_stop_the_swap(
    old_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await old_plane.fill(spans=FEW, others=50)
    run = data_plane.DataPlane._run

    async def and_meanwhile(self: Any, migration: Any, step: Any, *rest: Any) -> None:
        await run(self, migration, step, *rest)
        if str(step.action).startswith("INSERT INTO span_v2"):
            await old_plane.engine.execute("INSERT INTO span (trace_id, span_id) VALUES ('late', 'late')")

    with monkeypatch.context() as patched:
        patched.setattr(data_plane.DataPlane, "_run", and_meanwhile)
        with pytest.raises(SchemaError, match=r"rows of span changed while it was copied\. Stop ingest-worker"):
            await migrate(*old_plane.dsns)
    before = await old_plane.fingerprints()
    await migrate(*old_plane.dsns)
    assert await old_plane.fingerprints() == before


def passed_over(step: Any) -> bool:
    """Whether a step has nothing to do here: the embedded engine is no server, and the half rename has its own test."""
    return step.guard is not None and (step.guard.kind == "server" or step.guard.table in DATA_TABLES)


async def copying(plane: Any) -> bool:
    running = await plane.engine.query(
        "SELECT query FROM system.processes WHERE query LIKE '%INSERT INTO span_v2%' AND query NOT LIKE '%processes%'"
    )
    return bool(running.rows)


async def shape_of_a_clean_run(plane: Any) -> dict[str, str]:
    """What the schema is when nothing was killed: that of the shared stores, which were migrated in one go."""
    clean = await plane.engine.query(
        "SELECT name, replaceAll(create_table_query, 'tracebility', 'db') FROM system.tables "
        "WHERE database = 'tracebility' ORDER BY name"
    )
    return {str(name): str(text) for name, text in clean.rows}


def columns(create: str) -> list[str]:
    return [column.strip("`") for column in create.partition("(")[2].partition(") ENGINE")[0].split(", `")]


def after(create: str, start: str, end: str) -> str:
    return create.partition(start)[2].partition(end)[0]
