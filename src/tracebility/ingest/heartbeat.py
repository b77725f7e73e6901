"""The heartbeat of an ingest process: every 2 s it reports that it lives, what its disk buffer holds, and whose usage
changed.
"""

import asyncio
import time
from contextlib import suppress

from tracebility.errors import StoreUnavailable
from tracebility.ingest.disk_buffer.buffer import DiskBuffer
from tracebility.tenant.admission import Admission
from tracebility.tenant.quota import DISK_BUFFERS, EDGES, METERED, OLDEST_BUFFERED, SLOT_US
from tracebility.tenant.scripts import SET_FIELD, TOUCH, ControlStore

PERIOD_S = 2.0
# A process without a heartbeat for so long is gone.
SILENT_MS = 10_000


class Heartbeat:
    """The heartbeat of one process. ``processes`` is how many ingest processes there were at the last one."""

    def __init__(self, hot: ControlStore, name: str, disk_buffer: DiskBuffer) -> None:
        self._hot = hot
        self._name = name  # the same after a restart, as the disk buffer is
        self._disk_buffer = disk_buffer
        self.processes = 1

    async def run(self, admission: Admission) -> None:
        """Report until cancelled; then report once more what the disk buffer still holds."""
        try:
            while True:
                with suppress(StoreUnavailable):
                    await self.once(admission)
                await asyncio.sleep(PERIOD_S)
        finally:
            with suppress(StoreUnavailable):
                await self._report_oldest()

    async def once(self, admission: Admission) -> None:
        """Report now. By scripts, which Redis runs also when its memory is full: disk buffers fill just then.

        Raises:
            StoreUnavailable: when Redis is away; the next heartbeat reports the same.
        """
        await self._report_oldest()
        now_ms = time.time_ns() // 1_000_000
        touched = sorted(admission.touched)
        if touched:
            await self._hot.run(TOUCH, [METERED], [now_ms, *touched])
            admission.touched.difference_update(touched)
        await self._hot.run(TOUCH, [EDGES], [now_ms, self._name])
        await self._hot.run(SET_FIELD, [DISK_BUFFERS], [self._name, self._disk_buffer.held_bytes])
        await self._hot.command("ZREMRANGEBYSCORE", EDGES, "-inf", now_ms - SILENT_MS)
        self.processes = int(await self._hot.command("ZCARD", EDGES))

    async def _report_oldest(self) -> None:
        """Tell the settlement of usage how old the oldest envelope on disk is: it holds the watermark."""
        oldest_us = self._disk_buffer.oldest_us
        said = "" if oldest_us is None else f"{oldest_us // SLOT_US}|{time.time_ns() // 1_000_000}"
        await self._hot.run(SET_FIELD, [OLDEST_BUFFERED], [self._name, said])
