"""Usage of an org per meter and period: reserved in Redis before a request is answered, settled from ClickHouse later.

The counter in Redis is the usage in ClickHouse up to a watermark, plus the reservations in each time slot after it.
`admit.lua` adds to a slot. `settle.lua` advances the watermark and replaces all slots up to it by ClickHouse's figure,
so that requests in flight are neither lost nor counted twice.
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
from tracebility.tenant.scripts import REFUND, SETTLE, ControlStore

SPANS, BYTES = "spans", "bytes"
METERS = (SPANS, BYTES)
UNLIMITED = -1

# Longer than a period and the settlement of its late rows.
USAGE_LIFE_MS = 40 * 86_400 * 1000

# While usage is unknown, a process admits at most this share of an org's limit, and at most this quantity.
LOCAL_SHARE = 0.01
LOCAL_MAX = {SPANS: 10_000, BYTES: 10_000 * 4096}
LOCAL_ORGS = 10_000

# Reservations are counted per time slot; a settlement replaces whole slots.
SLOT_US = 5_000_000

# Sorted set: `metered_member` -> time (ms) at which its usage last changed.
METERED = shared_key("metered")
# Sorted set: ingest process -> time (ms) of its last heartbeat.
EDGES = shared_key("edges")
# Hash: ingest process -> bytes in its disk buffer, including processes that have ended.
DISK_BUFFERS = shared_key("spools")
# Hash: ingest process with a non-empty disk buffer -> slot of its oldest envelope, and the time (ms) of this report.
OLDEST_BUFFERED = shared_key("oldest_spooled")


class Usage(NamedTuple):
    """Usage in a period up to and including the slot ``watermark``; 0: nothing is settled yet."""

    watermark: int
    used: Mapping[str, int]


class UsageStore(Protocol):
    """Source of usage when Redis does not have it."""

    async def usage(self, org_id: OrgId, period: str) -> Usage:
        """Return the last settled usage.

        Raises:
            StoreUnavailable: when the store does not answer.
        """


@dataclass(frozen=True, slots=True)
class Claim:
    """The usage that a request claims. Its envelopes carry the same time and period."""

    accepted_at_us: int
    period: str
    body: str  # digest of the body and its destination (`resends.digest`)
    quantities: Mapping[str, int]

    @property
    def slot(self) -> int:
        """Time slot of acceptance, in slots since 1970."""
        return self.accepted_at_us // SLOT_US


@lru_cache(maxsize=10_000)
def usage_key(org_id: OrgId, period: str) -> str:
    """Redis key of an org's usage counter in a period."""
    return key(org_id, "usage", period)


def metered_member(org_id: UUID, period: str) -> str:
    """Return the member of `METERED` for an org and period."""
    return f"{org_id}|{period}"


def hard_limit(tenant: TenantContext, meter: str) -> int | None:
    """Return the hard limit of a meter; None is unlimited."""
    limit = tenant.allowance.meters.get(meter)
    return None if limit is None else limit.hard


def resets_at(period: str) -> datetime:
    """Return the end of a period: the start of the next month, UTC."""
    year, month = map(int, period.split("-"))
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)


class QuotaMeter:
    """Settles and refunds the usage counter in Redis."""

    def __init__(self, hot: ControlStore) -> None:
        self._hot = hot

    async def settle(self, org_id: OrgId, period: str, usage: Usage) -> bool:
        """Replace the usage up to the watermark; False when the counter already has this or a later watermark."""
        quantities = [part for meter in METERS for part in (meter, usage.used.get(meter, 0))]
        arguments = [usage.watermark, USAGE_LIFE_MS, *quantities]
        return bool(await self._hot.run(SETTLE, [usage_key(org_id, period)], arguments))

    async def refund(self, tenant: TenantContext, claim: Claim, token: str, slot: int) -> bool:
        """Refund usage counted in ``slot``; False when a resend of the same body has taken the reservation over."""
        keys = [usage_key(tenant.org_id, claim.period), mark_key(tenant.org_id, claim.body)]
        quantities = [part for meter, quantity in claim.quantities.items() for part in (meter, quantity)]
        return bool(await self._hot.run(REFUND, keys, [token, slot, *quantities]))


@dataclass(slots=True)
class _LocalUsage:
    """Usage that this process admitted without Redis, up to ``slot``."""

    slot: int = 0
    quantities: dict[str, int] = field(default_factory=dict)


class LocalQuotas:
    """Allowance of each org while usage is unknown; zero for orgs that were already over quota."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[OrgId, str], dict[str, int]] = OrderedDict()
        self._local: dict[tuple[OrgId, str], _LocalUsage] = {}

    def learn(self, org_id: OrgId, period: str, usage: Usage) -> None:
        """Record known usage. Local usage is kept until the watermark has passed it, so that a Redis that fails
        repeatedly does not grant the allowance repeatedly.
        """
        at = (org_id, period)
        local = self._local.get(at)
        if local is not None and usage.watermark >= local.slot:
            del self._local[at]
        self._known[at] = dict(usage.used)
        self._known.move_to_end(at)
        if len(self._known) > LOCAL_ORGS:
            self._known.popitem(last=False)

    def refusing(self, org_id: OrgId, claim: Claim, limits: Mapping[str, MeterLimit]) -> tuple[str, int] | None:
        """Return the exceeded meter and its usage, or None after counting the admitted ``claim``."""
        at = (org_id, claim.period)
        known, local = self._known.get(at, {}), self._local.setdefault(at, _LocalUsage())
        for meter, quantity in claim.quantities.items():
            limit = limits.get(meter)
            if limit is None or limit.hard is None:
                continue
            used = known.get(meter, 0)
            room = min(int(limit.hard * LOCAL_SHARE), LOCAL_MAX[meter], limit.hard - used)
            if local.quantities.get(meter, 0) + quantity > room:
                return meter, used + local.quantities.get(meter, 0)
        local.slot = max(local.slot, claim.slot)
        for meter, quantity in claim.quantities.items():
            local.quantities[meter] = local.quantities.get(meter, 0) + quantity
        return None
