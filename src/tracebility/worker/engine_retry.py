"""Retries a ClickHouse statement until it succeeds or the worker stops."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

import structlog

from tracebility.errors import StoreUnavailable
from tracebility.retry import Backoff, pause
from tracebility.stores.clickhouse import EngineRejected
from tracebility.worker.metrics import WorkerMetrics

BACKOFF = Backoff(first_s=0.1, longest_s=5.0)
# The engine's error texts may quote all parameters of a statement.
REASON_CHARS = 500

T = TypeVar("T")
log = structlog.get_logger()


class Stopped(Exception):
    """The worker stops while a store is unavailable; its entries stay pending in the queue."""


class EngineRetry:
    """Retries calls of the engine with backoff."""

    def __init__(self, metrics: WorkerMetrics, stop: asyncio.Event) -> None:
        self._metrics = metrics
        self.stop = stop

    async def until_answered(self, call: Callable[[], Awaitable[T]], given_up: Collection[int] = ()) -> T:
        """Retry ``call`` until it succeeds, and return its result.

        Rejections are retried too, except those with a code in ``given_up``: an engine that cannot start a thread or
        open a file rejects every statement, with codes that cannot be listed.

        Raises:
            EngineRejected: when the engine rejects the statement with a code in ``given_up``.
            Stopped: when the worker stops before the call succeeds.
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
        """Wait before the next attempt.

        Raises:
            Stopped: when the worker stops.
        """
        self._metrics.waits.labels("clickhouse").inc()
        if tries == 1 or tries % 20 == 0:
            log.warning("ClickHouse does not accept a statement; retrying", tries=tries, reason=brief(error))
        await pause(self.stop, BACKOFF.delay_s(tries))
        if self.stop.is_set():
            raise Stopped


def brief(error: Exception) -> str:
    """Return the error's text, truncated."""
    text = str(error)
    return text if len(text) <= REASON_CHARS else f"{text[:REASON_CHARS]} ... ({len(text)} characters)"
