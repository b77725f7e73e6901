"""What all tests share: embedded stores and clients of them, one whole installation, and tenants of a test's own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import settings

from tracebility.api.app import create_app
from tracebility.api.service import ApiServices, open_services
from tracebility.config import Settings
from tracebility.embedded.valkey import Valkey
from tracebility.ids import OrgId, ProjectId, WorkspaceId, uuid7
from tracebility.stores import clickhouse, postgres, redis_control
from tracebility.stores.queue import Queue, connect_queue
from tracebility.tenant import keys
from tracebility.tenant.context import Scope, TenantContext, sealed_context

# `make test` tries the same examples each time, so that it says the same of the same code; `make check`
# takes fewer, `make explore` looks for new ones, and many more. Neither is bounded by a clock: a machine may be busy.
settings.register_profile("quick", deadline=None, max_examples=10, stateful_step_count=20, derandomize=True)
settings.register_profile("repeatable", deadline=None, max_examples=100, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2_000, print_blob=True)
settings.load_profile("repeatable")

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 20.0
POLL_S = 0.05
TRACEBILITY = Path(sys.executable).parent / "tracebility"


@dataclass(frozen=True)
class StoresUnderTest:
    """How to reach the embedded stores of this test run: real ones, migrated, shared by all tests."""

    pg_dsn: str
    redis_url: str
    clickhouse_url: str
    clickhouse_reader_url: str
    data_dir: Path
    ready: dict[str, Any]


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoresUnderTest]:
    """The three stores, started once per test run. Tests make rows of their own tenants and never empty a table."""
    with running("--only-stores", data_dir=tmp_path_factory.mktemp("stores")) as ready:
        yield StoresUnderTest(
            ready["pg_dsn"],
            ready["redis_url"],
            ready["clickhouse_url"],
            ready["clickhouse_reader_url"],
            Path(ready["data_dir"]),
            ready,
        )


@pytest.fixture(scope="session")
async def control(stores: StoresUnderTest) -> AsyncIterator[postgres.Postgres]:
    """The control plane of the shared stores."""
    opened = await postgres.connect(stores.pg_dsn)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def queue(stores: StoresUnderTest) -> AsyncIterator[Queue]:
    """The queue of the shared stores."""
    opened = await connect_queue(stores.redis_url)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def hot_store(stores: StoresUnderTest) -> AsyncIterator[redis_control.RedisControl]:
    """The shared queue's server in its control role."""
    opened = await redis_control.connect(stores.redis_url)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def engine(stores: StoresUnderTest) -> AsyncIterator[clickhouse.Engine]:
    """The engine of the shared stores, as its owner."""
    opened = await clickhouse.connect(stores.clickhouse_url)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def reader(stores: StoresUnderTest) -> AsyncIterator[clickhouse.Engine]:
    """The engine as the user that answers requests: the raw client, which no request code has."""
    opened = await clickhouse.connect(stores.clickhouse_reader_url)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def services(stores: StoresUnderTest) -> AsyncIterator[ApiServices]:
    """What an api over the shared stores holds."""
    settings = Settings(pg_dsn=stores.pg_dsn, clickhouse_url=stores.clickhouse_reader_url, redis_url=stores.redis_url)
    async with open_services(settings) as opened:
        yield opened


@pytest.fixture(scope="session")
async def api(services: ApiServices) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the api that runs in this process."""
    transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A whole ``tracebility up``, started once per test run on a free port: the content of its ready file."""
    with running("--port", "0", data_dir=tmp_path_factory.mktemp("installation")) as ready:
        yield ready


@pytest.fixture(scope="session")
async def operator_key(control: postgres.Postgres) -> str:
    """A key of whoever runs the shared stores: of no org, over all."""
    key = keys.generate()
    await control.execute("insert_key", key.public_id, None, None, None, "operator", key.secret_hash, [Scope.OPERATOR])
    return key.key


@pytest.fixture
def operator(operator_key: str) -> dict[str, str]:
    """What a client of an operator sends."""
    return {"authorization": f"Bearer {operator_key}"}


@pytest.fixture(scope="session")
def _spare_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("valkey")
    store = Valkey(folder, folder / "valkey.sock", "secret")
    process = subprocess.Popen(store.program().argv, cwd=folder, stdout=subprocess.DEVNULL)
    yield store.url
    process.terminate()
    process.wait(STOP_DEADLINE_S)


@pytest.fixture
async def empty_redis_url(_spare_redis_url: str) -> str:
    """A server of the same kind in which nothing is, for a test that looks at all that is."""
    opened = await redis_control.connect(_spare_redis_url)
    await opened.command("FLUSHALL")
    await opened.close()
    return _spare_redis_url


@pytest.fixture
async def empty_queue(empty_redis_url: str) -> AsyncIterator[Queue]:
    """The queue there."""
    opened = await connect_queue(empty_redis_url)
    yield opened
    await opened.close()


@pytest.fixture
async def empty_hot_store(empty_redis_url: str) -> AsyncIterator[redis_control.RedisControl]:
    """The control role there."""
    opened = await redis_control.connect(empty_redis_url)
    yield opened
    await opened.close()


@dataclass(frozen=True)
class TenantUnderTest:
    """A tenant of one test's own, with a key that may do everything a tenant's key may."""

    context: TenantContext
    key: str

    @property
    def org_id(self) -> OrgId:
        return self.context.org_id

    @property
    def workspace_id(self) -> WorkspaceId:
        return self.context.workspace_id

    @property
    def project_id(self) -> ProjectId:
        return self.context.project_id

    def headers(self) -> dict[str, str]:
        """What a client of this tenant sends."""
        return {"authorization": f"Bearer {self.key}"}


@pytest.fixture
async def two_orgs(stores: StoresUnderTest) -> tuple[TenantUnderTest, TenantUnderTest]:
    """Two fresh tenants in the shared stores."""
    return await new_tenant(stores.pg_dsn), await new_tenant(stores.pg_dsn)


@pytest.fixture
async def two_installed_orgs(installation: dict[str, Any]) -> tuple[TenantUnderTest, TenantUnderTest]:
    """Two fresh tenants in the shared whole installation."""
    return await new_tenant(installation["pg_dsn"]), await new_tenant(installation["pg_dsn"])


async def new_tenant(pg_dsn: str) -> TenantUnderTest:
    """An org with one workspace, one project and one key."""
    org_id, workspace_id, project_id = OrgId(uuid7()), WorkspaceId(uuid7()), ProjectId(uuid7())
    key = keys.generate()
    scopes = [Scope.INGEST_WRITE, Scope.READ, Scope.ADMIN]
    control = await postgres.connect(pg_dsn)
    try:
        async with control.transaction() as transaction:
            await transaction.execute("insert_org", org_id, f"org {org_id}", "internal")
            await transaction.execute("insert_workspace", workspace_id, org_id, "default")
            await transaction.execute("insert_project", project_id, workspace_id, "default")
            await transaction.execute(
                "insert_key", key.public_id, org_id, workspace_id, project_id, "test", key.secret_hash, scopes
            )
    finally:
        await control.close()
    context = sealed_context(org_id, workspace_id, project_id, "internal", frozenset(scopes), key.public_id)
    return TenantUnderTest(context, key.key)


class running:
    """``tracebility up`` with ``arguments`` for the length of a ``with``; gives the content of the ready file."""

    def __init__(self, *arguments: str, data_dir: Path) -> None:
        self._arguments = arguments
        self._data_dir = data_dir
        self._log = data_dir.with_name(f"{data_dir.name}.log")

    def __enter__(self) -> dict[str, Any]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("TRACEBILITY_")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [TRACEBILITY, "up", "--data-dir", self._data_dir, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=outside,
                start_new_session=True,
            )
        ready = self._data_dir / "ready.json"
        deadline = time.monotonic() + START_DEADLINE_S
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                pytest.fail(f"tracebility up did not become ready:\n{self._log.read_text(errors='replace')}")
            time.sleep(POLL_S)
        document: dict[str, Any] = json.loads(ready.read_text())
        return document

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
