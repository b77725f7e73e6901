"""Processes of a whole installation killed at named points, under load.

Each point of the worker and of the disk buffer also has a test of its own beside the code: test_crashes.py in
tests/integration/worker, test_disk_buffer.py in tests/unit/ingest.
"""

from pathlib import Path
from typing import Any

import pytest
from tests.harness.installation import until
from tests.harness.load import Load
from tests.harness.proxy import Road
from tests.harness.weather import Tenant, Weather, progress

TwoOrgs = tuple[Tenant, Tenant]

EDGE = ("edge_before_enqueue", "edge_after_enqueue_before_answer")
REPLAY = ("disk_buffer_replay_after_append_before_delete",)
SPOOL = ("disk_buffer_after_fsync_before_answer", *REPLAY)
WORKER = ("worker_after_meter_insert_before_ack",)


@pytest.mark.parametrize("failpoint", [*EDGE, *SPOOL, *WORKER])
async def test_a_process_killed_at_a_named_point_loses_and_doubles_nothing(
    stores: Any, two_orgs: TwoOrgs, tmp_path: Path, failpoint: str
) -> None:
    died = tmp_path / "died"
    environment = {"TRACEBILITY_FAILPOINT": f"{failpoint}:2", "TRACEBILITY_FAILPOINT_ONCE": str(died)}
    async with Weather(stores.ready, tmp_path, **environment) as weather:

        async def storm(loads: list[Load]) -> None:
            if failpoint in SPOOL:
                weather.valkey.road = Road.CLOSED
                weather.valkey.reset()
            if failpoint in REPLAY:
                await progress(loads, 3)
                weather.valkey.clear()
            await until(f"a death at {failpoint}", died.exists, 30)

        await weather.audited(two_orgs, storm)
