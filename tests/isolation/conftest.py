"""Two tenants whose rows have the same project, run and span ids, so that only the org tells them apart."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tracebility.api.app import create_app
from tracebility.api.scope import resolve_project_scope
from tracebility.api.service import ApiServices, open_services
from tracebility.config import Settings
from tracebility.stores import clickhouse
from tracebility.stores.scoped import TenantScope

RUNS = 40
SPANS = 5
START = "2026-09-21 14:13:20."


@dataclass(frozen=True)
class Twins:
    """Tenants A and B. Each one's rows stand under both projects, and carry the canary of their org."""

    a: Any
    b: Any
    a_canary: str
    b_canary: str


@pytest.fixture(scope="session")
async def services(stores: Any) -> AsyncIterator[ApiServices]:
    async with open_services(Settings(pg_dsn=stores.pg_dsn, clickhouse_url=stores.clickhouse_reader_url)) as opened:
        yield opened


@pytest.fixture(scope="session")
async def api(services: ApiServices) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


@pytest.fixture(scope="session")
async def owner(stores: Any) -> AsyncIterator[clickhouse.Engine]:
    engine = await clickhouse.connect(stores.clickhouse_url)
    yield engine
    await engine.close()


@pytest.fixture(scope="session")
async def reader(stores: Any) -> AsyncIterator[clickhouse.Engine]:
    """The engine as the user that answers requests: the raw client, which no request code has."""
    engine = await clickhouse.connect(stores.clickhouse_reader_url)
    yield engine
    await engine.close()


@pytest.fixture
async def twins(two_orgs: Any, owner: clickhouse.Engine) -> Twins:
    a, b = two_orgs
    twins = Twins(a, b, f"canary-{uuid4().hex}", f"canary-{uuid4().hex}")
    for tenant, canary in ((a, twins.a_canary), (b, twins.b_canary)):
        for project_id in (a.project_id, b.project_id):
            whose = [tenant.org_id, tenant.workspace_id, project_id]
            await owner.insert_rows(
                "run",
                ["org_id", "workspace_id", "project_id", "run_id", "name", "start_time", "accepted_at", "version"],
                [[*whose, f"run-{n}", canary, f"{START}{n:09d}", f"{START}0", 1] for n in range(RUNS)],
            )
            await owner.insert_rows(
                "span",
                [
                    "org_id",
                    "workspace_id",
                    "project_id",
                    "trace_id",
                    "span_id",
                    "name",
                    "inputs",
                    "start_time",
                    "accepted_at",
                    "version",
                ],
                [
                    [*whose, f"run-{n}", f"span-{s}", canary, canary, f"{START}{s:09d}", f"{START}0", 1]
                    for n in range(RUNS)
                    for s in range(SPANS)
                ],
            )
    return twins


@pytest.fixture
def scope_of(services: ApiServices) -> Any:
    async def scope(tenant: Any) -> TenantScope:
        return await resolve_project_scope(tenant.context, str(tenant.project_id), services)

    return scope
