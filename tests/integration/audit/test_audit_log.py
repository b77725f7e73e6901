"""A page of a trail is of both stores, in one order, whatever either has twice or unmatched."""

from typing import Any

from tracebility.audit import audit_log
from tracebility.audit.events import SYSTEM, AuditWriter, Event, EventType
from tracebility.audit.metrics import AuditMetrics
from tracebility.audit.relay import AuditRelay
from tracebility.ids import OrgId, uuid7
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres
from tracebility.telemetry import Metrics


async def all_pages(control: Postgres, engine: Engine, org_id: OrgId, limit: int) -> list[str]:
    ids: list[str] = []
    at = None
    while True:
        page = await audit_log.events(control, audit_log.raw(engine), org_id, before=at, limit=limit)
        assert len(page.items) <= limit
        ids += [item["event_id"] for item in page.items]
        at = page.next
        if at is None:
            return ids


async def test_pages_join_without_doubles_or_holes(control: Postgres, engine: Engine) -> None:
    """Of seven events of one moment the control plane lacks two; the data plane lacks another, and has one twice."""
    org_id = OrgId(uuid7())
    at = await control.fetchval("SELECT clock_timestamp()")
    ids = [uuid7() for _ in range(7)]
    for number, event_id in enumerate(ids):
        if number == 6:
            await AuditRelay(control, engine, AuditMetrics(Metrics())).tick()
        await control.execute(
            "INSERT INTO audit_log "
            "(event_id, event_time, event_type, org_id, actor_type, actor_id, target_type, target_id) "
            "VALUES ($1, $2, 'project.created', $3, 'system', 's', 'project', 'p')",
            event_id,
            at,
            org_id,
        )
    await engine.execute(
        "INSERT INTO audit_log SELECT * FROM audit_log WHERE event_id = {event:UUID}", {"event": str(ids[1])}
    )
    async with control.transaction() as transaction:  # as if pruned one day
        await transaction.execute("ALTER TABLE audit_log DISABLE TRIGGER ALL")
        await transaction.execute("DELETE FROM audit_log WHERE event_id = ANY ($1::uuid[])", ids[:2])
        await transaction.execute("ALTER TABLE audit_log ENABLE TRIGGER ALL")
    expected = sorted(map(str, ids), reverse=True)
    for limit in (1, 2, 3, 7, 200):
        assert await all_pages(control, engine, org_id, limit) == expected


async def test_gaps_are_paged_newest_first(engine: Engine) -> None:
    org_id, run_id = OrgId(uuid7()), uuid7()
    rows = [
        (str(run_id), f"2026-11-0{day} 00:00:00.000000", str(org_id), str(uuid7()), "2026-11-01 00:00:00", kind, "", "")
        for day in (1, 2, 2, 2, 3)
        for kind in ("missing", "edited")
    ]
    columns = ("detection_run_id", "detected_at", "org_id", "event_id", "event_time", "kind", "found", "target_id")
    await engine.insert_rows("audit_reconciliation_gap", columns, rows)
    found: list[dict[str, Any]] = []
    at = None
    while True:
        page = await audit_log.gaps(audit_log.raw(engine), org_id, at, 3)
        found += page.items
        at = page.next
        if at is None:
            break
    assert len({item["event_id"] for item in found}) == len(found) == 10
    assert [item["detected_at"] for item in found] == sorted((item["detected_at"] for item in found), reverse=True)
    assert {item["detection_run_id"] for item in found} == {str(run_id)}
    assert {item["repaired_at"] for item in found} == {None}


async def test_another_orgs_events_are_not_there(control: Postgres, engine: Engine) -> None:
    org_id = OrgId(uuid7())
    async with control.transaction() as transaction:
        await AuditWriter().record(transaction, Event(EventType.ORG_CREATED, org_id, SYSTEM, "org", str(org_id)))
    assert len(await all_pages(control, engine, org_id, 10)) == 1
    assert await all_pages(control, engine, OrgId(uuid7()), 10) == []
