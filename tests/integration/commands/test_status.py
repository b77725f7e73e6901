"""Status shows what is there, for people and for programs."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from tracebility.cli import app
from tracebility.commands.doctor import Verdict, examine
from tracebility.commands.status import look, render
from tracebility.commands.stores import LOOK_WAIT_S, reaching
from tracebility.embedded.installation import Located, locate
from tracebility.stores.postgres import Postgres
from tracebility.tenant.shard_router import stream_of


def status(data_dir: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["status", "--data-dir", str(data_dir), *arguments])


def test_stores_queue_rows_and_disk_are_shown(stores: Any) -> None:
    result = status(stores.data_dir, "--json")
    assert result.exit_code == 0, result.output
    seen = json.loads(result.stdout)
    assert seen["ok"] is True
    assert seen["stores"] == {"postgres": "ok", "redis": "ok", "clickhouse": "ok"}
    assert {service["name"]: service["alive"] for service in seen["services"]} == dict.fromkeys(
        stores.ready["pids"], True
    )
    assert all(service["memory_bytes"] > 1_000_000 for service in seen["services"])
    assert [shard["shard"] for shard in seen["shards"]] == list(range(16))
    assert set(seen["tables"]) == {"span", "run", "billing_meter"}
    assert 0 < seen["disk_free_bytes"] < seen["disk_total_bytes"]
    assert seen["queue_bytes"] < seen["queue_max_bytes"]

    text = status(stores.data_dir).stdout
    for word in ("postgres", "valkey", "clickhouse", "Queue", "Dead letters", "Stored", "Disk"):
        assert word in text


async def test_a_shard_that_waits_is_shown_with_its_age(stores: Any) -> None:
    server = Redis.from_url(stores.redis_url)
    before = await server.xlen(stream_of(3))  # of what other tests left
    try:
        entry_id = await server.xadd(stream_of(3), {"h": "", "b": ""})
        found = locate(stores.data_dir, {})
        async with reaching(found) as reached:
            seen = await look(found, reached)
    finally:
        await server.xdel(stream_of(3), entry_id)
        await server.aclose()
    assert seen.shards[3].length == before + 1
    assert seen.shards[3].oldest_s is not None
    assert "shard 3" in render(seen)


def test_a_store_that_is_away_is_shown_and_fails(stores: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ready = stores.ready | {"clickhouse_url": "http://u:secret-word@127.0.0.1:1/x"}
    (tmp_path / "ready.json").write_text(json.dumps(ready))
    result = status(tmp_path)
    assert result.exit_code == 1
    assert "NOT OK" in result.stdout
    assert "TRACEBILITY_CLICKHOUSE_URL" in result.stdout
    assert "secret-word" not in result.output
    assert caplog.records == [], "the client's tracebacks"
    assert result.output.count("127.0.0.1:1 ") == 1, "one line a fault"


@pytest.fixture
def hung() -> Iterator[list[str]]:
    """Addresses of three servers that take connections and say nothing."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        yield [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]


async def test_stores_that_hang_are_named_in_time(hung: list[str]) -> None:
    postgres, redis, clickhouse = hung
    found = Located(f"postgresql://u:p@{postgres}/d", f"redis://{redis}/0", f"http://u:p@{clickhouse}/d")
    async with reaching(found) as reached:
        seen = await look(found, reached)
    assert sorted(fault.split(":")[0] for fault in seen.faults) == ["clickhouse", "postgres", "redis"]
    wrong = {finding.check for finding in await examine(found) if finding.verdict is Verdict.WRONG}
    assert wrong == {"postgres answers", "redis answers", "clickhouse answers"}
    assert LOOK_WAIT_S <= 4, "a second is left of the five for the start of Python"


async def test_services_that_the_stores_never_heard_of_are_a_fault(stores: Any, empty_redis_url: str) -> None:
    """By DSN there is no ready file that says what should run."""
    found = Located(stores.pg_dsn, empty_redis_url, stores.clickhouse_url)
    async with reaching(found) as reached:
        seen = await look(found, reached)
    assert not seen.ok
    said = render(seen)
    for name in ("ingest-api", "ingest-worker"):
        assert f"FAULT  {name} has never been heard of. Start it: tracebility serve --target {name}" in said
    wrong = [finding for finding in await examine(found) if finding.check == "services"]
    assert "ingest-api has never been heard of" in [finding.seen for finding in wrong]


async def test_alerts_that_stand_are_shown(stores: Any, control: Postgres) -> None:
    await control.execute("raise_alert", "test_alert", "Something is odd", {}, 0)
    try:
        found = locate(stores.data_dir, {})
        async with reaching(found) as reached:
            seen = await look(found, reached)
        assert "ALERT  test_alert: Something is odd (since 20" in render(seen)
        findings = {finding.check: finding for finding in await examine(found)}
        assert findings["alert test_alert"].verdict is Verdict.NOTED
    finally:
        await control.execute("end_alert", "test_alert")


def test_doctor_names_the_user_of_each_target(stores: Any) -> None:
    result = CliRunner().invoke(app, ["doctor", "--json", "--data-dir", str(stores.data_dir)])
    users = {one["check"]: one["seen"] for one in json.loads(result.stdout)["findings"] if "user of" in one["check"]}
    assert users["user of api"].endswith("ClickHouse tracebility_reader")
    assert users["user of ingest-worker"].endswith("ClickHouse tracebility")
    assert set(users) == {f"user of {name}" for name in ("api", "ingest-api", "ingest-worker", "operator")}
