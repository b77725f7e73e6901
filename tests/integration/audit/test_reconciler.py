"""What is missing, edited or inserted in the data plane is written down, put right, and not found again."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from tracebility.audit import audit_log as reads
from tracebility.audit import chain_store
from tracebility.ids import uuid7
from tracebility.stores.postgres import Postgres


@pytest.fixture
async def written(trail: Any) -> Any:
    """A trail of six events in both stores, and nothing else that a run would find."""
    await trail.write(6)
    await trail.relay()
    await trail.reconciler().tick()
    return trail


@pytest.fixture
async def lose(written: Any) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Deletes events of these numbers from the control plane. Behind the test they are there again: others share it."""
    lost: list[Any] = []

    async def delete(*numbers: int) -> None:
        events = [written.events[number - 1] for number in numbers]
        sql = "SELECT to_jsonb(audit_log) AS event FROM audit_log WHERE event_id = ANY ($1::uuid[])"
        lost.extend(row["event"] for row in await written.control.fetch(sql, events))
        await written.tamper(("DELETE FROM audit_log WHERE event_id = ANY ($1::uuid[])", events))

    yield delete
    again = "INSERT INTO audit_log SELECT (jsonb_populate_record(NULL::audit_log, $1)).*"
    await written.tamper(*((again, event) for event in lost))
    await is_right(written)


async def is_right(trail: Any) -> None:
    """Both stores have it, and the next run finds nothing."""
    assert await trail.problems() == []
    assert (await trail.reconciler().tick()).gaps == 0


@pytest.mark.parametrize("page", [1000, 5])
async def test_a_missing_event_is_written_down_and_inserted_again(
    written: Any, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_store, "PAGE", page)
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
    monkeypatch.setattr(chain_store, "PAGE", page)
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


FORGED = """
INSERT INTO audit_log
    (event_id, event_time, event_type, org_id, actor_type, actor_user_id, target_type, target_id, details, seq, hash)
SELECT {e:UUID}, now64(6), 'access.denied', {org:UUID}, 'api_key', 'x', 'project', 'y', '{}',
    {seq:UInt64}, {hash:String}
"""


@pytest.mark.parametrize("page", [1000, 2])
@pytest.mark.parametrize(
    ("numbers", "kind"),
    [([3], "deleted"), ([1], "deleted"), ([3, 4], "deleted"), ([6], "truncated"), ([4, 5, 6], "truncated")],
)
async def test_the_row_of_an_event_that_was_deleted_is_the_only_one_left_and_stays(
    written: Any, lose: Any, numbers: list[int], kind: str, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_store, "PAGE", page)
    before = await written.rows()
    await lose(*numbers)
    lost = [(kind, written.events[number - 1], number) for number in numbers]
    assert await written.problems() == lost

    run = await written.reconciler().tick()
    assert (run.gaps, run.repaired) == (len(numbers), 0)
    gaps = {gap["event_id"]: gap for gap in await written.gaps()}
    assert set(gaps) == {event for _, event, _ in lost}
    for _, event, number in lost:
        gap, row = gaps[event], before[number - 1]
        assert (gap["kind"], gap["detection_run_id"], gap["repaired_at"]) == ("deleted", run.run_id, None)
        assert (gap["event_type"], gap["target_type"], gap["target_id"]) == (
            "project.created", "project", f"project {number}",
        )  # fmt: skip
        found = json.loads(gap["found"])
        assert (found["event_id"], found["seq"], found["hash"]) == (str(event), number, row["hash"])
        assert (found["actor_id"], found["details"]) == (row["actor_user_id"], row["details"])
    assert await written.rows() == before
    assert await written.problems() == lost, "it is known as before which they were"

    again = await written.reconciler().tick()
    assert (again.gaps, again.repaired) == (0, 0)
    assert len(await written.gaps()) == len(numbers)
    assert await written.rows() == before


async def test_a_deleted_event_stays_when_another_has_its_number_by_now(written: Any, lose: Any) -> None:
    """The head was set back, too, so the org's next event goes on where the deleted one did."""
    before = await written.rows()
    head = await written.control.fetchrow("SELECT seq, hash FROM audit_head WHERE org_id = $1", written.org_id)
    set_head = "UPDATE audit_head SET seq = $2, hash = $3 WHERE org_id = $1"
    fifth = await written.control.fetchval("SELECT hash FROM audit_log WHERE event_id = $1", written.events[4])
    await lose(6)
    await written.tamper((set_head, written.org_id, 5, fifth))
    assert (await written.reconciler().tick()).gaps == 1
    await written.write(1)
    await written.relay()
    assert (await written.reconciler().tick()).gaps == 0
    assert [row for row in await written.rows() if row["event_id"] == written.events[5]] == [before[5]]
    newer = written.events.pop()
    await written.tamper(
        ("DELETE FROM audit_log WHERE event_id = $1", newer), (set_head, written.org_id, head["seq"], head["hash"])
    )
    await written.tamper_with_engine("ALTER TABLE audit_log DELETE WHERE event_id = {e:UUID}", e=str(newer))


async def test_a_deleted_event_stays_when_the_one_before_it_was_hashed_anew(written: Any, lose: Any) -> None:
    """The first run puts the new hash into the data plane, too: the second finds nothing that the row can stand on."""
    before = await written.rows()
    second = written.events[1]
    was = await written.control.fetchrow("SELECT details, hash FROM audit_log WHERE event_id = $1", second)
    change = "UPDATE audit_log SET details = $2, hash = $3 WHERE event_id = $1"
    await lose(3)
    await written.tamper((change, second, {"number": 0}, bytes(32)))
    run = await written.reconciler().tick()
    assert (run.gaps, run.repaired) == (2, 1)
    assert {gap["kind"] for gap in await written.gaps()} == {"deleted", "edited"}
    assert (await written.reconciler().tick()).gaps == 0
    assert (await written.rows())[2] == before[2]
    await written.tamper((change, second, was["details"], was["hash"]))
    assert (await written.reconciler().tick()).gaps == 1


async def test_a_forged_row_beside_a_deleted_event_is_removed_and_the_event_stays(written: Any, lose: Any) -> None:
    before = await written.rows()
    await lose(3)
    third = {"e": str(written.events[2]), "seq": 3}
    await written.tamper_with_engine(FORGED, **third, hash=before[2]["hash"])
    await written.tamper_with_engine(FORGED, **third | {"e": str(uuid7())}, hash=before[2]["hash"])
    run = await written.reconciler().tick()
    assert (run.gaps, run.repaired) == (3, 2)
    found = {(gap["kind"], json.loads(gap["found"])["actor_id"], gap["repaired_at"] is None) for gap in
             await written.gaps()}  # fmt: skip
    assert found == {("deleted", before[2]["actor_user_id"], True), ("inserted", "x", False)}
    assert await written.rows() == before
    assert (await written.reconciler().tick()).gaps == 0


@pytest.mark.parametrize(
    ("seq", "hash"),
    [(7, "ab" * 32), (7, "no hash"), (8, "ab" * 32), (2**64 - 1, "ab" * 32), (0, "")],
    ids=["behind the last", "without a hash", "behind nothing", "of a number too large", "of no number"],
)
async def test_a_row_whose_hash_fits_nothing_is_no_deleted_event(written: Any, seq: int, hash: str) -> None:
    before = await written.rows()
    forged = str(uuid7())
    await written.tamper_with_engine(FORGED, e=forged, seq=seq, hash=hash)
    assert await written.problems() == [("inserted_in_clickhouse", UUID(forged), seq or None)]
    run = await written.reconciler().tick()
    assert (run.gaps, run.repaired) == (1, 1)
    assert [(gap["kind"], str(gap["event_id"])) for gap in await written.gaps()] == [("inserted", forged)]
    assert await written.rows() == before
    await is_right(written)


async def test_a_row_that_stands_on_what_is_no_hash_is_no_deleted_event(written: Any) -> None:
    before = await written.rows()
    for seq in (8, 9):
        await written.tamper_with_engine(FORGED, e=str(uuid7()), seq=seq, hash="no hash")
    assert {(kind, seq) for kind, _, seq in await written.problems()} == {
        ("inserted_in_clickhouse", 8), ("inserted_in_clickhouse", 9),
    }  # fmt: skip
    run = await written.reconciler().tick()
    assert (run.gaps, run.repaired) == (2, 2)
    assert await written.rows() == before
    await is_right(written)


async def test_a_row_that_fits_a_number_that_an_event_has_is_no_deleted_event(written: Any) -> None:
    """Whoever can write to the data plane can hash. A place in the chain is one event's: the control plane has it."""
    before = await written.rows()
    third = (await chain_store.events_by_id(written.control, [written.events[2]]))[written.events[2]]
    forged = replace(third, event_id=uuid7(), actor_id="somebody")
    await chain_store.insert(written.engine, [replace(forged, hash=forged.hash_after(before[1]["hash"]))])
    run = await written.reconciler().tick()
    assert (run.gaps, run.repaired) == (1, 1)
    assert [gap["kind"] for gap in await written.gaps()] == ["inserted"]
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
