"""Measures the duration of the audit reconciler and of the hourly verification, by number of orgs.

    .venv/bin/python -m benchmarks.audit [--largest N]

Runs on the three stores as `tracebility up` starts them. Each org has four valid events, all of them relayed.
"""

import tempfile
import time
from pathlib import Path

import uvloop
from tests.harness.installation import Installation

from tracebility.audit.events import SYSTEM, AuditWriter, Event, EventType
from tracebility.audit.metrics import AuditMetrics
from tracebility.audit.reconciler import AuditReconciler
from tracebility.audit.relay import AuditRelay
from tracebility.audit.verify import Verification
from tracebility.ids import OrgId, uuid7
from tracebility.stores import clickhouse, postgres
from tracebility.stores.postgres import Postgres
from tracebility.telemetry import Metrics

from . import report

MODULE = "benchmarks.audit"
SMALLEST = 100
EVENTS = 4


async def write(control: Postgres, orgs: int) -> None:
    """Write the events of ``orgs`` new orgs."""
    for _ in range(orgs):
        org_id = OrgId(uuid7())
        async with control.transaction() as transaction:
            for number in range(EVENTS):
                event = Event(EventType.PROJECT_CREATED, org_id, SYSTEM, "project", f"project {number}", {})
                await AuditWriter().record(transaction, event)


async def main() -> None:
    parser = report.parser(MODULE, __doc__)
    parser.add_argument("--largest", type=int, default=10_000, help="orgs of the last row (default: 10,000)")
    arguments = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory(prefix="tracebility-audit-") as folder:
        async with Installation(Path(folder), "--only-stores") as installation:
            control = await postgres.connect(installation.ready["pg_dsn"])
            engine = await clickhouse.connect(installation.ready["clickhouse_url"])
            metrics = AuditMetrics(Metrics())
            orgs, there = SMALLEST, 0
            while orgs <= arguments.largest:
                await write(control, orgs - there)
                await AuditRelay(control, engine, metrics).tick()
                seconds: list[float] = []
                for look in (AuditReconciler(control, engine, metrics), Verification(control, engine)):
                    began = time.perf_counter()
                    await look.tick()
                    seconds.append(time.perf_counter() - began)
                events = orgs * EVENTS
                rows.append((orgs, events, *seconds, *(one / events * 1e6 for one in seconds)))
                print(rows[-1], flush=True)
                orgs, there = orgs * 10, orgs
            await engine.close()
            await control.close()
    heads = ("orgs", "events", "reconcile s", "verify s", "reconcile us an event", "verify us an event")
    text = report.table(heads, rows)
    report.publish("audit", "Proving the audit trail", text, module=MODULE)


if __name__ == "__main__":
    uvloop.run(main())
