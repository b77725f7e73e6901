"""Two tenants whose rows have the same project, run and span ids, so that only the org tells them apart."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from tracebility.api.scope import resolve_project_scope
from tracebility.api.service import ApiServices
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


@pytest.fixture
async def twins(two_orgs: Any, engine: clickhouse.Engine) -> Twins:
    a, b = two_orgs
    twins = Twins(a, b, f"canary-{uuid4().hex}", f"canary-{uuid4().hex}")
    for tenant, canary in ((a, twins.a_canary), (b, twins.b_canary)):
        for project_id in (a.project_id, b.project_id):
            whose = [tenant.org_id, tenant.workspace_id, project_id]
            await engine.insert_rows(
                "run",
                ["org_id", "workspace_id", "project_id", "run_id", "name", "start_time", "accepted_at", "version"],
                [[*whose, f"run-{n}", canary, f"{START}{n:09d}", f"{START}0", 1] for n in range(RUNS)],
            )
            await engine.insert_rows(
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
