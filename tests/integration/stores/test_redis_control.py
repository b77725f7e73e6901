"""The control role: many questions in one round trip, in order, and an answer for everyone whatever happens."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from tests.harness.proxy import Proxy, Road

from tracebility.errors import StoreUnavailable
from tracebility.stores import redis_control, redis_transport
from tracebility.stores.redis_transport import Servers
from tracebility.tenant.scripts import SETTLE


@pytest.fixture
def trips(hot_store: redis_control.RedisControl, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of commands of each round trip."""
    trips: list[int] = []
    pipelined = hot_store._servers.pipelined

    async def counted(commands: Any, **options: Any) -> Any:
        trips.append(len(commands))
        return await pipelined(commands, **options)

    monkeypatch.setattr(hot_store._servers, "pipelined", counted)
    return trips


async def test_questions_of_one_moment_share_a_round_trip_and_keep_their_order(
    hot_store: redis_control.RedisControl, trips: list[int]
) -> None:
    at = f"test:{uuid4().hex}"
    answers = await asyncio.gather(*(hot_store.command("RPUSH", at, n) for n in range(20)))
    assert answers == list(range(1, 21))
    assert [int(n) for n in await hot_store.command("LRANGE", at, 0, -1)] == list(range(20))
    assert max(trips) >= 19
    hot_store.put(at + ":put", "before", 10_000)
    assert await hot_store.command("GET", at + ":put") == b"before"


async def test_marks_go_with_the_next_question_or_soon_by_themselves(
    hot_store: redis_control.RedisControl, trips: list[int]
) -> None:
    at = f"test:{uuid4().hex}"
    for number in range(3):
        hot_store.put(f"{at}:{number}", "x", 10_000)
        await asyncio.sleep(0)
    await asyncio.gather(hot_store.command("PING"), asyncio.sleep(0))
    assert trips == [4]
    hot_store.put(f"{at}:late", "x", 10_000)
    async with asyncio.timeout(5):
        while len(trips) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert trips == [4, 1]
    assert await hot_store.command("EXISTS", f"{at}:2", f"{at}:late") == 2


async def test_what_waits_is_sent_before_the_end(stores: Any, hot_store: redis_control.RedisControl) -> None:
    at = f"test:{uuid4().hex}"
    store = await redis_control.connect(stores.redis_url)
    store.put(at, "x", 10_000)
    await store.close()
    assert await hot_store.command("GET", at) == b"x"


async def test_a_script_that_the_server_does_not_know_is_sent_whole(hot_store: redis_control.RedisControl) -> None:
    await hot_store.command("SCRIPT", "FLUSH")
    assert await hot_store.run(SETTLE, [f"test:{uuid4().hex}"], [5, 10_000, "spans", 3]) == 1


@pytest.mark.parametrize("weather", [Road.CLOSED, Road.HALF_OPEN, Road.BLACKHOLE])
async def test_with_the_store_away_a_question_is_refused_and_the_next_ones_at_once(stores: Any, weather: Road) -> None:
    async with Proxy.before(stores.redis_url) as road:
        store = await redis_control.connect(road.through(stores.redis_url))
        road.road = weather
        road.reset()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.command("PING")
        road.road = Road.CLEAR
        road.reset()
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await store.command("PING") in (b"PONG", "PONG")
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.1)
        await store.close()


async def test_nobody_waits_for_ever_for_what_failed_in_a_way_that_nobody_foresaw(
    stores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await redis_control.connect(stores.redis_url)

    async def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(store._servers, "pipelined", broken)
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(5):
                await store.command("PING")
    await store.ping()
    assert await store.command("ECHO", "on") == b"on"
    await store.close()


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used(
    stores: Any, hot_store: redis_control.RedisControl
) -> None:
    store = await redis_control.connect(stores.redis_url)
    client = await store.command("CLIENT", "ID")
    assert len(store._servers._home._idle) == 1
    await hot_store.command("CLIENT", "KILL", "ID", client)
    await asyncio.sleep(0.1)
    assert await store.command("PING") in (b"PONG", "PONG")
    await store.close()


async def test_more_callers_than_connections_are_all_answered(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_transport, "MAX_CONNECTIONS", 2)
    store = Servers(stores.redis_url)
    for _ in range(2):
        answers = await asyncio.gather(*(store.pipelined([("ECHO", str(n))]) for n in range(20)))
        assert answers == [[str(n).encode()] for n in range(20)]
    await store.close()
