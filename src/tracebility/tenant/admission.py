"""Rate and quota of a request, in one round trip: let in, refused, or known from before.

Redis away: each process goes on with its share of the rate, and lends a little of the quota (`LocalRates`,
`LocalQuotas`); such requests are marked as degraded, and are the only ones that may be dropped later.
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
from tracebility.tenant.scripts import ADMIT, HotStore

# Three times the reconciler's period: it maintains the flag, and one that nobody maintains goes by itself.
OVER_FLAG_LIFE_MS = 180_000
# Usage of a period is filled in once, by whoever asks first; after that an answer without it means a store in trouble.
MOST_TRIES = 3

SAY_EVERY_US = 10e6

_log = structlog.get_logger()

_LET_IN, _OVER_RATE, _SAME_BODY, _OVER_QUOTA, _USAGE_UNKNOWN, _TOO_MANY_DEAD = range(6)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that was let in. ``used`` of each meter is with it; nothing is said where usage is unknown."""

    tenant: TenantContext
    claim: Claim
    token: str = ""
    slot: int = 0  # that it is counted in
    at_us: int = 0  # when, by Redis' clock
    is_same: bool = False  # its body was kept before: nothing is to be done but answer
    is_degraded: bool = False
    requests_left: int | None = None
    used: Mapping[str, int] = field(default_factory=dict)


class Admission:
    """The gates behind the key, for one process."""

    def __init__(
        self,
        hot: HotStore,
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
        self._say_at_us = 0.0
        self.touched: set[str] = set()  # members of `METERED` that were let in and not said yet

    async def admit(self, tenant: TenantContext, claim: Claim) -> Admitted:
        """Let a request in with all that it would use, or not at all.

        Raises:
            RateLimited: when the org, or its key, sent too many.
            QuotaExceeded: when a meter has no room for all of it.
            Overloaded: when the org has more dead letters than its share.
        """
        try:
            return await self._decided(tenant, claim)
        except StoreUnavailable as error:
            self._say_degraded(error)
            return self._decided_here(tenant, claim)

    async def count_request(self, tenant: TenantContext) -> None:
        """Count a request that nothing will be kept of.

        Raises:
            RateLimited: when the org, or its key, sent too many.
        """
        none = Claim(0, "", "", {})
        try:
            answer = await self._hot.run(ADMIT, self._keys(tenant, none), ["", *rate_arguments(tenant), 0, "", 0])
        except StoreUnavailable as error:
            self._say_degraded(error)
            self._decided_here(tenant, none)
            return
        if answer[0] == _OVER_RATE:
            raise _over_rate(tenant, *answer[1:3])

    def keep(self, admitted: Admitted) -> None:
        """What was let in is kept: the same body needs nothing but an answer from now on."""
        if not admitted.is_degraded:
            body = mark_key(admitted.tenant.org_id, admitted.claim.body)
            self._hot.put(body, mark(admitted.at_us), MARK_LIFE_MS)

    async def give_back(self, admitted: Admitted) -> None:
        """What was let in could not be kept."""
        if admitted.is_degraded:
            return
        try:
            await self._meter.refund(admitted.tenant, admitted.claim, admitted.token, admitted.slot)
        except StoreUnavailable:
            return  # The next settlement counts what is there.

    async def _decided(self, tenant: TenantContext, claim: Claim) -> Admitted:
        token = secrets.token_hex(8)
        meters = [
            part
            for meter, quantity in claim.quantities.items()
            for part in (meter, quantity, _or_unlimited(hard_limit(tenant, meter)))
        ]
        arguments = ["", *rate_arguments(tenant), MARK_LIFE_MS, token, claim.slot, *meters]
        for _ in range(MOST_TRIES):
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
        raise StoreUnavailable("redis", "forgets what an org has used")

    def _say_degraded(self, error: StoreUnavailable) -> None:
        now = self._clock_us()
        if now >= self._say_at_us:
            self._say_at_us = now + SAY_EVERY_US
            _log.warning("limits are this process's own for now", reason=str(error))

    def _decided_here(self, tenant: TenantContext, claim: Claim) -> Admitted:
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
        """By the flag what was let in without asking is dropped: one request that is too large is no reason to."""
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
        "More of what this organisation sent could not be stored than is kept of one organisation.",
        hint="Ask whoever runs this installation to look at its dead letters: tracebility dlq list.",
    )


def _quota_exceeded(tenant: TenantContext, claim: Claim, meter: str, used: int) -> QuotaExceeded:
    limit = hard_limit(tenant, meter)
    assert limit is not None
    return QuotaExceeded(meter, limit, used, claim.quantities[meter], claim.period, resets_at(claim.period))
