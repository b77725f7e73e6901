"""Checks the over-quota flag, for envelopes that were admitted without a quota check. Cached for a second."""

import time
from uuid import UUID

from tracebility.errors import StoreUnavailable
from tracebility.ids import OrgId
from tracebility.tenant.redis_keys import over_flag
from tracebility.tenant.scripts import ControlStore

KNOWN_FOR_S = 1.0
# Cached answers; the cache is cleared when it is full.
MAX_KNOWN = 10_000


class OverQuota:
    """Tells whether an org is over its quota. If the flag cannot be read, assumes that it is not."""

    def __init__(self, hot: ControlStore) -> None:
        self._hot = hot
        self._known: dict[tuple[UUID, str], tuple[float, bool]] = {}

    async def is_over(self, org_id: UUID, period: str) -> bool:
        """Whether envelopes of this org and period without a reservation must be dropped."""
        at = (org_id, period)
        asked_at, is_over = self._known.get(at, (-KNOWN_FOR_S, False))
        if time.monotonic() - asked_at < KNOWN_FOR_S:
            return is_over
        try:
            is_over = bool(await self._hot.command("EXISTS", over_flag(OrgId(org_id), period)))
        except StoreUnavailable:
            return False
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        self._known[at] = (time.monotonic(), is_over)
        return is_over
