"""The audit reconciler makes ClickHouse's audit rows identical to PostgreSQL's audit events.

Each difference is first recorded as a gap, with the wrong row, and then repaired. Two kinds cannot be repaired and are
recorded once: a key or org without the event of its creation or revocation, and a row whose event was deleted from
PostgreSQL. Such a row is kept, because it is the last copy of the event.
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tracebility.audit import chain_store
from tracebility.audit.chain import Link
from tracebility.audit.chain_store import NIL, PAGE, Copy
from tracebility.audit.metrics import AuditMetrics
from tracebility.audit.verify import genuine
from tracebility.failpoints import failpoint
from tracebility.ids import uuid7
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres
from tracebility.stores.queries import query

PERIOD_S = 86_400.0
# "tracegap" as a number: advisory locks have no names.
LOCK = int.from_bytes(b"tracegap", "big")
LOCK_POLL_S = 0.5

_GAP_COLUMNS = (
    "detection_run_id",
    "detected_at",
    "org_id",
    "event_id",
    "event_time",
    "event_type",
    "target_type",
    "target_id",
    "kind",
    "found",
)


@dataclass(slots=True)
class Reconciliation:
    """The result of one run: gaps found and gaps repaired."""

    run_id: UUID
    gaps: int = 0
    repaired: int = 0

    def document(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {"run_id": str(self.run_id), "gaps": self.gaps, "repaired": self.repaired}


class AuditReconciler:
    """Reconciles all audit chains. An advisory lock serialises concurrent runs."""

    def __init__(self, control: Postgres, engine: Engine, metrics: AuditMetrics) -> None:
        self._control = control
        self._engine = engine
        self._metrics = metrics

    async def tick(self) -> Reconciliation:
        """Run one reconciliation.

        Raises:
            StoreUnavailable: when a store is unavailable. Recorded gaps stay; the next run repairs the rest.
        """
        while True:
            async with self._control.transaction() as holding:
                if await holding.fetchval("try_reconcile_audit", LOCK):
                    return await self._run(Reconciliation(uuid7()))
            await asyncio.sleep(LOCK_POLL_S)

    async def _run(self, run: Reconciliation) -> Reconciliation:
        # Remove wrong rows first, so that every row left for an event is the right one.
        async for copies in chain_store.copy_pages(self._engine):
            await self._remove_wrong_rows(run, copies)
        async for page in chain_store.event_pages(self._control):
            since = chain_store.horizon_us()
            due = [
                event.link
                for event in page
                if (event.settled or not event.waiting) and event.link.event_time_us > since
            ]
            await self._insert_missing(run, due)
        await self._find_missing_events(run)
        return run

    async def _remove_wrong_rows(self, run: Reconciliation, copies: Sequence[Copy]) -> None:
        """Remove rows that differ from their event or have no event, and restore the events' rows."""
        known = await chain_store.events_by_id(self._control, {copy.link.event_id for copy in copies})
        wrong = [copy for copy in copies if known.get(copy.link.event_id) != copy.link]
        kept = await self._keep_deleted(run, [copy.link for copy in wrong if copy.link.event_id not in known])
        wrong = [copy for copy in wrong if copy.link not in kept]
        if not wrong:
            return
        restored = {event_id: known[event_id] for copy in wrong if (event_id := copy.link.event_id) in known}
        gaps = []
        for copy in wrong:
            event = restored.get(copy.link.event_id)
            kind = "inserted" if event is None else "edited"
            gaps.append(_gap(run, event or copy.link, kind, _row_json(copy.link)))
        await self._record_gaps(run, gaps)
        failpoint("audit_reconcile_after_gap")
        events = {copy.link.event_id for copy in wrong}
        # Insert before deleting: a crash in between leaves one extra row, which the next run removes.
        await chain_store.insert(self._engine, list(restored.values()))
        await self._engine.execute(
            query("remove_from_engine"),
            {
                "orgs": [str(chain) for chain in {copy.link.chain for copy in wrong}],
                "events": list(map(str, events)),
                "fingerprints": [copy.fingerprint for copy in wrong],
            },
        )
        await self._mark_repaired(run, events, len(gaps))

    async def _keep_deleted(self, run: Reconciliation, unmatched: Sequence[Link]) -> set[Link]:
        """Return the rows to keep because their event was deleted from PostgreSQL, and record the new ones as gaps.

        A row that an earlier run kept stays, even if its seq was reused or the event before it was changed since.
        """
        if not unmatched:
            return set()
        parameters = {
            "orgs": [str(chain) for chain in {link.chain for link in unmatched}],
            "events": [str(link.event_id) for link in unmatched],
        }
        result = await self._engine.query(query("known_deleted"), parameters)
        known = {(str(event_id), str(found)) for event_id, found in result.rows}
        kept = {link for link in unmatched if (str(link.event_id), _row_json(link)) in known}
        unknown_by_chain: dict[UUID, list[Link]] = {}
        for link in unmatched:
            if link not in kept:
                unknown_by_chain.setdefault(link.chain, []).append(link)
        new: list[Link] = []
        for chain, unknown in unknown_by_chain.items():
            fits = await genuine(self._control, self._engine, chain, unknown)
            # A valid hash proves nothing here: if PostgreSQL has an event with this seq, the ClickHouse row is forged.
            taken = await chain_store.hashes_by_seq(self._control, chain, [link.seq for link in fits])
            new += [link for link in fits if link.seq not in taken]
        await self._record_gaps(run, [_gap(run, link, "deleted", _row_json(link)) for link in new])
        return kept.union(new)

    async def _insert_missing(self, run: Reconciliation, due: Sequence[Link]) -> None:
        """Insert the rows of events that ClickHouse does not have."""
        if not due:
            return
        present = await chain_store.ids_in_engine(self._engine, due)
        missing = [link for link in due if link.event_id not in present]
        if not missing:
            return
        await self._record_gaps(run, [_gap(run, link, "missing", "") for link in missing])
        failpoint("audit_reconcile_after_gap")
        await chain_store.insert(self._engine, missing)
        await self._mark_repaired(run, {link.event_id for link in missing}, len(missing))

    async def _find_missing_events(self, run: Reconciliation) -> None:
        """Record keys and orgs without an event for their creation or revocation, since the chain was introduced."""
        since: datetime = await self._control.fetchval("chained_since")
        after, missing = "", ""
        while rows := await self._control.fetch("keys_without_event", after, since, PAGE, missing):
            after, missing = rows[-1]["public_id"], rows[-1]["missing"]
            await self._record_missing_events(
                run, [(row["chain"], row["missing"], "api_key", row["public_id"], row["at"]) for row in rows]
            )
        org_id = NIL
        while rows := await self._control.fetch("orgs_without_event", org_id, since, PAGE):
            org_id = rows[-1]["id"]
            await self._record_missing_events(
                run, [(row["id"], row["missing"], "org", str(row["id"]), row["at"]) for row in rows]
            )

    async def _record_missing_events(
        self, run: Reconciliation, found: Sequence[tuple[UUID, str, str, str, datetime]]
    ) -> None:
        result = await self._engine.query(query("known_without_event"), {"targets": [one[3] for one in found]})
        known = {(str(target_id), str(event_type)) for target_id, event_type in result.rows}
        gaps = []
        for chain, event_type, target_type, target_id, at in found:
            if (target_id, event_type) not in known:
                gaps.append(_gap(run, _missing_event(chain, event_type, target_type, target_id, at), "no_event", ""))
        await self._record_gaps(run, gaps)

    async def _record_gaps(self, run: Reconciliation, gaps: Sequence[tuple[Any, ...]]) -> None:
        await self._engine.insert_rows("audit_reconciliation_gap", _GAP_COLUMNS, gaps)
        run.gaps += len(gaps)
        for gap in gaps:
            self._metrics.gaps.labels(gap[8]).inc()

    async def _mark_repaired(self, run: Reconciliation, events: Iterable[UUID], gaps: int) -> None:
        parameters = {"run": str(run.run_id), "events": list(map(str, events))}
        await self._engine.execute(query("repaired_gaps"), parameters)
        run.repaired += gaps


def _row_json(link: Link) -> str:
    """A row as JSON text, as a gap stores it."""
    return json.dumps(link.document())


def _missing_event(chain: UUID, event_type: str, target_type: str, target_id: str, at: datetime) -> Link:
    """A placeholder for an event that was never written, with the fields that are known."""
    us = chain_store.microseconds(at)
    return Link(NIL, us, event_type, chain, "", "", target_type, target_id, "", 0, "")


def _gap(run: Reconciliation, link: Link, kind: str, found: str) -> tuple[Any, ...]:
    return (
        str(run.run_id),
        chain_store.engine_now(),
        str(link.chain),
        str(link.event_id),
        chain_store.engine_moment(link.event_time_us),
        link.event_type,
        link.target_type,
        link.target_id,
        kind,
        found,
    )
