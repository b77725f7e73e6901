"""What is missing, edited or inserted in the data plane is written down, put right, and not found again."""

import asyncio
import json
import signal
from typing import Any

import pytest

from tracebility.ids import uuid7
from tracebility.stores import links
from tracebility.stores import trail as reads
from tracebility.stores.postgres import Postgres


@pytest.fixture
async def written(trail: Any) -> Any:
    """A trail of six events in both stores, and nothing else that a run would find."""
    await trail.write(6)
    await trail.relay()
    await trail.reconciler().tick()
    return trail


async def is_right(trail: Any) -> None:
    """Both stores have it, and the next run finds nothing."""
    assert await trail.problems() == []
    assert (await trail.reconciler().tick()).gaps == 0


@pytest.mark.parametrize("page", [1000, 5])
async def test_a_missing_event_is_written_down_and_inserted_again(
    written: Any, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "PAGE", page)
    before = await written.rows()
    for event in (written.events[0], written.events[3]):
        await written.tamper_with_engine("ALTER TABLE audit_log DELETE WHERE event_id = {e:UUID}", e=str(event))
    run = await written.reconciler().tick()
    assert (run.gaps, run.repaired) == (2, 2)
    gaps = {gap["event_id"]: gap for gap in await written.gaps()}
    assert set(gaps) == {written.events[0], written.events[3]}
    for gap in gaps.values():
        assert (gap["kind"], gap["detection_run_id"], gap["found"]) == ("missing", run.run_id, "")
        assert gap["repaired_at"] >= gap["detected_at"]
        assert (gap["event_type"], gap["target_type"]) == ("project.created", "project")
    assert await written.rows() == before
    await is_right(written)


@pytest.mark.parametrize("page", [1000, 5])
async def test_an_edited_row_is_kept_as_found_and_restored(
    written: Any, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "PAGE", page)
    before = await written.rows()
    event = written.events[2]
    await written.tamper_with_engine(
        "ALTER TABLE audit_log UPDATE actor_user_id = 'nobody' WHERE event_id = {e:UUID}", e=str(event)
    )
    run = await written.reconciler().tick()
    assert (run.gaps, run.repaired) == (1, 1)
    [gap] = await written.gaps()
    assert (gap["kind"], gap["event_id"]) == ("edited", event)
    assert json.loads(gap["found"])["actor_id"] == "nobody"
    assert gap["repaired_at"] is not None
    assert await written.rows() == before
    await is_right(written)


async def test_a_row_of_no_event_is_kept_as_found_and_removed(written: Any) -> None:
    before = await written.rows()
    forged = str(uuid7())
    await written.tamper_with_engine(
        "INSERT INTO audit_log (event_id, event_time, event_type, org_id, actor_user_id) "
        "SELECT {e:UUID}, now64(6), 'access.denied', {org:UUID}, 'somebody'",
        e=forged,
    )
    run = await written.reconciler().tick()
    assert (run.gaps, run.repaired) == (1, 1)
    [gap] = await written.gaps()
    assert (gap["kind"], str(gap["event_id"])) == ("inserted", forged)
    assert json.loads(gap["found"])["actor_id"] == "somebody"
    assert await written.rows() == before
    await is_right(written)


async def test_an_event_that_was_just_written_is_left_to_the_relay(written: Any) -> None:
    await written.write(1)
    assert (await written.reconciler().tick()).gaps == 0
    await written.tamper(
        ("UPDATE audit_log SET event_time = event_time - interval '61 seconds' WHERE event_id = $1", written.events[6])
    )
    run = await written.reconciler().tick()
    assert (run.gaps, run.repaired) == (1, 1), "the relay has had its time"
    assert [gap["event_id"] for gap in await written.gaps()] == [written.events[6]]
    await written.relay()
    assert (await written.reconciler().tick()).gaps == 0


async def test_a_key_and_an_org_that_nobody_recorded_stay_gaps_and_are_found_once(
    written: Any, two_orgs: Any, control: Postgres
) -> None:
    """`two_orgs` are rows that were written past the control plane."""
    org = two_orgs[0]
    await control.execute("UPDATE api_key SET revoked_at = now() WHERE org_id = $1", org.org_id)
    run = await written.reconciler().tick()
    assert run.repaired == 0
    page = await reads.gaps(reads.raw(written.engine), org.org_id)
    found = {(gap["kind"], gap["event_type"], gap["target_id"]) for gap in page.items}
    key = org.context.key_id
    assert found == {
        ("no_event", "api_key.created", key),
        ("no_event", "api_key.revoked", key),
        ("no_event", "org.created", str(org.org_id)),
    }
    assert {gap["repaired_at"] for gap in page.items} == {None}
    assert {gap["detection_run_id"] for gap in page.items} == {str(run.run_id)}
    assert (await written.reconciler().tick()).gaps == 0


async def test_what_was_made_before_the_chain_has_no_event_to_miss(
    written: Any, two_orgs: Any, control: Postgres
) -> None:
    for sql in (
        "UPDATE api_key SET created_at = (SELECT applied_at FROM schema_migration WHERE number = 26) - interval '1 s' "
        "WHERE org_id = ANY ($1::uuid[])",
        "UPDATE org SET created_at = (SELECT applied_at FROM schema_migration WHERE number = 26) - interval '1 s' "
        "WHERE id = ANY ($1::uuid[])",
    ):
        await control.execute(sql, [org.org_id for org in two_orgs])
    assert (await written.reconciler().tick()).gaps == 0


async def test_two_runs_at_once_wait_for_each_other(written: Any) -> None:
    event = str(written.events[1])
    await written.tamper_with_engine("ALTER TABLE audit_log DELETE WHERE event_id = {e:UUID}", e=event)
    runs = await asyncio.gather(written.reconciler().tick(), written.reconciler().tick())
    assert sorted(run.gaps for run in runs) == [0, 1]
    assert len(await written.rows()) == 6
    await is_right(written)


async def test_a_death_after_writing_down_is_made_good_by_the_next_run(
    written: Any, operator_process: Any, control: Postgres
) -> None:
    event = str(written.events[1])
    await written.tamper_with_engine("ALTER TABLE audit_log DELETE WHERE event_id = {e:UUID}", e=event)
    await control.execute("DELETE FROM operator_loop WHERE name = 'audit-reconcile'")
    process = operator_process(failpoint="audit_reconcile_after_gap")
    assert await asyncio.to_thread(process.wait, 60) == -signal.SIGKILL
    assert [gap["repaired_at"] for gap in await written.gaps()] == [None]
    run = await written.reconciler().tick()
    assert (run.gaps, run.repaired) == (1, 1)
    assert len(await written.rows()) == 6
    await is_right(written)


async def test_a_run_asks_by_pages_of_events_however_many_orgs_they_are_of(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = written.engine.query

    async def counting(sql: str, *arguments: Any, **named: Any) -> Any:
        asked.append(sql)
        return await ask(sql, *arguments, **named)

    monkeypatch.setattr(written.engine, "query", counting)
    await written.reconciler().tick()
    before = len(asked)
    for _ in range(30):
        await type(written)(written.control, written.engine).write(1)
    await written.relay()
    asked.clear()
    assert (await written.reconciler().tick()).gaps == 0
    assert len(asked) <= before + 2
