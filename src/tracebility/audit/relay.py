"""The audit relay: events go from the control plane's outbox to the data plane, and only then out of the outbox.

A death between the two sends them again: the same rows twice, which every reader takes for one. With the data plane
away, the outbox waits.
"""

import structlog

from tracebility.audit import chain_store
from tracebility.audit.metrics import AuditMetrics
from tracebility.failpoints import failpoint
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres

PERIOD_S = 1.0
BATCH = 1000
# A long backlog is not one tick: between two, the operator looks whether it still leads.
BATCHES_A_TICK = 50

log = structlog.get_logger()


class AuditRelay:
    """One operator's relay; two at once write rows twice, and do no other harm."""

    def __init__(self, control: Postgres, engine: Engine, metrics: AuditMetrics) -> None:
        self._control = control
        self._engine = engine
        self._metrics = metrics

    async def tick(self) -> int:
        """Send what waits; how many events.

        Raises:
            StoreUnavailable: when a store is away; what is not sent stays in the outbox.
        """
        sent = 0
        for _ in range(BATCHES_A_TICK):
            ids, events = await chain_store.waiting(self._control, BATCH)
            if not ids:
                break
            if len(events) < len(ids):
                gone = sorted(str(event_id) for event_id in set(ids) - {event.event_id for event in events})
                log.error("events vanished from the audit trail before they were relayed", events=gone)
            await chain_store.insert(self._engine, events)
            failpoint("audit_relay_after_insert")
            await self._control.execute("relayed", ids)
            self._metrics.relayed.inc(len(events))
            sent += len(events)
            if len(ids) < BATCH:
                break
        return sent
