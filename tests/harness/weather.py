"""Targets and stores with a proxy on every road between them, so that one store at a time can have bad weather."""

import asyncio
import contextlib
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from .auditor import Auditor, Verdict
from .installation import Installation, until
from .load import Ledger, Load
from .payload import requests
from .proxy import Proxy

CONNECTIONS = 3
REQUESTS_PER_S = 60.0
SPANS_A_REQUEST = 20
PROGRESS_DEADLINE_S = 30.0
CLIENT_DEADLINE_S = 8.0

_VARIABLES = {
    "postgres": "TRACEBILITY_PG_DSN",
    "valkey": "TRACEBILITY_REDIS_URL",
    "clickhouse": "TRACEBILITY_CLICKHOUSE_URL",
}
_DSNS = {"postgres": "pg_dsn", "valkey": "redis_url", "clickhouse": "clickhouse_url"}


class Tenant(Protocol):
    """A tenant as the tests' fixtures make it."""

    @property
    def org_id(self) -> object: ...

    def headers(self) -> dict[str, str]: ...


class Weather:
    """Use as an async context manager: the targets run on ``stores`` (a ready file's content) from then on."""

    def __init__(self, stores: Mapping[str, Any], folder: Path, **environment: str) -> None:
        self.stores = dict(stores)
        self.proxies = {name: Proxy.before(stores[dsn]) for name, dsn in _DSNS.items()}
        self.targets = Installation(folder)
        self._environment = environment
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Weather":
        async with AsyncExitStack() as stack:
            for name, proxy in self.proxies.items():
                await stack.enter_async_context(proxy)
                self.targets.environment[_VARIABLES[name]] = proxy.through(self.stores[_DSNS[name]])
            self.targets.environment |= self._environment
            await stack.enter_async_context(self.targets)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        for proxy in self.proxies.values():
            proxy.clear()
        await self._stack.__aexit__(*exc)

    @property
    def postgres(self) -> Proxy:
        return self.proxies["postgres"]

    @property
    def valkey(self) -> Proxy:
        return self.proxies["valkey"]

    @property
    def clickhouse(self) -> Proxy:
        return self.proxies["clickhouse"]

    @property
    def spool(self) -> Path:
        """The edge's disk buffer."""
        return self.targets.data_dir / "spool"

    async def audited(
        self, tenants: tuple[Tenant, ...], storm: Callable[[list[Load]], Awaitable[None]]
    ) -> list[Ledger]:
        """Put load of every tenant on the targets while ``storm`` rages, let it clear up, and audit each tenant.

        Raises:
            AssertionError: when the books of one do not balance.
        """
        loads = [
            Load(
                self.targets.ready["url"], tenant.headers(),
                requests(CONNECTIONS * 2, tenant=str(tenant.org_id), spans=SPANS_A_REQUEST),
                connections=CONNECTIONS, requests_per_s=REQUESTS_PER_S, deadline_s=CLIENT_DEADLINE_S, seed=number,
            )
            for number, tenant in enumerate(tenants)
        ]  # fmt: skip
        sending = [asyncio.create_task(load.run()) for load in loads]
        try:
            await progress(loads)
            await storm(loads)
            for proxy in self.proxies.values():
                proxy.clear()
            await progress(loads)
        finally:
            for load in loads:
                load.stop()
            await asyncio.gather(*sending)
        auditor = Auditor(self.stores, self.spool)
        verdicts: list[Verdict] = []
        for load, tenant in zip(loads, tenants, strict=True):
            await auditor.settle(load.ledger, org_id=str(tenant.org_id))
            verdict = await auditor.audit(load.ledger, org_id=str(tenant.org_id), tenant=str(tenant.org_id))
            print(f"{load.ledger.statuses}  {verdict}")
            verdicts.append(verdict)
        assert not any(verdict.problems for verdict in verdicts), f"{verdicts}\n{self.targets.last_lines()}"
        return [load.ledger for load in loads]


async def progress(loads: list[Load], requests_each: int = 15) -> None:
    """Wait until every tenant had so many more requests acknowledged."""
    due = [load.acknowledged + requests_each * SPANS_A_REQUEST for load in loads]
    await until(
        "acknowledged requests of every tenant",
        lambda: all(load.acknowledged >= count for load, count in zip(loads, due, strict=True)),
        PROGRESS_DEADLINE_S,
    )


async def refusals(loads: list[Load], status: int = 503, count: int = 5) -> None:
    """Wait until every tenant was refused ``count`` times more with ``status``."""
    due = [load.ledger.statuses[status] + count for load in loads]
    await until(
        f"answers of {status} to every tenant",
        lambda: all(load.ledger.statuses[status] >= n for load, n in zip(loads, due, strict=True)),
        PROGRESS_DEADLINE_S,
    )


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[Path]:
    """``folder`` as a file system of its own of ``size_mb``, which needs the right to mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
