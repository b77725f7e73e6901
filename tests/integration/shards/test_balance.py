"""The shard balance over real stores: it says how uneven shards are, and moves orgs only where it was told to."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tracebility.shards.balance import LASTING_S, ShardBalance
from tracebility.shards.metrics import ShardMetrics
from tracebility.shards.routing import placements
from tracebility.stores import redis_control
from tracebility.stores.postgres import Postgres
from tracebility.stores.queue import Queue
from tracebility.telemetry import Metrics
from tracebility.tenant.ledger import accepted_key
from tracebility.tenant.shard_router import ShardRouter, shard_of, stream_of

LOUD_ITEMS = 9_000


class Clock:
    """Two clocks of the test's own that go together."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self._began = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)

    def __call__(self) -> float:
        return self.passed_s

    def now(self) -> datetime:
        return self._began + timedelta(seconds=self.passed_s)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def loud(store: redis_control.RedisControl, two_orgs: Any, clock: Clock) -> AsyncIterator[Any]:
    """An org that sends everything that is sent."""
    org_id = two_orgs[0].org_id
    key = accepted_key(stream_of(shard_of(org_id)), org_id)
    await store.command("HSET", key, int(clock.now().timestamp()) // 3600, LOUD_ITEMS)
    yield org_id
    await store.command("DEL", key)


@pytest.fixture
def balance(
    control: Postgres, streams: Queue, store: redis_control.RedisControl, clock: Clock
) -> Callable[..., ShardBalance]:
    def make(*, auto: bool, worth_items: int = LOUD_ITEMS) -> ShardBalance:
        metrics = ShardMetrics(Metrics())
        return ShardBalance(
            control, streams, store, metrics, auto=auto, worth_items=worth_items, clock=clock, now=clock.now
        )

    return make


async def placed(control: Postgres, org_id: Any) -> tuple[int, ...]:
    return ShardRouter(await placements(control)).shards_of(org_id)


def metric(balance: ShardBalance, name: str, **labels: str) -> float:
    """The value of ``ShardMetrics``'s gauge or counter ``name``."""
    metric = getattr(balance._metrics, name)
    value: float = (metric.labels(**labels) if labels else metric)._value.get()
    return value


async def test_how_uneven_the_shards_are_is_a_metric(balance: Any, loud: Any, control: Postgres) -> None:
    looking = balance(auto=False)
    await looking.tick()
    assert metric(looking, "skew") == 16
    assert metric(looking, "items", shard=str(shard_of(loud))) == LOUD_ITEMS


async def test_a_skew_that_lasts_is_proposed_and_nothing_is_moved(
    balance: Any, loud: Any, control: Postgres, clock: Clock
) -> None:
    looking = balance(auto=False)
    assert await looking.tick() is None
    clock.passed_s = LASTING_S - 1
    assert await looking.tick() is None
    clock.passed_s = LASTING_S
    plan = await looking.tick()
    assert [move.org_id for move in plan.moves] == [loud]
    assert plan.skew_after <= 1.5
    assert await placed(control, loud) == (shard_of(loud),)


async def test_where_it_may_the_operator_moves_and_is_then_content(
    balance: Any, loud: Any, control: Postgres, clock: Clock
) -> None:
    looking = balance(auto=True)
    await looking.tick()
    clock.passed_s = LASTING_S
    assert (await looking.tick()).moves
    assert await placed(control, loud) == tuple(range(16))
    row = await control.fetchrow(
        "SELECT event_type, actor_type, details FROM audit_log WHERE org_id = $1 AND event_type LIKE 'shard.%'", loud
    )
    assert row is not None
    assert (row["event_type"], row["actor_type"], row["details"]["reason"]) == ("shard.split", "system", "automatic")
    assert metric(looking, "moves") == 1
    clock.passed_s += LASTING_S
    assert await looking.tick() is None
    assert metric(looking, "skew") == 1
    assert metric(looking, "placed") >= 1


async def test_a_burst_or_a_trickle_is_not_worth_a_word(
    balance: Any, loud: Any, store: redis_control.RedisControl, two_orgs: Any, clock: Clock, control: Postgres
) -> None:
    trickle = balance(auto=True, worth_items=LOUD_ITEMS + 1)
    await trickle.tick()
    clock.passed_s = 2 * LASTING_S
    assert await trickle.tick() is None
    assert await placed(control, loud) == (shard_of(loud),)


async def test_a_skew_that_passes_begins_anew(
    balance: Any, loud: Any, store: redis_control.RedisControl, clock: Clock
) -> None:
    looking = balance(auto=False)
    await looking.tick()
    key, hour = accepted_key(stream_of(shard_of(loud)), loud), int(clock.now().timestamp()) // 3600
    await store.command("HDEL", key, hour)
    clock.passed_s = LASTING_S / 2
    assert await looking.tick() is None
    await store.command("HSET", key, hour, LOUD_ITEMS)
    clock.passed_s = LASTING_S
    assert await looking.tick() is None, "it has not lasted"
