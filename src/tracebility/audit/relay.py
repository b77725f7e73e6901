"""The audit relay copies events from PostgreSQL's outbox to ClickHouse, then deletes them from the outbox.

A crash between the two steps writes the same rows again; every reader counts duplicates once. While ClickHouse is
unavailable, events wait in the outbox.
"""

import structlog

from tracebility.audit import chain_store
from tracebility.audit.metrics import AuditMetrics
from tracebility.failpoints import failpoint
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres

PERIOD_S = 1.0
BATCH = 1000
# Bounds one tick, because the operator checks between ticks that it still leads.
BATCHES_PER_TICK = 50

log = structlog.get_logger()


class AuditRelay:
    """The relay of one operator. Two running at once write duplicate rows, which is harmless."""

    def __init__(self, control: Postgres, engine: Engine, metrics: AuditMetrics) -> None:
        self._control = control
        self._engine = engine
        self._metrics = metrics

    async def tick(self) -> int:
        """Relay waiting events and return their number.

        Raises:
            StoreUnavailable: when a store is unavailable; unsent events stay in the outbox.
        """
        sent = 0
        for _ in range(BATCHES_PER_TICK):
            ids, events = await chain_store.outbox_batch(self._control, BATCH)
            if not ids:
                break
            if len(events) < len(ids):
                deleted = sorted(str(event_id) for event_id in set(ids) - {event.event_id for event in events})
                log.error("audit events were deleted from PostgreSQL before they were relayed", events=deleted)
            await chain_store.insert(self._engine, events)
            failpoint("audit_relay_after_insert")
            await self._control.execute("relayed", ids)
            self._metrics.relayed.inc(len(events))
            sent += len(events)
            if len(ids) < BATCH:
                break
        return sent
