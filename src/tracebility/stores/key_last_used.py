"""Records when each key was last used, to the minute, so that admins can find unused keys."""

import asyncio

import structlog

from tracebility.stores.postgres import Postgres
from tracebility.tenant.resolver import Resolver

EVERY_S = 5.0

_log = structlog.get_logger()


async def write_last_used(resolver: Resolver, postgres: Postgres) -> None:
    """Write the last-used times of ``resolver``'s keys every ``EVERY_S`` until cancelled."""
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            await write_once(resolver, postgres)
        except Exception as error:  # noqa: BLE001  (the next attempt may succeed)
            _log.warning("last-used times of keys could not be written", reason=str(error) or type(error).__name__)


async def write_once(resolver: Resolver, postgres: Postgres) -> None:
    """Write the keys used since the last call. A key is written at most once a minute over all processes.

    Raises:
        StoreUnavailable: when PostgreSQL does not answer. The keys are kept for the next call.
    """
    used, resolver.used = resolver.used, set()
    if not used:
        return
    try:
        await postgres.execute("key_was_used", sorted(used))
    except BaseException:
        resolver.used |= used
        raise
