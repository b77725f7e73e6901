"""The stores of the installation that a command is meant for: opened when it asks for them, closed when it ends.

A client is imported when it is opened, here and nowhere else: all of them take half a second of CPU to import, and most
commands need PostgreSQL's alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tracebility.embedded.installation import DSN_VARIABLES, Located, locate
from tracebility.errors import ConfigurationError, StoreUnavailable, TracebilityError
from tracebility.stores.start import place

if TYPE_CHECKING:
    from tracebility.stores.clickhouse import Engine
    from tracebility.stores.postgres import Postgres
    from tracebility.stores.queue import Queue
    from tracebility.stores.redis_control import RedisControl

# A store that hangs takes a connection and never answers it. A diagnosis is to come within 5 s.
OPEN_WAIT_S = 5.0
REACH_WAIT_S = 3.0
LOOK_WAIT_S = 4.0  # reaching the stores and all that is asked of them
T = TypeVar("T")


class Stores:
    """Clients of one installation. Each is opened once, with its first use."""

    def __init__(self, found: Located, stack: AsyncExitStack, open_wait_s: float = OPEN_WAIT_S) -> None:
        self.found = found
        self._open_wait_s = open_wait_s
        self._stack = stack
        self._opened: dict[str, Any] = {}

    async def control(self) -> Postgres:
        """The control plane."""
        from tracebility.stores import postgres

        return await self._open(
            "control", "pg_dsn", self.found.pg_dsn, lambda: postgres.connect(self.found.pg_dsn, wait_s=0)
        )

    async def engine(self) -> Engine:
        """The data plane."""
        from tracebility.stores import clickhouse

        url = self.found.clickhouse_url
        return await self._open("engine", "clickhouse_url", url, lambda: clickhouse.connect(url, wait_s=0))

    async def queue(self) -> Queue:
        """The queue, which may have a Redis server of its own."""
        from tracebility.stores.queue import connect_queue

        return await self._open(
            "queue", self.found.queue_variable, self.found.queue_url,
            lambda: connect_queue(self.found.queue_url, variable=self.found.queue_variable, wait_s=0),
        )  # fmt: skip

    async def redis_control(self) -> RedisControl:
        """Redis in its control role."""
        from tracebility.stores import redis_control

        url = self.found.redis_url
        return await self._open("redis_control", "redis_url", url, lambda: redis_control.connect(url, wait_s=0))

    async def redis_server(self) -> Queue:
        """The control role's server with a client that can ask for its settings."""
        from tracebility.stores.queue import connect_queue

        return await self._open(
            "server", "redis_url", self.found.redis_url, lambda: connect_queue(self.found.redis_url, wait_s=0)
        )

    async def tell_processes(self) -> None:
        """Tell every process that the control plane has changed.

        Raises:
            ConfigurationError, StoreUnavailable: when Redis is away; processes then ask within seconds.
        """
        from tracebility.stores.changes import notify

        await notify(await self.redis_control())

    async def _open(self, client: str, named: str, dsn: str, connect: Callable[[], Awaitable[T]]) -> T:
        if client not in self._opened:
            try:
                async with asyncio.timeout(self._open_wait_s):
                    opened: Any = await connect()
            except TimeoutError:
                variable = DSN_VARIABLES.get(named, named)
                raise ConfigurationError(
                    f"{variable}: no usable answer from {place(dsn)} (it takes connections but does not answer within "
                    f"{self._open_wait_s:.0f} s). Restart the store there, or correct the host and port in {variable}."
                ) from None
            self._stack.push_async_callback(opened.close)
            self._opened[client] = opened
        result: T = self._opened[client]
        return result


def quiet_libraries() -> None:
    """Keep the ClickHouse client's tracebacks off the screen: it raises the errors that it logs."""
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)


def log_to_stderr() -> None:
    """For commands that do an operator's work, which logs: standard output is for results."""
    from tracebility.telemetry import configure_logging

    configure_logging("command", level=logging.WARNING)


def with_stores(data_dir: Path | None, act: Callable[[Stores], Awaitable[T]]) -> T:
    """Run ``act`` on the stores of the installation that ``data_dir`` or the environment names."""
    quiet_libraries()

    async def run() -> T:
        async with AsyncExitStack() as stack:
            return await act(Stores(locate(data_dir), stack))

    return asyncio.run(run())


@dataclass(slots=True)
class Reached:
    """The clients of the stores that answer, and why the others do not."""

    control: Postgres | None = None
    queue: Queue | None = None
    queue_store: str = "redis"  # "redis stream" if the queue has a server of its own
    redis_control: RedisControl | None = None
    redis_server: Queue | None = None  # the server of the control role, if the queue has its own
    engine: Engine | None = None
    away: dict[str, str] = field(default_factory=dict)
    deadline: float = field(default_factory=lambda: asyncio.get_running_loop().time() + LOOK_WAIT_S)

    @property
    def names(self) -> tuple[str, ...]:
        """The stores, as faults name them."""
        return ("postgres", "redis", self.queue_store, "clickhouse")

    async def tried(self, asking: Awaitable[T]) -> tuple[T | None, str]:
        """The answer, or None and the reason why there is none before the deadline."""
        try:
            async with asyncio.timeout_at(self.deadline):
                return await asking, ""
        except TimeoutError:
            return None, "no answer in time"
        except TracebilityError as error:
            return None, str(error)


@asynccontextmanager
async def reaching(found: Located) -> AsyncIterator[Reached]:
    """Every store of ``found`` that answers within `REACH_WAIT_S`. Raises nothing for one that does not."""
    reached = Reached(queue_store="redis stream" if found.redis_stream_url else "redis")
    async with AsyncExitStack() as stack:
        stores = Stores(found, stack, REACH_WAIT_S)

        async def reach(store: str, opening: Awaitable[T]) -> T | None:
            try:
                return await opening
            except (ConfigurationError, StoreUnavailable) as error:
                reached.away[store] = str(error)
                return None

        async def no_other_server() -> None:
            return None

        (
            reached.control,
            reached.queue,
            reached.engine,
            reached.redis_control,
            reached.redis_server,
        ) = await asyncio.gather(
            reach("postgres", stores.control()),
            reach(reached.queue_store, stores.queue()),
            reach("clickhouse", stores.engine()),
            reach("redis", stores.redis_control()),
            reach("redis", stores.redis_server()) if found.redis_stream_url else no_other_server(),
        )
        yield reached
