"""Deletions over the real stores: what was asked for goes whole, nothing else moves, and a death changes nothing."""

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tracebility.control import deletions, orgs, places
from tracebility.control.deletions import Deletion, UserDeletion
from tracebility.control.places import ProjectPlace
from tracebility.errors import BeingDeleted, StoreUnavailable
from tracebility.ids import SENTINEL, OrgId, ProjectId, uuid7
from tracebility.operator.deletion import REFUSED_S, Deleter, _job, certificate_hash
from tracebility.operator.metrics import OperatorMetrics
from tracebility.operator.quota import QuotaReconciler
from tracebility.stores import clickhouse, hot, postgres, redis
from tracebility.stores.erase import CONTENT_TABLES
from tracebility.telemetry import Metrics
from tracebility.tenant.audit import Actor
from tracebility.tenant.books import book_of
from tracebility.tenant.quota import METERED, metered_member, usage_key
from tracebility.tenant.redis_keys import key, over_flag
from tracebility.tenant.shards import DEAD_LETTER_STREAM, LEGACY_STREAM, shard_of, stream_of
from tracebility.wire.envelope import Envelope, Header

ASKER = Actor("operator", "cli:test")
WHEN = "2026-10-05 10:00:00"
KEPT = ("billing_meter", "envelope_outcome")
# Without the pauses that are for others, and none are there.
pytestmark = pytest.mark.usefixtures("no_pauses")
PLACES = (
    "deletion_after_drain",
    "deletion_after_count",
    "erase_after_month:3",
    "deletion_after_erase",
    "deletion_after_forget",
    "deletion_after_forget_commit",
    "deletion_before_certificate",
)


@dataclass
class Filled:
    """A tenant with rows in every table, under run ids that others have too."""

    org_id: OrgId
    place: ProjectPlace
    second: ProjectId
    engine: clickhouse.Engine

    async def fill(self) -> None:
        rows: dict[str, list[dict[str, Any]]] = {}
        for project in (self.place.project_id, self.second):
            whose = {"org_id": self.org_id, "project_id": project, "version": 1}
            at = {"start_time": WHEN, "accepted_at": WHEN}
            for run, who in (("r1", "ann"), ("r2", "bob"), ("r3", "")):
                for span, user in (("a", who), ("b", "")):
                    row = whose | at | {"trace_id": run, "span_id": span, "user_id": user, "inputs": "x"}
                    rows.setdefault("span", []).append(row)
                # In the second project only a span names the user, as where a run has several.
                of_run = {"run_id": run, "user_id": who if project == self.place.project_id else ""}
                rows.setdefault("run", []).append(whose | at | of_run)
                for table, moment, extra in (
                    ("eval_score", "created_at", {"score_id": uuid4()}),
                    ("replay_capture", "captured_at", {"span_id": "a", "content_hash": "0" * 32}),
                    ("replay_run", "started_at", {"replay_id": uuid4()}),
                ):
                    rows.setdefault(table, []).append(whose | extra | {"run_id": run, moment: WHEN})
            for table, extra in (
                ("eval_aggregate", {"evaluator": "e", "name": "n", "hour": WHEN}),
                ("dataset_item", {"dataset_id": uuid4(), "item_id": uuid4(), "created_at": WHEN}),
                ("billing_meter", {"period": "2026-10", "meter": "spans", "event_id": uuid4(), "accepted_at": WHEN}),
            ):
                rows.setdefault(table, []).append(whose | extra)
        old = {"org_id": SENTINEL, "project_id": self.place.project_id, "trace_id": "r1", "span_id": "old"}
        rows["span_v1"] = [old | {"start_time": WHEN, "accepted_at": WHEN, "version": 1}]
        for table, some in rows.items():
            await self.engine.insert_rows(table, list(some[0]), [list(row.values()) for row in some])

    async def add(self, table: str, row: dict[str, Any]) -> None:
        await self.engine.insert_rows(table, list(row), [list(row.values())])

    async def rows(self) -> dict[str, list[Any]]:
        """Everything that is stored of it, table by table."""
        found = {}
        there = {name for (name,) in (await self.engine.query("SHOW TABLES")).rows}
        for table in (*(one.name for one in CONTENT_TABLES), *KEPT):
            if table in there:
                result = await self.engine.query(
                    f"SELECT * FROM {table} WHERE org_id = {{org:UUID}} OR project_id IN {{projects:Array(UUID)}} "
                    "ORDER BY ALL",
                    {"org": str(self.org_id), "projects": [str(self.place.project_id), str(self.second)]},
                )
                found[table] = [tuple(row) for row in result.rows]
        return found

    async def content(self) -> dict[str, int]:
        """Rows of each table that has some, but for what is kept."""
        return {table: len(rows) for table, rows in (await self.rows()).items() if rows and table not in KEPT}


@pytest.fixture
async def filled(two_orgs: Any, control: postgres.Postgres, engine: clickhouse.Engine) -> tuple[Filled, Filled]:
    made = []
    for tenant in two_orgs:
        second = ProjectId(uuid7())
        await control.execute("insert_project", second, tenant.workspace_id, "second")
        place = ProjectPlace(tenant.org_id, tenant.workspace_id, tenant.project_id)
        made.append(Filled(tenant.org_id, place, second, engine))
        await made[-1].fill()
    return made[0], made[1]


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracebility.stores.erase.PAUSE_S", 0.0)
    monkeypatch.setattr("tracebility.stores.erase.POLL_S", 0.02)


@pytest.fixture
def store(empty_hot_store: hot.Hot) -> hot.Hot:
    return empty_hot_store


@pytest.fixture
def streams(empty_queue: redis.Queue) -> redis.Queue:
    return empty_queue


@dataclass
class Work:
    """Asks for deletions, and does them."""

    control: postgres.Postgres
    deleter: Deleter

    async def ask(self, asking: Any, *arguments: Any) -> Deletion:
        async with self.control.transaction() as transaction:
            job: Deletion = await asking(transaction, ASKER, *arguments)
        return job

    async def job(self, job: Deletion) -> Deletion:
        return await deletions.read_deletion(self.control, job.id)

    async def done(self, job: Deletion) -> Deletion:
        await self.deleter.tick()
        found = await self.job(job)
        assert (found.state, found.error) == ("done", "")
        return found


@pytest.fixture
async def work(control: postgres.Postgres, engine: clickhouse.Engine, streams: redis.Queue, store: hot.Hot) -> Work:
    """The clock is past the wait for what is under way."""
    await control.execute("UPDATE deletion_job SET state = 'failed' WHERE state IN ('queued', 'running')")
    metrics = OperatorMetrics(Metrics())
    return Work(control, Deleter(control, engine, streams, store, metrics, later))


async def events(control: postgres.Postgres, org_id: OrgId) -> list[Any]:
    return list(
        await control.fetch(
            "SELECT event_type, details, actor_type FROM audit_log WHERE org_id = $1 AND event_type LIKE 'deletion.%' "
            "ORDER BY seq",
            org_id,
        )
    )


async def test_a_run_goes_with_all_that_names_it(filled: Any, work: Work, control: postgres.Postgres) -> None:
    mine, other = filled
    others = await other.rows()
    before = await mine.rows()
    job = await work.ask(deletions.delete_run, mine.place, "r1")
    assert (job.kind, job.state, job.target) == ("run", "queued", "r1")
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


async def test_a_users_runs_go_whole_in_every_project(filled: Any, work: Work, monkeypatch: Any) -> None:
    monkeypatch.setattr("tracebility.stores.erase.RUNS_A_STATEMENT", 1)  # more than one batch
    mine, other = filled
    others = await other.rows()
    before = await mine.rows()
    done = await work.done(await work.ask(deletions.delete_user, mine.org_id, UserDeletion("ann")))
    after = await mine.rows()
    assert {row[3] for row in after["span"]} == {"r2", "r3"}
    gone = {table: len(rows) - len(after[table]) for table, rows in before.items() if len(rows) != len(after[table])}
    assert gone == {"span": 4, "span_v1": 1, "run": 2, "eval_score": 2, "replay_capture": 2, "replay_run": 2}
    assert {table: rows["before"] for table, rows in done.certificate["rows"].items() if rows["before"]} == gone  # type: ignore[index]
    assert done.certificate["runs"] == 2  # type: ignore[index]
    assert await other.rows() == others


async def test_a_project_goes_with_its_keys_and_dead_letters(
    filled: Any, work: Work, control: postgres.Postgres, streams: redis.Queue
) -> None:
    mine, other = filled
    others = await other.rows()
    letters = [await bury(streams, one.org_id, project) for one in filled for project in (one.place[2], one.second)]
    await control.execute("INSERT INTO dataset (id, project_id, name) VALUES ($1, $2, 'd')", uuid4(), mine.place[2])
    done = await work.done(await work.ask(deletions.delete_project, mine.place, work_now()))
    left = await mine.rows()
    assert {str(row[2]) for table, rows in left.items() if table not in KEPT for row in rows} == {str(mine.second)}
    assert len(left["billing_meter"]) == 2, "usage is billed, whatever became of what was used"
    assert await other.rows() == others
    assert await control.fetchval("SELECT count(*) FROM project WHERE id = $1", mine.place.project_id) == 0
    assert await control.fetchval("SELECT count(*) FROM api_key WHERE org_id = $1", mine.org_id) == 0
    assert done.certificate["dead_letters"] == 1  # type: ignore[index]
    assert [entry.id for entry in await streams.range(DEAD_LETTER_STREAM)] == letters[1:]


async def test_an_org_goes_but_for_what_usage_and_the_trail_name(
    filled: Any, work: Work, control: postgres.Postgres, streams: redis.Queue, store: hot.Hot
) -> None:
    mine, other = filled
    others = await other.rows()
    stream = stream_of(shard_of(mine.org_id))
    for one in filled:
        await store.command("SET", key(one.org_id, "usage", "2026-10"), "1")
        await store.command("SET", over_flag(one.org_id, "2026-10"), "spans")
        envelope = envelope_of(one.org_id, one.second)
        [[entry_id]] = await streams.append_groups([[(stream, envelope.fields())]], [book_of(stream, envelope.header)])
        await streams.ack_and_delete(stream, [entry_id])
    await bury(streams, mine.org_id, mine.second)
    done = await work.done(await work.ask(deletions.delete_org, mine.org_id, work_now()))
    assert await mine.content() == {}
    assert len((await mine.rows())["billing_meter"]) == 2
    assert await other.rows() == others
    found = {name.decode() for name in await store.command("KEYS", "*")}
    assert not any(str(mine.org_id) in name for name in found)
    assert {key(other.org_id, "usage", "2026-10"), over_flag(other.org_id, "2026-10")} <= found
    certificate = done.certificate or {}
    assert certificate["books"]["accepted"] == 1
    assert (certificate["dead_letters"], certificate["redis_keys"] >= 3) == (1, True)
    assert certificate["rows"]["span"] == {"before": 12, "after": 0}
    assert "billing_meter" in certificate["kept"]
    row = await control.fetchrow("SELECT * FROM org WHERE id = $1", mine.org_id)
    assert row is not None
    assert row["deleted_at"] is not None
    for table in ("api_key", "workspace"):
        assert await control.fetchval(f"SELECT count(*) FROM {table} WHERE org_id = $1", mine.org_id) == 0
    assert (await work.ask(deletions.delete_org, mine.org_id, work_now())).id == done.id


async def test_nothing_of_a_deleted_org_comes_back_to_the_hot_counter(
    filled: Any, work: Work, control: postgres.Postgres, streams: redis.Queue, store: hot.Hot, engine: Any
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
    job = await work.ask(deletions.delete_org, mine.org_id, work_now())
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
    job = await work.done(await work.ask(deletions.delete_org, mine.org_id, work_now()))
    assert (job.certificate or {})["control_rows"]["projects"] == 3
    assert await control.fetchval("SELECT count(*) FROM project WHERE id = $1", late) == 0


async def test_the_same_that_is_asked_for_again_is_the_same_job(filled: Any, work: Work) -> None:
    mine, other = filled
    for asking, *arguments in (
        (deletions.delete_run, mine.place, "r2"),
        (deletions.delete_user, mine.org_id, UserDeletion("bob")),
        (deletions.delete_project, mine.place, work_now()),
        (deletions.delete_org, mine.org_id, work_now()),
    ):
        first = await work.ask(asking, *arguments)
        assert (await work.ask(asking, *arguments)).id == first.id
    ours = await work.ask(deletions.delete_run, other.place, "r2")
    assert ours.org_id == other.org_id
    await work.done(ours)
    again = await work.ask(deletions.delete_run, other.place, "r2")
    assert again.id != ours.id, "what came since is another matter"


async def test_what_came_before_the_same_was_asked_for_again_goes(
    filled: Any, work: Work, control: postgres.Postgres
) -> None:
    """Whether the job that there is waits for the queue, or is past that."""
    mine, _ = filled

    async def came() -> None:
        moment = await control.fetchval("SELECT clock_timestamp() AT TIME ZONE 'UTC'")
        row = late_row(mine) | {"trace_id": "since", "user_id": "ann", "accepted_at": f"{moment:%F %T.%f}"}
        await mine.add("span", row)

    async def stored() -> set[str]:
        return {row[3] for row in (await mine.rows())["span"]}

    first = await work.ask(deletions.delete_user, mine.org_id, UserDeletion("ann"))
    await came()
    second = await work.ask(deletions.delete_user, mine.org_id, UserDeletion("ann"))
    assert second.id == first.id
    assert second.requested_at is not None
    assert second.requested_at > (first.requested_at or "")
    asked = [row["details"]["job_id"] for row in await events(control, mine.org_id)]
    assert asked == [str(first.id)] * 2
    await work.done(first)
    assert await stored() == {"r2", "r3"}

    begun = await work.ask(deletions.delete_user, mine.org_id, UserDeletion("ann"))
    while (row := await control.fetchrow("read_deletion", begun.id))["step"] == "drain":  # type: ignore[index]
        await work.deleter._step_or_note(_job(row))  # type: ignore[arg-type]
    await came()
    again = await work.ask(deletions.delete_user, mine.org_id, UserDeletion("ann"))
    assert again.id != begun.id
    await work.done(again)
    assert (await work.job(begun)).state == "done"
    assert await stored() == {"r2", "r3"}


async def test_who_asks_again_while_the_queue_is_looked_at_is_not_overlooked(
    filled: Any, work: Work, monkeypatch: Any
) -> None:
    mine, _ = filled
    job = await work.ask(deletions.delete_run, mine.place, "r1")
    looking = work.deleter._queue.depths
    asked: list[Deletion] = []

    async def depths(streams: Any) -> Any:
        seen = await looking(streams)
        if not asked:
            asked.append(await work.ask(deletions.delete_run, mine.place, "r1"))
        return seen

    monkeypatch.setattr(work.deleter._queue, "depths", depths)
    await work.deleter.tick()
    found = await work.job(job)
    assert (asked[0].id, found.step, found.error) == (job.id, "drain", "")
    await work.done(job)


async def test_who_was_overtaken_changes_nothing(
    filled: Any, work: Work, control: postgres.Postgres, monkeypatch: Any
) -> None:
    """It stood still in the middle of a batch, and comes back while another operator has the next one."""
    monkeypatch.setattr("tracebility.stores.erase.RUNS_A_STATEMENT", 1)
    mine, _ = filled
    job = await work.ask(deletions.delete_user, mine.org_id, UserDeletion("ann"))

    async def now() -> Any:
        return await control.fetchrow("read_deletion", job.id)

    async def until_a_batch_is_written_down() -> Any:
        await work.deleter._step_or_note(_job(await now()))
        while "batch" not in (row := await now())["progress"]:
            await work.deleter._step_or_note(_job(row))
        return row

    old = await until_a_batch_is_written_down()
    new = await until_a_batch_is_written_down()
    assert new["progress"]["batch"] != old["progress"]["batch"]
    read = [old]

    async def fetch(sql: str, *arguments: Any) -> Any:
        assert sql == "next_deletions"
        return [read.pop()] if read else []

    with monkeypatch.context() as stalled:
        stalled.setattr(work.deleter._control, "fetch", fetch)
        await work.deleter.tick()
    assert dict(await now()) == dict(new)
    done = await work.done(job)
    assert done.certificate["runs"] == 2  # type: ignore[index]
    assert {row[3] for row in (await mine.rows())["span"]} == {"r2", "r3"}


async def test_a_store_that_is_away_for_one_job_keeps_no_other_waiting(
    filled: Any, work: Work, monkeypatch: Any
) -> None:
    jobs = [await work.ask(deletions.delete_run, one.place, "r1") for one in filled]
    stuck, whole = sorted(jobs, key=lambda job: job.org_id)  # in this order they are looked at
    counting = work.deleter._count_before
    tried = 0

    async def count(job: Any) -> bool:
        nonlocal tried
        if job.org_id == stuck.org_id:
            tried += 1
            raise StoreUnavailable("clickhouse", "on purpose")
        return await counting(job)

    monkeypatch.setattr(work.deleter, "_count_before", count)
    with pytest.raises(StoreUnavailable, match="on purpose"):
        await work.deleter.tick()
    assert ((await work.job(stuck)).state, (await work.job(whole)).state) == ("running", "done")
    assert tried == 1, "others would wait for it again and again"


@pytest.mark.parametrize("place", PLACES)
async def test_a_death_between_two_steps_changes_nothing(
    filled: Any, work: Work, stores: Any, empty_redis_url: str, place: str
) -> None:
    mine, other = filled
    others = await other.rows()
    job = await work.ask(deletions.delete_org, mine.org_id, work_now())
    killed = delete_in_a_process(stores, empty_redis_url, place)
    assert killed == -9, "the failpoint was never passed"
    assert (await work.job(job)).state in ("queued", "running")
    done = await work.done(job)
    assert await mine.content() == {}
    assert await other.rows() == others
    assert done.certificate["rows"]["span"]["before"] == 12  # type: ignore[index]


# The first or the seventh removal, whichever project goes first, is that of the second project's spans: from then on
# nothing there names the user.
@pytest.mark.parametrize(
    "place", ["deletion_after_batch", "erase_after_month:1", "erase_after_month:7", "deletion_after_erase:2"]
)
async def test_a_death_among_a_users_runs_leaves_none_behind(
    filled: Any, work: Work, stores: Any, empty_redis_url: str, place: str
) -> None:
    mine, _ = filled
    job = await work.ask(deletions.delete_user, mine.org_id, UserDeletion("ann"))
    assert delete_in_a_process(stores, empty_redis_url, place) == -9
    done = await work.done(job)
    of_runs = {"span": 8, "run": 4, "eval_score": 4, "replay_capture": 4, "replay_run": 4}
    assert await mine.content() == of_runs | {"eval_aggregate": 2, "dataset_item": 2}
    assert done.certificate["rows"]["span"] == {"before": 4, "after": 0}  # type: ignore[index]


async def test_a_row_that_comes_in_the_middle_goes_too(filled: Any, work: Work, monkeypatch: Any) -> None:
    mine, _ = filled
    erasing = work.deleter._eraser.erase
    came = 0

    async def erase(which: Any) -> Any:
        nonlocal came
        gone = await erasing(which)
        if not came:
            came += 1
            await mine.add("span", late_row(mine))
        return gone

    monkeypatch.setattr(work.deleter._eraser, "erase", erase)
    await work.done(await work.ask(deletions.delete_project, mine.place, work_now()))
    assert came
    assert not [row for row in (await mine.rows())["span"] if str(row[2]) == str(mine.place.project_id)]


async def test_a_row_that_comes_after_the_end_is_swept(filled: Any, work: Work) -> None:
    mine, other = filled
    others = await other.rows()
    await work.done(await work.ask(deletions.delete_org, mine.org_id, work_now()))
    await mine.add("span", late_row(mine))
    assert await work.deleter.sweep() == 1
    assert await mine.content() == {}
    assert await other.rows() == others
    assert await work.deleter.sweep() == 0


@pytest.mark.parametrize("kind", ["run", "user"])
async def test_what_was_accepted_before_its_deletion_is_swept_and_what_is_newer_stays(
    filled: Any, work: Work, kind: str
) -> None:
    """It came from the disk buffer of an edge, under a run that was sent again in the meantime."""
    mine, other = filled
    others = await other.rows()
    if kind == "user":
        asked = (deletions.delete_user, mine.org_id, UserDeletion("ann"))
    else:
        asked = (deletions.delete_run, mine.place, "r1")  # type: ignore[assignment]
    await work.done(await work.ask(*asked))
    assert await work.deleter.sweep() == 0
    left = await mine.rows()
    newer = {"accepted_at": f"{work_now() + timedelta(days=1):%F %T}"}
    for span, user, when in (("named", "ann", {}), ("beside it", "", {}), ("newer", "ann", newer)):
        await mine.add("span", late_row(mine) | {"trace_id": "r1", "span_id": span, "user_id": user} | when)
    run = {"org_id": mine.org_id, "project_id": mine.place.project_id, "run_id": "r1", "user_id": "ann", "version": 1}
    await mine.add("run", run | {"start_time": WHEN, "accepted_at": WHEN})
    assert await work.deleter.sweep() == 3
    assert [row[4] for row in (await mine.rows())["span"] if row[3] == "r1" and row not in left["span"]] == ["newer"]
    assert (await mine.rows())["run"] == left["run"]
    assert await other.rows() == others
    assert await work.deleter.sweep() == 0


async def test_a_sweep_that_fails_for_one_deletion_looks_at_the_others(
    filled: Any, work: Work, monkeypatch: Any
) -> None:
    for one in filled:
        await work.done(await work.ask(deletions.delete_org, one.org_id, work_now()))
        await one.add("span", late_row(one))
    stuck, whole = sorted(filled, key=lambda one: one.org_id)
    erasing = work.deleter._eraser.erase

    async def erase(which: Any) -> Any:
        if which.parameters["org"] == str(stuck.org_id):
            raise StoreUnavailable("clickhouse", "on purpose")
        return await erasing(which)

    with monkeypatch.context() as broken:
        broken.setattr(work.deleter._eraser, "erase", erase)
        with pytest.raises(StoreUnavailable, match="on purpose"):
            await work.deleter.sweep()
    assert (await stuck.content(), await whole.content()) == ({"span": 1}, {})
    assert await work.deleter.sweep() == 1


async def test_what_is_in_the_queue_is_waited_for(filled: Any, work: Work, streams: redis.Queue) -> None:
    mine, _ = filled
    stream = stream_of(shard_of(mine.org_id))
    envelope = envelope_of(mine.org_id, mine.place.project_id)
    job = await work.ask(deletions.delete_project, mine.place, work_now())
    [entry_id] = await streams.append([(stream, envelope.fields())])
    await work.deleter.tick()
    assert (await work.job(job)).step == "drain"
    await mine.add("span", late_row(mine))
    assert isinstance(entry_id, bytes)
    await streams.ack_and_delete(stream, [entry_id])
    await work.done(job)
    assert not [row for row in (await mine.rows())["span"] if str(row[2]) == str(mine.place.project_id)]


async def test_what_nobody_drains_is_not_waited_for(
    filled: Any, work: Work, streams: redis.Queue, control: postgres.Postgres, engine: Any, store: hot.Hot
) -> None:
    mine, _ = filled
    await streams.append([(LEGACY_STREAM, {"d": b"{}"})])
    job = await work.ask(deletions.delete_run, mine.place, "r1")
    await work.deleter.tick()
    assert (await work.job(job)).step == "drain"
    metrics = OperatorMetrics(Metrics())
    after_cutover = Deleter(control, engine, streams, store, metrics, later, waits_for_legacy=False)
    await Work(control, after_cutover).done(job)


async def test_a_job_that_stumbles_keeps_nobody_waiting_and_fails_in_the_end(
    filled: Any, work: Work, monkeypatch: Any, control: postgres.Postgres
) -> None:
    mine, other = filled
    broken = await work.ask(deletions.delete_run, mine.place, "r1")
    whole = await work.ask(deletions.delete_run, other.place, "r1")
    counting = work.deleter._count_before

    async def count(job: Any) -> bool:
        if job.org_id == mine.org_id:
            raise ValueError("on purpose")
        return await counting(job)

    monkeypatch.setattr(work.deleter, "_count_before", count)
    for _ in range(5):
        await work.deleter.tick()
    assert ((await work.job(broken)).state, (await work.job(whole)).state) == ("failed", "done")
    assert [row["event_type"] for row in await events(control, mine.org_id)][-1] == "deletion.failed"


async def test_a_deleted_org_is_not_let_in_again(filled: Any, work: Work, control: postgres.Postgres) -> None:
    mine, _ = filled
    await work.ask(deletions.delete_org, mine.org_id, work_now())
    with pytest.raises(BeingDeleted):
        async with control.transaction() as transaction:
            await orgs.change_org(transaction, ASKER, mine.org_id, orgs.OrgChanges(suspended=False), work_now())
    with pytest.raises(BeingDeleted):
        async with control.transaction() as transaction:
            await places.create_workspace(transaction, ASKER, mine.org_id, places.NewPlace("again"))


def later() -> float:
    return time.time() + 2 * REFUSED_S


def work_now() -> Any:
    return datetime.now(UTC)


def late_row(mine: Filled) -> dict[str, Any]:
    whose = {"org_id": mine.org_id, "project_id": mine.place.project_id, "trace_id": "late", "span_id": "s"}
    return whose | {"start_time": WHEN, "accepted_at": WHEN, "version": 1}


def envelope_of(org_id: OrgId, project_id: ProjectId) -> Envelope:
    header = Header(
        id=uuid7(), org_id=org_id, workspace_id=uuid4(), project_id=project_id, key_id="k",
        accepted_at_us=time.time_ns() // 1000, period="2026-11", source="otlp", content_type="protobuf",
        content_encoding="identity", items=1, bytes=1,
    )  # fmt: skip
    return Envelope(header, b"x")


async def bury(streams: redis.Queue, org_id: OrgId, project_id: ProjectId) -> bytes:
    fields = envelope_of(org_id, project_id).fields() | {"reason": b"r", "stream": b"s"}
    [entry_id] = await streams.append([(DEAD_LETTER_STREAM, fields)])
    assert isinstance(entry_id, bytes)
    return entry_id


def delete_in_a_process(stores: Any, redis_url: str, failpoint: str) -> int:
    script = Path(__file__).with_name("killed_deleter.py")
    environment = dict(os.environ) | {"TRACEBILITY_FAILPOINT": failpoint}
    arguments = [sys.executable, str(script), stores.pg_dsn, redis_url, stores.clickhouse_url]
    return subprocess.run(arguments, env=environment, check=False, timeout=120).returncode
