"""Admission checks the rate limits, the quota and duplicate bodies of a request in one Redis round trip.

While Redis is unavailable, each process applies its share of the rate limit and a small local quota (`LocalRates`,
`LocalQuotas`). Requests admitted that way are marked as degraded; only they may be dropped later.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from tracebility.errors import Overloaded, QuotaExceeded, RateLimited, StoreUnavailable
from tracebility.tenant import dead_letters
from tracebility.tenant.context import TenantContext
from tracebility.tenant.quota import (
    UNLIMITED,
    Claim,
    LocalQuotas,
    QuotaMeter,
    Usage,
    UsageStore,
    hard_limit,
    metered_member,
    resets_at,
    usage_key,
)
from tracebility.tenant.rate import LocalRates, rate_arguments, rate_keys, retry_after_s
from tracebility.tenant.redis_keys import over_flag
from tracebility.tenant.resends import MARK_LIFE_MS, mark, mark_key, removal_key
from tracebility.tenant.scripts import ADMIT, ControlStore

# Three periods of the reconciler, which renews the flag. Without an operator the flag expires.
OVER_FLAG_LIFE_MS = 180_000
# The first request of a period loads its usage into Redis. If it is still missing after that, Redis is losing data.
MAX_TRIES = 3

WARN_INTERVAL_US = 10e6

_log = structlog.get_logger()

_ADMITTED, _OVER_RATE, _SAME_BODY, _OVER_QUOTA, _USAGE_UNKNOWN, _TOO_MANY_DEAD = range(6)


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted request. ``used``: usage by meter, including this request; empty when usage is unknown."""

    tenant: TenantContext
    claim: Claim
    token: str = ""
    slot: int = 0  # the time slot in which its usage is counted
    at_us: int = 0  # time of admission by Redis' clock
    is_same: bool = False  # an identical body was stored before, so only the answer is left to send
    is_degraded: bool = False
    requests_left: int | None = None
    used: Mapping[str, int] = field(default_factory=dict)


class Admission:
    """Checks the limits of authenticated requests, for one process."""

    def __init__(
        self,
        hot: ControlStore,
        usage: UsageStore,
        processes: Callable[[], int] = lambda: 1,
        clock_us: Callable[[], float] = lambda: time.monotonic() * 1e6,
    ) -> None:
        self._hot = hot
        self._usage = usage
        self._meter = QuotaMeter(hot)
        self._rates, self._quotas = LocalRates(), LocalQuotas()
        self._processes = processes
        self._clock_us = clock_us
        self._next_warning_us = 0.0
        self.touched: set[str] = set()  # members of `METERED` whose usage changed and that are not reported yet

    async def admit(self, tenant: TenantContext, claim: Claim) -> Admitted:
        """Admit the whole request and count its usage, or refuse all of it.

        Raises:
            RateLimited: when the org or the key is over its request rate.
            QuotaExceeded: when the request would exceed the hard limit of a meter.
            Overloaded: when the org's dead letters exceed their limit.
        """
        try:
            return await self._admit(tenant, claim)
        except StoreUnavailable as error:
            self._warn_degraded(error)
            return self._admit_locally(tenant, claim)

    async def count_request(self, tenant: TenantContext) -> None:
        """Count a request against the rate limits only, when nothing of it will be stored.

        Raises:
            RateLimited: when the org or the key is over its request rate.
        """
        none = Claim(0, "", "", {})
        try:
            answer = await self._hot.run(ADMIT, self._keys(tenant, none), ["", *rate_arguments(tenant), 0, "", 0])
        except StoreUnavailable as error:
            self._warn_degraded(error)
            self._admit_locally(tenant, none)
            return
        if answer[0] == _OVER_RATE:
            raise _over_rate(tenant, *answer[1:3])

    def keep(self, admitted: Admitted) -> None:
        """Mark the body of an admitted request as stored, so that a resend is answered without storing it again."""
        if not admitted.is_degraded:
            body = mark_key(admitted.tenant.org_id, admitted.claim.body)
            self._hot.put(body, mark(admitted.at_us), MARK_LIFE_MS)

    async def give_back(self, admitted: Admitted) -> None:
        """Refund the usage of an admitted request that could not be stored."""
        if admitted.is_degraded:
            return
        try:
            await self._meter.refund(admitted.tenant, admitted.claim, admitted.token, admitted.slot)
        except StoreUnavailable:
            return  # The next settlement corrects the counter from the stored rows.

    async def _admit(self, tenant: TenantContext, claim: Claim) -> Admitted:
        token = secrets.token_hex(8)
        meters = [
            part
            for meter, quantity in claim.quantities.items()
            for part in (meter, quantity, _or_unlimited(hard_limit(tenant, meter)))
        ]
        arguments = ["", *rate_arguments(tenant), MARK_LIFE_MS, token, claim.slot, *meters]
        for _ in range(MAX_TRIES):
            answer = await self._hot.run(ADMIT, self._keys(tenant, claim), arguments)
            match answer[0]:
                case 0:
                    used = dict(zip(claim.quantities, answer[6:], strict=True))
                    self.touched.add(metered_member(tenant.org_id, claim.period))
                    self._flag_if_over(tenant, claim, used)
                    self._quotas.learn(tenant.org_id, claim.period, Usage(answer[4], used))
                    left = _left(tenant, answer[3])
                    return Admitted(tenant, claim, token, answer[1], answer[5], requests_left=left, used=used)
                case 1:
                    raise _over_rate(tenant, *answer[1:3])
                case 2:
                    return Admitted(tenant, claim, is_same=True)
                case 3:
                    raise self._over_quota(tenant, claim, list(claim.quantities)[answer[1] - 1], answer[2])
                case 5:
                    raise _too_many_dead()
            await self._meter.settle(tenant.org_id, claim.period, await self._usage.usage(tenant.org_id, claim.period))
        raise StoreUnavailable("redis", "loses the usage counter of an org")

    def _warn_degraded(self, error: StoreUnavailable) -> None:
        now = self._clock_us()
        if now >= self._next_warning_us:
            self._next_warning_us = now + WARN_INTERVAL_US
            _log.warning(
                "Redis is unavailable: rate and quota limits are enforced by each process alone", reason=str(error)
            )

    def _admit_locally(self, tenant: TenantContext, claim: Claim) -> Admitted:
        rate = tenant.allowance.rate
        if rate is not None:
            wait = self._rates.wait_us(tenant.org_id, rate, max(self._processes(), 1), self._clock_us())
            if wait > 0:
                raise _over_rate(tenant, 1, wait)
        refusing = self._quotas.refusing(tenant.org_id, claim, tenant.allowance.meters)
        if refusing is not None:
            raise _quota_exceeded(tenant, claim, *refusing)
        return Admitted(tenant, claim, is_degraded=True)

    def _over_quota(self, tenant: TenantContext, claim: Claim, meter: str, used: int) -> QuotaExceeded:
        self._flag_if_over(tenant, claim, {meter: used})
        return _quota_exceeded(tenant, claim, meter, used)

    def _flag_if_over(self, tenant: TenantContext, claim: Claim, used: Mapping[str, int]) -> None:
        """Set the over-quota flag once usage reaches the limit, not when one large request is refused."""
        for meter, quantity in used.items():
            hard = hard_limit(tenant, meter)
            if hard is not None and quantity >= hard:
                self._hot.put(over_flag(tenant.org_id, claim.period), meter, OVER_FLAG_LIFE_MS)

    @staticmethod
    def _keys(tenant: TenantContext, claim: Claim) -> list[str]:
        org_id = tenant.org_id
        usage, body = usage_key(org_id, claim.period), mark_key(org_id, claim.body)
        return [*rate_keys(tenant), usage, body, dead_letters.flag_key(org_id), removal_key(org_id)]


def _or_unlimited(limit: int | None) -> int:
    return UNLIMITED if limit is None else limit


def _left(tenant: TenantContext, left: int) -> int | None:
    return None if tenant.allowance.rate is None else left


def _over_rate(tenant: TenantContext, which: int, wait_us: float) -> RateLimited:
    rate = tenant.allowance.rate if which == 1 else tenant.allowance.key_rate
    assert rate is not None
    return RateLimited("org" if which == 1 else "key", rate.requests_per_s, rate.burst, retry_after_s(wait_us))


def _too_many_dead() -> Overloaded:
    return Overloaded(
        "This organisation has more dead letters (data that could not be stored) than the limit allows.",
        hint="Ask the operator of this installation to review them with: tracebility dlq list.",
    )


def _quota_exceeded(tenant: TenantContext, claim: Claim, meter: str, used: int) -> QuotaExceeded:
    limit = hard_limit(tenant, meter)
    assert limit is not None
    return QuotaExceeded(meter, limit, used, claim.quantities[meter], claim.period, resets_at(claim.period))
