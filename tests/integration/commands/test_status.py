"""Status shows what is there, for people and for programs."""

import json
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from typer.testing import CliRunner

from tracebility.cli import app
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
    from tracebility.commands.status import look, render
    from tracebility.commands.stores import reaching
    from tracebility.embedded.installation import locate

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


def test_a_store_that_is_away_is_shown_and_fails(stores: Any, tmp_path: Path) -> None:
    ready = stores.ready | {"clickhouse_url": "http://u:secret-word@127.0.0.1:1/x"}
    (tmp_path / "ready.json").write_text(json.dumps(ready))
    result = status(tmp_path)
    assert result.exit_code == 1
    assert "NOT OK" in result.stdout
    assert "TRACEBILITY_CLICKHOUSE_URL" in result.stdout
    assert "secret-word" not in result.output
