"""The audit commands say what the trail is, whether it is whole, and put it right."""

import asyncio
import json
from typing import Any
from uuid import UUID

from typer.testing import CliRunner

from tracebility.audit.events import Actor, AuditWriter, Event, EventType
from tracebility.audit.metrics import AuditMetrics
from tracebility.audit.relay import AuditRelay
from tracebility.cli import app
from tracebility.errors import TracebilityError
from tracebility.ids import SENTINEL, OrgId, uuid7
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres
from tracebility.telemetry import Metrics


async def command(stores: Any, *arguments: str) -> Any:
    """A command as a program of its own would run it: it has its own loop."""
    return await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--data-dir", str(stores.data_dir)])


async def audit(stores: Any, *arguments: str) -> Any:
    return await command(stores, "audit", *arguments)


def document(result: Any) -> Any:
    return json.loads(result.stdout)


async def written(control: Postgres, engine: Engine, count: int = 4) -> tuple[OrgId, list[UUID]]:
    """An org's trail in both stores, but for the last event, which waits for the relay."""
    org_id = OrgId(uuid7())
    types = (EventType.PROJECT_CREATED, EventType.ACCESS_DENIED)
    ids = []
    for number in range(count):
        if number == count - 1:
            await AuditRelay(control, engine, AuditMetrics(Metrics())).tick()
        actor = Actor("api_key", f"key{number % 2}")
        event = Event(types[number % 2], org_id, actor, "project", f"p{number}", {"n": number})
        async with control.transaction() as transaction:
            await AuditWriter().record(transaction, event)
        ids.append(event.id)
    return org_id, ids


async def remove_from_engine(engine: Engine, event_id: UUID) -> None:
    await engine.execute(
        "ALTER TABLE audit_log DELETE WHERE event_id = {event:UUID}", {"event": str(event_id)}, {"mutations_sync": 2}
    )


async def test_events_of_both_stores_are_listed_once_newest_first(
    stores: Any, control: Postgres, engine: Engine
) -> None:
    org_id, ids = await written(control, engine)
    items = document(await audit(stores, "list", str(org_id), "--json"))["items"]
    assert [item["event_id"] for item in items] == [str(one) for one in reversed(ids)]
    assert set(items[0]) == {
        *("event_id", "event_time", "event_type", "org_id", "details"),
        *("actor_type", "actor_id", "target_type", "target_id"),
    }
    assert items[0]["details"] == {"n": 3}
    assert items[0]["org_id"] == str(org_id)
    text = (await audit(stores, "list", str(org_id))).stdout
    assert text.count("\n") == 4
    assert "access.denied" in text
    assert "no such events" in (await audit(stores, "list", str(org_id), "--type", "plan.changed")).stdout


async def test_what_concerns_no_org_is_listed_without_one(stores: Any, control: Postgres, engine: Engine) -> None:
    event = Event(EventType.PLAN_CHANGED, None, Actor("operator", f"key {uuid7()}"), "plan", "p", {})
    async with control.transaction() as transaction:
        await AuditWriter().record(transaction, event)

    async def listed() -> Any:
        return document(await audit(stores, "list", "--actor", event.actor.id, "--json"))["items"]

    [waiting] = await listed()
    assert (waiting["event_id"], waiting["org_id"], waiting["target_id"]) == (str(event.id), None, "p")
    await AuditRelay(control, engine, AuditMetrics(Metrics())).tick()
    assert await listed() == [waiting]


async def test_the_list_is_filtered_and_bounded(stores: Any, control: Postgres, engine: Engine) -> None:
    org_id, ids = await written(control, engine)

    async def listed(*filters: str) -> list[int]:
        result = await audit(stores, "list", str(org_id), "--json", *filters)
        assert result.exit_code == 0, result.output
        return [ids.index(UUID(item["event_id"])) for item in document(result)["items"]]

    times = [item["event_time"] for item in document(await audit(stores, "list", str(org_id), "--json"))["items"]][::-1]
    assert await listed("--actor", "key0") == [2, 0]
    assert await listed("--target", "p1") == [1]
    assert await listed("--type", "access.denied") == [3, 1]
    assert await listed("--from", times[1], "--to", times[3]) == [2, 1]
    assert await listed("--limit", "3") == [3, 2, 1]
    assert await listed("--actor", "key1", "--target", "p0") == []


async def test_a_whole_trail_verifies_and_one_that_was_tampered_with_fails(
    stores: Any, control: Postgres, engine: Engine
) -> None:
    org_id, ids = await written(control, engine)
    whole = await audit(stores, "verify", "--org", str(org_id), "--json")
    assert (whole.exit_code, document(whole)) == (0, {"ok": True, "problems": []})
    async with control.transaction() as transaction:
        await transaction.execute("ALTER TABLE audit_log DISABLE TRIGGER ALL")
        await transaction.execute("UPDATE audit_log SET actor_id = 'x' WHERE event_id = $1", ids[1])
        await transaction.execute("ALTER TABLE audit_log ENABLE TRIGGER ALL")
    for one in (("--org", str(org_id)), ()):
        found = await audit(stores, "verify", "--json", *one)
        assert found.exit_code == 1
        assert document(found)["ok"] is False
        problem = {"org_id": str(org_id), "kind": "edited", "event_id": str(ids[1]), "seq": 2}
        assert problem in document(found)["problems"]
    assert "edited" in (await audit(stores, "verify", "--org", str(org_id))).stdout
    async with control.transaction() as transaction:  # other tests verify everything
        await transaction.execute("ALTER TABLE audit_log DISABLE TRIGGER ALL")
        await transaction.execute("UPDATE audit_log SET actor_id = 'key1' WHERE event_id = $1", ids[1])
        await transaction.execute("ALTER TABLE audit_log ENABLE TRIGGER ALL")
    assert (await audit(stores, "verify", "--org", str(org_id))).exit_code == 0


async def test_where_an_event_was_forged_behind_the_last_nothing_is_changed_and_a_line_says_why(
    stores: Any, control: Postgres
) -> None:
    made = document(await command(stores, "orgs", "create", "Acme", "--json"))
    forged = uuid7()
    async with control.transaction() as transaction:
        await transaction.execute("ALTER TABLE audit_log DISABLE TRIGGER ALL")
        await transaction.execute(
            "INSERT INTO audit_log (event_id, event_time, event_type, org_id, actor_type, actor_id, target_type, "
            "target_id, seq, hash) SELECT $1, now(), 'access.denied', org_id, 'api_key', 'x', 'project', 'y', seq + 1, "
            "sha256('forged') FROM audit_head WHERE org_id = $2",
            forged,
            UUID(made["org_id"]),
        )
        await transaction.execute("ALTER TABLE audit_log ENABLE TRIGGER ALL")
    public_id = made["api_key"].split("_")[1]
    for arguments in (("keys", "revoke", public_id), ("orgs", "delete", made["org_id"], "--yes")):
        refused = await command(stores, *arguments)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert isinstance(refused.exception, TracebilityError)
        assert "Run 'tracebility audit verify'" in str(refused.exception)
    async with control.transaction() as transaction:  # other tests verify everything
        await transaction.execute("ALTER TABLE audit_log DISABLE TRIGGER ALL")
        await transaction.execute("DELETE FROM audit_log WHERE event_id = $1", forged)
        await transaction.execute("ALTER TABLE audit_log ENABLE TRIGGER ALL")
    assert (await command(stores, "keys", "revoke", public_id)).exit_code == 0


async def test_an_org_that_never_was_is_not_as_it_was_written(
    stores: Any, control: Postgres, engine: Engine, two_orgs: Any
) -> None:
    nobody = uuid7()
    for flags in ((), ("--json",)):
        result = await audit(stores, "verify", "--org", str(nobody), *flags)
        assert (result.exit_code, result.stdout) == (1, "")
        assert isinstance(result.exception, TracebilityError)
        assert str(result.exception).startswith(f"There is no organisation {nobody}")
    without_a_trail = two_orgs[0].org_id
    only_a_trail, _ = await written(control, engine)
    for known in (without_a_trail, only_a_trail, SENTINEL):
        result = await audit(stores, "verify", "--org", str(known), "--json")
        assert (result.exit_code, document(result)["ok"]) == (0, True)


async def test_the_trail_of_a_deleted_org_stays_verifiable(stores: Any) -> None:
    org = document(await command(stores, "orgs", "create", "Acme", "--json"))["org_id"]
    await command(stores, "orgs", "delete", org, "--yes")
    result = await audit(stores, "verify", "--org", org, "--json")
    assert (result.exit_code, document(result)) == (0, {"ok": True, "problems": []})


async def test_a_reconciliation_repairs_what_is_missing_and_its_gap_is_listed(
    stores: Any, control: Postgres, engine: Engine
) -> None:
    org_id, ids = await written(control, engine)
    # What waits for the relay for a minute is missing too: however slow the machine, only one event is to be.
    await AuditRelay(control, engine, AuditMetrics(Metrics())).tick()
    first = await audit(stores, "reconcile")
    assert first.exit_code == 0, first.output
    await remove_from_engine(engine, ids[0])
    ran = await audit(stores, "reconcile", "--json")
    assert ran.exit_code == 0, ran.output
    run = document(ran)
    assert (set(run), run["gaps"], run["repaired"]) == ({"run_id", "gaps", "repaired"}, 1, 1)
    items = document(await audit(stores, "gaps", str(org_id), "--json"))["items"]
    assert len(items) == 1, items
    [gap] = items
    assert (gap["detection_run_id"], gap["kind"], gap["event_id"]) == (run["run_id"], "missing", str(ids[0]))
    assert gap["repaired_at"]
    assert "missing" in (await audit(stores, "gaps", str(org_id))).stdout
    assert document(await audit(stores, "reconcile", "--json"))["gaps"] == 0
    noted = await control.fetchrow("SELECT * FROM operator_loop WHERE name = 'audit-reconcile'")
    assert noted is not None
    assert noted["last_success"] is not None


def test_a_store_that_is_away_is_one_line(tmp_path: Any, stores: Any) -> None:
    ready = stores.ready | {"clickhouse_url": "http://u:secret-word@127.0.0.1:1/x"}
    (tmp_path / "ready.json").write_text(json.dumps(ready))
    result = CliRunner().invoke(app, ["audit", "verify", "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "TRACEBILITY_CLICKHOUSE_URL" in str(result.exception)
    assert "secret-word" not in str(result.exception)


async def test_the_loops_of_the_operator_are_on_the_status(stores: Any, control: Postgres) -> None:
    await audit(stores, "reconcile")
    result = await command(stores, "status", "--json")
    [loop] = [loop for loop in document(result)["loops"] if loop["name"] == "audit-reconcile"]
    assert loop["last_error"] == ""
    assert 0 <= loop["age_s"] < 60
    text = (await command(stores, "status")).stdout
    assert "audit-reconcile" in text
