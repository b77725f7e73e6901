"""What changes is heard of everywhere: at once while Redis announces it, soon when it does not, and never forgotten."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.harness.proxy import Proxy, Road

from tracebility.errors import Overloaded, Suspended, Unauthenticated
from tracebility.stores import changes, keys, postgres, redis_control
from tracebility.stores.changes import Changes, notify, resolving
from tracebility.tenant.keys import generate
from tracebility.tenant.redis_keys import shared_key
from tracebility.tenant.resolver import Resolver

AT_ONCE_S, SOON_S = 1.0, 5.0


@asynccontextmanager
async def another_process(pg_dsn: str, redis_url: str) -> AsyncIterator[tuple[Resolver, redis_control.RedisControl]]:
    control, store = await postgres.connect(pg_dsn), await redis_control.connect(redis_url)
    try:
        async with resolving(control, store, redis_url) as resolver:
            yield resolver, store
    finally:
        await store.close()
        await control.close()


async def refusal_within(resolver: Resolver, key: str, within_s: float) -> float:
    """Seconds until ``key`` is refused."""
    began = time.monotonic()
    while time.monotonic() - began < within_s:
        try:
            await resolver.resolve(f"Bearer {key}", "")
        except (Unauthenticated, Suspended):
            return time.monotonic() - began
        await asyncio.sleep(0.005)
    pytest.fail(f"not refused within {within_s} s")


async def revoke(control: postgres.Postgres, tenant: Any) -> None:
    await control.execute("UPDATE api_key SET revoked_at = now() WHERE public_id = $1", tenant.context.key_id)


async def suspend(control: postgres.Postgres, tenant: Any) -> None:
    await control.execute("UPDATE org SET suspended_at = now() WHERE id = $1", tenant.org_id)


async def remove(control: postgres.Postgres, tenant: Any) -> None:
    await control.execute("DELETE FROM api_key WHERE public_id = $1", tenant.context.key_id)


Act = Callable[[postgres.Postgres, Any], Awaitable[None]]


@pytest.mark.parametrize("act", [revoke, suspend, remove])
async def test_what_is_announced_holds_at_once(
    stores: Any, control: postgres.Postgres, hot_store: redis_control.RedisControl, two_orgs: Any, act: Act
) -> None:
    tenant, bystander = two_orgs
    async with another_process(stores.pg_dsn, stores.redis_url) as (resolver, _):
        for one in two_orgs:
            await resolver.resolve(f"Bearer {one.key}", "")
        await act(control, tenant)
        await notify(hot_store)
        await refusal_within(resolver, tenant.key, AT_ONCE_S)
        await resolver.resolve(f"Bearer {bystander.key}", "")


@pytest.mark.parametrize("weather", [Road.CLOSED, Road.HALF_OPEN, Road.CLEAR])
async def test_what_nobody_announces_holds_soon(
    stores: Any, control: postgres.Postgres, two_orgs: Any, weather: Road
) -> None:
    tenant, _ = two_orgs
    async with (
        Proxy.before(stores.redis_url) as road,
        another_process(stores.pg_dsn, road.through(stores.redis_url)) as (resolver, _),
    ):
        await resolver.resolve(f"Bearer {tenant.key}", "")
        road.road = weather
        if weather is not Road.CLEAR:
            road.reset()
        await revoke(control, tenant)
        await refusal_within(resolver, tenant.key, SOON_S)


async def test_a_new_plan_is_heard_of_by_all_of_its_orgs(
    stores: Any, control: postgres.Postgres, hot_store: redis_control.RedisControl, two_orgs: Any
) -> None:
    tenant, _ = two_orgs
    plan = f"p{tenant.org_id.hex[:12]}"
    await control.execute("INSERT INTO plan (name) VALUES ($1)", plan)
    await control.execute("UPDATE org SET plan = $2 WHERE id = $1", tenant.org_id, plan)
    async with another_process(stores.pg_dsn, stores.redis_url) as (resolver, _):
        assert (await resolver.resolve(f"Bearer {tenant.key}", "")).allowance.meters == {}
        await control.execute("INSERT INTO plan_meter_limit VALUES ($1, 'spans', 7, NULL)", plan)
        await notify(hot_store)
        async with asyncio.timeout(AT_ONCE_S):
            while not (await resolver.resolve(f"Bearer {tenant.key}", "")).allowance.meters:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def test_a_record_that_is_written_back_late_is_not_used(
    stores: Any, control: postgres.Postgres, hot_store: redis_control.RedisControl, two_orgs: Any
) -> None:
    """The race of a refill: read before the revocation, kept in Redis after it."""
    tenant, _ = two_orgs
    before = await keys.PostgresKeys(control).key_by_public_id(tenant.context.key_id)
    assert before is not None
    async with another_process(stores.pg_dsn, stores.redis_url) as (resolver, _):
        await revoke(control, tenant)
        await notify(hot_store)
        await asyncio.sleep(0.3)
        await hot_store.command("SET", shared_key("api_key", before.public_id), keys._encode(before))
        with pytest.raises(Unauthenticated):
            await resolver.resolve(f"Bearer {tenant.key}", "")
    await hot_store.command("SET", shared_key("api_key", before.public_id), keys._encode(before))
    async with another_process(stores.pg_dsn, stores.redis_url) as (starting, _):
        with pytest.raises(Unauthenticated):
            await starting.resolve(f"Bearer {tenant.key}", "")


async def test_a_process_that_starts_while_postgres_is_away_finds_known_keys_in_redis(
    stores: Any, two_orgs: Any
) -> None:
    tenant, unknown = two_orgs
    async with another_process(stores.pg_dsn, stores.redis_url) as (resolver, store):
        await resolver.resolve(f"Bearer {tenant.key}", "")
        await store.ping()
    async with (
        Proxy.before(stores.pg_dsn) as road,
        another_process(road.through(stores.pg_dsn), stores.redis_url) as (resolver, _),
    ):
        road.road = Road.CLOSED
        road.reset()
        assert (await resolver.resolve(f"Bearer {tenant.key}", "")).org_id == tenant.org_id
        with pytest.raises(Overloaded):
            await resolver.resolve(f"Bearer {unknown.key}", "")


async def test_a_key_is_known_as_soon_as_it_is_made(
    stores: Any, control: postgres.Postgres, hot_store: redis_control.RedisControl, two_orgs: Any
) -> None:
    tenant, _ = two_orgs
    key = generate()
    async with another_process(stores.pg_dsn, stores.redis_url) as (resolver, _):
        with pytest.raises(Unauthenticated):
            await resolver.resolve(f"Bearer {key.key}", "")
        place = (tenant.org_id, tenant.workspace_id, tenant.project_id)
        await control.execute("insert_key", key.public_id, *place, "key", key.secret_hash, ["read"])
        await notify(hot_store)
        async with asyncio.timeout(AT_ONCE_S):
            while True:
                try:
                    await resolver.resolve(f"Bearer {key.key}", "")
                    break
                except Unauthenticated:
                    await asyncio.sleep(0.005)


async def test_a_suspended_org_is_told_why(control: postgres.Postgres, api: Any, two_orgs: Any) -> None:
    tenant, _ = two_orgs
    await suspend(control, tenant)
    answer = await api.get("/v1/projects", headers=tenant.headers())
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:tracebility:error:suspended")


async def test_an_error_that_nobody_thought_of_makes_no_process_deaf(
    stores: Any, control: postgres.Postgres, two_orgs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, _ = two_orgs
    heard: list[str] = []
    tries, fetch = 0, control.fetch

    async def stumbling(name: str, *arguments: Any) -> Any:
        nonlocal tries
        tries += name == "tenant_changes"
        if tries == 2:
            raise ValueError("such as of a table that a migration is changing")
        return await fetch(name, *arguments)

    monkeypatch.setattr(control, "fetch", stumbling)
    monkeypatch.setattr(changes, "POLL_S", 0.05)
    asking = asyncio.create_task(Changes(control, stores.redis_url, lambda change: heard.append(change.id)).run())
    try:
        async with asyncio.timeout(SOON_S):
            while tries < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await revoke(control, tenant)
            while tenant.context.key_id not in heard:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        asking.cancel()


async def test_what_a_long_transaction_changed_is_heard_of_when_it_commits(
    stores: Any, control: postgres.Postgres
) -> None:
    """It is as old as the statement that changed it."""
    heard: list[str] = []
    ear = Changes(control, stores.redis_url, lambda change: heard.append(change.id))
    await ear.poll()
    name = f"long-{time.time_ns()}"
    await control.execute(
        "INSERT INTO tenant_change (rev, kind, id, at) VALUES "
        "(nextval('tenant_change_rev'), 'plan', $1, clock_timestamp() - interval '4 minutes')",
        name,
    )
    await ear.poll()
    assert name in heard
