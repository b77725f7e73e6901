"""An operator's deletions in a process of its own: every job to its end, unless a failpoint ends the process first."""

import asyncio
import sys
import time

from tracebility.deletion.metrics import DeletionMetrics
from tracebility.deletion.runner import REFUSED_S, Deleter
from tracebility.stores import clickhouse, postgres, redis_control
from tracebility.stores.queue import connect_queue
from tracebility.telemetry import Metrics


async def main(pg_dsn: str, redis_url: str, clickhouse_url: str) -> None:
    """Do what there is to do, with a clock that is past the wait for what is under way."""
    control, engine = await postgres.connect(pg_dsn), await clickhouse.connect(clickhouse_url)
    queue, control_role = await connect_queue(redis_url), await redis_control.connect(redis_url)
    metrics = DeletionMetrics(Metrics())
    await Deleter(control, engine, queue, control_role, metrics, lambda: time.time() + 2 * REFUSED_S).tick()
    for one in (control, engine, queue, control_role):
        await one.close()


asyncio.run(main(*sys.argv[1:]))
