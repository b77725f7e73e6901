"""Leases on evaluators beside a model of them, by a clock of the test's own; and holders that die or lose theirs."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

from tracebility.ids import OrgId
from tracebility.stores import redis_control
from tracebility.tenant.eval_concurrency import EvalConcurrency, Lease, LeaseLost

START_US = 1_795_000_000_000_000
LIFE_US = 30_000_000


class LeaseMachine(RuleBasedStateMachine):
    """Never more leases live than the limit at their taking allowed; a dead holder's comes back after its life."""

    store: redis_control.RedisControl
    loop: asyncio.AbstractEventLoop
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.evals = EvalConcurrency(self.store)
        self.org_id = OrgId(uuid4())
        self.now = START_US
        self.limit = 2
        self.ends: dict[str, int] = {}  # of leases that live, by token
        self.generation = 0

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    def alive(self) -> dict[str, int]:
        return {token: end for token, end in self.ends.items() if end > self.now}

    @rule(target=held)
    def take(self) -> Lease | None:
        alive = self.alive()
        taken = self.run(self.evals.take(self.org_id, self.limit, self.now))
        if len(alive) >= self.limit:
            assert taken == pytest.approx((min(alive.values()) - self.now) / 1e6 if alive else LIFE_US / 1e6)
            return None
        assert taken.generation > self.generation
        self.generation = taken.generation
        self.ends[taken.token] = self.now + LIFE_US
        return taken  # type: ignore[no-any-return]

    @rule(lease=held)
    def keep(self, lease: Lease | None) -> None:
        if lease is not None:
            lives = lease.token in self.alive()
            assert self.run(self.evals.keep(lease, self.now)) == lives
            if lives:
                self.ends[lease.token] = self.now + LIFE_US

    @rule(lease=consumes(held))
    def give_back(self, lease: Lease | None) -> None:
        if lease is not None:
            assert self.run(self.evals.give_back(lease, self.now)) == (lease.token in self.alive())
            self.ends.pop(lease.token, None)

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * 1_000_000

    @rule(limit=st.integers(0, 4))
    def change_limit(self, limit: int) -> None:
        self.limit = limit


@pytest.mark.hypothesis
def test_leases_are_as_the_model_has_them(stores: Any) -> None:
    with asyncio.Runner() as runner:
        LeaseMachine.loop = runner.get_loop()
        LeaseMachine.store = runner.run(redis_control.connect(stores.redis_url))
        try:
            case = LeaseMachine.TestCase
            case.settings = settings(max_examples=settings().max_examples // 3, stateful_step_count=25)
            case().runTest()
        finally:
            runner.run(LeaseMachine.store.close())


async def test_who_waits_gets_the_lease_of_one_that_died(hot_store: redis_control.RedisControl) -> None:
    evals, org_id = EvalConcurrency(hot_store, life_s=0.5), OrgId(uuid4())
    died = await evals.take(org_id, 1)
    assert isinstance(died, Lease)
    async with asyncio.timeout(10), evals.running(org_id, 1) as lease:
        assert lease.generation > died.generation
    assert not await evals.keep(died)


async def test_a_lease_is_kept_for_as_long_as_its_holder_runs_and_given_back_then(
    hot_store: redis_control.RedisControl,
) -> None:
    evals, org_id = EvalConcurrency(hot_store, life_s=0.3), OrgId(uuid4())
    async with evals.running(org_id, 1):
        await asyncio.sleep(1.0)
        assert isinstance(await evals.take(org_id, 1), float)
    assert isinstance(await evals.take(org_id, 1), Lease)


async def test_a_holder_that_lost_its_lease_is_stopped(hot_store: redis_control.RedisControl) -> None:
    evals, org_id = EvalConcurrency(hot_store, life_s=0.3), OrgId(uuid4())

    async def hold() -> None:
        async with evals.running(org_id, 1) as lease:
            await evals.give_back(lease)  # as if it had ended, and another had it
            await asyncio.sleep(10)

    with pytest.raises(LeaseLost):
        await hold()


async def test_without_redis_no_lease_is_given_and_a_holder_stops_before_its_lease_ends(stores: Any) -> None:
    from tests.harness.proxy import Proxy, Road

    from tracebility.errors import StoreUnavailable

    async with Proxy.before(stores.redis_url) as road:
        store = await redis_control.connect(road.through(stores.redis_url))
        evals, org_id = EvalConcurrency(store, life_s=1.5), OrgId(uuid4())

        async def hold() -> None:
            async with evals.running(org_id, 1):
                road.road = Road.CLOSED
                road.reset()
                await asyncio.sleep(10)

        with pytest.raises(LeaseLost):
            await hold()
        with pytest.raises(StoreUnavailable):
            await evals.take(org_id, 1)
        await store.close()
