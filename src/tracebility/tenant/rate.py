"""Request rate limits of an org (over all its keys and routes) and of a key, by GCRA.

GCRA (generic cell rate algorithm, ITU-T I.371) stores one number per limit: the time at which the full burst is
available again. In any window it admits at most burst + rate x window requests.
"""

from collections import OrderedDict
from functools import lru_cache
from math import ceil

from tracebility.ids import OrgId, PublicKeyId
from tracebility.tenant.context import Rate, TenantContext
from tracebility.tenant.redis_keys import key

MICROS = 1_000_000
# The interval is a whole number of microseconds, so higher rates cannot be expressed.
MAX_REQUESTS_PER_S = 1_000_000

MIN_RETRY_S, MAX_RETRY_S = 1, 5

# Orgs whose requests this process counts while Redis is unavailable.
LOCAL_ORGS = 10_000


def interval_us(rate: Rate) -> int:
    """Microseconds per request, rounded up so that the rate is never exceeded."""
    return -(-MICROS // rate.requests_per_s)


def rate_keys(tenant: TenantContext) -> tuple[str, str]:
    """Redis keys of the org's and of the key's rate state."""
    return _rate_keys(tenant.org_id, tenant.key_id)


@lru_cache(maxsize=10_000)
def _rate_keys(org_id: OrgId, key_id: PublicKeyId) -> tuple[str, str]:
    return key(org_id, "rate"), key(org_id, "rate", key_id)


def rate_arguments(tenant: TenantContext) -> tuple[int, int, int, int]:
    """Interval (us) and burst of the org, then of the key; 0 where there is no limit."""
    return (*_arguments(tenant.allowance.rate), *_arguments(tenant.allowance.key_rate))


def retry_after_s(wait_us: float) -> int:
    """Seconds for ``Retry-After``: rounded up, 1 to 5."""
    return min(max(ceil(wait_us / MICROS), MIN_RETRY_S), MAX_RETRY_S)


def _arguments(rate: Rate | None) -> tuple[int, int]:
    return (0, 0) if rate is None else (interval_us(rate), rate.burst)


class LocalRates:
    """Rate limits while Redis is unavailable: each process admits its share of each org's rate."""

    def __init__(self) -> None:
        self._ends: OrderedDict[OrgId, float] = OrderedDict()

    def wait_us(self, org_id: OrgId, rate: Rate, processes: int, now_us: float) -> float:
        """Return 0 and count the request, or return the microseconds that the org must wait."""
        interval = interval_us(rate) * processes
        most = now_us + interval * max(rate.burst / processes, 1)
        end = min(max(self._ends.get(org_id, 0.0), now_us), most) + interval
        if end > most:
            return end - most
        self._ends[org_id] = end
        self._ends.move_to_end(org_id)
        if len(self._ends) > LOCAL_ORGS:
            self._ends.popitem(last=False)
        return 0.0
