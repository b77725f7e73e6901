"""Retries a statement until the engine answers, or until the worker is told to end."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

import structlog

from tracebility.errors import StoreUnavailable
from tracebility.retry import Backoff, pause
from tracebility.stores.clickhouse import EngineRejected
from tracebility.worker.metrics import WorkerMetrics

BACKOFF = Backoff(first_s=0.1, longest_s=5.0)
# What an engine says of a statement may quote all of its parameters.
REASON_CHARS = 500

T = TypeVar("T")
log = structlog.get_logger()


class Stopped(Exception):
    """The worker is to end while a store is away; what it holds stays pending in the queue."""


class EngineRetry:
    """Calls the engine until it answers."""

    def __init__(self, metrics: WorkerMetrics, stop: asyncio.Event) -> None:
        self._metrics = metrics
        self.stop = stop

    async def until_answered(self, call: Callable[[], Awaitable[T]], given_up: Collection[int] = ()) -> T:
        """What ``call`` answers, however long that takes; only a rejection by a code of ``given_up`` ends it.

        An engine that cannot start a thread or open a file rejects whatever it is asked, by codes that nobody can list.

        Raises:
            Stopped: when the worker is to end before the engine has answered.
        """
        tries = 0
        while True:
            try:
                return await call()
            except (StoreUnavailable, EngineRejected) as error:
                if isinstance(error, EngineRejected) and error.code in given_up:
                    raise
                tries += 1
                await self.wait(tries, error)

    async def wait(self, tries: int, error: Exception) -> None:
        """Wait before the next try.

        Raises:
            Stopped: when the worker is to end.
        """
        self._metrics.waits.labels("clickhouse").inc()
        if tries == 1 or tries % 20 == 0:
            log.warning("engine does not take the batch; holding it", tries=tries, reason=brief(error))
        await pause(self.stop, BACKOFF.delay_s(tries))
        if self.stop.is_set():
            raise Stopped


def brief(error: Exception) -> str:
    """What it says, or the beginning of that."""
    text = str(error)
    return text if len(text) <= REASON_CHARS else f"{text[:REASON_CHARS]} ... ({len(text)} characters)"
