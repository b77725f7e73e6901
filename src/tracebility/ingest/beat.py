"""What an ingest process says every other second: that it is there, and whose requests it let in since."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from tracebility.errors import StoreUnavailable
from tracebility.tenant.admission import Admission
from tracebility.tenant.quota import EDGES, METERED, SPOOLS
from tracebility.tenant.scripts import HotStore

BEAT_S = 2.0
# Who has been silent for so long is gone.
SILENT_MS = 10_000


class Beat:
    """The beat of one process, and how many there are by the last one that was heard."""

    def __init__(self, hot: HotStore, name: str, spooled: Callable[[], int]) -> None:
        self._hot = hot
        self._name = name  # the same after a restart, as the disk buffer is
        self._spooled = spooled
        self.processes = 1

    async def run(self, admission: Admission) -> None:
        """Beat for ever. Cancel it to end."""
        while True:
            with suppress(StoreUnavailable):
                await self.once(admission)
            await asyncio.sleep(BEAT_S)

    async def once(self, admission: Admission) -> None:
        """One beat.

        Raises:
            StoreUnavailable: when Redis is away; what was to be said is said with the next.
        """
        now_ms = time.time_ns() // 1_000_000
        touched = sorted(admission.touched)
        if touched:
            await self._hot.command("ZADD", METERED, *(part for member in touched for part in (now_ms, member)))
            admission.touched.difference_update(touched)
        await self._hot.command("ZADD", EDGES, now_ms, self._name)
        await self._hot.command("HSET", SPOOLS, self._name, self._spooled())
        await self._hot.command("ZREMRANGEBYSCORE", EDGES, "-inf", now_ms - SILENT_MS)
        self.processes = int(await self._hot.command("ZCARD", EDGES))
