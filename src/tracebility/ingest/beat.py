"""What an ingest process says every other second: that it is there, what it holds, and whom it let in since."""

import asyncio
import time
from contextlib import suppress

from tracebility.errors import StoreUnavailable
from tracebility.ingest.spool.buffer import Spool
from tracebility.tenant.admission import Admission
from tracebility.tenant.quota import BUFFER_BYTES, EDGES, METERED, OLDEST_BUFFERED, SLOT_US
from tracebility.tenant.scripts import SET_FIELD, TOUCH, ControlStore

BEAT_S = 2.0
# Who has been silent for so long is gone.
SILENT_MS = 10_000


class Beat:
    """The beat of one process, and how many there are by the last one that was heard."""

    def __init__(self, hot: ControlStore, name: str, spool: Spool) -> None:
        self._hot = hot
        self._name = name  # the same after a restart, as the disk buffer is
        self._spool = spool
        self.processes = 1

    async def run(self, admission: Admission) -> None:
        """Beat for ever. Cancel it to end, when nothing comes or goes any more: what is left is said then."""
        try:
            while True:
                with suppress(StoreUnavailable):
                    await self.once(admission)
                await asyncio.sleep(BEAT_S)
        finally:
            with suppress(StoreUnavailable):
                await self._say_oldest()

    async def once(self, admission: Admission) -> None:
        """One beat. By scripts, which are taken also when Redis is full: just then disk buffers fill.

        Raises:
            StoreUnavailable: when Redis is away; what was to be said is said with the next.
        """
        await self._say_oldest()
        now_ms = time.time_ns() // 1_000_000
        touched = sorted(admission.touched)
        if touched:
            await self._hot.run(TOUCH, [METERED], [now_ms, *touched])
            admission.touched.difference_update(touched)
        await self._hot.run(TOUCH, [EDGES], [now_ms, self._name])
        await self._hot.run(SET_FIELD, [BUFFER_BYTES], [self._name, self._spool.held_bytes])
        await self._hot.command("ZREMRANGEBYSCORE", EDGES, "-inf", now_ms - SILENT_MS)
        self.processes = int(await self._hot.command("ZCARD", EDGES))

    async def _say_oldest(self) -> None:
        """Also when Redis is full: just then envelopes go to disk, and the settlement must know of it."""
        oldest_us = self._spool.oldest_us
        said = "" if oldest_us is None else f"{oldest_us // SLOT_US}|{time.time_ns() // 1_000_000}"
        await self._hot.run(SET_FIELD, [OLDEST_BUFFERED], [self._name, said])
