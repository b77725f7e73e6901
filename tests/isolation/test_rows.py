"""The engine filters: with every filter of ours gone, a tenant still sees its own rows only."""

import asyncio
import re
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tracebility.errors import TracebilityError
from tracebility.ids import SENTINEL
from tracebility.stores import clickhouse, scoped
from tracebility.stores.policies import TENANT_TABLES
from tracebility.stores.queries import query

PARAMETERS: dict[str, dict[str, Any]] = {
    "read_runs_newest": {"from": 0, "last": 2**62, "before": 2**62, "before_id": "", "limit": 10_000},
    "read_runs_versions": {"ids": [f"run-{n}" for n in range(40)], "least": 0},
    "read_run": {"run_id": "run-3"},
    "read_run_spans": {"run_id": "run-3", "limit": 10_000},
}
OWN_FILTER = "org_id = {org:UUID} AND project_id = {project:UUID}"


def without_own_filter(name: str) -> str:
    """The query as it would be if its author had forgotten every tenant filter."""
    text = query(name)
    assert OWN_FILTER in text
    stripped = text.replace(OWN_FILTER, "1")
    assert "{org" not in stripped
    assert "{project" not in stripped
    return stripped


def without_any_filter(name: str) -> str:
    """The query without its WHERE."""
    return re.sub(r"\bWHERE\b.*?(?=\b(?:GROUP BY|ORDER BY|LIMIT)\b|\Z)", "", query(name), flags=re.DOTALL)


@pytest.mark.parametrize("strip", [without_own_filter, without_any_filter])
@pytest.mark.parametrize("name", sorted(scoped.READ_QUERIES))
async def test_a_query_without_its_own_filter_sees_its_tenant_only(
    name: Any, strip: Any, twins: Any, scope_of: Any, services: Any, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stripped = strip(name)
    parameters = PARAMETERS[name] | {"limit": 1_000_000} if "limit" in PARAMETERS[name] else PARAMETERS[name]
    nil = {"org": str(UUID(int=0)), "project": str(UUID(int=0))}
    everything = str((await engine.query(stripped, parameters | nil)).rows)
    monkeypatch.setattr(scoped, "query", lambda _: stripped)
    for tenant, canary, other in ((twins.a, twins.a_canary, twins.b_canary), (twins.b, twins.b_canary, twins.a_canary)):
        rows = await services.engine.within(await scope_of(tenant)).rows(name, **parameters)
        assert rows
        text = str(rows)
        assert other not in text
        if canary in everything:  # the query names columns that carry it
            assert canary in text
            assert set(re.findall(r"canary-\w+", text)) == {canary}


async def test_runs_are_counted_by_the_policy_alone(twins: Any, reader: clickhouse.Engine) -> None:
    for tenant in (twins.a, twins.b):
        settings = scoped.REQUEST_SETTINGS | {scoped.TENANT_SETTING: str(tenant.org_id)}
        for sql, expected in (
            ("SELECT count() FROM run", 80),
            ("SELECT uniqExact(org_id) FROM run FINAL", 1),
            ("SELECT count() FROM (SELECT * FROM span UNION ALL SELECT * FROM span)", 800),
            (
                "SELECT count() FROM run AS r JOIN span AS s ON r.run_id = s.trace_id AND r.project_id = s.project_id",
                400,
            ),
            ("WITH (SELECT uniqExact(org_id) FROM span) AS n SELECT n", 1),
            (f"SELECT count() FROM run WHERE org_id != toUUID('{tenant.org_id}')", 0),
        ):
            assert (await reader.query(sql, settings=settings)).rows[0][0] == expected, sql


@pytest.mark.parametrize(
    "named", [None, "", str(UUID(int=0)), "0192f0c1-5a3e-4c41-9d0a-1f2e3d4c5b6a", "' OR 1 = 1 --", "%"]
)
async def test_without_a_tenant_or_with_none_of_ours_there_are_no_rows(
    named: str | None, twins: Any, reader: clickhouse.Engine
) -> None:
    settings = dict(scoped.REQUEST_SETTINGS) | ({} if named is None else {scoped.TENANT_SETTING: named})
    for table in ("run", "span"):
        try:
            assert (await reader.query(f"SELECT count() FROM {table}", settings=settings)).rows[0][0] == 0
        except TracebilityError as refused:
            assert named is not None, refused  # noqa: PT017


async def test_every_table_that_holds_tenants_rows_shows_none_to_a_reader_without_a_tenant(
    twins: Any, engine: clickhouse.Engine, reader: clickhouse.Engine
) -> None:
    tables = [row[0] for row in (await engine.query(query("check_tenant_tables"))).rows]
    assert {"run", "span", "eval_score", "billing_meter", "audit_log"} <= set(tables)
    assert set(tables) <= set(TENANT_TABLES), "a table with an org_id that policies.py does not know"
    marked = uuid4()
    for table in tables:
        # A table of old events drops them as they come in.
        clock = ", event_time) VALUES ({org:UUID}, now64(6))" if table == "audit_log" else ") VALUES ({org:UUID})"
        await engine.execute(f"INSERT INTO {table} (org_id{clock}", {"org": str(marked)})
        assert (await engine.query(f"SELECT count() FROM {table}")).rows[0][0] > 0
        assert (await reader.query(f"SELECT count() FROM {table}")).rows[0][0] == 0, table
        settings = {scoped.TENANT_SETTING: str(twins.a.org_id)}
        seen = await reader.query(
            f"SELECT countIf(org_id != {{org:UUID}}) FROM {table}", {"org": str(twins.a.org_id)}, settings
        )
        assert seen.rows[0][0] == 0, table


@pytest.mark.parametrize(
    "text",
    [
        "SELECT name FROM run SETTINGS SQL_tracebility_org = '{b}'",
        "SELECT name FROM run SETTINGS log_comment = '{b}'",
        "SELECT name FROM (SELECT name FROM run SETTINGS log_comment = '{b}') SETTINGS log_comment = '{b}'",
        "SELECT name FROM merge('tracebility', 'run|span')",
        "SELECT name FROM run FINAL WHERE org_id = toUUID('{b}') OR 1",
        "SELECT name FROM remote('127.0.0.1', tracebility.run)",
        "SELECT name FROM system.parts",
        "SET log_comment = '{b}'",
        "INSERT INTO run (org_id) VALUES ('{b}')",
        "ALTER TABLE run DELETE WHERE 1",
        "DROP TABLE run",
    ],
)
async def test_no_text_reaches_another_tenants_rows(text: str, twins: Any, reader: clickhouse.Engine) -> None:
    settings = scoped.REQUEST_SETTINGS | {scoped.TENANT_SETTING: str(twins.a.org_id)}
    try:
        answer = str((await reader.query(text.replace("{b}", str(twins.b.org_id)), settings=settings)).rows)
    except TracebilityError as refused:
        answer = str(refused)
    assert twins.b_canary not in answer


async def test_a_scoped_request_cannot_write_even_with_the_owners_credentials(
    twins: Any, scope_of: Any, stores: Any, engine: clickhouse.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = await scoped.connect(stores.clickhouse_url)
    try:
        rows = door.within(await scope_of(twins.a))
        for text in ("INSERT INTO run (run_id) SELECT 'x'", "ALTER TABLE run DELETE WHERE 1", "DROP TABLE span"):
            monkeypatch.setattr(scoped, "query", lambda _, text=text: text)
            with pytest.raises(TracebilityError):
                await rows.rows("read_run")
        monkeypatch.setattr(scoped, "query", lambda _: "SELECT name FROM run")
        assert {row["name"] for row in await rows.rows("read_run")} == {twins.a_canary}
    finally:
        await door.close()
    assert (await engine.query("SELECT count() FROM run WHERE name = {c:String}", {"c": twins.b_canary})).rows[0][
        0
    ] == 80


async def test_callers_cannot_name_another_scope(twins: Any, scope_of: Any, services: Any) -> None:
    rows = services.engine.within(await scope_of(twins.a))
    forged = {"org": str(twins.b.org_id), "project": str(twins.b.project_id)}
    [run] = await rows.rows("read_run", run_id="run-3", **forged)
    assert run["name"] == twins.a_canary


async def test_interleaved_requests_of_two_tenants_never_mix(twins: Any, api: httpx.AsyncClient) -> None:
    async def ask(tenant: Any, other: str, n: int) -> None:
        path = f"/v1/projects/{tenant.project_id}/runs" + (f"/run-{n % 40}" if n % 2 else "")
        answer = await api.get(path, headers=tenant.headers())
        assert answer.status_code == 200
        assert other not in answer.text
        assert "canary-" in answer.text

    await asyncio.gather(
        *(
            ask(tenant, other, n)
            for n in range(60)
            for tenant, other in ((twins.a, twins.b_canary), (twins.b, twins.a_canary))
        )
    )


async def test_the_sentinel_tenant_is_nobodys_scope(
    twins: Any, reader: clickhouse.Engine, engine: clickhouse.Engine
) -> None:
    await engine.execute("INSERT INTO run (org_id, name) VALUES ({org:UUID}, 'orphan')", {"org": str(SENTINEL)})
    settings = scoped.REQUEST_SETTINGS | {scoped.TENANT_SETTING: str(twins.a.org_id)}
    assert (await reader.query("SELECT count() FROM run WHERE name = 'orphan'", settings=settings)).rows[0][0] == 0
    assert (await reader.query("SELECT count() FROM run WHERE name = 'orphan'")).rows[0][0] == 0
