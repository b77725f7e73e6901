"""Reaches for the three stores of an installation, and keeps the reason where one cannot be reached."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tracebility.embedded.installation import Located
from tracebility.errors import ConfigurationError, StoreUnavailable, TracebilityError
from tracebility.stores import clickhouse, postgres
from tracebility.stores.queue import Queue, connect_queue

REACH_WAIT_S = 1.0  # people wait for this; a store that is starting is told as such
_Client = TypeVar("_Client")


@dataclass(slots=True)
class Reached:
    """The clients of the stores that answer, and why the others do not."""

    control: postgres.Postgres | None = None
    queue: Queue | None = None
    queue_store: str = "redis"  # what its server is called here
    control_role: Queue | None = None  # Redis's other server, where the queue has its own
    engine: clickhouse.Engine | None = None
    away: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def reaching(found: Located) -> AsyncIterator[Reached]:
    """The stores of ``found``, closed at the end of the block. Never raises because one is away."""
    reached = Reached()
    async with AsyncExitStack() as stack:

        async def reach(store: str, connecting: Callable[[], Awaitable[_Client]]) -> _Client | None:
            try:
                client: Any = await connecting()
            except (ConfigurationError, StoreUnavailable) as error:
                reached.away[store] = str(error)
                return None
            stack.push_async_callback(client.close)
            opened: _Client = client
            return opened

        reached.control = await reach("postgres", lambda: postgres.connect(found.pg_dsn, wait_s=REACH_WAIT_S))
        if found.redis_stream_url:
            reached.queue_store = "redis stream"
            # The client of a queue, of which only the server is asked.
            reached.control_role = await reach("redis", lambda: connect_queue(found.redis_url, wait_s=REACH_WAIT_S))
        reached.queue = await reach(
            reached.queue_store,
            lambda: connect_queue(found.queue_url, variable=found.queue_variable, wait_s=REACH_WAIT_S),
        )
        reached.engine = await reach(
            "clickhouse", lambda: clickhouse.connect(found.clickhouse_url, wait_s=REACH_WAIT_S)
        )
        yield reached


async def tried(asking: Awaitable[_Client]) -> tuple[_Client | None, str]:
    """What ``asking`` gives, or None and why not."""
    try:
        return await asking, ""
    except TracebilityError as error:
        return None, str(error)
