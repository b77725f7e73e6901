"""The stores of the installation that a command is meant for: opened when it asks for them, closed when it ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tracebility.commands.options import log_to_stderr
from tracebility.embedded.installation import DSN_VARIABLES, Located, locate
from tracebility.errors import ConfigurationError, StoreUnavailable, TracebilityError
from tracebility.stores import clickhouse, hot, postgres, redis
from tracebility.stores.start import place

# A person waits for this. A store that hangs takes a connection and never answers it.
OPEN_WAIT_S = 2.0
ASK_WAIT_S = 1.5
T = TypeVar("T")


class Stores:
    """Clients of one installation. Each is opened once, with its first use."""

    def __init__(self, found: Located, stack: AsyncExitStack) -> None:
        self.found = found
        self._stack = stack
        self._opened: dict[str, Any] = {}

    async def control(self) -> postgres.Postgres:
        """The control plane."""
        return await self._open(
            "control", "pg_dsn", self.found.pg_dsn, lambda: postgres.connect(self.found.pg_dsn, wait_s=0)
        )

    async def engine(self) -> clickhouse.Engine:
        """The data plane."""
        url = self.found.clickhouse_url
        return await self._open("engine", "clickhouse_url", url, lambda: clickhouse.connect(url, wait_s=0))

    async def queue(self) -> redis.Queue:
        """The queue, which may have a Redis server of its own."""
        return await self._open(
            "queue", self.found.queue_variable, self.found.queue_url,
            lambda: redis.connect(self.found.queue_url, variable=self.found.queue_variable, wait_s=0),
        )  # fmt: skip

    async def hot(self) -> hot.Hot:
        """Redis in its control role."""
        return await self._open(
            "hot", "redis_url", self.found.redis_url, lambda: hot.connect(self.found.redis_url, wait_s=0)
        )

    async def redis_server(self) -> redis.Queue:
        """The control role's server with a client that can ask for its settings."""
        return await self._open(
            "server", "redis_url", self.found.redis_url, lambda: redis.connect(self.found.redis_url, wait_s=0)
        )

    async def _open(self, client: str, named: str, dsn: str, connect: Callable[[], Awaitable[T]]) -> T:
        if client not in self._opened:
            try:
                async with asyncio.timeout(OPEN_WAIT_S):
                    opened: Any = await connect()
            except TimeoutError:
                variable = DSN_VARIABLES.get(named, named)
                raise ConfigurationError(
                    f"{variable}: no usable answer from {place(dsn)} (it takes connections but does not answer within "
                    f"{OPEN_WAIT_S:.0f} s). Restart the store there, or correct the host and port in {variable}."
                ) from None
            self._stack.push_async_callback(opened.close)
            self._opened[client] = opened
        result: T = self._opened[client]
        return result


def with_stores(data_dir: Path | None, act: Callable[[Stores], Awaitable[T]]) -> T:
    """Run ``act`` on the stores of the installation that ``data_dir`` or the environment names."""
    log_to_stderr()

    async def run() -> T:
        async with AsyncExitStack() as stack:
            return await act(Stores(locate(data_dir), stack))

    return asyncio.run(run())


@dataclass(slots=True)
class Reached:
    """The clients of the stores that answer, and why the others do not."""

    control: postgres.Postgres | None = None
    queue: redis.Queue | None = None
    queue_store: str = "redis"  # "redis stream" if the queue has a server of its own
    control_role: redis.Queue | None = None  # the other Redis server, if the queue has its own
    engine: clickhouse.Engine | None = None
    away: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def reaching(found: Located) -> AsyncIterator[Reached]:
    """Every store of ``found`` that answers within `OPEN_WAIT_S`. Raises nothing for one that does not."""
    reached = Reached(queue_store="redis stream" if found.redis_stream_url else "redis")
    async with AsyncExitStack() as stack:
        stores = Stores(found, stack)

        async def reach(store: str, opening: Awaitable[T]) -> T | None:
            try:
                return await opening
            except (ConfigurationError, StoreUnavailable) as error:
                reached.away[store] = str(error)
                return None

        async def no_other_server() -> None:
            return None

        reached.control, reached.queue, reached.engine, reached.control_role = await asyncio.gather(
            reach("postgres", stores.control()),
            reach(reached.queue_store, stores.queue()),
            reach("clickhouse", stores.engine()),
            reach("redis", stores.redis_server()) if found.redis_stream_url else no_other_server(),
        )
        yield reached


async def tried(asking: Awaitable[T]) -> tuple[T | None, str]:
    """The answer, or None and the reason why there is none within `ASK_WAIT_S`."""
    try:
        async with asyncio.timeout(ASK_WAIT_S):
            return await asking, ""
    except TimeoutError:
        return None, f"no answer within {ASK_WAIT_S} s"
    except TracebilityError as error:
        return None, str(error)
