"""Limits how many evaluators of an org run at once over all processes, with leases that expire when their holder dies.

A holder renews its lease every third of its lifetime and stops when renewal fails. Its writes carry the lease's
generation (a fencing token that only grows), so that late writes of an expired holder can be recognised. While Redis is
unavailable, no lease is granted or renewed.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tracebility.errors import StoreUnavailable
from tracebility.ids import OrgId
from tracebility.tenant.redis_keys import key
from tracebility.tenant.scripts import LEASE, ControlStore

LIFE_S = 30.0
RENEWALS_PER_LIFE = 3
UNLIMITED = -1
# Longest wait between attempts to take a lease, because a lease may be returned before it expires.
POLL_S = 1.0


class LeaseLost(Exception):
    """The lease expired while its holder was running. The holder must stop and must not write results."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run one evaluator."""

    org_id: OrgId
    token: str
    generation: int


class EvalConcurrency:
    """Grants, renews and ends leases."""

    def __init__(self, hot: ControlStore, *, life_s: float = LIFE_S) -> None:
        self._hot = hot
        self._life_s = life_s

    async def take(self, org_id: OrgId, limit: int | None, now_us: int | None = None) -> Lease | float:
        """Take a lease, or return the seconds until one expires. ``limit``: leases at once; None is unlimited.

        Raises:
            StoreUnavailable: when Redis is unavailable.
        """
        token = secrets.token_hex(8)
        generation, wait_us = await self._run(org_id, "take", token, UNLIMITED if limit is None else limit, now_us)
        return Lease(org_id, token, generation) if generation else wait_us / 1e6

    async def keep(self, lease: Lease, now_us: int | None = None) -> bool:
        """Renew the lease for a full lifetime from now; False when it had expired.

        Raises:
            StoreUnavailable: when Redis is unavailable.
        """
        return bool(await self._run(lease.org_id, "keep", lease.token, UNLIMITED, now_us))

    async def give_back(self, lease: Lease, now_us: int | None = None) -> bool:
        """End the lease; False when it had expired.

        Raises:
            StoreUnavailable: when Redis is unavailable.
        """
        return bool(await self._run(lease.org_id, "give", lease.token, UNLIMITED, now_us))

    @asynccontextmanager
    async def running(self, org_id: OrgId, limit: int | None) -> AsyncIterator[Lease]:
        """Wait for a lease, and hold it while the block runs.

        Raises:
            LeaseLost: when the lease expired during the block, which is then cancelled.
            StoreUnavailable: when Redis is unavailable before the block begins.
        """
        lease = await self._wait_for_lease(org_id, limit)
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

    async def _wait_for_lease(self, org_id: OrgId, limit: int | None) -> Lease:
        while True:
            taken = await self.take(org_id, limit)
            if isinstance(taken, Lease):
                return taken
            await asyncio.sleep(min(taken, POLL_S))

    async def _renew(self, lease: Lease, holder: "asyncio.Task[object]") -> bool:
        """Renew ``lease`` periodically. Cancels ``holder`` and returns when the lease is lost or about to expire."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._life_s
        while True:
            await asyncio.sleep(self._life_s / RENEWALS_PER_LIFE)
            began = loop.time()
            with suppress(StoreUnavailable):
                if not await self.keep(lease):
                    break
                ends_at = began + self._life_s
            if loop.time() + self._life_s / RENEWALS_PER_LIFE > ends_at:
                break
        holder.cancel()
        return True

    async def _run(self, org_id: OrgId, operation: str, token: str, limit: int, now_us: int | None) -> list[int]:
        keys = [key(org_id, "evals"), key(org_id, "evals", "generation")]
        clock = "" if now_us is None else now_us
        answer: list[int] = await self._hot.run(LEASE, keys, [clock, operation, token, int(self._life_s * 1e6), limit])
        return answer
