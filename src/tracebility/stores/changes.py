"""How processes hear of what changed: they ask the control plane every other second, and at once when they are nudged.

A nudge is an empty message on a channel of Redis. It says nothing that could be wrong, so a lost, late or forged one
costs a question; with Redis away changes are heard of by asking alone.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import structlog
from redis import exceptions
from redis.asyncio import Redis

from tracebility.errors import StoreUnavailable
from tracebility.stores.key_last_used import write_uses_down
from tracebility.stores.keys import CachedKeys, PostgresKeys
from tracebility.stores.postgres import Postgres
from tracebility.stores.redis_control import Hot
from tracebility.stores.redis_transport import open_pool
from tracebility.tenant.redis_keys import shared_key
from tracebility.tenant.resolver import Change, Resolver

CHANNEL = shared_key("changes")

# With Redis away a change is heard of after this at the latest, and what it takes to ask.
ASK_EVERY_S = 2.0
# However many nudges come.
ASK_AT_MOST_EVERY_S = 0.02
# Numbers are given before the commit, so what is committed now may be as old as the longest transaction, such as one
# that revokes all keys of a large project.
OVERLAP_S = 300.0
# Records of keys live a minute in Redis: what is older than both is of no use to a process that starts.
AT_START_S = OVERLAP_S + 60.0
# A subscription that says nothing for so long is asked; one that does not answer is made anew.
SILENCE_S = 2.0

_log = structlog.get_logger()


async def nudge(hot: Hot) -> None:
    """Have every process ask now. The change is committed already: where Redis is away, they find it by themselves."""
    with suppress(StoreUnavailable):
        await hot.command("PUBLISH", CHANNEL, "")


def announcer(hot: Hot) -> Callable[[], Awaitable[None]]:
    """`nudge`, for who is to have nothing else of the store."""

    async def announce() -> None:
        await nudge(hot)

    return announce


class Changes:
    """One process's ear."""

    def __init__(self, postgres: Postgres, redis_url: str, changed: Callable[[Change], None]) -> None:
        self._postgres = postgres
        self._redis_url = redis_url
        self._changed = changed
        self._nudged = asyncio.Event()
        self._asked_at: float | None = None

    async def ask(self) -> None:
        """Hear of what has changed since it was last asked.

        Raises:
            StoreUnavailable: when the control plane does not answer.
        """
        began = time.monotonic()
        back_s = AT_START_S if self._asked_at is None else began - self._asked_at + OVERLAP_S
        rows = await self._postgres.fetch("tenant_changes", back_s)
        self._asked_at = began
        for row in rows:
            self._changed(Change(row["rev"], row["kind"], row["id"]))

    async def run(self) -> None:
        """Ask for ever. Cancel it to end."""
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                self._nudged.clear()
                try:
                    await self.ask()
                except StoreUnavailable as error:
                    _log.warning("changes cannot be asked for", reason=str(error))
                except Exception:  # noqa: BLE001  (whatever it is, who is deaf would go on with revoked keys)
                    _log.exception("changes cannot be asked for")
                await asyncio.sleep(ASK_AT_MOST_EVERY_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(ASK_EVERY_S):
                        await self._nudged.wait()
        finally:
            listening.cancel()

    async def _listen(self) -> None:
        while True:
            # Nodes of a cluster pass messages on to one another: any of them will do.
            pool = open_pool(self._redis_url)
            subscription = Redis(connection_pool=pool).pubsub()
            try:
                await subscription.subscribe(CHANNEL)
                self._nudged.set()  # what was missed meanwhile
                unanswered = False
                while True:
                    message = await subscription.get_message(timeout=SILENCE_S)
                    if message is not None:
                        unanswered = False
                        if message["type"] == "message":
                            self._nudged.set()
                    elif unanswered:
                        break
                    else:
                        async with asyncio.timeout(SILENCE_S):
                            await subscription.ping()
                        unanswered = True
            except Exception as error:  # noqa: BLE001
                _log.warning("changes are not announced; asking for them", reason=str(error) or type(error).__name__)
            finally:
                with suppress(exceptions.RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(SILENCE_S):
                        await subscription.aclose()  # type: ignore[no-untyped-call]
                        await pool.disconnect()
            await asyncio.sleep(ASK_EVERY_S / 2)


@asynccontextmanager
async def resolving(
    postgres: Postgres, hot: Hot, redis_url: str, *others: Callable[[Change], None]
) -> AsyncIterator[Resolver]:
    """A resolver behind Redis and the control plane, which hears of every change until the end of the block.

    So do ``others``, such as who keeps the shard map.
    """
    resolver: Resolver
    resolver = Resolver(CachedKeys(PostgresKeys(postgres), hot, lambda record: resolver.is_outdated(record)))

    def changed(change: Change) -> None:
        for tell in (resolver.changed, *others):
            tell(change)

    changes = Changes(postgres, redis_url, changed)
    # Before the first look-up: Redis may hold a record of before a change. With the control plane away it is used.
    with suppress(StoreUnavailable):
        await changes.ask()
    beside = [asyncio.create_task(changes.run()), asyncio.create_task(write_uses_down(resolver, postgres))]
    try:
        yield resolver
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
