"""One leader among the operators: whoever holds an advisory lock of the control plane, on a connection of its own.

The lock goes with the connection, so it is free the moment its holder dies, and soon after it has begun to hang. A
holder that was cut off may not know yet: what it writes carries its fencing number, which is no longer the current one.
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
# A standby looks this often; a leader finds out within two of them that it was cut off without a word.
LOOK_EVERY_S = 1.0
ANSWER_WAIT_S = 3.0
# A leader of which nothing was heard for so long hangs, connection and all; a standby ends it.
SILENT_S = 8.0
# The server gives up a holder whose machine is gone after 5 + 3 * 3 s of silence.
_KEEPALIVE = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "3", "tcp_keepalives_count": "3"}


@dataclass(frozen=True, slots=True)
class Lease:
    """One time of leading. ``lost`` is set when it is over, whatever the reason."""

    fence: int
    lost: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def leading(dsn: str, name: str) -> AsyncIterator[Lease]:
    """Wait until this process leads, and lead until the end of the block, or until ``lost``.

    Raises:
        StoreUnavailable: when the control plane does not answer, before the block begins.
    """
    connection = await _connect(dsn)
    watching: asyncio.Task[None] | None = None
    try:
        with translated():
            while not await connection.fetchval(query("try_lead"), LOCK, timeout=ANSWER_WAIT_S):
                await connection.fetch(query("depose_the_silent"), LOCK, SILENT_S, timeout=ANSWER_WAIT_S)
                await asyncio.sleep(LOOK_EVERY_S)
            lease = Lease(await connection.fetchval(query("begin_to_lead"), name, timeout=ANSWER_WAIT_S))
        connection.add_termination_listener(lambda _: lease.lost.set())
        watching = asyncio.create_task(_watch(connection, lease))
        yield lease
    finally:
        if watching is not None:
            watching.cancel()
        connection.terminate()  # and with it the lock, whatever state it is in


async def _connect(dsn: str) -> Any:
    with translated():
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={"application_name": "tracebility operator", **_KEEPALIVE},
        )


async def _watch(connection: Any, lease: Lease) -> None:
    """Say that it is over when the connection, or the fencing number, is no longer ours."""
    try:
        with translated():
            while await connection.fetchval(query("fence_now"), timeout=ANSWER_WAIT_S) == lease.fence:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_EVERY_S)
    except StoreUnavailable:
        pass
    finally:
        lease.lost.set()
