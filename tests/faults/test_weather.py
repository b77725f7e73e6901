from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.harness.installation import until
from tests.harness.load import Load
from tests.harness.proxy import Proxy, Road
from tests.harness.weather import Tenant, Weather, progress, refusals, small_disk

TwoOrgs = tuple[Tenant, Tenant]

SMALLEST_BUFFER_BYTES = 1 << 20


async def test_a_valkey_that_is_away_hangs_or_lags_costs_nobody_a_span(
    stores: Any, two_orgs: TwoOrgs, tmp_path: Path
) -> None:
    async with Weather(stores.ready, tmp_path) as weather:

        async def storm(loads: list[Load]) -> None:
            for road in (Road.CLOSED, Road.BLACKHOLE, Road.HALF_OPEN):
                weather.valkey.road = road
                weather.valkey.reset() if road is Road.CLOSED else None
                await progress(loads)
                weather.valkey.clear()
                await progress(loads)
            weather.valkey.latency_s = 0.3
            await progress(loads)
            weather.valkey.latency_s, weather.valkey.bytes_per_s = 0.0, 200_000
            await progress(loads)

        ledgers = await weather.audited(two_orgs, storm)
    for ledger in ledgers:
        assert ledger.statuses.keys() == {200}, "while the disk buffer has room, everybody is answered 2xx"


async def test_a_clickhouse_that_is_away_or_cut_in_the_middle_of_inserts_is_made_up_for_exactly(
    stores: Any, two_orgs: TwoOrgs, tmp_path: Path
) -> None:
    async with Weather(stores.ready, tmp_path) as weather:

        async def storm(loads: list[Load]) -> None:
            road = weather.clickhouse
            for number in range(6):
                cuts = road.cuts
                road.cut_after_bytes = 3_000 + 17_011 * number
                await until("an insert cut short", partial(_more, road, cuts), 30)
            for state in (Road.HALF_OPEN, Road.CLOSED, Road.BLACKHOLE):
                road.road = state
                await progress(loads)
                road.reset()
                await progress(loads)
                road.clear()
            road.bytes_per_s = 100_000
            await progress(loads)

        ledgers = await weather.audited(two_orgs, storm)
    for ledger in ledgers:
        assert ledger.statuses.keys() == {200}


async def test_known_keys_go_on_without_postgres(stores: Any, two_orgs: TwoOrgs, tmp_path: Path) -> None:
    async with Weather(stores.ready, tmp_path) as weather:

        async def storm(loads: list[Load]) -> None:
            for road in (Road.CLOSED, Road.BLACKHOLE):
                weather.postgres.road = road
                weather.postgres.reset()
                await progress(loads, 60)
                weather.postgres.clear()

        ledgers = await weather.audited(two_orgs, storm)
    for ledger in ledgers:
        assert ledger.statuses.keys() == {200}


async def test_a_full_queue_spills_to_disk_and_a_full_buffer_says_so_before_anything_is_promised(
    stores: Any, two_orgs: TwoOrgs, tmp_path: Path
) -> None:
    queue = redis.Redis.from_url(stores.ready["redis_url"])
    bound = str(queue.config_get("maxmemory")["maxmemory"])
    environment = {"TRACEBILITY_SPOOL_MAX_BYTES": str(SMALLEST_BUFFER_BYTES)}
    async with Weather(stores.ready, tmp_path, **environment) as weather:

        async def storm(loads: list[Load]) -> None:
            weather.clickhouse.road = Road.CLOSED
            weather.clickhouse.reset()
            queue.config_set("maxmemory", queue.info("memory")["used_memory"] + (1 << 20))
            await refusals(loads)
            weather.clickhouse.clear()
            await progress(loads)

        try:
            ledgers = await weather.audited(two_orgs, storm)
        finally:
            queue.config_set("maxmemory", bound)
            queue.close()
    for ledger in ledgers:
        assert ledger.statuses.keys() == {200, 503}
        assert ledger.refused_without_retry_after == 0


async def test_a_full_disk_under_the_buffer_refuses_and_recovers(
    stores: Any, two_orgs: TwoOrgs, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "data" / "spool", size_mb=2):
        async with Weather(stores.ready, tmp_path) as weather:

            async def storm(loads: list[Load]) -> None:
                weather.valkey.road = Road.CLOSED
                weather.valkey.reset()
                await refusals(loads)
                weather.valkey.clear()
                await progress(loads)

            ledgers = await weather.audited(two_orgs, storm)
    for ledger in ledgers:
        assert ledger.statuses.keys() == {200, 503}
        assert ledger.refused_without_retry_after == 0


def _more(road: Proxy, cuts: int) -> bool:
    return road.cuts > cuts


EDGE = ("edge_before_enqueue", "edge_after_enqueue_before_answer")
REPLAY = ("spool_replay_after_append_before_delete",)
SPOOL = ("spool_after_write_before_fsync", "spool_after_fsync_before_answer", *REPLAY)
WORKER = (
    "worker_after_read",
    "worker_after_span_insert",
    "worker_after_run_insert",
    "worker_after_meter_insert_before_ack",
    "worker_after_ack",
)


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
