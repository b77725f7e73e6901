"""When keys were last let in, for people who wonder which of them can go: to the minute, and cheap."""

import asyncio

import structlog

from tracebility.stores.postgres import Postgres
from tracebility.tenant.resolver import Resolver

EVERY_S = 5.0

_log = structlog.get_logger()


async def write_uses_down(resolver: Resolver, postgres: Postgres) -> None:
    """Go on writing down which keys ``resolver`` let in. Cancel it to end."""
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            await write_once(resolver, postgres)
        except Exception as error:  # noqa: BLE001  (whatever it is, the next time may know nothing of it)
            _log.warning("uses of keys cannot be written down now", reason=str(error) or type(error).__name__)


async def write_once(resolver: Resolver, postgres: Postgres) -> None:
    """Write down what was let in since the last time; however many processes do, a key is written once a minute.

    Raises:
        StoreUnavailable: when the control plane does not answer. The keys are kept for the next time.
    """
    used, resolver.used = resolver.used, set()
    if not used:
        return
    try:
        await postgres.execute("key_was_used", sorted(used))
    except BaseException:
        resolver.used |= used
        raise
