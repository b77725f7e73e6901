"""What an operator is told: once when it begins, once when it is over, signed, and again until it was taken."""

import hmac
import json
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from tests.harness import streams as raw_streams

from tracebility.alerts.checks import Alert, Alerts
from tracebility.alerts.metrics import AlertMetrics
from tracebility.alerts.webhook import Notifier
from tracebility.audit.events import AuditWriter, Event
from tracebility.audit.verify import Problem
from tracebility.errors import AuditLogTampered, StoreUnavailable
from tracebility.ids import OrgId
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
def alerts(
    control: postgres.Postgres, engine: Engine, queue: Queue, store: redis_control.RedisControl, due: set[UUID],
    tampered: list[Problem],
) -> Alerts:  # fmt: skip
    return Alerts(control, engine, queue, store, AlertMetrics(Metrics()), due, lambda: tampered)


async def standing(alerts: Alerts) -> dict[str, Alert]:
    """What stands, but for gaps of the trail, which other tests make."""
    return {alert.kind: alert for alert in await alerts.tick() if alert.kind != "audit_gaps"}


async def test_nothing_is_told_where_nothing_is_wrong(alerts: Alerts) -> None:
    assert await standing(alerts) == {}


async def test_an_envelope_that_its_stream_lost_is_named(alerts: Alerts, queue: Queue) -> None:
    book = LedgerEntry(stream_of(4), uuid4(), uuid4(), 500_000, 7)
    await queue.append_groups([], [book])
    found = (await standing(alerts))["books"]
    assert found.details == {"missing": 1, "envelopes": [f"{book.org_id}/{book.envelope_id}"]}
    await queue.withdraw([book])
    assert await standing(alerts) == {}


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


async def test_books_that_do_not_balance_are_told_until_they_do(
    alerts: Alerts, store: redis_control.RedisControl, due: set[UUID]
) -> None:
    org_id = uuid4()
    due.add(org_id)
    assert await standing(alerts) == {}
    assert due == set()
    at = accepted_key(stream_of(4), org_id)
    await store.command("HINCRBY", at, 500_000, 7)
    assert await standing(alerts) == {}, "nothing of it was settled"
    due.add(org_id)
    assert await standing(alerts) == {}, "it may be half-done"
    for _ in range(2):
        assert (await standing(alerts))["books"].details == {"orgs": [str(org_id)]}
    await store.command("HINCRBY", at, 500_000, -7)
    assert await standing(alerts) == {}


async def test_a_trail_that_is_not_as_it_was_written_is_told(alerts: Alerts, tampered: list[Problem]) -> None:
    tampered.append(Problem(uuid4(), "edited", uuid4(), 3))
    found = (await standing(alerts))["audit_tampered"]
    assert found.details == {"problems": 1, "named": [tampered[0].document()]}
    tampered.clear()
    assert await standing(alerts) == {}


async def test_with_one_store_away_the_others_are_looked_at(
    alerts: Alerts, engine: Engine, store: redis_control.RedisControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> Any:
        raise StoreUnavailable("redis", "away")

    monkeypatch.setattr(alerts._queue, "depths", away)
    await store.command("CONFIG", "SET", "appendfsync", "everysec")
    try:
        with pytest.raises(StoreUnavailable):
            await alerts.tick()
        assert "queue_durability" in alerts._standing
    finally:
        await store.command("CONFIG", "SET", "appendfsync", "always")


async def test_only_new_dead_letters_are_told(alerts: Alerts, queue: Queue) -> None:
    await raw_streams.append(queue, [(DEAD_LETTER_STREAM, {"h": b""})])
    assert await standing(alerts) == {}
    await raw_streams.append(queue, [(DEAD_LETTER_STREAM, {"h": b""})])
    assert (await standing(alerts))["dead_letters"].details == {"dead_letters": 2}
    assert await standing(alerts) == {}


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


async def test_an_alert_is_told_when_it_begins_and_when_it_is_over(
    alerts: Alerts, queue: Queue, control: postgres.Postgres
) -> None:
    book = LedgerEntry(stream_of(4), uuid4(), uuid4(), 500_000, 7)
    name = f"{book.org_id}/{book.envelope_id}"
    await queue.append_groups([], [book])
    for _ in range(3):
        await alerts.tick()
    rows = await control.fetch("SELECT body FROM notification WHERE kind = 'books' AND body::text LIKE $1", f"%{name}%")
    assert [row["body"]["state"] for row in rows] == ["firing"]
    await queue.withdraw([book])
    await alerts.tick()
    newest = await control.fetchval(
        "SELECT body FROM notification WHERE kind = 'books' ORDER BY created_at DESC LIMIT 1"
    )
    assert newest == {"text": "books is over", "state": "over"}


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
