"""Doctor finds what is wrong with real stores, says what to do, and is quiet about what is right."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from tracebility.cli import app
from tracebility.commands.doctor import Finding, Verdict, examine
from tracebility.embedded.installation import Located, locate
from tracebility.stores import clickhouse
from tracebility.stores.queries import query
from tracebility.tenant.shard_router import ALL_STREAMS, DEAD_LETTER_STREAM, stream_of


async def wrong(found: Located) -> dict[str, Finding]:
    return {finding.check: finding for finding in await examine(found) if finding.verdict is Verdict.WRONG}


@pytest.fixture(autouse=True)
async def empty_queue(stores: Any) -> None:
    """Tests of the edge leave what nobody drained; whichever ran before, the queue of these is in order."""
    server = Redis.from_url(stores.redis_url)
    await server.delete(*ALL_STREAMS, DEAD_LETTER_STREAM)
    await server.aclose()


@pytest.fixture
def installation_with(stores: Any, tmp_path: Path) -> Any:
    """The shared stores, described by a ready file that differs as told."""

    def describe(**changes: Any) -> Located:
        tmp_path.chmod(0o700)
        path = tmp_path / "ready.json"
        path.write_text(json.dumps(stores.ready | changes))
        path.chmod(0o600)
        return locate(tmp_path, {})

    return describe


def test_an_installation_in_order_passes(stores: Any) -> None:
    result = CliRunner().invoke(app, ["doctor", "--json", "--data-dir", str(stores.data_dir)])
    document = json.loads(result.stdout)
    assert [finding for finding in document["findings"] if finding["verdict"] == "wrong"] == []
    assert (result.exit_code, document["ok"]) == (0, True)
    assert {"processes", "file modes", "migrations", "row policies", "queue durability", "clickhouse clock"} <= {
        finding["check"] for finding in document["findings"]
    }


def test_what_is_wrong_fails_and_says_what_to_do(stores: Any, installation_with: Any, tmp_path: Path) -> None:
    installation_with(redis_url="redis://:secret-word@127.0.0.1:1/0")
    result = CliRunner().invoke(app, ["doctor", "--data-dir", str(tmp_path), "--only-wrong"])
    assert result.exit_code == 1
    assert "WRONG  redis answers" in result.stdout
    assert "->" in result.stdout
    assert "secret-word" not in result.stdout


async def test_each_store_that_is_away_is_named_and_the_others_are_looked_at(installation_with: Any) -> None:
    found = installation_with(
        pg_dsn="postgresql://u:p@127.0.0.1:1/x",
        clickhouse_url="http://u:p@127.0.0.1:1/x",
        redis_url="redis://127.0.0.1:1/0",
    )
    assert set(await wrong(found)) == {"postgres answers", "clickhouse answers", "redis answers"}


async def test_secrets_that_others_may_read_are_named(installation_with: Any, tmp_path: Path) -> None:
    found = installation_with()
    (tmp_path / "ready.json").chmod(0o644)
    finding = (await wrong(found))["file modes"]
    assert str(tmp_path / "ready.json") in finding.seen
    assert finding.do.startswith("chmod go-rwx")


async def test_a_queue_that_may_lose_what_it_took_is_wrong(stores: Any, installation_with: Any) -> None:
    found = installation_with()
    server = Redis.from_url(stores.redis_url)
    try:
        await server.config_set("appendfsync", "everysec")
        await server.config_set("maxmemory-policy", "allkeys-lru")
        assert {"queue durability", "queue eviction"} <= set(await wrong(found))
    finally:
        await server.config_set("appendfsync", "always")
        await server.config_set("maxmemory-policy", "noeviction")
        await server.aclose()


async def test_a_reader_that_sees_rows_of_strangers_is_wrong(stores: Any, installation_with: Any) -> None:
    engine = await clickhouse.connect(stores.clickhouse_url)
    await engine.execute("INSERT INTO span (org_id) VALUES (generateUUIDv4())")
    await engine.close()
    finding = (await wrong(installation_with(clickhouse_reader_url=stores.clickhouse_url)))["row policies"]
    assert "span" in finding.seen


async def test_every_table_of_tenants_is_looked_at(stores: Any) -> None:
    engine = await clickhouse.connect(stores.clickhouse_url)
    tables = {row[0] for row in (await engine.query(query("check_tenant_tables"))).rows}
    await engine.close()
    asked = query("check_visible_rows") + query("check_visible_rows_before_tenancy")
    assert tables == {table for table in tables if f"SELECT '{table}' AS table, count() AS rows FROM {table}" in asked}


async def test_dead_letters_and_a_backlog_are_seen(stores: Any, installation_with: Any) -> None:
    found = installation_with()
    server = Redis.from_url(stores.redis_url)
    an_hour_ago = f"{int(time.time() * 1000) - 3_600_000}-0"
    stream = stream_of(7)
    if await server.xlen(stream):
        pytest.fail("another test left entries in the queue")
    try:
        last = await server.xadd(DEAD_LETTER_STREAM, {"reason": "test"})
        await server.xadd(stream, {"h": "", "b": ""}, id=an_hour_ago)
        seen = {finding.check: finding for finding in await examine(found)}
        assert seen["queue backlog"].verdict is Verdict.WRONG
        assert seen["dead letters"].verdict is Verdict.NOTED
        await server.xdel(DEAD_LETTER_STREAM, last)
    finally:
        await server.delete(stream)
        await server.aclose()


async def test_a_service_that_does_not_run_is_named(stores: Any, installation_with: Any) -> None:
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    finding = (await wrong(installation_with(pids=stores.ready["pids"] | {"api": process.pid})))["processes"]
    assert finding.seen == "not running: api"
