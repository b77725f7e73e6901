"""Forks runners of migrations that end with SIGKILL at a chosen statement.

Each line of input (JSON: ``kill_at``: file, step, "before" or "after" it; ``dsns``; ``back``) is one runner; its pid
and then its exit code are answered. Forked, because importing the runner takes longer than a run.
"""

import asyncio
import json
import os
import signal
import sys
from typing import Any

from tracebility.stores.migrations import data_plane, migrate, roll_back


def run(dsns: tuple[str, str], number: int, step_number: int, moment: str, *, back: bool) -> None:
    go_on = data_plane.DataPlane._run

    async def killed(self: Any, migration: Any, step: Any, *rest: Any) -> None:
        here = (migration.number, step.number) == (number, step_number)
        if here and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await go_on(self, migration, step, *rest)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)

    data_plane.DataPlane._run = killed  # type: ignore[method-assign]
    asyncio.run(roll_back(number, *dsns) if back else migrate(*dsns))


for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
        try:
            run(request["dsns"], *request["kill_at"], back=request["back"])
        finally:
            os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
