"""When a key was last let in."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from tracebility.errors import StoreUnavailable, Unauthenticated
from tracebility.stores import key_last_used, postgres, redis_control
from tracebility.stores.changes import resolving
from tracebility.stores.key_last_used import write_once
from tracebility.stores.keys import PostgresKeys
from tracebility.tenant import keys
from tracebility.tenant.resolver import Resolver


@pytest.fixture
def resolver(control: postgres.Postgres) -> Resolver:
    return Resolver(PostgresKeys(control))


async def written(control: postgres.Postgres, public_id: str) -> tuple[datetime | None, int]:
    """When it was last used, and the number of its last change."""
    row = await control.fetchrow("SELECT last_used_at, rev FROM api_key WHERE public_id = $1", public_id)
    assert row is not None
    return row["last_used_at"], row["rev"]


async def test_a_use_is_written_once_a_minute_and_is_no_change(
    resolver: Resolver, control: postgres.Postgres, two_orgs: Any
) -> None:
    public_id = two_orgs[0].key.split("_")[1]
    never, rev = await written(control, public_id)
    assert never is None

    async def use() -> datetime:
        await resolver.principal(f"Bearer {two_orgs[0].key}", "")
        await write_once(resolver, control)
        used, now_rev = await written(control, public_id)
        assert used is not None
        assert now_rev == rev
        return used

    first = await use()
    assert await use() == first
    before = first - timedelta(minutes=2)
    await control.execute("UPDATE api_key SET last_used_at = $2 WHERE public_id = $1", public_id, before)
    assert await use() > first
    await control.execute("UPDATE api_key SET last_used_at = $2 WHERE public_id = $1", public_id, before)
    await write_once(resolver, control)  # nobody has used it since
    assert (await written(control, public_id))[0] == before


async def test_a_refused_key_was_not_used(resolver: Resolver, control: postgres.Postgres, two_orgs: Any) -> None:
    await control.execute("UPDATE api_key SET revoked_at = now() WHERE public_id = $1", two_orgs[0].key.split("_")[1])
    for refused in (two_orgs[0].key, keys.generate().key):
        with pytest.raises(Unauthenticated):
            await resolver.principal(f"Bearer {refused}", "")
    assert resolver.used == set()


async def test_a_process_writes_by_itself(
    control: postgres.Postgres,
    hot_store: redis_control.RedisControl,
    stores: Any,
    two_orgs: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(key_last_used, "EVERY_S", 0.02)
    async with resolving(control, hot_store, stores.redis_url) as resolver, asyncio.timeout(30):
        await resolver.principal(f"Bearer {two_orgs[0].key}", "")
        while (await written(control, two_orgs[0].key.split("_")[1]))[0] is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_what_cannot_be_written_is_written_the_next_time(
    resolver: Resolver, control: postgres.Postgres, stores: Any, two_orgs: Any
) -> None:
    await resolver.principal(f"Bearer {two_orgs[0].key}", "")
    closed = await postgres.connect(stores.pg_dsn)
    await closed.close()
    with pytest.raises(StoreUnavailable):
        await write_once(resolver, closed)
    await write_once(resolver, control)
    assert (await written(control, two_orgs[0].key.split("_")[1]))[0] is not None
