"""How many requests an org, and a key, may send: GCRA, whose one number a limit is when the burst would be whole again.

Whatever the window, no more get in than the burst and the rate times the window. Source: ITU-T I.371, the generic cell
rate algorithm; the limits of an org hold over all of its keys and routes.
"""

from collections import OrderedDict
from functools import lru_cache
from math import ceil

from tracebility.ids import OrgId, PublicKeyId
from tracebility.tenant.context import Rate, TenantContext
from tracebility.tenant.redis_keys import key

MICROS = 1_000_000
# A rate beyond this is none: an interval is a whole number of microseconds.
MOST_REQUESTS_PER_S = 1_000_000

RETRY_LEAST_S, RETRY_MOST_S = 1, 5

# Orgs whose requests this process counts while Redis is away.
LOCAL_ORGS = 10_000


def interval_us(rate: Rate) -> int:
    """Microseconds a request costs, rounded up: never more requests than the rate."""
    return -(-MICROS // rate.requests_per_s)


def rate_keys(tenant: TenantContext) -> tuple[str, str]:
    """Where the state of an org's and of a key's rate is."""
    return _rate_keys(tenant.org_id, tenant.key_id)


@lru_cache(maxsize=10_000)
def _rate_keys(org_id: OrgId, key_id: PublicKeyId) -> tuple[str, str]:
    return key(org_id, "rate"), key(org_id, "rate", key_id)


def rate_arguments(tenant: TenantContext) -> tuple[int, int, int, int]:
    """Interval and burst of the org, then of the key; nought where there is no limit."""
    return (*_arguments(tenant.allowance.rate), *_arguments(tenant.allowance.key_rate))


def retry_after_s(wait_us: float) -> int:
    """Whole seconds to wait, within what clients stand."""
    return min(max(ceil(wait_us / MICROS), RETRY_LEAST_S), RETRY_MOST_S)


def _arguments(rate: Rate | None) -> tuple[int, int]:
    return (0, 0) if rate is None else (interval_us(rate), rate.burst)


class LocalRates:
    """The rates of this process alone, for while Redis is away: of each org's rate, the share of one process."""

    def __init__(self) -> None:
        self._ends: OrderedDict[OrgId, float] = OrderedDict()

    def wait_us(self, org_id: OrgId, rate: Rate, processes: int, now_us: float) -> float:
        """How long the org has to wait; 0 when it need not, and its request is counted."""
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
