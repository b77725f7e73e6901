"""Leader election among operators, by a PostgreSQL advisory lock on a dedicated connection.

The lock ends with the connection, so it is released as soon as its holder dies, and soon after its holder hangs. A
holder that was cut off may not know it yet; its writes carry an outdated fencing number and are refused.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from tracebility.errors import StoreUnavailable
from tracebility.stores.postgres import CONNECT_TIMEOUT_S, translated
from tracebility.stores.queries import query

# "tracelea" as a number: advisory locks have no names.
LOCK = int.from_bytes(b"tracelea", "big")
# Standbys try this often. A leader notices within two intervals that it was deposed.
POLL_S = 1.0
ANSWER_WAIT_S = 3.0
# A leader whose connection was idle for this long is hanging; a standby terminates its connection.
HUNG_AFTER_S = 8.0
# PostgreSQL drops the connection of a dead machine after 5 + 3 * 3 s.
_KEEPALIVE = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "3", "tcp_keepalives_count": "3"}


@dataclass(frozen=True, slots=True)
class Lease:
    """One term of leadership. ``lost`` is set when it ends, for whatever reason."""

    fence: int
    lost: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def leading(dsn: str, name: str) -> AsyncIterator[Lease]:
    """Wait for leadership, and hold it until the block ends or ``lost`` is set.

    Raises:
        StoreUnavailable: when PostgreSQL does not answer before the block begins.
    """
    connection = await _connect(dsn)
    watching: asyncio.Task[None] | None = None
    try:
        with translated():
            while not await connection.fetchval(query("try_lead"), LOCK, timeout=ANSWER_WAIT_S):
                await connection.fetch(query("terminate_hung_leader"), LOCK, HUNG_AFTER_S, timeout=ANSWER_WAIT_S)
                await asyncio.sleep(POLL_S)
            lease = Lease(await connection.fetchval(query("start_term"), name, timeout=ANSWER_WAIT_S))
        connection.add_termination_listener(lambda _: lease.lost.set())
        watching = asyncio.create_task(_watch(connection, lease))
        yield lease
    finally:
        if watching is not None:
            watching.cancel()
        connection.terminate()  # this also releases the lock


async def _connect(dsn: str) -> Any:
    with translated():
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={"application_name": "tracebility operator", **_KEEPALIVE},
        )


async def _watch(connection: Any, lease: Lease) -> None:
    """Set ``lost`` when the connection fails or another process has taken the fencing number."""
    try:
        with translated():
            while await connection.fetchval(query("current_fence"), timeout=ANSWER_WAIT_S) == lease.fence:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
    except StoreUnavailable:
        pass
    finally:
        lease.lost.set()
