"""A store that is away, hangs, lags or breaks connections off, under load of two orgs."""

from functools import partial
from pathlib import Path
from typing import Any

from tests.harness.installation import until
from tests.harness.load import Load
from tests.harness.proxy import Proxy, Road
from tests.harness.weather import Tenant, Weather, progress

TwoOrgs = tuple[Tenant, Tenant]


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


def _more(road: Proxy, cuts: int) -> bool:
    return road.cuts > cuts
