"""A queue and a disk buffer that are full: refused before anything is promised, and nothing promised is lost."""

from pathlib import Path
from typing import Any

import redis
from tests.harness.load import Load
from tests.harness.proxy import Road
from tests.harness.weather import Tenant, Weather, progress, refusals, small_disk

TwoOrgs = tuple[Tenant, Tenant]

SMALLEST_BUFFER_BYTES = 1 << 20


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
