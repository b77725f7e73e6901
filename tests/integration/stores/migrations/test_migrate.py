"""The runner: one at a time, nothing twice, drift refused, nothing changed by looking."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tracebility.errors import ConfigurationError
from tracebility.stores import clickhouse, postgres
from tracebility.stores.migrations import SchemaError, control_plane, migrate, pending, status
from tracebility.stores.migrations.files import discover
from tracebility.stores.policies import TENANT_TABLES

TRACEBILITY = Path(sys.executable).parent / "tracebility"
TABLES = "SELECT count() FROM system.tables WHERE database = currentDatabase()"


async def command(stores: Any, databases: Any, *arguments: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        TRACEBILITY,
        "migrate",
        *arguments,
        env={
            "PATH": os.environ["PATH"],
            "TRACEBILITY_PG_DSN": databases.pg_dsn,
            "TRACEBILITY_CLICKHOUSE_URL": databases.clickhouse_url,
            "TRACEBILITY_REDIS_URL": stores.redis_url,
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_looking_changes_nothing(databases: Any) -> None:
    everything = {(store, migration.number) for store in ("postgres", "clickhouse") for migration in discover(store)}  # type: ignore[arg-type]
    assert {(standing.store, standing.number) for standing in await pending(*databases.both)} == everything
    assert {standing.state for standing in await status(*databases.both)} == {"pending"}
    control, engine = await postgres.connect(databases.pg_dsn), await clickhouse.connect(databases.clickhouse_url)
    assert await control.fetchval("SELECT to_regclass('schema_migration')") is None
    assert (await engine.query(TABLES)).rows == [(0,)]
    await control.close()
    await engine.close()


async def test_two_runners_at_once_apply_everything_once(databases: Any) -> None:
    said: list[str] = []
    first, second = await asyncio.gather(
        migrate(*databases.both, say=said.append), migrate(*databases.both, say=said.append)
    )
    assert sorted(map(len, (first, second))) == [0, len(await status(*databases.both))]
    assert any(line.startswith("Another migration is running (PostgreSQL session ") for line in said)
    assert {standing.state for standing in await status(*databases.both)} == {"applied"}


async def test_a_runner_that_lost_its_lock_stops(databases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = 0
    start_step = control_plane.ControlPlane.start_step

    async def lose_it(self: Any, *step: Any) -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            self._connection.terminate()
        await start_step(self, *step)

    with monkeypatch.context() as patched:
        patched.setattr(control_plane.ControlPlane, "start_step", lose_it)
        with pytest.raises(Exception, match="postgres"):
            await migrate(*databases.both)
    assert begun == 3
    assert await migrate(*databases.both) != []


async def test_an_applied_file_that_changed_is_refused(databases: Any) -> None:
    await migrate(*databases.both)
    control, engine = await postgres.connect(databases.pg_dsn), await clickhouse.connect(databases.clickhouse_url)
    await control.execute("UPDATE schema_migration SET checksum = 'other' WHERE number = 3")
    with pytest.raises(SchemaError, match=r"schemas/postgres/0003_membership\.sql was changed after it was applied"):
        await migrate(*databases.both)
    await control.execute("DELETE FROM schema_migration WHERE number = 3")
    with pytest.raises(SchemaError, match=r"0003_membership\.sql: .*already exists.* Nothing of the file was applied"):
        await migrate(*databases.both)
    await engine.execute(
        "INSERT INTO schema_migration (number, name, checksum, state) VALUES (99, '0099_later.sql', 'x', 'done')"
    )
    with pytest.raises(SchemaError, match=r"migration 0099_later\.sql, which this release does not know"):
        await status(*databases.both)
    await control.close()
    await engine.close()


async def test_a_postgres_file_that_was_not_recorded_left_nothing(stores: Any, databases: Any) -> None:
    killed, _, _ = await command(stores, databases, TRACEBILITY_FAILPOINT="migrate_before_record:3")
    assert killed == -signal.SIGKILL
    control = await postgres.connect(databases.pg_dsn)
    assert [row["number"] for row in await control.fetch("SELECT number FROM schema_migration ORDER BY 1")] == [1, 2]
    await control.close()
    assert (await command(stores, databases))[0] == 0


async def test_the_command_resumes_after_kill_9(stores: Any, databases: Any) -> None:
    third_of_clickhouse = len(discover("postgres")) + 3
    killed, _, _ = await command(
        stores, databases, TRACEBILITY_FAILPOINT=f"migrate_before_record:{third_of_clickhouse}"
    )
    assert killed == -signal.SIGKILL
    code, out, _ = await command(stores, databases, "status", "--json")
    assert code == 0
    [interrupted] = [standing for standing in json.loads(out)["migrations"] if standing["state"] == "interrupted"]
    assert interrupted["step"] >= 1
    code, _, said = await command(stores, databases)
    assert code == 0
    assert ": going on" in said
    code, out, _ = await command(stores, databases, "--dry-run", "--json")
    assert (code, json.loads(out)) == (0, {"migrations": []})


async def test_the_command_says_in_one_line_what_is_wrong_with_a_dsn(
    stores: Any, databases: Any, wrong_password: Any
) -> None:
    refused = wrong_password(databases.clickhouse_url)
    code, out, err = await command(stores, databases, TRACEBILITY_CLICKHOUSE_URL=refused)
    assert (code, out) == (2, "")
    assert err.startswith("tracebility: TRACEBILITY_CLICKHOUSE_URL: the store at 127.0.0.1:")
    assert err.count("\n") == 1
    assert "n0t-the-pass" not in err


async def test_a_store_that_is_away_ends_a_run_with_one_line(databases: Any, unused_tcp_port: int) -> None:
    with pytest.raises(ConfigurationError, match="TRACEBILITY_CLICKHOUSE_URL: no usable answer"):
        await status(databases.pg_dsn, f"http://me:s3cret@127.0.0.1:{unused_tcp_port}/tracebility")


async def test_every_table_with_an_org_id_is_a_tenant_table(stores: Any) -> None:
    engine = await clickhouse.connect(stores.clickhouse_url)
    found = await engine.query(
        "SELECT DISTINCT table FROM system.columns WHERE database = currentDatabase() AND name = 'org_id'"
    )
    tables = {row[0] for row in found.rows}
    assert tables <= set(TENANT_TABLES)
    assert tables >= {"run", "span", "billing_meter", "span_v1", "audit_log", "audit_reconciliation_gap"}
    await engine.close()
