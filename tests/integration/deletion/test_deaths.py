"""A death at any step of a deletion changes nothing of how it ends."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.harness.erasure import Work, work_now

from tracebility.deletion import requests
from tracebility.deletion.requests import UserDeletion

PLACES = (
    "deletion_after_drain",
    "deletion_after_count",
    "erase_after_month:3",
    "deletion_after_erase",
    "deletion_after_forget",
    "deletion_after_forget_commit",
    "deletion_before_certificate",
)


@pytest.mark.parametrize("place", PLACES)
async def test_a_death_between_two_steps_changes_nothing(
    filled: Any, work: Work, stores: Any, empty_redis_url: str, place: str
) -> None:
    mine, other = filled
    others = await other.rows()
    job = await work.ask(requests.delete_org, mine.org_id, work_now())
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
    job = await work.ask(requests.delete_user, mine.org_id, UserDeletion("ann"))
    assert delete_in_a_process(stores, empty_redis_url, place) == -9
    done = await work.done(job)
    of_runs = {"span": 8, "run": 4, "eval_score": 4, "replay_capture": 4, "replay_run": 4}
    assert await mine.content() == of_runs | {"eval_aggregate": 2, "dataset_item": 2}
    assert done.certificate["rows"]["span"] == {"before": 4, "after": 0}  # type: ignore[index]


def delete_in_a_process(stores: Any, redis_url: str, failpoint: str) -> int:
    script = Path(__file__).with_name("killed_deleter.py")
    environment = dict(os.environ) | {"TRACEBILITY_FAILPOINT": failpoint}
    arguments = [sys.executable, str(script), stores.pg_dsn, redis_url, stores.clickhouse_url]
    return subprocess.run(arguments, env=environment, check=False, timeout=120).returncode
