"""An audit log of a test's own in the shared stores, and the operator's parts to work on it."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from tracebility.audit.events import Actor, AuditWriter, Event, EventType
from tracebility.audit.metrics import AuditMetrics
from tracebility.audit.reconciler import AuditReconciler
from tracebility.audit.relay import AuditRelay
from tracebility.audit.verify import problems
from tracebility.ids import OrgId, uuid7
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres
from tracebility.telemetry import Metrics

DEADLINE_S = 60.0


@dataclass
class Trail:
    """The trail of an org that is in no other table."""

    control: Postgres
    engine: Engine
    org_id: OrgId = field(default_factory=lambda: OrgId(uuid7()))
    events: list[UUID] = field(default_factory=list)

    async def write(self, count: int) -> None:
        """Write events as the control plane does."""
        for _ in range(count):
            number = len(self.events) + 1
            actor, details = Actor("api_key", f"key {number % 2}"), {"number": number, "text": 'ü "\n\\ 😀'}
            event = Event(EventType.PROJECT_CREATED, self.org_id, actor, "project", f"project {number}", details)
            async with self.control.transaction() as transaction:
                await AuditWriter().record(transaction, event)
            self.events.append(event.id)

    async def relay(self) -> int:
        """Send everything that waits."""
        return await AuditRelay(self.control, self.engine, AuditMetrics(Metrics())).tick()

    def reconciler(self) -> AuditReconciler:
        return AuditReconciler(self.control, self.engine, AuditMetrics(Metrics()))

    async def waiting(self) -> int:
        """Events of this trail in the outbox."""
        sql = "SELECT count(*) FROM audit_outbox WHERE event_id = ANY ($1::uuid[])"
        count: int = await self.control.fetchval(sql, self.events)
        return count

    async def rows(self) -> list[dict[str, Any]]:
        """What the data plane has of it, each row."""
        result = await self.engine.query(
            "SELECT * FROM audit_log WHERE org_id = {org:UUID} ORDER BY event_time", {"org": str(self.org_id)}
        )
        return result.dicts()

    async def gaps(self) -> list[dict[str, Any]]:
        result = await self.engine.query(
            "SELECT * FROM audit_reconciliation_gap WHERE org_id = {org:UUID} ORDER BY detected_at",
            {"org": str(self.org_id)},
        )
        return result.dicts()

    async def problems(self) -> list[tuple[str, UUID | None, int | None]]:
        found = [problem async for problem in problems(self.control, self.engine, self.org_id)]
        assert {problem.org_id for problem in found} <= {self.org_id}
        return [(problem.kind, problem.event_id, problem.seq) for problem in found]

    async def tamper(self, *statements: tuple[Any, ...]) -> None:
        """Statements of a superuser of the control plane, who can turn triggers off."""
        async with self.control.transaction() as transaction:
            await transaction.execute("ALTER TABLE audit_log DISABLE TRIGGER ALL")
            for sql, *arguments in statements:
                await transaction.execute(sql, *arguments)
            await transaction.execute("ALTER TABLE audit_log ENABLE TRIGGER ALL")

    async def tamper_with_engine(self, sql: str, **parameters: Any) -> None:
        """A statement of the data plane's owner; ``{org}`` is this org."""
        await self.engine.execute(sql, {"org": str(self.org_id)} | parameters, {"mutations_sync": 2})


@pytest.fixture
def trail(control: Postgres, engine: Engine) -> Trail:
    return Trail(control, engine)
