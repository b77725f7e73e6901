"""Checks that ledgers balance, in a separate loop, because it queries ClickHouse for each org and may be slow."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from tracebility.alerts.metrics import AlertMetrics
from tracebility.alerts.standing import Alert, StandingAlerts
from tracebility.ids import OrgId
from tracebility.stores.clickhouse import Engine
from tracebility.stores.ledger import OrgQueue, RawRows, ledger
from tracebility.stores.queue import Queue
from tracebility.tenant.shard_router import ALL_STREAMS

PERIOD_S = 60.0
# Orgs checked per tick, at about 40 ms each. The others are checked in the next tick.
ORGS_PER_TICK = 250
# The most envelopes, or orgs, that the alert names.
NAMED = 20


class LedgerCheck:
    """Finds in-flight envelopes that are in no stream, and orgs whose ledger did not balance in two ticks."""

    def __init__(
        self, standing: StandingAlerts, engine: Engine, queue: Queue, metrics: AlertMetrics, due: set[UUID]
    ) -> None:
        """``due``: orgs to check; each is removed once it was checked."""
        self._standing = standing
        self._engine = engine
        self._queue = queue
        self._metrics = metrics
        self._due = due
        self._unbalanced: set[UUID] = set()

    async def tick(self) -> Alert | None:
        """Check the orgs that are due, and return the current alert.

        Raises:
            StoreUnavailable: when a store is unavailable. The alert stays unchanged.
        """
        alert = await self._check()
        await self._standing.tell("books", alert)
        return alert

    async def _check(self) -> Alert | None:
        missing = await self._queue.missing(ALL_STREAMS)
        self._metrics.missing.set(len(missing))
        due = [*self._due][:ORGS_PER_TICK]
        found = await self._out_of_balance({*due, *self._unbalanced})
        # A process that was killed between two writes leaves a difference until another one has repeated them.
        unbalanced, self._unbalanced = sorted(found & self._unbalanced), found
        self._due.difference_update(due)
        if not missing and not unbalanced:
            return None
        texts = []
        details: dict[str, Any] = {}
        if missing:
            texts.append(f"{len(missing)} envelopes are missing")
            named = [f"{org_id}/{envelope_id}" for org_id, envelope_id in missing[:NAMED]]
            details |= {"missing": len(missing), "envelopes": named}
        if unbalanced:
            texts.append(f"the ledgers of {len(unbalanced)} orgs do not balance: tracebility ledger ORG")
            details["orgs"] = [str(org_id) for org_id in unbalanced[:NAMED]]
        return Alert("books", "; ".join(texts), details)

    async def _out_of_balance(self, orgs: Iterable[UUID]) -> set[UUID]:
        found: set[UUID] = set()
        for org_id in orgs:
            of_org = OrgId(org_id)
            if not (await ledger(OrgQueue(self._queue, of_org), RawRows(self._engine, of_org))).balanced:
                found.add(org_id)
        return found
