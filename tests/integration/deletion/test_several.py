"""Deletions that are asked for again, overtake one another, or fail: none is lost, and none keeps another waiting."""

from typing import Any

import pytest
from tests.harness.erasure import R1, R2, R3, Work, events, late_row, work_now

from tracebility.deletion import requests
from tracebility.deletion.job import job_of
from tracebility.deletion.requests import Deletion, UserDeletion
from tracebility.errors import StoreUnavailable
from tracebility.stores import postgres


async def test_the_same_that_is_asked_for_again_is_the_same_job(filled: Any, work: Work) -> None:
    mine, other = filled
    for asking, *arguments in (
        (requests.delete_run, mine.place, R2),
        (requests.delete_user, mine.org_id, UserDeletion("bob")),
        (requests.delete_project, mine.place, work_now()),
        (requests.delete_org, mine.org_id, work_now()),
    ):
        first = await work.ask(asking, *arguments)
        assert (await work.ask(asking, *arguments)).id == first.id
    ours = await work.ask(requests.delete_run, other.place, R2)
    assert ours.org_id == other.org_id
    await work.done(ours)
    again = await work.ask(requests.delete_run, other.place, R2)
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

    first = await work.ask(requests.delete_user, mine.org_id, UserDeletion("ann"))
    await came()
    second = await work.ask(requests.delete_user, mine.org_id, UserDeletion("ann"))
    assert second.id == first.id
    assert second.requested_at is not None
    assert second.requested_at > (first.requested_at or "")
    asked = [row["details"]["job_id"] for row in await events(control, mine.org_id)]
    assert asked == [str(first.id)] * 2
    await work.done(first)
    assert await stored() == {R2, R3}

    begun = await work.ask(requests.delete_user, mine.org_id, UserDeletion("ann"))
    while (row := await control.fetchrow("read_deletion", begun.id))["step"] == "drain":  # type: ignore[index]
        await work.deleter._try_step(job_of(row))  # type: ignore[arg-type]
    await came()
    again = await work.ask(requests.delete_user, mine.org_id, UserDeletion("ann"))
    assert again.id != begun.id
    await work.done(again)
    assert (await work.job(begun)).state == "done"
    assert await stored() == {R2, R3}


async def test_who_asks_again_while_the_queue_is_looked_at_is_not_overlooked(
    filled: Any, work: Work, monkeypatch: Any
) -> None:
    mine, _ = filled
    job = await work.ask(requests.delete_run, mine.place, R1)
    looking = work.deleter._queue.depths
    asked: list[Deletion] = []

    async def depths(streams: Any) -> Any:
        seen = await looking(streams)
        if not asked:
            asked.append(await work.ask(requests.delete_run, mine.place, R1))
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
    monkeypatch.setattr("tracebility.deletion.erase.RUNS_PER_STATEMENT", 1)
    mine, _ = filled
    job = await work.ask(requests.delete_user, mine.org_id, UserDeletion("ann"))

    async def now() -> Any:
        return await control.fetchrow("read_deletion", job.id)

    async def until_a_batch_is_written_down() -> Any:
        await work.deleter._try_step(job_of(await now()))
        while "batch" not in (row := await now())["progress"]:
            await work.deleter._try_step(job_of(row))
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
    assert {row[3] for row in (await mine.rows())["span"]} == {R2, R3}


async def test_a_store_that_is_away_for_one_job_keeps_no_other_waiting(
    filled: Any, work: Work, monkeypatch: Any
) -> None:
    jobs = [await work.ask(requests.delete_run, one.place, R1) for one in filled]
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


async def test_a_job_that_stumbles_keeps_nobody_waiting_and_fails_in_the_end(
    filled: Any, work: Work, monkeypatch: Any, control: postgres.Postgres
) -> None:
    mine, other = filled
    broken = await work.ask(requests.delete_run, mine.place, R1)
    whole = await work.ask(requests.delete_run, other.place, R1)
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
