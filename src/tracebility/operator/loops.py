"""The operator's loops: jobs that the leader repeats. A tick that fails ends no loop.

The last success and error of each loop are kept in the control plane, by the current leader only. A loop reads there
when it is due, so a daily job runs once a day however often the operator is started.
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

# A tick that failed is tried again after its period, or after this where the period is longer.
RETRY_AT_MOST_S = 300.0
# A loop that ticks every second is noted less often, because each note is written to disk.
NOTE_EVERY_S = 5.0
ERROR_CHARS = 500
CANCEL_AGAIN_S = 0.5

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loop:
    """A job of every ``period_s`` seconds. ``tick`` is given the leader's fencing number."""

    name: str
    period_s: float
    tick: Callable[[int], Awaitable[object]]


async def run(loops: Sequence[Loop], lease: Lease, control: Postgres, metrics: OperatorMetrics) -> None:
    """Run ``loops`` side by side until the lease is lost. Cancel it to end."""
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
    """Run one tick now, for a command; its result. After a success the loop is due a period later."""
    began = time.monotonic()
    fence: int = await control.fetchval("fence_now")
    given = await loop.tick(fence)
    await control.execute("note_loop", loop.name, time.monotonic() - began, "", fence)
    return given


async def _keep(loop: Loop, lease: Lease, control: Postgres, metrics: OperatorMetrics) -> None:
    wait_s = await _first_wait(loop, control)
    metrics.failures.labels(loop.name)
    noted_at, noted = float("-inf"), ""
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
        if error != noted or now - noted_at >= NOTE_EVERY_S:
            noted_at, noted = now, error
            await _note(loop, lease, control, now - began, error)
        wait_s = min(loop.period_s, RETRY_AT_MOST_S) if error else loop.period_s
        wait_s = max(wait_s - (now - began), 0)


async def _tick(loop: Loop, lease: Lease, metrics: OperatorMetrics) -> str:
    """Run one tick; why it failed, empty when it succeeded."""
    try:
        await loop.tick(lease.fence)
    except StoreUnavailable as away:
        error = str(away)
        log.warning("loop failed; it is tried again", loop=loop.name, reason=redact(error))
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
        log.error("loop failed; it is tried again", loop=loop.name, exc_info=True)
    else:
        return ""
    return redact(error)[:ERROR_CHARS]


async def _note(loop: Loop, lease: Lease, control: Postgres, duration_s: float, error: str) -> None:
    try:
        tag = await control.execute("note_loop", loop.name, duration_s, error, lease.fence)
    except Exception as failure:  # noqa: BLE001 - a note that fails must not end the loop
        log.warning("loop cannot be noted", loop=loop.name, reason=redact(str(failure)))
        return
    if tag.endswith(" 0"):
        log.warning("another operator leads", loop=loop.name, fence=lease.fence)
        lease.lost.set()


async def _first_wait(loop: Loop, control: Postgres) -> float:
    """Seconds until the loop is due; 0 when its last success is unknown."""
    try:
        age_s: float | None = await control.fetchval("age_of_loop", loop.name)
    except Exception as failure:  # noqa: BLE001 - then it is due now
        log.warning("loop's last time is not known", loop=loop.name, reason=redact(str(failure)))
        age_s = None
    return 0.0 if age_s is None else min(max(loop.period_s - age_s, 0.0), loop.period_s)
