"""Access to the engine: shared by statements, exclusive while it is restarted with other row policies."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self, TypeVar

from tracebility_engine import policies, server_config
from tracebility_engine.engine import Engine, EngineError
from tracebility_engine.footprint import give_back_library_pages
from tracebility_engine.policies import Policies
from tracebility_engine.sessions import Sessions
from tracebility_engine.settings import DATABASE, FrontSettings

_T = TypeVar("_T")

# Sized for two cores: more threads would only wait inside the engine. Inserts have their own threads, so that slow
# reads never delay the worker.
READ_THREADS = 12
WRITE_THREADS = 6
# For kills, which must run while all other threads are busy, and for waiting until a killed query has ended.
CONTROL_THREADS = 2
CLOSING_THREADS = 8
# How long the process waits at its end for statements whose requests are gone.
RESTART_PATIENCE_S = 20.0
_POLL_S = 0.01
# How long a tenant's read waits for running statements when the row policies must be renewed; then it is refused.
RENEW_PATIENCE_S = 2.0
TOO_MANY_QUERIES = 202
# Disk space that inserts leave free for merges and deletions.
LEAST_FREE_BYTES = 32 << 20
NOT_ENOUGH_SPACE = 243


class Stuck(Exception):
    """Killed queries still hold threads or the engine. Only a new process helps."""


class EngineHost:
    """The engine, its threads, and the policies that it was started with."""

    def __init__(self, settings: FrontSettings) -> None:
        self._settings = settings
        self._memory = settings.data_dir / "config" / "policies.json"
        self._installed = _remembered(self._memory)
        self._stale = False
        self._changing = 0
        self._users = 0
        self._exclusive = False
        self._change = asyncio.Condition()
        self.reads = ThreadPoolExecutor(READ_THREADS, "read")
        self.writes = ThreadPoolExecutor(WRITE_THREADS, "write")
        self.control = ThreadPoolExecutor(CONTROL_THREADS, "control")
        self.closing = ThreadPoolExecutor(CLOSING_THREADS, "closing")
        self.sessions = Sessions()
        self.engine = self._start()

    @classmethod
    async def open(cls, settings: FrontSettings) -> Self:
        """Start the engine, with the policies that its tables call for."""
        host = cls(settings)
        host.engine.open_and_run(f"CREATE DATABASE IF NOT EXISTS {DATABASE} ENGINE = Atomic")
        wanted = policies.wanted(host.engine)
        if not host._installed.covers(wanted) or host._installed.breaks(wanted):
            host._restart(wanted)
        return host

    @asynccontextmanager
    async def use(self, *, changes_tables: bool, sees_all: bool) -> AsyncIterator[Engine]:
        """The engine, for one statement.

        Args:
            changes_tables: afterwards the policies are compared with the tables.
            sees_all: False for a session that a policy must bind: it waits until every table has the right one.
        """
        await self._enter(changes_tables, sees_all)
        try:
            yield self.engine
        finally:
            await self._leave(changes_tables)

    async def give_memory_back(self) -> None:
        """Give back memory that an idle engine does not need: free heap pages and pages of the engine's library."""

        def drop() -> None:
            self.engine.open_and_run("SYSTEM JEMALLOC PURGE")
            give_back_library_pages()

        async with self.use(changes_tables=False, sees_all=True):
            await self._on_control(drop)

    def check_room(self, size: int) -> None:
        """Refuse an insert of ``size`` bytes for which the disk may be too full, before anything is begun.

        The process would have to end where a write fails (`check_disk`), and reads with it.
        """
        if shutil.disk_usage(self._settings.data_dir).free < size + LEAST_FREE_BYTES:
            raise EngineError(
                NOT_ENOUGH_SPACE,
                f"Code: {NOT_ENOUGH_SPACE}. DB::Exception: The disk is too full for an insert. (NOT_ENOUGH_SPACE)",
            )

    async def check_disk(self) -> None:
        """Check that no write of the engine has failed, such as a merge in the background.

        Raises:
            DiskFailed: it could not.
        """
        # A handle that is open while the engine is started anew would keep the old one, and its policies, alive.
        async with self.use(changes_tables=False, sees_all=True) as engine:
            await self._on_control(engine.check_disk)

    async def close(self) -> None:
        """Stop the engine once the statements on its threads have ended."""
        for pool in (self.reads, self.writes, self.control, self.closing):
            pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.get_running_loop().run_in_executor(None, self.engine.close)

    async def _enter(self, changes_tables: bool, sees_all: bool) -> None:
        async with self._change:
            while True:
                await self._change.wait_for(lambda: not self._exclusive and (sees_all or not self._changing))
                if sees_all or not self._stale:
                    break
                await self._renew(RENEW_PATIENCE_S)
            self._users += 1
            self._changing += changes_tables

    async def _leave(self, changes_tables: bool) -> None:
        async with self._change:
            self._users -= 1
            if changes_tables:
                wanted = await self._on_control(lambda: policies.wanted(self.engine))
                self._changing -= 1
                self._stale = not self._installed.covers(wanted)
                if self._installed.breaks(wanted) and not self._exclusive:
                    await self._renew(None)
            self._change.notify_all()

    async def _renew(self, patience_s: float | None) -> None:
        """Start the engine anew when nothing runs on it. Holds the condition."""
        self._exclusive = True
        try:
            await asyncio.wait_for(self._change.wait_for(lambda: not self._users), patience_s)
            await self._on_control(lambda: self._restart(policies.wanted(self.engine)))
            self._stale = False
        except TimeoutError:
            raise EngineError(
                TOO_MANY_QUERIES,
                f"Code: {TOO_MANY_QUERIES}. DB::Exception: Tables are being changed; try again. "
                "(TOO_MANY_SIMULTANEOUS_QUERIES)",
            ) from None
        finally:
            self._exclusive = False
            self._change.notify_all()

    async def _on_control(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self.control, call)

    def _restart(self, wanted: Policies) -> None:
        for handle in self.sessions.take_all():
            handle.close()
        # One open handle would keep the engine, and its old policies, alive.
        patience = time.monotonic() + RESTART_PATIENCE_S
        while self.engine.handles > 1:
            if time.monotonic() > patience:
                raise Stuck
            time.sleep(_POLL_S)
        self.engine.close()
        self._installed = wanted
        self.engine = self._start()
        server_config.write_private(self._memory, json.dumps(dict(wanted.tables)))

    def _start(self) -> Engine:
        config = server_config.write(self._settings, self._installed.filters(self._settings.owner_pass))
        return Engine(self._settings.data_dir / "engine", config)


def _remembered(path: Path) -> Policies:
    try:
        return Policies(json.loads(path.read_text()))
    except (OSError, ValueError):
        return Policies()
