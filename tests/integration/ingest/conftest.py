"""The edge over real stores, served by the real server in this process, and tenants to send to it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn

from tracebility.config import Settings
from tracebility.http_protocol import HttpProtocol
from tracebility.ids import OrgId, ProjectId, WorkspaceId
from tracebility.ingest.app import create_app
from tracebility.ingest.service import IngestServices, open_services
from tracebility.stores import postgres
from tracebility.stores.queue import Queue
from tracebility.tenant import keys
from tracebility.tenant.context import Scope
from tracebility.tenant.shard_router import shard_of, stream_of
from tracebility.wire.envelope import Envelope, from_fields


@dataclass
class Tenant:
    """An org of the test's own, and what is queued for it."""

    org_id: OrgId
    workspace_id: WorkspaceId
    project_id: ProjectId
    key: str
    queue: Queue

    @property
    def headers(self) -> dict[str, str]:
        return {"x-api-key": self.key}

    async def envelopes(self) -> list[Envelope]:
        """Its envelopes in the queue, oldest first."""
        stream = stream_of(shard_of(self.org_id))
        found: list[Envelope] = []
        start = b"-"
        while entries := await self.queue.range(stream, start=start, count=50):
            envelopes = [from_fields(entry.fields) for entry in entries]
            found += [envelope for envelope in envelopes if envelope.header.org_id == self.org_id]
            start = b"(" + entries[-1].id
        return found


NewTenant = Callable[..., Any]


@pytest.fixture
def new_tenant(control: postgres.Postgres, queue: Queue) -> NewTenant:
    """Makes an org with a project and a key of the given scopes."""

    async def make(*scopes: Scope) -> Tenant:
        org_id, workspace_id, project_id = OrgId(uuid4()), WorkspaceId(uuid4()), ProjectId(uuid4())
        key = keys.generate()
        await control.execute("insert_org", org_id, f"org {org_id}", "internal")
        await control.execute("insert_workspace", workspace_id, org_id, "workspace")
        await control.execute("insert_project", project_id, workspace_id, "project")
        await control.execute(
            "insert_key", key.public_id, org_id, workspace_id, project_id, "key", key.secret_hash, list(scopes)
        )
        return Tenant(org_id, workspace_id, project_id, key.key, queue)

    return make


@pytest.fixture
async def tenant(new_tenant: NewTenant) -> Tenant:
    made: Tenant = await new_tenant(Scope.INGEST_WRITE)
    return made


@dataclass
class Edge:
    """A running edge."""

    client: httpx.AsyncClient
    services: IngestServices
    port: int
    spool_dir: Path

    async def traces(self, tenant: Tenant, body: Any, content_type: str, **headers: str) -> httpx.Response:
        return await self.client.post(
            "/v1/traces", content=body, headers={**tenant.headers, "content-type": content_type, **headers}
        )

    async def runs(self, tenant: Tenant, body: Any) -> httpx.Response:
        return await self.client.post(
            "/v1/runs", content=body, headers={**tenant.headers, "content-type": "application/json"}
        )

    def metric(self, name: str, **labels: str) -> float:
        return self.services.metrics.all.registry.get_sample_value(name, labels) or 0.0


RunEdge = Callable[..., AbstractAsyncContextManager[Edge]]


@asynccontextmanager
async def running_edge(settings: Settings, front: Any = None) -> AsyncIterator[Edge]:
    async with open_services(settings) as services:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        config = uvicorn.Config(
            create_app(services, front), http=HttpProtocol, lifespan="off", log_config=None, access_log=False
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                yield Edge(client, services, port, settings.spool_dir)
        finally:
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await serving


class _Server(uvicorn.Server):
    """Leaves the signals of the test run alone."""

    def install_signal_handlers(self) -> None:
        return


@pytest.fixture
def run_edge(stores: Any, tmp_path: Path) -> RunEdge:
    """Runs an edge of the test's own, with settings of its own."""

    def run(front: Any = None, **changes: Any) -> AbstractAsyncContextManager[Edge]:
        settings = {"pg_dsn": stores.pg_dsn, "redis_url": stores.redis_url, "spool_dir": tmp_path / "spool"} | changes
        return running_edge(Settings(**settings), front)

    return run


@pytest.fixture(scope="session")
async def edge(stores: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """One edge for all tests that do not break it."""
    spool_dir = tmp_path_factory.mktemp("spool")
    async with running_edge(Settings(pg_dsn=stores.pg_dsn, redis_url=stores.redis_url, spool_dir=spool_dir)) as opened:
        yield opened
