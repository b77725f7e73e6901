"""What an operator is told: once when it begins, once when it is over, signed, and again until it was taken."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from tests.harness import streams as raw_streams
from tests.harness.installation import until
from tests.harness.proxy import Proxy, Road

from tracebility.alerts import checks, without_postgres
from tracebility.alerts import webhook as webhook_module
from tracebility.alerts.checks import Alerts, clock_offset_ms
from tracebility.alerts.ledger_check import LedgerCheck
from tracebility.alerts.metrics import AlertMetrics
from tracebility.alerts.standing import Alert, StandingAlerts
from tracebility.alerts.webhook import Notifier
from tracebility.audit.events import AuditWriter, Event
from tracebility.audit.verify import Problem
from tracebility.config import Settings
from tracebility.errors import AuditLogTampered
from tracebility.ids import OrgId
from tracebility.operator import service
from tracebility.stores import postgres, redis_control
from tracebility.stores.clickhouse import Engine
from tracebility.stores.queue import Queue
from tracebility.stores.queue.entries import DEAD_BYTES
from tracebility.telemetry import Metrics
from tracebility.tenant.dead_letters import flag_key
from tracebility.tenant.ledger import LedgerEntry, accepted_key
from tracebility.tenant.quota import DISK_BUFFERS, EDGES
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM, overflow_of, stream_of


@pytest.fixture
def queue(empty_queue: Queue) -> Queue:
    return empty_queue


@pytest.fixture
def due() -> set[UUID]:
    return set()


@pytest.fixture
def tampered() -> list[Problem]:
    return []


@pytest.fixture
async def standing_alerts(control: postgres.Postgres) -> StandingAlerts:
    """Nothing stands, whatever other tests left."""
    await control.execute("DELETE FROM standing_alert")
    return StandingAlerts(control, AlertMetrics(Metrics()))


@pytest.fixture
def alerts(
    standing_alerts: StandingAlerts, control: postgres.Postgres, engine: Engine, queue: Queue,
    store: redis_control.RedisControl, tampered: list[Problem],
) -> Alerts:  # fmt: skip
    return Alerts(standing_alerts, control, engine, queue, store, nothing_missing, lambda: tampered)


@pytest.fixture
def ledgers(standing_alerts: StandingAlerts, engine: Engine, queue: Queue, due: set[UUID]) -> LedgerCheck:
    return LedgerCheck(standing_alerts, engine, queue, AlertMetrics(Metrics()), due)


async def nothing_missing() -> dict[str, str]:
    return {}


async def standing(alerts: Alerts) -> dict[str, Alert]:
    """What stands, but for gaps of the audit log, which other tests make."""
    return {alert.kind: alert for alert in await alerts.tick() if alert.kind != "audit_gaps"}


async def notified(control: postgres.Postgres, kind: str) -> list[str]:
    """The states that were told of ``kind``, the oldest first."""
    rows = await control.fetch("SELECT body FROM notification WHERE kind = $1 ORDER BY created_at", kind)
    return [row["body"]["state"] for row in rows]


async def test_nothing_is_told_where_nothing_is_wrong(alerts: Alerts) -> None:
    assert await standing(alerts) == {}


async def test_an_envelope_that_its_stream_lost_is_named(ledgers: LedgerCheck, queue: Queue) -> None:
    entry = LedgerEntry(stream_of(4), uuid4(), uuid4(), 500_000, 7)
    await queue.append_groups([], [entry])
    found = await ledgers.tick()
    assert found is not None
    assert found.details == {"missing": 1, "envelopes": [f"{entry.org_id}/{entry.envelope_id}"]}
    await queue.withdraw([entry])
    assert await ledgers.tick() is None


async def test_what_waits_for_long_and_a_shard_that_grows_alone_are_told(
    alerts: Alerts, queue: Queue, store: redis_control.RedisControl
) -> None:
    old = f"{int(time.time() * 1000) - 90_000}-1"
    await store.command("XADD", stream_of(2), old, "h", "")
    assert (await standing(alerts)).keys() == {"queue_lag"}
    await raw_streams.append(queue, [(stream_of(2), {"h": b""})] * 1_000)
    await raw_streams.append(queue, [(stream_of(3), {"h": b""})] * 100)
    found = await standing(alerts)
    assert found.keys() == {"queue_lag", "shard_skew"}
    assert found["shard_skew"].details["stream"] == stream_of(2)


async def test_what_waits_beside_a_shard_is_of_it(alerts: Alerts, queue: Queue) -> None:
    await raw_streams.append(queue, [(stream_of(2), {"h": b""})] * 200)
    await raw_streams.append(queue, [(overflow_of(2), {"h": b""})] * 900)
    found = (await standing(alerts))["shard_skew"]
    assert (found.details["stream"], found.details["entries"]) == (stream_of(2), 1_100)


async def test_a_ledger_that_does_not_balance_is_told_until_it_does(
    ledgers: LedgerCheck, store: redis_control.RedisControl, due: set[UUID]
) -> None:
    org_id = uuid4()
    due.add(org_id)
    assert await ledgers.tick() is None
    assert due == set()
    at = accepted_key(stream_of(4), org_id)
    await store.command("HINCRBY", at, 500_000, 7)
    assert await ledgers.tick() is None, "it was not due"
    due.add(org_id)
    assert await ledgers.tick() is None, "a write may be half done"
    for _ in range(2):
        found = await ledgers.tick()
        assert found is not None
        assert found.details == {"orgs": [str(org_id)]}
    await store.command("HINCRBY", at, 500_000, -7)
    assert await ledgers.tick() is None


async def test_a_trail_that_is_not_as_it_was_written_is_told(alerts: Alerts, tampered: list[Problem]) -> None:
    tampered.append(Problem(uuid4(), "edited", uuid4(), 3))
    found = (await standing(alerts))["audit_tampered"]
    assert found.details == {"problems": 1, "named": [tampered[0].document()]}
    tampered.clear()
    assert await standing(alerts) == {}


async def test_dead_letters_stand_until_the_last_is_gone_and_a_new_leader_knows_of_them(
    alerts: Alerts, queue: Queue, store: redis_control.RedisControl, control: postgres.Postgres, engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await control.execute("DELETE FROM notification WHERE kind = 'dead_letters'")
    letters = [(await raw_streams.append(queue, [(DEAD_LETTER_STREAM, {"h": b""})]))[0] for _ in range(2)]
    assert (await standing(alerts))["dead_letters"].details == {"dead_letters": 2}, "they came before the first check"
    assert (await standing(alerts))["dead_letters"].details == {"dead_letters": 2}
    board = StandingAlerts(control, AlertMetrics(Metrics()))
    next_leader = Alerts(board, control, engine, queue, store, nothing_missing)
    assert "dead_letters" in await standing(next_leader)
    assert await notified(control, "dead_letters") == ["firing"]

    await raw_streams.append(queue, [(DEAD_LETTER_STREAM, {"h": b""})])
    assert (await standing(next_leader))["dead_letters"].details == {"dead_letters": 3}
    assert await notified(control, "dead_letters") == ["firing"] * 2, "there are more"
    await raw_streams.append(queue, [(DEAD_LETTER_STREAM, {"h": b""})])
    await standing(next_leader)
    assert await notified(control, "dead_letters") == ["firing"] * 2, "it was told a moment ago"
    monkeypatch.setattr("tracebility.alerts.standing.RENOTIFY_S", 0.0)
    await standing(next_leader)
    assert await notified(control, "dead_letters") == ["firing"] * 3, "but not forgotten"

    await store.command("XDEL", DEAD_LETTER_STREAM, *letters)
    assert "dead_letters" in await standing(next_leader), "two are left"
    await store.command("DEL", DEAD_LETTER_STREAM)
    assert await standing(next_leader) == {}
    assert await notified(control, "dead_letters") == [*["firing"] * 3, "over"]


async def test_an_org_that_has_more_dead_letters_than_its_share_is_told_and_stays_refused(
    alerts: Alerts, queue: Queue, store: redis_control.RedisControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracebility.tenant.dead_letters.MAX_BYTES", 1_000)
    over, within = OrgId(uuid4()), OrgId(uuid4())
    for org_id, size in ((over, 1_001), (within, 1_000)):
        await store.command("HSET", DEAD_BYTES, str(org_id), size)
    assert (await standing(alerts))["dead_letters"].details == {"dead_letters": 0, "refused": [str(over)]}
    assert [await store.command("EXISTS", flag_key(org_id)) for org_id in (over, within)] == [1, 0]
    await store.command("DEL", DEAD_BYTES)
    assert await standing(alerts) == {}


async def test_a_queue_that_answers_before_its_disk_has_it_is_told(
    alerts: Alerts, store: redis_control.RedisControl
) -> None:
    await store.command("CONFIG", "SET", "appendfsync", "everysec")
    try:
        found = (await standing(alerts))["queue_durability"]
    finally:
        await store.command("CONFIG", "SET", "appendfsync", "always")
    [server] = found.details["servers"].values()
    assert (server["appendfsync"], server["aof_last_write_status"]) == ("everysec", "ok")
    assert int(server["aof_delayed_fsync"]) >= 0
    assert await standing(alerts) == {}


async def test_a_disk_buffer_that_holds_something_is_told_and_whether_anyone_will_replay_it(
    alerts: Alerts, store: redis_control.RedisControl
) -> None:
    await store.command("HSET", DISK_BUFFERS, "lives", 10, "gone", 5, "empty", 0)
    await store.command("ZADD", EDGES, int(time.time() * 1000), "lives")
    assert (await standing(alerts))["disk_buffer"].details == {"bytes": 15, "gone": ["gone"]}


async def test_a_slow_answer_is_no_clock_that_is_apart() -> None:
    async def slow() -> int:
        at = int(time.time() * 1000)
        await asyncio.sleep(0.2)
        return at

    async def ahead() -> int:
        return int(time.time() * 1000) + 5_000

    async def behind() -> int:
        return int(time.time() * 1000) - 5_000

    assert abs(await clock_offset_ms(slow)) < 20
    assert 4_900 < await clock_offset_ms(ahead) <= 5_000
    assert -5_100 < await clock_offset_ms(behind) <= -4_900


def test_an_alert_is_told_within_30_s() -> None:
    for period_s in (checks.PERIOD_S, without_postgres.PERIOD_S):
        absence_s = checks.MISSED_CHECKS * (period_s + checks.CHECK_WAIT_S)
        assert absence_s + webhook_module.PERIOD_S + webhook_module.DEADLINE_S <= 30
    assert checks.LAG_S + checks.PERIOD_S + webhook_module.PERIOD_S <= 30


class Webhook:
    """Somebody outside: answers as told, and keeps what it was sent."""

    def __init__(self) -> None:
        self.status = 200
        self.requests: list[tuple[str, bytes]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append((request.headers.get("x-tracebility-signature", ""), await request.read()))
        return web.Response(status=self.status, headers={"location": self.url + "/elsewhere"})


@pytest.fixture
async def webhook(unused_tcp_port: int) -> AsyncIterator[Webhook]:
    hook = Webhook()
    app = web.Application()
    app.router.add_post("/hook", hook.answer)
    app.router.add_post("/hook/elsewhere", hook.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    hook.url = f"http://127.0.0.1:{unused_tcp_port}/hook"
    yield hook
    await runner.cleanup()


@pytest.mark.parametrize("refusal", [500, 302])
async def test_a_notification_is_signed_and_sent_until_it_is_taken(
    webhook: Webhook, control: postgres.Postgres, refusal: int
) -> None:
    await control.execute("UPDATE notification SET sent_at = now()")
    org_id, notification_id = uuid4(), uuid4()
    await control.execute(
        "insert_notification", notification_id, "quota.soft_limit_reached", org_id, {"meter": "spans"}
    )
    notifier = Notifier(control, webhook.url, "secret")
    webhook.status = refusal
    assert await notifier.tick() == 0
    webhook.status = 204
    assert await notifier.tick() == 1
    assert await notifier.tick() == 0
    assert len(webhook.requests) == 2
    for said, body in webhook.requests:
        at = said.partition(",")[0].removeprefix("t=")
        assert said == f"t={at},v1={hmac.new(b'secret', f'{at}.'.encode() + body, sha256).hexdigest()}"
        document = json.loads(body)
        assert (document["id"], document["org_id"], document["meter"]) == (str(notification_id), str(org_id), "spans")
    left = await control.fetch("SELECT event_type, target_id, details FROM audit_log WHERE org_id = $1", org_id)
    details = {"route": "webhook", "kind": "quota.soft_limit_reached"}
    assert [tuple(event) for event in left] == [("egress.exported", str(notification_id), details)]


async def test_an_org_whose_trail_takes_no_more_keeps_no_other_from_being_told_of(
    webhook: Webhook, control: postgres.Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    await control.execute("UPDATE notification SET sent_at = now()")
    tampered, other = uuid4(), uuid4()
    for org_id in (tampered, other):
        await control.execute("insert_notification", uuid4(), "quota.soft_limit_reached", org_id, {})
    record = AuditWriter.record

    async def takes_no_more(writer: AuditWriter, transaction: Any, event: Event) -> None:
        if event.org_id == tampered:
            raise AuditLogTampered
        await record(writer, transaction, event)

    monkeypatch.setattr(AuditWriter, "record", takes_no_more)
    notifier = Notifier(control, webhook.url, "secret")
    assert await notifier.tick() == 2
    assert await notifier.tick() == 0, "and it is told once"
    assert {json.loads(body)["org_id"] for _, body in webhook.requests} == {str(tampered), str(other)}


async def test_without_a_secret_nothing_is_signed(webhook: Webhook, control: postgres.Postgres) -> None:
    await control.execute("UPDATE notification SET sent_at = now()")
    await control.execute("insert_notification", uuid4(), "queue_lag", None, {})
    assert await Notifier(control, webhook.url, "").tick() == 1
    assert [said for said, _ in webhook.requests] == [""]


async def test_a_webhook_that_is_away_keeps_nothing_else_from_being_done(control: postgres.Postgres) -> None:
    await control.execute("insert_notification", uuid4(), "test", None, {})
    assert await Notifier(control, "http://127.0.0.1:9/", "secret").tick() == 0
    assert await Notifier(control, "", "").tick() == 0


@pytest.fixture
async def roads(stores: Any, empty_redis_url: str) -> AsyncIterator[dict[str, Proxy]]:
    """A proxy before each store of an operator, by the name of the store."""
    dsns = {"postgres": stores.pg_dsn, "redis": empty_redis_url, "clickhouse": stores.clickhouse_url}
    async with AsyncExitStack() as stack:
        yield {store: await stack.enter_async_context(Proxy.before(dsn)) for store, dsn in dsns.items()}


@pytest.fixture
async def leading_operator(
    stores: Any, empty_redis_url: str, roads: dict[str, Proxy], webhook: Webhook,
    control: postgres.Postgres, monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Webhook]:  # fmt: skip
    """An operator that leads and checks many times a second; where it sends its notifications."""
    await control.execute("UPDATE notification SET sent_at = now()")
    await control.execute("DELETE FROM standing_alert")
    for module in (checks, without_postgres, webhook_module):
        monkeypatch.setattr(module, "PERIOD_S", 0.2)
    monkeypatch.setattr("tracebility.health.READY_WAIT_S", 0.5)
    monkeypatch.setattr(checks, "CHECK_WAIT_S", 1.0)
    settings = Settings(
        pg_dsn=roads["postgres"].through(stores.pg_dsn),
        redis_url=roads["redis"].through(empty_redis_url),
        clickhouse_url=roads["clickhouse"].through(stores.clickhouse_url),
        alert_webhook_url=webhook.url,
    )
    stop = asyncio.Event()
    leading = asyncio.create_task(service.run(settings, stop))
    yield webhook
    for road in roads.values():
        road.clear()
    stop.set()
    await leading


async def told(webhook: Webhook, kind: str, state: str) -> dict[str, Any]:
    """The newest notification of ``kind``, once it says ``state``."""
    newest: dict[str, Any] = {}

    def has_come() -> bool:
        nonlocal newest
        documents = [json.loads(body) for _, body in webhook.requests]
        newest = next((one for one in reversed(documents) if one["kind"] == kind), {})
        return newest.get("state") == state

    await until(f"{kind} {state}", has_come, 30.0)
    return newest


@pytest.mark.parametrize("store_name", ["clickhouse", "redis", "postgres"])
async def test_a_store_that_hangs_is_told_and_holds_up_no_other_check(
    leading_operator: Webhook, roads: dict[str, Proxy], empty_queue: Queue, store: redis_control.RedisControl,
    store_name: str,
) -> None:  # fmt: skip
    await raw_streams.append(empty_queue, [(DEAD_LETTER_STREAM, {"h": b""})])
    await told(leading_operator, "dead_letters", "firing")
    roads[store_name].road = Road.BLACKHOLE
    firing = await told(leading_operator, "store_away", "firing")
    assert set(firing["stores"]) == {store_name}
    if store_name == "clickhouse":
        await store.command("XADD", stream_of(2), f"{int(time.time() * 1000) - 90_000}-1", "h", "")
        await told(leading_operator, "queue_lag", "firing")
    roads[store_name].clear()
    await told(leading_operator, "store_away", "over")
    assert "clock_skew" not in {json.loads(body)["kind"] for _, body in leading_operator.requests}
    await store.command("DEL", DEAD_LETTER_STREAM, stream_of(2))
    await told(leading_operator, "dead_letters", "over")
