"""Waits for what an api in the test's own process writes after it has answered."""

import asyncio

from tracebility.audit.access_log import AccessLog


async def refusals_written() -> None:
    """Return when the lines of all refusals until now are in the trail, or cannot be."""
    denied = AccessLog.denied.__code__
    tasks = [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "cr_code", None) is denied]
    await asyncio.gather(*tasks)
