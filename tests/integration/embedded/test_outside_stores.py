"""A store whose DSN is set is used where it is; one that cannot be used is one line that names the variable."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tracebility.stores import postgres
from tracebility.tenant import keys

TRACEBILITY = Path(sys.executable).parent / "tracebility"
DEADLINE_S = 60.0


def environment(stores: Any, **changed: str) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("TRACEBILITY_")}
    dsns = {
        "TRACEBILITY_PG_DSN": stores.pg_dsn,
        "TRACEBILITY_REDIS_URL": stores.redis_url,
        "TRACEBILITY_CLICKHOUSE_URL": stores.clickhouse_url,
    }
    return mine | dsns | changed


async def test_outside_stores_are_used_and_not_started(stores: Any, tmp_path: Path, empty_redis_url: str) -> None:
    up = subprocess.Popen(  # noqa: ASYNC220 - it only forks
        [TRACEBILITY, "up", "--only-stores", "--data-dir", tmp_path / "data"],
        env=environment(stores, TRACEBILITY_REDIS_STREAM_URL=empty_redis_url),
        stdout=subprocess.DEVNULL,
    )
    try:
        ready = wait_ready(tmp_path / "data" / "ready.json", up)
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(20) == 0
    assert ready["pids"] == {}
    assert (ready["pg_dsn"], ready["redis_url"], ready["clickhouse_url"]) == (
        stores.pg_dsn,
        stores.redis_url,
        stores.clickhouse_url,
    )
    assert ready["redis_stream_url"] == empty_redis_url
    # That control plane had a tenant already, whose keys are with whoever made it: this installation has its own.
    assert ready["api_key"] != stores.ready["api_key"]
    parsed = keys.parse(ready["api_key"])
    assert parsed is not None
    control = await postgres.connect(stores.pg_dsn)
    try:
        record = await control.fetchrow("key_by_public_id", parsed.public_id)
        oldest = await control.fetchrow("oldest_project")
    finally:
        await control.close()
    assert record is not None
    assert oldest is not None
    assert ready["org_id"] == str(oldest["org_id"]) == str(record["org_id"])
    assert keys.matches(parsed, record["secret_hash"])


@pytest.mark.parametrize(
    ("variable", "spoil"),
    [
        ("TRACEBILITY_PG_DSN", lambda dsn: dsn.replace(password(dsn), "sesame")),
        ("TRACEBILITY_REDIS_URL", lambda dsn: dsn.replace(password(dsn), "sesame")),
        ("TRACEBILITY_CLICKHOUSE_URL", lambda dsn: dsn.replace(password(dsn), "sesame")),
        ("TRACEBILITY_PG_DSN", lambda _: "oracle://me:sesame@nowhere/x"),
        ("TRACEBILITY_REDIS_URL", lambda _: "redis://:sesame@127.0.0.1:1/0"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(stores: Any, tmp_path: Path, variable: str, spoil: Any) -> None:
    wrong = environment(stores)
    wrong[variable] = spoil(wrong[variable])
    done = subprocess.run(
        [TRACEBILITY, "up", "--only-stores", "--data-dir", tmp_path / "data"],
        env=wrong,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert variable in done.stderr
    assert "sesame" not in done.stderr + done.stdout


def password(dsn: str) -> str:
    return dsn.partition("://")[2].partition("@")[0].partition(":")[2]


def wait_ready(path: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    document: dict[str, Any] = json.loads(path.read_text())
    return document
