"""The process says how it is, and goes on without its stores."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from tests.harness.address import connected as connected_to
from tests.harness.address import led_through

from tracebility.api.app import create_app
from tracebility.api.service import open_services
from tracebility.config import Settings
from tracebility.errors import ConfigurationError


async def test_healthz_readyz_and_metrics_answer_without_a_key(api: httpx.AsyncClient) -> None:
    assert (await api.get("/healthz")).json() == {"status": "ok"}
    assert (await api.get("/readyz")).json() == {"status": "ok", "missing": {}}
    assert (await api.post("/readyz")).headers["allow"] == "GET, HEAD"
    text = (await api.get("/metrics")).text
    assert 'tracebility_http_request_seconds_count{method="GET",route="/readyz",status="200",target="api"}' in text


async def test_metrics_are_counted_under_templates_and_name_no_tenant(api: httpx.AsyncClient, tenants: Any) -> None:
    tenant = tenants[0].tenant
    await api.get(f"/v1/projects/{tenant.project_id}/runs", headers=tenant.headers())
    await api.get(f"/nowhere/{tenant.project_id}")
    text = (await api.get("/metrics")).text
    assert 'route="/v1/projects/{project_id}/runs"' in text
    assert 'route="unmatched"' in text
    assert str(tenant.project_id) not in text


async def test_with_a_store_away_the_answer_is_503_and_readyz_names_it(stores: Any, tenants: Any) -> None:
    tenant = tenants[0].tenant
    async with (
        wire(stores.clickhouse_reader_url) as (clickhouse_url, cut_engine),
        wire(stores.pg_dsn) as (pg_dsn, cut_pg),
        open_services(Settings(pg_dsn=pg_dsn, clickhouse_url=clickhouse_url, redis_url=stores.redis_url)) as services,
        httpx.AsyncClient(transport=httpx.ASGITransport(create_app(services)), base_url="http://api") as api,
    ):
        runs = f"/v1/projects/{tenant.project_id}/runs"
        assert (await api.get(runs, headers=tenant.headers())).status_code == 200
        await cut_engine()
        for path in (runs, f"{runs}/r"):
            answer = await api.get(path, headers=tenant.headers())
            assert answer.status_code == 503
            assert 1 <= int(answer.headers["retry-after"]) <= 5
            assert answer.json()["store"] == "clickhouse"
        ready = await api.get("/readyz")
        assert (ready.status_code, list(ready.json()["missing"])) == (503, ["clickhouse"])
        assert (await api.get("/healthz")).status_code == 200

        await cut_pg()
        answer = await api.get("/v1/projects", headers=tenant.headers())
        assert (answer.status_code, answer.json()["store"]) == (503, "postgres")
        assert list((await api.get("/readyz")).json()["missing"]) == ["postgres", "clickhouse"]


@pytest.mark.parametrize("role", ["redis_url", "redis_stream_url"])
async def test_readyz_names_redis_when_either_of_its_roles_is_away(
    stores: Any, tenants: Any, empty_redis_url: str, role: str
) -> None:
    tenant = tenants[0].tenant
    urls = {"redis_url": stores.redis_url, "redis_stream_url": empty_redis_url}
    async with wire(urls[role]) as (url, cut):
        settings = Settings(pg_dsn=stores.pg_dsn, clickhouse_url=stores.clickhouse_reader_url, **{**urls, role: url})
        async with (
            open_services(settings) as services,
            httpx.AsyncClient(transport=httpx.ASGITransport(create_app(services)), base_url="http://api") as api,
        ):
            assert (await api.get("/readyz")).status_code == 200
            await cut()
            ready = await api.get("/readyz")
            assert (ready.status_code, list(ready.json()["missing"])) == (503, ["redis"])
            # Which is for whoever balances the load: what it can answer it does.
            assert (await api.get("/v1/projects", headers=tenant.headers())).status_code == 200


async def test_the_api_does_not_start_as_the_owner_of_the_data(stores: Any) -> None:
    """No row policy binds the owner: a query that names no tenant would answer every tenant's rows."""
    own = Settings(pg_dsn=stores.pg_dsn, clickhouse_url=stores.clickhouse_url, redis_url=stores.redis_url)
    with pytest.raises(ConfigurationError, match=r"^TRACEBILITY_CLICKHOUSE_URL .*tracebility_reader"):
        async with open_services(own):
            pass
    with_reader = msgspec.structs.replace(own, clickhouse_reader_url=stores.clickhouse_reader_url)
    as_owner = msgspec.structs.replace(own, api_as_owner=True)
    for settings, warnings in ((with_reader, []), (as_owner, ["api_reads_as_owner"])):
        with structlog.testing.capture_logs() as logged:
            async with open_services(settings) as services:
                assert await services.missing_stores() == {}
        assert [line["event"] for line in logged] == warnings


@asynccontextmanager
async def wire(url: str) -> AsyncIterator[tuple[str, Any]]:
    """A way to the store at ``url`` that can be cut: connections break, new ones are refused."""
    open_writers: set[asyncio.StreamWriter] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_store, from_store = await connected_to(url)
        open_writers.update((writer, from_store))
        await asyncio.gather(carry(reader, from_store), carry(to_store, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def cut() -> None:
        server.close()
        for writer in open_writers:
            writer.transport.abort()

    try:
        yield led_through(url, port), cut
    finally:
        await cut()
