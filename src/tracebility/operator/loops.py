"""Schedules the periodic loops of the leading operator. A failed tick does not end its loop.

The leader records the result of each loop in PostgreSQL. A loop reads its next due time from there, so that a daily
loop runs once a day however often the operator is restarted.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from tracebility.config import redact
from tracebility.errors import StoreUnavailable
from tracebility.operator.metrics import OperatorMetrics
from tracebility.stores.leader import Lease
from tracebility.stores.postgres import Postgres

# A failed tick is retried after the loop's period, but at most after this.
MAX_RETRY_S = 300.0
# Results are recorded at most this often, because each record is a write to disk.
RECORD_EVERY_S = 5.0
ERROR_CHARS = 500
CANCEL_AGAIN_S = 0.5

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loop:
    """A task that runs every ``period_s`` seconds. ``tick`` receives the leader's fencing number."""

    name: str
    period_s: float
    tick: Callable[[int], Awaitable[object]]


async def run(loops: Sequence[Loop], lease: Lease, control: Postgres, metrics: OperatorMetrics) -> None:
    """Run ``loops`` concurrently until the lease is lost or this is cancelled."""
    running = [asyncio.create_task(_keep(loop, lease, control, metrics), name=loop.name) for loop in loops]
    try:
        await lease.lost.wait()
    finally:
        # asyncpg replaces a cancellation by a TimeoutError where the server hangs, so a loop may miss the first one.
        while living := [task for task in running if not task.done()]:
            for task in living:
                task.cancel()
            await asyncio.wait(living, timeout=CANCEL_AGAIN_S)


async def run_once(loop: Loop, control: Postgres) -> object:
    """Run one tick for a command and return its result. On success, the loop is next due a period later."""
    began = time.monotonic()
    fence: int = await control.fetchval("current_fence")
    given = await loop.tick(fence)
    await control.execute("record_loop", loop.name, time.monotonic() - began, "", fence)
    return given


async def _keep(loop: Loop, lease: Lease, control: Postgres, metrics: OperatorMetrics) -> None:
    wait_s = await _initial_wait(loop, control)
    metrics.failures.labels(loop.name)
    recorded_at, recorded = float("-inf"), ""
    due_at = time.monotonic() + wait_s
    while True:
        await asyncio.sleep(wait_s)
        began = time.monotonic()
        metrics.lag.labels(loop.name).set(max(began - due_at, 0.0))
        error = await _tick(loop, lease, metrics)
        now = time.monotonic()
        metrics.seconds.labels(loop.name).set(now - began)
        if error:
            metrics.failures.labels(loop.name).inc()
        else:
            metrics.last_success.labels(loop.name).set_to_current_time()
            due_at = began + loop.period_s
        if error != recorded or now - recorded_at >= RECORD_EVERY_S:
            recorded_at, recorded = now, error
            await _record(loop, lease, control, now - began, error)
        wait_s = min(loop.period_s, MAX_RETRY_S) if error else loop.period_s
        wait_s = max(wait_s - (now - began), 0)


async def _tick(loop: Loop, lease: Lease, metrics: OperatorMetrics) -> str:
    """Run a tick. Returns the error, or an empty string on success."""
    try:
        await loop.tick(lease.fence)
    except StoreUnavailable as away:
        error = str(away)
        log.warning("a tick failed and will be retried", loop=loop.name, reason=redact(error))
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
        log.error("a tick failed and will be retried", loop=loop.name, exc_info=True)
    else:
        return ""
    return redact(error)[:ERROR_CHARS]


async def _record(loop: Loop, lease: Lease, control: Postgres, duration_s: float, error: str) -> None:
    try:
        tag = await control.execute("record_loop", loop.name, duration_s, error, lease.fence)
    except Exception as failure:  # noqa: BLE001 - a failed record must not end the loop
        log.warning("the result of a tick could not be recorded", loop=loop.name, reason=redact(str(failure)))
        return
    if tag.endswith(" 0"):
        log.warning("another operator leads now", loop=loop.name, fence=lease.fence)
        lease.lost.set()


async def _initial_wait(loop: Loop, control: Postgres) -> float:
    """Return the seconds until the loop is due; 0 when its last success is unknown."""
    try:
        age_s: float | None = await control.fetchval("age_of_loop", loop.name)
    except Exception as failure:  # noqa: BLE001 - the loop is then due now
        log.warning("the last success of a loop could not be read", loop=loop.name, reason=redact(str(failure)))
        age_s = None
    return 0.0 if age_s is None else min(max(loop.period_s - age_s, 0.0), loop.period_s)
