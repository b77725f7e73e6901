"""Events reach the data plane whole, and stay in the outbox until they have."""

import asyncio
import os
import signal
from typing import Any

import pytest

from tracebility.audit import audit_log as reads
from tracebility.audit.events import SYSTEM, AuditWriter, Event, EventType
from tracebility.audit.metrics import AuditMetrics
from tracebility.audit.relay import AuditRelay
from tracebility.errors import StoreUnavailable
from tracebility.ids import SENTINEL
from tracebility.stores import clickhouse
from tracebility.stores.postgres import Postgres
from tracebility.telemetry import Metrics


async def test_events_are_relayed_as_they_are_and_leave_the_outbox(trail: Any, control: Postgres) -> None:
    await trail.write(3)
    assert await trail.waiting() == 3
    assert await trail.relay() >= 3
    assert await trail.waiting() == 0
    rows = await trail.rows()
    assert [row["event_id"] for row in rows] == trail.events
    written = await control.fetch(
        "SELECT *, details::text AS text FROM audit_log WHERE org_id = $1 ORDER BY seq", trail.org_id
    )
    for row, event in zip(rows, written, strict=True):
        assert row["event_time"] == event["event_time"]
        assert (row["actor_user_id"], row["details"]) == (event["actor_id"], event["text"])
        assert (row["seq"], row["hash"]) == (event["seq"], event["hash"].hex())
        for column in ("event_type", "actor_type", "target_type", "target_id"):
            assert row[column] == event[column]
    assert await trail.relay() == 0


async def test_an_event_of_no_org_is_the_sentinel_tenants(trail: Any, control: Postgres) -> None:
    event = Event(EventType.PLAN_CHANGED, None, SYSTEM, "plan", "free")
    async with control.transaction() as transaction:
        await AuditWriter().record(transaction, event)
    await trail.relay()
    found = await trail.engine.query(
        "SELECT org_id FROM audit_log WHERE event_id = {event:UUID}", {"event": str(event.id)}
    )
    assert [str(row[0]) for row in found.rows] == [str(SENTINEL)]


async def test_a_death_between_the_two_stores_sends_again_and_nobody_sees_two(
    trail: Any, control: Postgres, operator_process: Any
) -> None:
    await trail.write(2)
    process = operator_process(failpoint="audit_relay_after_insert")
    assert await asyncio.to_thread(process.wait, 60) == -signal.SIGKILL
    assert await trail.waiting() == 2
    await trail.relay()
    assert await trail.waiting() == 0
    assert len(await trail.rows()) == 4, "each was sent twice"
    page = await reads.events(control, reads.raw(trail.engine), trail.org_id)
    assert [item["event_id"] for item in page.items] == [str(event) for event in reversed(trail.events)]
    assert await trail.problems() == []
    await trail.reconciler().tick()
    assert await trail.gaps() == []


async def test_with_the_data_plane_away_the_outbox_waits(trail: Any, stores: Any, control: Postgres) -> None:
    await trail.write(2)
    engine = await clickhouse.connect(stores.clickhouse_url, operation_timeout_s=1.0)
    relay = AuditRelay(control, engine, AuditMetrics(Metrics()))
    os.kill(stores.ready["pids"]["clickhouse"], signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match="clickhouse"):
            await relay.tick()
    finally:
        os.kill(stores.ready["pids"]["clickhouse"], signal.SIGCONT)
    assert await trail.waiting() == 2
    await relay.tick()
    assert await trail.waiting() == 0
    assert {row["event_id"] for row in await trail.rows()} == set(trail.events)
    await engine.close()


async def test_an_event_that_vanished_before_it_was_sent_does_not_stop_the_others(
    trail: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trail.write(3)
    await trail.tamper(("DELETE FROM audit_log WHERE event_id = $1", trail.events[0]))
    monkeypatch.setattr("tracebility.audit.relay.BATCH", 1)
    await trail.relay()
    assert await trail.waiting() == 0
    assert [row["event_id"] for row in await trail.rows()] == trail.events[1:]
