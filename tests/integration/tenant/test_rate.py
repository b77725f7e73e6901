"""The rate of an org and of a key, decided in the real store by a clock of the test's own."""

from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracebility.stores.redis_control import RedisControl
from tracebility.tenant.scripts import ADMIT

START_US = 1_795_000_000_123_457
LET_IN, OVER_RATE = 0, 1


class Limited:
    """An org and a key of their own; `ask` is one request at a moment."""

    def __init__(self, hot: RedisControl) -> None:
        self._hot = hot
        org = f"tracebility:{{{uuid4()}}}"
        self.keys = [f"{org}:rate", f"{org}:rate:key", f"{org}:usage", f"{org}:body"]

    async def ask(self, now_us: int, org: tuple[int, int] = (0, 0), key: tuple[int, int] = (0, 0)) -> list[int]:
        answer: list[int] = await self._hot.run(ADMIT, self.keys, [now_us, *org, *key, 0, "", 0])
        return answer

    async def lets_in(self, now_us: int, **limits: tuple[int, int]) -> bool:
        return (await self.ask(now_us, **limits))[0] == LET_IN


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    # Long enough that what the store remembers does not end by its own clock while the test's stands still.
    interval=st.integers(10_000_000, 60_000_000),
    burst=st.integers(1, 12),
    steps=st.lists(st.integers(0, 90_000_000), min_size=1, max_size=40),
)
async def test_no_window_holds_more_than_the_burst_and_its_rate(
    hot_store: RedisControl, interval: int, burst: int, steps: list[int]
) -> None:
    limited, now = Limited(hot_store), START_US
    admitted: list[int] = []
    tokens, at = float(burst), now
    for step in steps:
        now += step
        tokens, at = min(burst, tokens + (now - at) / interval), now
        let_in = await limited.lets_in(now, org=(interval, burst))
        # A bucket of `burst` tokens, one of which comes back each interval, is what the limit is.
        if abs(tokens - 1) > 1e-6:
            assert let_in == (tokens > 1)
        if let_in:
            tokens -= 1
            admitted.append(now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            window = admitted[last] - admitted[first]
            assert last - first + 1 <= burst + window // interval + 1e-9


async def test_a_refusal_says_how_long_to_wait_and_that_is_long_enough(hot_store: RedisControl) -> None:
    limited, limit = Limited(hot_store), (250_000, 3)
    assert [await limited.lets_in(START_US, org=limit) for _ in range(4)] == [True, True, True, False]
    status, which, wait, left = await limited.ask(START_US + 10, org=limit)
    assert (status, which, left) == (OVER_RATE, 1, 0)
    assert not await limited.lets_in(START_US + 10 + wait - 1, org=limit)
    assert await limited.lets_in(START_US + 10 + wait, org=limit)


async def test_what_is_refused_for_the_key_is_not_counted_for_the_org(hot_store: RedisControl) -> None:
    limited, org, key = Limited(hot_store), (1_000_000, 3), (1_000_000, 1)
    assert await limited.lets_in(START_US, org=org, key=key)
    for _ in range(5):
        assert (await limited.ask(START_US, org=org, key=key))[:2] == [OVER_RATE, 2]
    assert [await limited.lets_in(START_US, org=org) for _ in range(3)] == [True, True, False]


async def test_a_clock_that_goes_back_makes_nobody_wait_for_longer_than_the_burst(hot_store: RedisControl) -> None:
    limited, limit = Limited(hot_store), (1_000_000, 5)
    for _ in range(5):
        await limited.lets_in(START_US, org=limit)
    earlier = START_US - 3_600_000_000
    status, _, wait, _ = await limited.ask(earlier, org=limit)
    assert (status, wait) == (OVER_RATE, 1_000_000)
    assert await limited.lets_in(earlier + wait, org=limit)


async def test_a_lowered_limit_holds_at_once(hot_store: RedisControl) -> None:
    limited = Limited(hot_store)
    for _ in range(50):
        await limited.lets_in(START_US, org=(1_000_000, 100))
    _, _, wait, _ = await limited.ask(START_US, org=(1_000_000, 2))
    assert wait == 1_000_000


async def test_state_keeps_every_microsecond_and_goes_when_it_is_of_no_use(hot_store: RedisControl) -> None:
    limited = Limited(hot_store)
    now = int((await hot_store.command("TIME"))[0]) * 1_000_000 + 654_321
    await limited.lets_in(now, org=(1_234_567, 3))
    assert int(await hot_store.command("GET", limited.keys[0])) == now + 1_234_567
    life: Any = await hot_store.command("PTTL", limited.keys[0])
    assert 0 < life <= 1_236
    assert not await hot_store.command("EXISTS", limited.keys[2], limited.keys[3])


async def test_the_store_has_one_clock_of_its_own(hot_store: RedisControl) -> None:
    limited = Limited(hot_store)
    assert (await limited.ask(0, org=(0, 0)))[0] == LET_IN
    status, *_ = await hot_store.run(ADMIT, limited.keys, ["", 60_000_000, 1, 0, 0, 0, "", 0])
    assert status == LET_IN
    seconds, micros = map(int, await hot_store.command("TIME"))
    state = int(await hot_store.command("GET", limited.keys[0]))
    assert abs(state - 60_000_000 - seconds * 1_000_000 - micros) < 2_000_000
