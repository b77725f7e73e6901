"""The control plane's client, on a real store."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from tracebility.errors import ConfigurationError, StoreUnavailable
from tracebility.ids import uuid7
from tracebility.stores import postgres
from tracebility.stores.postgres import Conflict, Postgres


async def test_a_transaction_that_raises_leaves_nothing(control: Postgres) -> None:
    org_id = uuid7()

    async def fail_half_way() -> None:
        async with control.transaction() as transaction:
            await transaction.execute("insert_org", org_id, "gone", "free")
            raise OSError("not the store's")

    with pytest.raises(OSError, match="not the store's"):
        await fail_half_way()
    assert await control.fetchrow("SELECT 1 FROM org WHERE id = $1", org_id) is None


async def test_a_constraint_that_forbids_is_a_conflict_by_name(control: Postgres) -> None:
    org_id = uuid7()
    async with control.transaction() as transaction:
        await transaction.execute("insert_org", org_id, "twice", "free")
    with pytest.raises(Conflict) as refused:
        await control.execute("insert_org", org_id, "twice", "free")
    assert refused.value.constraint == "org_pkey"


async def test_who_loses_to_another_transaction_may_try_again(control: Postgres) -> None:
    with pytest.raises(StoreUnavailable, match=r"^postgres: ") as refused:
        async with control.transaction() as transaction:
            await transaction.execute("DO $$ BEGIN RAISE serialization_failure; END $$")
    assert refused.value.store == "postgres"
    orgs = [uuid7(), uuid7()]
    for org_id in orgs:
        await control.execute("insert_org", org_id, "locked", "free")
    held = asyncio.Barrier(2)

    async def lock(first: UUID, second: UUID) -> None:
        async with control.transaction() as transaction:
            await transaction.fetchrow("lock_org", first)
            await held.wait()
            await transaction.fetchrow("lock_org", second)

    said = await asyncio.gather(lock(*orgs), lock(*reversed(orgs)), return_exceptions=True)
    assert sorted(type(one) for one in said if one is not None) == [StoreUnavailable]


async def test_json_travels_as_values(control: Postgres) -> None:
    assert await control.fetchval("SELECT $1::jsonb", {"a": [1, None, "ü"]}) == {"a": [1, None, "ü"]}


async def test_the_audit_trail_cannot_be_changed(control: Postgres) -> None:
    for statement in ("UPDATE audit_log SET actor_id = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(Exception, match="append-only"):
            await control.execute(statement)


async def test_a_cut_connection_is_a_store_that_is_away(stores: Any, wire: Any) -> None:
    async with wire(stores.pg_dsn) as line:
        control = await postgres.connect(line.dsn)
        await line.cut()
        with pytest.raises(StoreUnavailable, match=r"^postgres: "):
            await control.fetchval("SELECT 1")
        with pytest.raises(StoreUnavailable, match=r"^postgres: "):
            await control.fetchval("SELECT 1")
        await control.close()


async def test_a_refused_dsn_is_one_line_without_the_password(stores: Any, wrong_password: Any) -> None:
    for dsn in (wrong_password(stores.pg_dsn), stores.pg_dsn.replace("/tracebility?", "/absent?")):
        with pytest.raises(ConfigurationError) as refused:
            await postgres.connect(dsn)
        assert str(refused.value).startswith(f"TRACEBILITY_PG_DSN: the store at {stores.data_dir}/run refuses")
        assert "n0t-the-pass" not in str(refused.value)
        assert "\n" not in str(refused.value)


async def test_nothing_there_is_one_line_with_the_fix(unused_tcp_port: int) -> None:
    with pytest.raises(ConfigurationError, match=r"TRACEBILITY_PG_DSN: no usable answer .* Start the store there"):
        await postgres.connect(f"postgresql://me:s3cret@127.0.0.1:{unused_tcp_port}/tracebility", wait_s=0)
