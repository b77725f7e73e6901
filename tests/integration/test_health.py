"""Which store is missing, as each target tells it."""

from pathlib import Path
from typing import Any

import pytest
from tests.harness.proxy import Proxy, Road

from tracebility.config import Settings
from tracebility.ingest import service as ingest
from tracebility.operator import service as operator
from tracebility.worker import service as worker


async def missing(services: Any) -> dict[str, str]:
    told = await (services.readiness() if isinstance(services, ingest.IngestServices) else services.missing_stores())
    found: dict[str, str] = getattr(told, "missing", told)
    return found


@pytest.mark.parametrize("target", [ingest, worker, operator])
@pytest.mark.parametrize("role", ["redis_url", "redis_stream_url"])
async def test_redis_is_named_when_either_of_its_roles_is_away(
    stores: Any, empty_redis_url: str, tmp_path: Path, target: Any, role: str
) -> None:
    urls = {"redis_url": stores.redis_url, "redis_stream_url": empty_redis_url}
    async with Proxy.before(urls[role]) as road:
        urls[role] = road.through(urls[role])
        settings = Settings(
            pg_dsn=stores.pg_dsn, clickhouse_url=stores.clickhouse_url, spool_dir=tmp_path / "spool", **urls
        )
        async with target.open_services(settings) as services:
            assert await missing(services) == {}
            road.road = Road.CLOSED
            road.reset()
            assert (await missing(services)).keys() == {"redis"}
            road.clear()
