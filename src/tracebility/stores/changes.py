"""Distributes changes of keys, orgs, plans and shards: processes poll PostgreSQL, and poll at once when notified.

A notification is an empty message on a Redis channel. It carries no data, so a lost, late or forged one costs at most
one poll. While Redis is unavailable, polling alone distributes changes.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import structlog
from redis import exceptions
from redis.asyncio import Redis

from tracebility.errors import StoreUnavailable
from tracebility.stores.key_last_used import write_last_used
from tracebility.stores.keys import CachedKeys, PostgresKeys
from tracebility.stores.postgres import Postgres
from tracebility.stores.redis_control import RedisControl
from tracebility.stores.redis_transport import open_pool
from tracebility.tenant.redis_keys import shared_key
from tracebility.tenant.resolver import Change, Resolver

CHANNEL = shared_key("changes")

# Without Redis, a change is seen within this time plus one query.
POLL_S = 2.0
# The minimum time between polls, however many notifications arrive.
MIN_POLL_S = 0.02
# Revision numbers are assigned before the commit, so a change that is committed now may be as old as the longest
# transaction, such as one that revokes all keys of a large project.
OVERLAP_S = 300.0
# Redis caches key records for a minute, so a starting process needs no changes older than both together.
START_LOOKBACK_S = OVERLAP_S + 60.0
# A silent subscription is pinged after this time, and reconnected if it does not answer.
SUBSCRIPTION_SILENCE_S = 2.0

_log = structlog.get_logger()


async def notify(hot: RedisControl) -> None:
    """Make every process poll now. The change must be committed. Without Redis, processes see it at their next poll."""
    with suppress(StoreUnavailable):
        await hot.command("PUBLISH", CHANNEL, "")


def notifier(hot: RedisControl) -> Callable[[], Awaitable[None]]:
    """Return `notify` bound to ``hot``, for callers that should have no other access to Redis."""

    async def announce() -> None:
        await notify(hot)

    return announce


class Changes:
    """Polls for changes and passes them to ``changed``, for one process."""

    def __init__(self, postgres: Postgres, redis_url: str, changed: Callable[[Change], None]) -> None:
        self._postgres = postgres
        self._redis_url = redis_url
        self._changed = changed
        self._notified = asyncio.Event()
        self._polled_at: float | None = None

    async def poll(self) -> None:
        """Poll for changes since the last poll.

        Raises:
            StoreUnavailable: when PostgreSQL does not answer.
        """
        began = time.monotonic()
        back_s = START_LOOKBACK_S if self._polled_at is None else began - self._polled_at + OVERLAP_S
        rows = await self._postgres.fetch("tenant_changes", back_s)
        self._polled_at = began
        for row in rows:
            self._changed(Change(row["rev"], row["kind"], row["id"]))

    async def run(self) -> None:
        """Poll until cancelled."""
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                self._notified.clear()
                try:
                    await self.poll()
                except StoreUnavailable as error:
                    _log.warning("polling for changes of keys and plans failed", reason=str(error))
                except Exception:  # noqa: BLE001  (without polling, this process would go on accepting revoked keys)
                    _log.exception("polling for changes of keys and plans failed")
                await asyncio.sleep(MIN_POLL_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._notified.wait()
        finally:
            listening.cancel()

    async def _listen(self) -> None:
        while True:
            # Cluster nodes forward messages to each other, so any node will do.
            pool = open_pool(self._redis_url)
            subscription = Redis(connection_pool=pool).pubsub()
            try:
                await subscription.subscribe(CHANNEL)
                self._notified.set()  # poll for changes missed while not subscribed
                unanswered = False
                while True:
                    message = await subscription.get_message(timeout=SUBSCRIPTION_SILENCE_S)
                    if message is not None:
                        unanswered = False
                        if message["type"] == "message":
                            self._notified.set()
                    elif unanswered:
                        break
                    else:
                        async with asyncio.timeout(SUBSCRIPTION_SILENCE_S):
                            await subscription.ping()
                        unanswered = True
            except Exception as error:  # noqa: BLE001
                _log.warning(
                    "no change notifications from Redis, relying on polling", reason=str(error) or type(error).__name__
                )
            finally:
                with suppress(exceptions.RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(SUBSCRIPTION_SILENCE_S):
                        await subscription.aclose()  # type: ignore[no-untyped-call]
                        await pool.disconnect()
            await asyncio.sleep(POLL_S / 2)


@asynccontextmanager
async def resolving(
    postgres: Postgres, hot: RedisControl, redis_url: str, *others: Callable[[Change], None]
) -> AsyncIterator[Resolver]:
    """Provide a resolver that receives every change while the block runs. ``others`` receive the same changes."""
    resolver: Resolver
    resolver = Resolver(CachedKeys(PostgresKeys(postgres), hot, lambda record: resolver.is_outdated(record)))

    def changed(change: Change) -> None:
        for tell in (resolver.changed, *others):
            tell(change)

    changes = Changes(postgres, redis_url, changed)
    # Poll before the first look-up, because Redis may hold outdated records. Without PostgreSQL they are used anyway.
    with suppress(StoreUnavailable):
        await changes.poll()
    tasks = [asyncio.create_task(changes.run()), asyncio.create_task(write_last_used(resolver, postgres))]
    try:
        yield resolver
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
