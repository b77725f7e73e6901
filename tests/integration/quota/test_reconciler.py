"""The reconciler over the real stores: exact, forward only, and silent while it does not know."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis
from tests.harness.proxy import Proxy, Road

from tracebility.audit.events import AuditWriter
from tracebility.errors import AuditLogTampered, StoreUnavailable
from tracebility.ids import OrgId
from tracebility.ingest import enqueue, heartbeat
from tracebility.ingest.disk_buffer import buffer
from tracebility.quota.reconciler import SKEW_US, QuotaReconciler
from tracebility.stores import clickhouse, postgres, redis_control
from tracebility.stores.clickhouse import Engine
from tracebility.stores.queue import Queue
from tracebility.stores.queue.entries import LATE
from tracebility.tenant.quota import BYTES, METERED, OLDEST_BUFFERED, SLOT_US, SPANS, metered_member, usage_key
from tracebility.tenant.scripts import SET_FIELD
from tracebility.worker.columns import MAX_VERSION

PERIOD = "2026-11"
A_DAY_US = 86_400 * 10**6


@dataclass
class Clock:
    """A clock of the test's own, a day behind: what it stamps is of the past for everyone."""

    now_us: int = field(default_factory=lambda: time.time_ns() // 1000 - A_DAY_US)

    def __call__(self) -> int:
        return self.now_us


@dataclass
class Books:
    """An org, and the stores that know of it."""

    org_id: OrgId
    control: postgres.Postgres
    engine: Engine
    store: redis_control.RedisControl
    clock: Clock

    async def meter(self, *spans: tuple[UUID, int]) -> None:
        """Store meter rows of spans, accepted so many microseconds ago, and say so."""
        for event_id, ago_us in spans:
            accepted = self.clock.now_us - ago_us
            for meter, quantity in ((SPANS, 1), (BYTES, 100)):
                await self.engine.execute(
                    "INSERT INTO billing_meter (org_id, workspace_id, project_id, period, meter, event_id, qty, "
                    "accepted_at, version) SELECT {org:UUID}, {org:UUID}, {org:UUID}, {period:String}, {meter:String}, "
                    "{event:UUID}, {qty:UInt64}, fromUnixTimestamp64Micro({at:Int64}), {version:UInt64}",
                    {
                        "org": str(self.org_id), "period": PERIOD, "meter": meter, "event": str(event_id),
                        "qty": quantity, "at": accepted, "version": MAX_VERSION - accepted,
                    },
                )  # fmt: skip
        await self.say()

    async def say(self) -> None:
        await self.store.command("ZADD", METERED, self.clock.now_us // 1000, metered_member(self.org_id, PERIOD))

    async def settled(self) -> dict[str, int]:
        rows = await self.control.fetch("usage_of_period", self.org_id, PERIOD)
        return {row["meter"]: row["used_amount"] for row in rows}

    async def shown(self) -> dict[str, int]:
        rows = await self.control.fetch("read_quotas", self.org_id, PERIOD, [SPANS, BYTES])
        assert all(row["as_of"] is not None for row in rows)
        return {row["meter"]: row["used"] for row in rows}

    async def counted(self) -> int:
        return int(await self.store.command("HGET", usage_key(self.org_id, PERIOD), SPANS) or 0)

    async def flag(self) -> bytes | None:
        said: bytes | None = await self.store.command("GET", f"quota:over:{self.org_id}:{PERIOD}")
        return said

    async def limit(self, hard: int, soft: int) -> None:
        name = f"p{uuid4().hex[:12]}"
        await self.control.execute("INSERT INTO plan (name) VALUES ($1)", name)
        await self.control.execute("INSERT INTO plan_meter_limit VALUES ($1, 'spans', $2, $3)", name, hard, soft)
        await self.control.execute("UPDATE org SET plan = $2 WHERE id = $1", self.org_id, name)


@pytest.fixture
async def books(control: postgres.Postgres, engine: Engine, store: redis_control.RedisControl) -> Books:
    org_id = OrgId(uuid4())
    await control.execute("insert_org", org_id, "org", "internal")
    return Books(org_id, control, engine, store, Clock())


@pytest.fixture
def reconciler(books: Books, streams: Queue) -> QuotaReconciler:
    return QuotaReconciler(books.control, books.engine, streams, books.store, books.clock)


async def test_what_was_metered_twice_is_used_once(books: Books, reconciler: QuotaReconciler) -> None:
    again = uuid4()
    await books.meter((again, 600_000_000), (uuid4(), 500_000_000), (again, 60_000_000))
    tick = await reconciler.tick()
    assert (tick.orgs, tick.advanced, tick.corrected) == (1, 1, 1)
    assert await books.settled() == {SPANS: 2, BYTES: 200}
    assert await books.counted() == 2


async def test_what_is_after_the_watermark_is_settled_when_the_watermark_has_passed_it(
    books: Books, reconciler: QuotaReconciler
) -> None:
    await books.meter((uuid4(), 600_000_000), (uuid4(), 0))
    await reconciler.tick()
    assert await books.settled() == {SPANS: 1, BYTES: 100}
    assert await books.shown() == {SPANS: 2, BYTES: 200}, "who looks does not wait for the watermark"
    books.clock.now_us += 4 * SLOT_US
    await reconciler.tick()
    assert await books.settled() == await books.shown() == {SPANS: 2, BYTES: 200}
    books.clock.now_us += 4 * SLOT_US
    assert (await reconciler.tick()).orgs == 0, "nothing has changed, so nobody is summed"


async def test_what_is_under_way_holds_the_watermark(books: Books, reconciler: QuotaReconciler, streams: Queue) -> None:
    before = await reconciler.watermark()
    oldest_ms = books.clock.now_us // 1000 - 300_000
    stream = "tracebility:ingest:v1:3"
    await books.store.command("XADD", stream, f"{oldest_ms}-0", "h", "", "b", "")
    assert await reconciler.watermark() <= (oldest_ms * 1000) // SLOT_US < before
    await books.store.command("DEL", stream)
    assert await reconciler.watermark() == before


async def test_what_is_in_a_disk_buffer_holds_the_watermark_and_in_one_that_is_gone_for_an_hour(
    books: Books, reconciler: QuotaReconciler
) -> None:
    before = await reconciler.watermark()
    now_ms = books.clock.now_us // 1000
    for name, slot in (("one", before - 50), ("other", before - 60)):
        await books.store.run(SET_FIELD, [OLDEST_BUFFERED], [name, f"{slot}|{now_ms}"])
    assert await reconciler.watermark() < before - 60
    await books.store.run(SET_FIELD, [OLDEST_BUFFERED], ["other", ""])
    assert before - 60 < await reconciler.watermark() < before - 50
    books.clock.now_us += 3_599 * 10**6
    assert await reconciler.watermark() < before - 50
    books.clock.now_us += 2 * 10**6
    assert await reconciler.watermark() > before


async def test_what_came_from_a_disk_buffer_holds_the_watermark_until_it_has_left_the_queue(
    books: Books, reconciler: QuotaReconciler, streams: Queue
) -> None:
    before, stream = await reconciler.watermark(), "tracebility:ingest:v1:3"
    now_ms = books.clock.now_us // 1000
    await streams.record_late(before - 50, now_ms + 10_000)
    await books.store.command("XADD", stream, f"{now_ms}-0", "h", "", "b", "")
    books.clock.now_us += 60 * 10**6
    assert await reconciler.watermark() < before - 50
    await books.store.command("XADD", stream, f"{now_ms + 30_000}-0", "h", "", "b", "")
    await books.store.command("XDEL", stream, f"{now_ms}-0")
    assert await reconciler.watermark() > before
    await streams.record_late(before - 70, now_ms + 31_000)
    await streams.record_late(before - 70, now_ms + 20_000)
    assert await reconciler.watermark() < before - 70
    await books.store.command("DEL", stream)
    assert await reconciler.watermark() > before


async def test_what_is_on_its_way_while_the_watermark_is_taken_is_seen(
    books: Books, reconciler: QuotaReconciler, streams: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes from a disk buffer into the queue between two of the questions, whichever they are."""
    before = await reconciler.watermark()
    now_ms = books.clock.now_us // 1000

    async def go() -> None:
        await streams.record_late(before - 50, now_ms + 10_000)
        await books.store.command("XADD", "tracebility:ingest:v1:3", f"{now_ms}-0", "h", "", "b", "")
        await books.store.run(SET_FIELD, [OLDEST_BUFFERED], ["one", ""])

    for name, is_before in product(("depths", "late_slots"), (True, False)):
        await books.store.command("DEL", LATE, "tracebility:ingest:v1:3")
        await books.store.run(SET_FIELD, [OLDEST_BUFFERED], ["one", f"{before - 50}|{now_ms}"])
        ask = getattr(streams, name)

        async def meanwhile(argument: Any, ask: Any = ask, is_before: bool = is_before) -> Any:
            if is_before:
                await go()
            answer = await ask(argument)
            if not is_before:
                await go()
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(streams, name, meanwhile)
            assert await reconciler.watermark() < before - 50


def test_the_watermark_stays_behind_what_no_heartbeat_has_reported_yet() -> None:
    pipeline_s = enqueue.DEADLINE_S + enqueue.PIPELINE_BYTES * enqueue.SECONDS_PER_BYTE
    assert pipeline_s + buffer.REFUSE_S + heartbeat.PERIOD_S < SKEW_US / 1e6


async def test_what_comes_late_is_summed_when_it_comes(books: Books, reconciler: QuotaReconciler) -> None:
    await books.meter((uuid4(), 600_000_000))
    await reconciler.tick()
    books.clock.now_us += 12 * SLOT_US
    await books.meter((uuid4(), 3_000_000_000))
    await reconciler.tick()
    assert (await books.settled())[SPANS] == 2


async def test_a_reconciler_that_was_stopped_for_long_changes_nothing(
    books: Books, reconciler: QuotaReconciler
) -> None:
    await books.meter((uuid4(), 600_000_000))
    stale = await reconciler._sums([books.org_id], PERIOD, await reconciler.watermark())
    await books.meter((uuid4(), 500_000_000))
    books.clock.now_us += SLOT_US
    await reconciler.tick()
    [(org_id, usage)] = stale.items()
    assert usage.used[SPANS] == 1
    assert not await reconciler._settle(org_id, PERIOD, usage)
    assert not await reconciler._meter.settle(org_id, PERIOD, usage)
    assert (await books.settled())[SPANS] == await books.counted() == 2


@pytest.mark.parametrize("weather", [Road.CLOSED, Road.HALF_OPEN])
async def test_with_the_data_plane_away_nothing_is_written(
    books: Books, streams: Queue, stores: Any, weather: Road
) -> None:
    await books.meter((uuid4(), 600_000_000))
    async with Proxy.before(stores.clickhouse_url) as road:
        engine = await clickhouse.connect(road.through(stores.clickhouse_url), operation_timeout_s=1.0)
        reconciler = QuotaReconciler(books.control, engine, streams, books.store, books.clock)
        await reconciler.tick()
        books.clock.now_us += 12 * SLOT_US
        await books.meter((uuid4(), 1_000_000))
        road.road = weather
        road.reset()
        with pytest.raises(StoreUnavailable):
            await reconciler.tick()
        assert (await books.settled())[SPANS] == await books.counted() == 1
        road.road = Road.CLEAR
        road.reset()
        books.clock.now_us += 12 * SLOT_US
        await reconciler.tick()
        assert (await books.settled())[SPANS] == await books.counted() == 2
        await engine.close()


async def test_the_flag_stands_while_the_org_is_over_its_limit(books: Books, reconciler: QuotaReconciler) -> None:
    await books.limit(2, 1)
    await books.meter((uuid4(), 600_000_000), (uuid4(), 500_000_000))
    await reconciler.tick()
    assert await books.flag() == SPANS.encode()
    await books.limit(3, 1)
    books.clock.now_us += 12 * SLOT_US
    await books.say()
    await reconciler.tick()
    assert await books.flag() is None


async def test_the_flag_that_a_crossing_raised_stands_before_the_crossing_is_settled(
    books: Books, reconciler: QuotaReconciler
) -> None:
    await books.limit(2, 1)
    await books.meter((uuid4(), 600_000_000))
    at, slot = usage_key(books.org_id, PERIOD), books.clock.now_us // SLOT_US
    await books.store.command("HSET", at, SPANS, 2, f"{SPANS}:{slot}", 1)  # 1 is stored, 1 reserved just now
    await books.store.command("SET", f"quota:over:{books.org_id}:{PERIOD}", SPANS)
    await reconciler.tick()
    assert (await books.settled())[SPANS] == 1
    assert await books.counted() == 2
    assert await books.flag() == SPANS.encode()


async def test_the_flag_stands_while_the_watermark_is_held(books: Books, reconciler: QuotaReconciler) -> None:
    """It would be gone in three minutes; a disk buffer may hold the watermark for much longer."""
    await books.limit(1, 1)
    await books.meter((uuid4(), 600_000_000))
    await reconciler.tick()
    slot, now_ms = await reconciler.watermark() - 50, books.clock.now_us // 1000
    await books.store.run(SET_FIELD, [OLDEST_BUFFERED], ["one", f"{slot}|{now_ms}"])
    await books.store.command("DEL", f"quota:over:{books.org_id}:{PERIOD}")
    await books.say()
    assert (await reconciler.tick()).advanced == 0
    assert await books.flag() == SPANS.encode()


async def test_a_full_redis_is_settled_and_flagged(
    books: Books, reconciler: QuotaReconciler, empty_redis_url: str
) -> None:
    await books.limit(1, 1)
    await books.meter((uuid4(), 600_000_000))
    async with Redis.from_url(empty_redis_url) as server:
        allowed = (await server.config_get("maxmemory"))["maxmemory"]
        await server.config_set("maxmemory", "1")
        try:
            await reconciler.tick()
        finally:
            await server.config_set("maxmemory", allowed)
    assert await books.counted() == 1
    assert await books.flag() == b"spans"


async def test_an_org_whose_trail_takes_no_more_is_settled_and_so_are_the_others(
    books: Books, reconciler: QuotaReconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def takes_no_more(*_: Any) -> None:
        raise AuditLogTampered

    await books.limit(100, 1)
    await books.meter((uuid4(), 600_000_000))
    monkeypatch.setattr(AuditWriter, "record", takes_no_more)
    assert (await reconciler.tick()).advanced == 1
    assert await books.settled() == {SPANS: 1, BYTES: 100}
    assert await books.counted() == 1


async def test_a_soft_limit_is_told_once_a_period(books: Books, reconciler: QuotaReconciler) -> None:
    await books.limit(100, 2)
    told: Callable[[], Any] = lambda: books.control.fetch(  # noqa: E731
        "SELECT details FROM audit_log WHERE org_id = $1 AND event_type = 'quota.soft_limit_reached'", books.org_id
    )
    await books.meter((uuid4(), 600_000_000))
    await reconciler.tick()
    assert await told() == []
    for _ in range(2):
        await books.meter((uuid4(), 500_000_000))
        books.clock.now_us += 12 * SLOT_US
        await reconciler.tick()
    [event] = await told()
    assert event["details"] == {"period": PERIOD, "used": 2, "soft_limit": 2}
