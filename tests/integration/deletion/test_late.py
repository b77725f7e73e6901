"""What waits in the queue, comes in the middle or comes after the end of a deletion goes too."""

from datetime import timedelta
from typing import Any

import pytest
from tests.harness import streams as raw_streams
from tests.harness.erasure import R1, WHEN, Work, envelope_of, late_row, later, work_now

from tracebility.deletion import jobs
from tracebility.deletion.jobs import UserDeletion
from tracebility.deletion.metrics import DeletionMetrics
from tracebility.deletion.runner import Deleter
from tracebility.errors import StoreUnavailable
from tracebility.stores import postgres, redis_control
from tracebility.stores.queue import Queue
from tracebility.telemetry import Metrics
from tracebility.tenant.shard_router import LEGACY_STREAM, shard_of, stream_of


async def test_a_row_that_comes_in_the_middle_goes_too(filled: Any, work: Work, monkeypatch: Any) -> None:
    mine, _ = filled
    erasing = work.deleter._eraser.erase
    came = 0

    async def erase(selection: Any) -> Any:
        nonlocal came
        gone = await erasing(selection)
        if not came:
            came += 1
            await mine.add("span", late_row(mine))
        return gone

    monkeypatch.setattr(work.deleter._eraser, "erase", erase)
    await work.done(await work.ask(jobs.delete_project, mine.place, work_now()))
    assert came
    assert not [row for row in (await mine.rows())["span"] if str(row[2]) == str(mine.place.project_id)]


async def test_a_row_that_comes_after_the_end_is_swept(filled: Any, work: Work) -> None:
    mine, other = filled
    others = await other.rows()
    await work.done(await work.ask(jobs.delete_org, mine.org_id, work_now()))
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
        asked = (jobs.delete_user, mine.org_id, UserDeletion("ann"))
    else:
        asked = (jobs.delete_run, mine.place, R1)  # type: ignore[assignment]
    await work.done(await work.ask(*asked))
    assert await work.deleter.sweep() == 0
    left = await mine.rows()
    newer = {"accepted_at": f"{work_now() + timedelta(days=1):%F %T}"}
    for span, user, when in (("named", "ann", {}), ("beside it", "", {}), ("newer", "ann", newer)):
        await mine.add("span", late_row(mine) | {"trace_id": R1, "span_id": span, "user_id": user} | when)
    run = {"org_id": mine.org_id, "project_id": mine.place.project_id, "run_id": R1, "user_id": "ann", "version": 1}
    await mine.add("run", run | {"start_time": WHEN, "accepted_at": WHEN})
    assert await work.deleter.sweep() == 3
    assert [row[4] for row in (await mine.rows())["span"] if row[3] == R1 and row not in left["span"]] == ["newer"]
    assert (await mine.rows())["run"] == left["run"]
    assert await other.rows() == others
    assert await work.deleter.sweep() == 0


async def test_a_sweep_that_fails_for_one_deletion_looks_at_the_others(
    filled: Any, work: Work, monkeypatch: Any
) -> None:
    for one in filled:
        await work.done(await work.ask(jobs.delete_org, one.org_id, work_now()))
        await one.add("span", late_row(one))
    stuck, whole = sorted(filled, key=lambda one: one.org_id)
    erasing = work.deleter._eraser.erase

    async def erase(selection: Any) -> Any:
        if selection.parameters["org"] == str(stuck.org_id):
            raise StoreUnavailable("clickhouse", "on purpose")
        return await erasing(selection)

    with monkeypatch.context() as broken:
        broken.setattr(work.deleter._eraser, "erase", erase)
        with pytest.raises(StoreUnavailable, match="on purpose"):
            await work.deleter.sweep()
    assert (await stuck.content(), await whole.content()) == ({"span": 1}, {})
    assert await work.deleter.sweep() == 1


async def test_what_is_in_the_queue_is_waited_for(filled: Any, work: Work, streams: Queue) -> None:
    mine, _ = filled
    stream = stream_of(shard_of(mine.org_id))
    envelope = envelope_of(mine.org_id, mine.place.project_id)
    job = await work.ask(jobs.delete_project, mine.place, work_now())
    [entry_id] = await raw_streams.append(streams, [(stream, envelope.fields())])
    await work.deleter.tick()
    assert (await work.job(job)).step == "drain"
    await mine.add("span", late_row(mine))
    assert isinstance(entry_id, bytes)
    await raw_streams.acknowledge(streams, stream, [entry_id])
    await work.done(job)
    assert not [row for row in (await mine.rows())["span"] if str(row[2]) == str(mine.place.project_id)]


async def test_what_nobody_drains_is_not_waited_for(
    filled: Any, work: Work, streams: Queue, control: postgres.Postgres, engine: Any, store: redis_control.RedisControl
) -> None:
    mine, _ = filled
    await raw_streams.append(streams, [(LEGACY_STREAM, {"d": b"{}"})])
    job = await work.ask(jobs.delete_run, mine.place, R1)
    await work.deleter.tick()
    assert (await work.job(job)).step == "drain"
    metrics = DeletionMetrics(Metrics())
    after_cutover = Deleter(control, engine, streams, store, metrics, later, waits_for_legacy=False)
    await Work(control, after_cutover).done(job)
