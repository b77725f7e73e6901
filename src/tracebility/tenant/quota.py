"""What an org may use of each meter in a period, and what it has used: reserved before the answer, settled later.

The hot counter is what the data plane had at a watermark, and what was reserved in each slot after it. `admit.lua`
adds to a slot, `settle.lua` replaces all slots up to a new watermark by what the data plane says of them: nothing
that is under way is lost, and nothing counts twice.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, Protocol
from uuid import UUID

from tracebility.ids import OrgId
from tracebility.tenant.context import MeterLimit, TenantContext
from tracebility.tenant.redis_keys import key, shared_key
from tracebility.tenant.resends import mark_key
from tracebility.tenant.scripts import REFUND, SETTLE, HotStore

SPANS, BYTES = "spans", "bytes"
METERS = (SPANS, BYTES)
UNLIMITED = -1

# Usage of a period is of no use after it has ended and its stragglers are settled.
USAGE_LIFE_MS = 40 * 86_400 * 1000

# While usage cannot be known, an org gets so much more of a meter at most.
LOCAL_SHARE = 0.01
LOCAL_MOST = {SPANS: 10_000, BYTES: 10_000 * 4096}
LOCAL_ORGS = 10_000

# What is reserved is counted by slots of time; a settlement replaces whole ones.
SLOT_US = 5_000_000

# Whose usage has changed, by `metered_member`, each with the milliseconds at which that was last said.
METERED = shared_key("metered")
# The ingest processes, each with the milliseconds of its last beat.
EDGES = shared_key("edges")
# Bytes in the disk buffer of each of them, also of those that are gone.
DISK_BUFFERS = shared_key("spools")
# The slot of the oldest envelope in each disk buffer that holds one, and the milliseconds at which that was last said.
OLDEST_BUFFERED = shared_key("oldest_spooled")


class Usage(NamedTuple):
    """What an org has used in a period up to a watermark, the last slot of which it is all; 0 is none."""

    watermark: int
    used: Mapping[str, int]


class UsageStore(Protocol):
    """Where usage is told from when the hot counter does not know it."""

    async def usage(self, org_id: OrgId, period: str) -> Usage:
        """As last settled.

        Raises:
            StoreUnavailable: when the store does not answer.
        """


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request would use, stamped once: its envelopes carry the same time and period."""

    accepted_at_us: int
    period: str
    body: str  # digest of the body and of where it goes (`resends.digest`)
    quantities: Mapping[str, int]

    @property
    def slot(self) -> int:
        """Slots since 1970."""
        return self.accepted_at_us // SLOT_US


@lru_cache(maxsize=10_000)
def usage_key(org_id: OrgId, period: str) -> str:
    """Where the hot counter of a period is."""
    return key(org_id, "usage", period)


def metered_member(org_id: UUID, period: str) -> str:
    """A member of `METERED`."""
    return f"{org_id}|{period}"


def hard_limit(tenant: TenantContext, meter: str) -> int | None:
    """What the plan allows of a meter; None for any amount."""
    limit = tenant.allowance.meters.get(meter)
    return None if limit is None else limit.hard


def resets_at(period: str) -> datetime:
    """When a period ends: the first moment of the month after it, UTC."""
    year, month = map(int, period.split("-"))
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)


class QuotaMeter:
    """Changes of the hot counter other than letting a request in."""

    def __init__(self, hot: HotStore) -> None:
        self._hot = hot

    async def settle(self, org_id: OrgId, period: str, usage: Usage) -> bool:
        """Replace what is counted up to the watermark; False when one that is as late was there before."""
        said = [part for meter in METERS for part in (meter, usage.used.get(meter, 0))]
        arguments = [usage.watermark, USAGE_LIFE_MS, *said]
        return bool(await self._hot.run(SETTLE, [usage_key(org_id, period)], arguments))

    async def refund(self, tenant: TenantContext, claim: Claim, token: str, slot: int) -> bool:
        """Give back what was counted in ``slot`` and not kept; False when a later attempt has taken it over."""
        keys = [usage_key(tenant.org_id, claim.period), mark_key(tenant.org_id, claim.body)]
        said = [part for meter, quantity in claim.quantities.items() for part in (meter, quantity)]
        return bool(await self._hot.run(REFUND, keys, [token, slot, *said]))


@dataclass(slots=True)
class _Lent:
    """What an org was lent, up to a slot."""

    slot: int = 0
    quantities: dict[str, int] = field(default_factory=dict)


class LocalQuotas:
    """What this process lets in of each meter while usage is unknown: a little, and nothing of who was over it."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[OrgId, str], dict[str, int]] = OrderedDict()
        self._lent: dict[tuple[OrgId, str], _Lent] = {}

    def learn(self, org_id: OrgId, period: str, usage: Usage) -> None:
        """Usage is known. What was lent is in it once its watermark has passed that, and is remembered until then:
        a store that comes and goes lends no more than one that is away.
        """
        at = (org_id, period)
        lent = self._lent.get(at)
        if lent is not None and usage.watermark >= lent.slot:
            del self._lent[at]
        self._known[at] = dict(usage.used)
        self._known.move_to_end(at)
        if len(self._known) > LOCAL_ORGS:
            self._known.popitem(last=False)

    def refusing(self, org_id: OrgId, claim: Claim, limits: Mapping[str, MeterLimit]) -> tuple[str, int] | None:
        """The meter that has no room for ``claim``, and what is used of it; None when it is let in, and counted."""
        at = (org_id, claim.period)
        known, lent = self._known.get(at, {}), self._lent.setdefault(at, _Lent())
        for meter, quantity in claim.quantities.items():
            limit = limits.get(meter)
            if limit is None or limit.hard is None:
                continue
            used = known.get(meter, 0)
            room = min(int(limit.hard * LOCAL_SHARE), LOCAL_MOST[meter], limit.hard - used)
            if lent.quantities.get(meter, 0) + quantity > room:
                return meter, used + lent.quantities.get(meter, 0)
        lent.slot = max(lent.slot, claim.slot)
        for meter, quantity in claim.quantities.items():
            lent.quantities[meter] = lent.quantities.get(meter, 0) + quantity
        return None
