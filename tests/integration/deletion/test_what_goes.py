"""What was asked for goes whole, and nothing else moves."""

import hashlib
import json
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.harness import streams as raw_streams
from tests.harness.erasure import ASKER, KEPT, R1, R2, R3, WHEN, Filled, Work, envelope_of, events, late_row, work_now

from tracebility.deletion import jobs
from tracebility.deletion.certificate import certificate_hash
from tracebility.deletion.jobs import UserDeletion
from tracebility.errors import BeingDeleted
from tracebility.ids import OrgId, ProjectId, uuid7
from tracebility.orgs import orgs, projects
from tracebility.quota.reconciler import QuotaReconciler
from tracebility.stores import postgres, redis_control
from tracebility.stores.queue import Queue
from tracebility.tenant.quota import METERED, metered_member, usage_key
from tracebility.tenant.redis_keys import key, over_flag
from tracebility.tenant.resends import removal_key
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM


async def test_a_run_goes_with_all_that_names_it(filled: Any, work: Work, control: postgres.Postgres) -> None:
    mine, other = filled
    others = await other.rows()
    before = await mine.rows()
    job = await work.ask(jobs.delete_run, mine.place, R1)
    assert (job.kind, job.state, job.target) == ("run", "queued", R1)
    done = await work.done(job)
    after = await mine.rows()
    gone = {table: len(rows) - len(after[table]) for table, rows in before.items() if len(rows) != len(after[table])}
    assert gone == {"span": 2, "span_v1": 1, "run": 1, "eval_score": 1, "replay_capture": 1, "replay_run": 1}
    assert await other.rows() == others
    assert {table: rows["before"] for table, rows in done.certificate["rows"].items() if rows["before"]} == gone  # type: ignore[index]
    assert all(rows["after"] == 0 for rows in done.certificate["rows"].values())  # type: ignore[index]
    # Whoever holds the certificate can check it against the trail.
    told = json.dumps(done.certificate, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    digest = hashlib.sha256(told).hexdigest()
    assert digest == done.certificate_hash == certificate_hash(done.certificate or {})
    asked, completed = await events(control, mine.org_id)
    assert (asked["event_type"], completed["event_type"]) == ("deletion.requested", "deletion.completed")
    assert completed["details"]["certificate_hash"] == digest


async def test_a_body_whose_run_was_deleted_is_new_when_it_is_sent_again(
    filled: Any, work: Work, store: redis_control.RedisControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = filled
    erasing, erased_us = work.deleter._eraser.erase, 0

    async def erase(selection: Any) -> Any:
        nonlocal erased_us
        gone = await erasing(selection)
        erased_us = time.time_ns() // 1000
        return gone

    monkeypatch.setattr(work.deleter._eraser, "erase", erase)
    await work.done(await work.ask(jobs.delete_run, mine.place, R1))
    assert int(await store.command("GET", removal_key(mine.org_id))) >= erased_us > 0
    assert not await store.command("EXISTS", removal_key(other.org_id))


@pytest.mark.parametrize("kind", ["run", "user"])
async def test_what_is_sent_after_a_deletion_was_asked_for_stays(filled: Any, work: Work, kind: str) -> None:
    """Its run was summed up with spans that go; what is left of it is a run of its own."""
    mine, other = filled
    others = await other.rows()
    asked = (jobs.delete_run, mine.place, R1) if kind == "run" else (jobs.delete_user, mine.org_id, UserDeletion("ann"))
    job = await work.ask(*asked)
    newer = {"accepted_at": f"{work_now() + timedelta(days=1):%F %T}", "version": 2}
    await mine.add("span", late_row(mine) | {"trace_id": R1, "span_id": "a", "user_id": "ann", "name": "again"} | newer)
    summed = {"run_id": R1, "name": "old", "span_count": 2, "start_time": WHEN, "accepted_at": WHEN, "version": 3}
    await mine.add("run", {"org_id": mine.org_id, "project_id": mine.place.project_id} | summed)
    done = await work.done(job)
    left = await mine.engine.query(
        "SELECT name, span_count FROM run "
        "WHERE org_id = {org:UUID} AND project_id = {project:UUID} AND run_id = {run:String}",
        {"org": str(mine.org_id), "project": str(mine.place.project_id), "run": R1},
    )
    assert [tuple(row) for row in left.rows] == [("again", 1)]
    spans = [row for row in (await mine.rows())["span"] if row[3] == R1 and row[2] == mine.place.project_id]
    assert len(spans) == 1
    assert done.certificate["rows"]["run"]["after"] == 0  # type: ignore[index]
    assert await other.rows() == others


async def test_a_users_runs_go_whole_in_every_project(filled: Any, work: Work, monkeypatch: Any) -> None:
    monkeypatch.setattr("tracebility.deletion.erase.RUNS_PER_STATEMENT", 1)  # more than one batch
    mine, other = filled
    others = await other.rows()
    before = await mine.rows()
    done = await work.done(await work.ask(jobs.delete_user, mine.org_id, UserDeletion("ann")))
    after = await mine.rows()
    assert {row[3] for row in after["span"]} == {R2, R3}
    gone = {table: len(rows) - len(after[table]) for table, rows in before.items() if len(rows) != len(after[table])}
    assert gone == {"span": 4, "span_v1": 1, "run": 2, "eval_score": 2, "replay_capture": 2, "replay_run": 2}
    assert {table: rows["before"] for table, rows in done.certificate["rows"].items() if rows["before"]} == gone  # type: ignore[index]
    assert done.certificate["runs"] == 2  # type: ignore[index]
    assert await other.rows() == others


async def test_a_project_goes_with_its_keys_and_dead_letters(
    filled: Any, work: Work, control: postgres.Postgres, streams: Queue
) -> None:
    mine, other = filled
    others = await other.rows()
    letters = [await bury(streams, one.org_id, project) for one in filled for project in (one.place[2], one.second)]
    await control.execute("INSERT INTO dataset (id, project_id, name) VALUES ($1, $2, 'd')", uuid4(), mine.place[2])
    done = await work.done(await work.ask(jobs.delete_project, mine.place, work_now()))
    left = await mine.rows()
    assert {str(row[2]) for table, rows in left.items() if table not in KEPT for row in rows} == {str(mine.second)}
    assert len(left["billing_meter"]) == 2, "usage is billed, whatever became of what was used"
    assert await other.rows() == others
    assert await control.fetchval("SELECT count(*) FROM project WHERE id = $1", mine.place.project_id) == 0
    assert await control.fetchval("SELECT count(*) FROM api_key WHERE org_id = $1", mine.org_id) == 0
    assert done.certificate["dead_letters"] == 1  # type: ignore[index]
    assert [entry.id for entry in await streams.range(DEAD_LETTER_STREAM)] == letters[1:]


async def test_an_org_goes_but_for_what_usage_and_the_trail_name(
    filled: Any, work: Work, control: postgres.Postgres, streams: Queue, store: redis_control.RedisControl
) -> None:
    mine, other = filled
    others = await other.rows()
    for one in filled:
        await store.command("SET", key(one.org_id, "usage", "2026-10"), "1")
        await store.command("SET", over_flag(one.org_id, "2026-10"), "spans")
    await bury(streams, mine.org_id, mine.second)
    done = await work.done(await work.ask(jobs.delete_org, mine.org_id, work_now()))
    assert await mine.content() == {}
    assert len((await mine.rows())["billing_meter"]) == 2
    assert await other.rows() == others
    found = {name.decode() for name in await store.command("KEYS", "*")}
    assert not any(str(mine.org_id) in name for name in found)
    assert {key(other.org_id, "usage", "2026-10"), over_flag(other.org_id, "2026-10")} <= found
    certificate = done.certificate or {}
    assert (certificate["dead_letters"], certificate["redis_keys"]) == (1, 2)
    assert certificate["rows"]["span"] == {"before": 12, "after": 0}
    assert "billing_meter" in certificate["kept"]
    row = await control.fetchrow("SELECT * FROM org WHERE id = $1", mine.org_id)
    assert row is not None
    assert row["deleted_at"] is not None
    for table in ("api_key", "workspace"):
        assert await control.fetchval(f"SELECT count(*) FROM {table} WHERE org_id = $1", mine.org_id) == 0
    assert (await work.ask(jobs.delete_org, mine.org_id, work_now())).id == done.id


async def test_nothing_of_a_deleted_org_comes_back_to_the_hot_counter(
    filled: Any, work: Work, control: postgres.Postgres, streams: Queue, store: redis_control.RedisControl, engine: Any
) -> None:
    """Its last usage is settled with its end, and what is said of it later changes nothing."""
    mine, other = filled
    period = f"{work_now():%Y-%m}"
    whose = {"org_id": mine.org_id, "project_id": mine.place.project_id, "version": 1, "period": period}
    accepted = f"{work_now():%F %T}"
    await mine.add("billing_meter", whose | {"meter": "spans", "event_id": uuid4(), "qty": 7, "accepted_at": accepted})

    async def say(*whom: Filled) -> None:
        for one in whom:
            await store.command("ZADD", METERED, int(time.time() * 1000), metered_member(one.org_id, period))

    async def reconcile() -> set[str]:
        await QuotaReconciler(control, engine, streams, store).tick()
        return {name.decode() for name in await store.command("KEYS", "tracebility:{*}:usage*")}

    await say(mine, other)
    job = await work.ask(jobs.delete_org, mine.org_id, work_now())
    await reconcile()
    await work.done(job)
    assert await store.command("ZRANGE", METERED, 0, -1) == [metered_member(other.org_id, period).encode()]
    settled = await control.fetch("usage_of_period", mine.org_id, period)
    assert [(row["meter"], row["used_amount"]) for row in settled] == [("spans", 7)]
    await say(mine, other)
    assert await reconcile() == {usage_key(other.org_id, period)}


async def test_a_project_that_was_made_since_the_work_began_goes_too(
    filled: Any, work: Work, control: postgres.Postgres, monkeypatch: Any
) -> None:
    mine, _ = filled
    counting = work.deleter._count_before
    late = uuid7()

    async def count(job: Any) -> bool:
        await control.execute("insert_project", late, mine.place.workspace_id, "late")
        return await counting(job)

    monkeypatch.setattr(work.deleter, "_count_before", count)
    job = await work.done(await work.ask(jobs.delete_org, mine.org_id, work_now()))
    assert (job.certificate or {})["control_rows"]["projects"] == 3
    assert await control.fetchval("SELECT count(*) FROM project WHERE id = $1", late) == 0


async def test_a_deleted_org_is_not_let_in_again(filled: Any, work: Work, control: postgres.Postgres) -> None:
    mine, _ = filled
    await work.ask(jobs.delete_org, mine.org_id, work_now())
    with pytest.raises(BeingDeleted):
        async with control.transaction() as transaction:
            await orgs.change_org(transaction, ASKER, mine.org_id, orgs.OrgChanges(suspended=False), work_now())
    with pytest.raises(BeingDeleted):
        async with control.transaction() as transaction:
            await projects.create_workspace(transaction, ASKER, mine.org_id, projects.NewPlace("again"))


async def bury(streams: Queue, org_id: OrgId, project_id: ProjectId) -> bytes:
    fields = envelope_of(org_id, project_id).fields() | {"reason": b"r", "stream": b"s"}
    [entry_id] = await raw_streams.append(streams, [(DEAD_LETTER_STREAM, fields)])
    assert isinstance(entry_id, bytes)
    return entry_id
