"""The shard map in the real control plane: a move is a row, its event, and nothing else."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.harness import streams as raw_streams
from tests.harness.proxy import Proxy, Road

from tracebility.audit.events import Actor
from tracebility.errors import MovedLately, NotFound, Unprocessable
from tracebility.ids import OrgId
from tracebility.shards.routing import org_loads, placements, routing
from tracebility.shards.shard_map import HYSTERESIS, ShardMove, ShardMoved, coolest_for, look, move, plan, undo
from tracebility.stores import postgres, redis_control
from tracebility.stores.changes import notify, resolving
from tracebility.stores.postgres import Conflict, Postgres
from tracebility.stores.queue import Queue
from tracebility.tenant.ledger import accepted_key
from tracebility.tenant.shard_router import DEFAULT, MOVED, SPLIT, ShardRouter, overflow_of, shard_of, stream_of

ACTOR = Actor("operator", "test")
NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
LATER = NOW + HYSTERESIS
AT_ONCE_S, SOON_S = 1.0, 5.0


@pytest.fixture
def org(two_orgs: Any) -> OrgId:
    org_id: OrgId = two_orgs[0].org_id
    return org_id


@pytest.fixture
def moving(control: Postgres, org: OrgId) -> Callable[..., Awaitable[ShardMoved]]:
    """Moves the test's org and commits."""

    async def run(*shards: int, now: datetime = NOW, **more: Any) -> ShardMoved:
        async with control.transaction() as transaction:
            return await move(transaction, ACTOR, ShardMove(org_id=org, shards=list(shards), **more), now)

    return run


@pytest.fixture
def undoing(control: Postgres, org: OrgId) -> Callable[..., Awaitable[ShardMoved]]:
    async def run(now: datetime = NOW) -> ShardMoved:
        async with control.transaction() as transaction:
            return await undo(transaction, ACTOR, org, now)

    return run


async def stands(control: Postgres, org: OrgId) -> tuple[int, ...]:
    return ShardRouter(await placements(control)).shards_of(org)


async def events(control: Postgres, org: OrgId) -> list[tuple[str, list[int], list[int]]]:
    rows = await control.fetch(
        "SELECT event_type, details FROM audit_log WHERE org_id = $1 AND event_type LIKE 'shard.%' ORDER BY seq", org
    )
    return [(row["event_type"], row["details"]["before"], row["details"]["after"]) for row in rows]


async def test_moves_stand_and_each_undo_leads_one_back(
    control: Postgres, org: OrgId, moving: Any, undoing: Any
) -> None:
    home = shard_of(org)
    to = (home + 1) % 16
    spread = sorted({to, (home + 5) % 16, (home + 9) % 16})
    first = await moving(to)
    second = await moving(*spread, now=LATER)
    assert (first.before, first.after, first.state) == ([home], [to], MOVED)
    assert (second.before, second.after, second.state) == ([to], spread, SPLIT)
    assert second.epoch > first.epoch
    assert await stands(control, org) == tuple(spread)
    assert (await undoing()).after == [to]
    last = await undoing()
    assert (last.after, last.state) == ([home], DEFAULT)
    assert await stands(control, org) == (home,)
    with pytest.raises(Unprocessable, match="no move to undo"):
        await undoing()
    assert await events(control, org) == [
        ("shard.moved", [home], [to]),
        ("shard.split", [to], spread),
        ("shard.undone", spread, [to]),
        ("shard.undone", [to], [home]),
    ]


async def test_history_is_kept(control: Postgres, org: OrgId, moving: Any, undoing: Any) -> None:
    await moving(3, 4, reason="loud")
    await undoing()
    rows = await control.fetch("SELECT * FROM shard_map WHERE org_id = $1 ORDER BY epoch", org)
    assert [(row["shards"], row["state"], row["reason"], row["moved_by"]) for row in rows] == [
        ([3, 4], SPLIT, "loud", "operator:test"),
        ([shard_of(org)], DEFAULT, "undo", "operator:test"),
    ]


async def test_an_org_is_not_moved_again_for_a_while_unless_forced(
    control: Postgres, org: OrgId, moving: Any, undoing: Any
) -> None:
    await moving(3, 4)
    with pytest.raises(MovedLately) as refused:
        await moving(5, 6, now=LATER - timedelta(seconds=10))
    assert refused.value.retry_after_s == 11
    assert await stands(control, org) == (3, 4)
    assert (await moving(5, 6, now=NOW, force=True)).after == [5, 6]
    assert (await undoing(NOW)).after == [3, 4], "a mistake is not kept for 15 minutes"


async def test_what_is_so_already_changes_nothing(control: Postgres, org: OrgId, moving: Any) -> None:
    await moving(3, 4)
    assert (await moving(4, 3)).epoch is None
    assert len(await events(control, org)) == 1


async def test_a_dry_run_changes_nothing_and_is_refused_as_the_move_would_be(
    control: Postgres, org: OrgId, moving: Any
) -> None:
    would = await moving(3, 4, dry_run=True)
    assert (would.before, would.after, would.epoch) == ([shard_of(org)], [3, 4], None)
    assert await stands(control, org) == (shard_of(org),)
    assert await events(control, org) == []
    await moving(3, 4)
    with pytest.raises(MovedLately):
        await moving(5, dry_run=True)


async def test_an_org_that_is_not_there_is_not_moved(control: Postgres) -> None:
    with pytest.raises(NotFound):
        async with control.transaction() as transaction:
            await move(transaction, ACTOR, ShardMove(org_id=uuid4(), shards=[1]), NOW)
    with pytest.raises(NotFound):
        async with control.transaction() as transaction:
            await undo(transaction, ACTOR, OrgId(uuid4()), NOW)


@pytest.mark.parametrize("shards", [[], [16], [-1], [3, 3], list(range(17))])
async def test_the_schema_takes_no_shards_that_are_none(control: Postgres, org: OrgId, shards: list[int]) -> None:
    with pytest.raises(Conflict):
        await control.execute("insert_shard_move", org, shards, None, SPLIT, None, NOW, "nobody", "")


async def test_of_moves_at_once_one_wins_and_the_other_is_too_late(control: Postgres, org: OrgId, moving: Any) -> None:
    done = await asyncio.gather(*(moving(shard, shard + 8) for shard in range(6)), return_exceptions=True)
    won = [one for one in done if isinstance(one, ShardMoved)]
    assert len(won) == 1
    assert all(isinstance(one, ShardMoved | MovedLately) for one in done)
    assert await stands(control, org) == tuple(won[0].after)
    assert len(await events(control, org)) == 1


async def test_epochs_are_seen_in_their_order(control: Postgres, two_orgs: Any) -> None:
    """A second change waits for the first to commit: who has seen an epoch has seen all before it."""
    first, second = (tenant.org_id for tenant in two_orgs)
    seen: list[int] = []

    async def change(org: OrgId) -> None:
        async with control.transaction() as transaction:
            moved = await move(transaction, ACTOR, ShardMove(org_id=org, shards=[1, 2]), NOW)
        seen.append(moved.epoch or 0)

    async with control.transaction() as transaction:
        held = await move(transaction, ACTOR, ShardMove(org_id=first, shards=[1, 2]), NOW)
        waiting = asyncio.create_task(change(second))
        while not await control.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"):
            assert not waiting.done(), "the second change did not wait"
            await asyncio.sleep(0.01)
    await waiting
    assert seen[0] > (held.epoch or 0)


async def test_a_process_that_dies_in_a_move_has_moved_nothing(stores: Any, control: Postgres, org: OrgId) -> None:
    command = [sys.executable, "-c", "from tracebility.cli import main; main()", "shards", "split", str(org), "4"]
    command += ["--data-dir", str(stores.data_dir), "--json"]

    def run(failpoint: str) -> "subprocess.CompletedProcess[bytes]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACEBILITY_")}
        environment["TRACEBILITY_FAILPOINT"] = failpoint
        return subprocess.run(command, env=environment, capture_output=True, check=False)

    assert (await asyncio.to_thread(run, "shard_move_before_commit")).returncode == -9
    assert await stands(control, org) == (shard_of(org),)
    assert await events(control, org) == []
    again = await asyncio.to_thread(run, "")
    assert again.returncode == 0, again.stderr
    assert len(await stands(control, org)) == 4
    assert len(await events(control, org)) == 1


# --- routers of processes ---


@asynccontextmanager
async def another_process(pg_dsn: str, redis_url: str) -> AsyncIterator[ShardRouter]:
    """A process's router, kept as the edge keeps its own."""
    control, store = await postgres.connect(pg_dsn), await redis_control.connect(redis_url)
    try:
        async with routing(control) as (router, keeper), resolving(control, store, redis_url, keeper.changed):
            yield router
    finally:
        await store.close()
        await control.close()


async def until_routed(router: ShardRouter, org: OrgId, shards: tuple[int, ...], within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while router.shards_of(org) != shards:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_routers_hear_of_a_move_at_once(
    stores: Any, hot_store: redis_control.RedisControl, org: OrgId, moving: Any
) -> None:
    async with another_process(stores.pg_dsn, stores.redis_url) as router:
        moved = await moving(3, 4)
        await notify(hot_store)
        await until_routed(router, org, (3, 4), AT_ONCE_S)
        assert router.epoch >= moved.epoch


async def test_routers_hear_of_a_move_soon_when_nobody_announces_it(stores: Any, org: OrgId, moving: Any) -> None:
    async with another_process(stores.pg_dsn, stores.redis_url) as router:
        await moving(3, 4)
        await until_routed(router, org, (3, 4), SOON_S)


async def test_a_process_that_starts_knows_the_map(stores: Any, org: OrgId, moving: Any) -> None:
    await moving(3, 4)
    async with another_process(stores.pg_dsn, stores.redis_url) as router:
        assert router.shards_of(org) == (3, 4)


async def test_with_postgres_away_a_router_goes_on_and_learns_when_it_is_back(
    stores: Any, hot_store: redis_control.RedisControl, org: OrgId, moving: Any
) -> None:
    async with (
        Proxy.before(stores.pg_dsn) as road,
        another_process(road.through(stores.pg_dsn), stores.redis_url) as router,
    ):
        road.road = Road.CLOSED
        road.reset()
        await moving(3, 4)
        await notify(hot_store)
        await asyncio.sleep(0.3)
        assert router.shards_of(org) == (shard_of(org),)
        road.road = Road.CLEAR
        await until_routed(router, org, (3, 4), 20.0)


# --- what orgs send ---


@pytest.fixture
def books(empty_queue: Queue) -> Queue:
    return empty_queue


@pytest.fixture
async def sent(empty_redis_url: str) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Writes into the books that an org sent so many items into a shard, so many hours ago."""
    store = await redis_control.connect(empty_redis_url)
    written: list[str] = []

    async def write(org: OrgId, shard: int, items: int, hours_ago: int = 0) -> None:
        hour = int(NOW.timestamp()) // 3600 - hours_ago
        written.append(accepted_key(stream_of(shard), org))
        await store.command("HSET", written[-1], hour, items)

    yield write
    for key in written:
        await store.command("DEL", key)
    await store.close()


async def test_an_orgs_load_is_what_it_sent_lately_wherever_it_queued(
    control: Postgres, books: Queue, sent: Any, two_orgs: Any, org: OrgId, moving: Any, undoing: Any
) -> None:
    elsewhere = (shard_of(org) + 1) % 16
    await moving(elsewhere)
    await undoing()
    await sent(org, shard_of(org), 100)
    await sent(org, shard_of(org), 40, 2)
    await sent(org, shard_of(org), 1000, 3)  # too long ago
    await sent(org, elsewhere, 7, 1)
    assert await org_loads(control, books, NOW) == {org: 147}


async def test_a_plan_is_made_of_what_orgs_sent_and_changes_nothing(
    control: Postgres, books: Queue, sent: Any, two_orgs: Any
) -> None:
    loud, quiet = (tenant.org_id for tenant in two_orgs)
    await sent(loud, shard_of(loud), 9_000)
    await sent(quiet, shard_of(quiet), 100)
    before = await control.fetchval("SELECT count(*) FROM shard_map")
    made = await plan(control, books, NOW)
    assert made.skew_before > 8
    assert made.skew_after <= 1.5
    assert made.moves[0].org_id == loud
    assert made.moves[0].before == [shard_of(loud)]
    assert len(made.moves[0].after) == 16
    assert await control.fetchval("SELECT count(*) FROM shard_map") == before


async def test_a_plan_leaves_out_who_was_moved_lately(
    control: Postgres, books: Queue, sent: Any, org: OrgId, moving: Any
) -> None:
    await sent(org, 3, 9_000)
    await moving(3, force=True) if shard_of(org) != 3 else await moving(4, force=True)
    made = await plan(control, books, NOW)
    assert org in made.held
    assert org not in {one.org_id for one in made.moves}
    made = await plan(control, books, LATER)
    assert org not in made.held
    assert org in {one.org_id for one in made.moves}


async def test_who_looks_sees_what_came_to_each_shard_and_of_whom(
    control: Postgres, books: Queue, sent: Any, org: OrgId, moving: Any
) -> None:
    other = (shard_of(org) + 1) % 16
    await sent(org, shard_of(org), 1000)
    await raw_streams.append(
        books, [(stream, {"h": b"", "b": b""}) for stream in (stream_of(other), overflow_of(other))]
    )
    await moving(*sorted({shard_of(org), other}))
    status = await look(control, books, NOW)
    assert (status.skew, status.epoch > 0) == (8.0, True)
    assert [shard.items for shard in status.shards if shard.items] == [500, 500]
    shard = status.shards[other]
    assert (shard.entries, shard.pending, shard.orgs[0].org_id, shard.orgs[0].items) == (2, 0, org, 500)
    [placed] = [one for one in status.placed if one.org_id == org]
    assert (placed.shards, placed.state) == (sorted({shard_of(org), other}), SPLIT)
    for stream in (stream_of(other), overflow_of(other)):
        [entry] = await books.range(stream)
        await raw_streams.delete(books, stream, [entry.id])


async def test_pieces_go_to_the_shards_with_the_least_load(
    control: Postgres, books: Queue, sent: Any, two_orgs: Any
) -> None:
    loud, other = (tenant.org_id for tenant in two_orgs)
    await sent(loud, shard_of(loud), 1000)
    await sent(other, shard_of(other), 500)
    assert await coolest_for(control, books, loud, 15, NOW) == [one for one in range(16) if one != shard_of(other)]
