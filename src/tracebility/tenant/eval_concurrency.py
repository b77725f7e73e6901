"""How many evaluators of an org run at once, over all processes: leases, so that a holder that died gives its back.

A holder renews its lease at a third of its life and stops when that fails. What it writes carries the lease's
generation, which only grows, so that what a holder writes after it lost its lease can be told from what its successor
wrote. Redis away: no lease is given and none is kept.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tracebility.errors import StoreUnavailable
from tracebility.ids import OrgId
from tracebility.tenant.redis_keys import key
from tracebility.tenant.scripts import LEASE, HotStore

LIFE_S = 30.0
RENEWALS_A_LIFE = 3
UNLIMITED = -1
# Who waits for a lease asks again after this at the latest: one may be given back before it ends.
ASK_EVERY_S = 1.0


class LeaseLost(Exception):
    """The lease ended before its holder did. What was under way must stop, and may not be written."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run one evaluator."""

    org_id: OrgId
    token: str
    generation: int


class EvalConcurrency:
    """The leases of every org."""

    def __init__(self, hot: HotStore, *, life_s: float = LIFE_S) -> None:
        self._hot = hot
        self._life_s = life_s

    async def take(self, org_id: OrgId, limit: int | None, now_us: int | None = None) -> Lease | float:
        """A lease, or the seconds until one ends. ``limit``: at most so many at once; None is any number.

        Raises:
            StoreUnavailable: when Redis is away.
        """
        token = secrets.token_hex(8)
        generation, wait_us = await self._do(org_id, "take", token, UNLIMITED if limit is None else limit, now_us)
        return Lease(org_id, token, generation) if generation else wait_us / 1e6

    async def keep(self, lease: Lease, now_us: int | None = None) -> bool:
        """Whether the lease goes on for a whole life from now.

        Raises:
            StoreUnavailable: when Redis is away.
        """
        return bool(await self._do(lease.org_id, "keep", lease.token, UNLIMITED, now_us))

    async def give_back(self, lease: Lease, now_us: int | None = None) -> bool:
        """End the lease; False when it had ended.

        Raises:
            StoreUnavailable: when Redis is away.
        """
        return bool(await self._do(lease.org_id, "give", lease.token, UNLIMITED, now_us))

    @asynccontextmanager
    async def running(self, org_id: OrgId, limit: int | None) -> AsyncIterator[Lease]:
        """Hold a lease for the length of the block, waiting for one first.

        Raises:
            LeaseLost: in the block, which is cancelled, when the lease ended under it.
            StoreUnavailable: when Redis is away before the block begins.
        """
        lease = await self._waited_for(org_id, limit)
        holder = asyncio.current_task()
        assert holder is not None
        renewing = asyncio.create_task(self._renew(lease, holder))
        try:
            yield lease
        except asyncio.CancelledError:
            if renewing.done() and not renewing.cancelled() and renewing.result():
                holder.uncancel()
                raise LeaseLost from None
            raise
        finally:
            renewing.cancel()
            with suppress(StoreUnavailable):
                await self.give_back(lease)

    async def _waited_for(self, org_id: OrgId, limit: int | None) -> Lease:
        while True:
            taken = await self.take(org_id, limit)
            if isinstance(taken, Lease):
                return taken
            await asyncio.sleep(min(taken, ASK_EVERY_S))

    async def _renew(self, lease: Lease, holder: "asyncio.Task[object]") -> bool:
        """Keep ``lease``; cancel ``holder`` when that is not possible for as long as the lease lives."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._life_s
        while True:
            await asyncio.sleep(self._life_s / RENEWALS_A_LIFE)
            began = loop.time()
            with suppress(StoreUnavailable):
                if not await self.keep(lease):
                    break
                ends_at = began + self._life_s
            if loop.time() + self._life_s / RENEWALS_A_LIFE > ends_at:
                break
        holder.cancel()
        return True

    async def _do(self, org_id: OrgId, what: str, token: str, limit: int, now_us: int | None) -> list[int]:
        keys = [key(org_id, "evals"), key(org_id, "evals", "generation")]
        clock = "" if now_us is None else now_us
        answer: list[int] = await self._hot.run(LEASE, keys, [clock, what, token, int(self._life_s * 1e6), limit])
        return answer
