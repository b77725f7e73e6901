"""A runner of migrations that ends with SIGKILL at a chosen step of a chosen file. Run in a process of its own.

``kill_at`` (file number, step, "before" or "after" the statement), ``pg_dsn`` and ``clickhouse_url`` are given to it.
"""

import asyncio
import os
import signal
from typing import Any

from tracebility.stores.migrations import data_plane, migrate

number, step_number, moment = kill_at  # type: ignore[name-defined]  # noqa: F821
run = data_plane.DataPlane._run


async def killed_run(self: Any, migration: Any, step: Any, *rest: Any) -> None:
    here = (migration.number, step.number) == (number, step_number)
    if here and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    await run(self, migration, step, *rest)
    if here:
        os.kill(os.getpid(), signal.SIGKILL)


data_plane.DataPlane._run = killed_run  # type: ignore[method-assign]
asyncio.run(migrate(pg_dsn, clickhouse_url))  # type: ignore[name-defined]  # noqa: F821
