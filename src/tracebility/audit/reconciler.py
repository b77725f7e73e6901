"""The audit reconciler: every event of the control plane has its identical row in the data plane, and nothing else has.

What is wrong is first written down, with what was found in its place, then put right. What cannot be put right is
written down once, and stays: what was made or revoked and has no event at all, and the row of an event that was deleted
from the control plane, which is all that is left of it.
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
LOCK_LOOK_S = 0.5

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
    """What a run found and put right."""

    run_id: UUID
    gaps: int = 0
    repaired: int = 0

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {"run_id": str(self.run_id), "gaps": self.gaps, "repaired": self.repaired}


class AuditReconciler:
    """Runs of it wait for each other."""

    def __init__(self, control: Postgres, engine: Engine, metrics: AuditMetrics) -> None:
        self._control = control
        self._engine = engine
        self._metrics = metrics

    async def tick(self) -> Reconciliation:
        """One run.

        Raises:
            StoreUnavailable: when a store is away. What was found by then is written down, and repaired by this run or
                found again by the next.
        """
        while True:
            async with self._control.transaction() as holding:
                if await holding.fetchval("try_reconcile_audit", LOCK):
                    return await self._run(Reconciliation(uuid7()))
            await asyncio.sleep(LOCK_LOOK_S)

    async def _run(self, run: Reconciliation) -> Reconciliation:
        # First what does not belong there: what is then there of an event is right.
        async for copies in chain_store.copies(self._engine):
            await self._look_at_copies(run, copies)
        async for page in chain_store.written(self._control):
            since = chain_store.horizon_us()
            due = [one.link for one in page if (one.settled or not one.waiting) and one.link.event_time_us > since]
            await self._look_for(run, due)
        await self._look_for_events(run)
        return run

    async def _look_at_copies(self, run: Reconciliation, copies: Sequence[Copy]) -> None:
        """Remove rows that say something else than their event, or that have none."""
        known = await chain_store.written_of(self._control, {copy.link.event_id for copy in copies})
        wrong = [copy for copy in copies if known.get(copy.link.event_id) != copy.link]
        kept = await self._keep(run, [copy.link for copy in wrong if copy.link.event_id not in known])
        wrong = [copy for copy in wrong if copy.link not in kept]
        if not wrong:
            return
        restored = {event_id: known[event_id] for copy in wrong if (event_id := copy.link.event_id) in known}
        gaps = []
        for copy in wrong:
            event = restored.get(copy.link.event_id)
            kind = "inserted" if event is None else "edited"
            gaps.append(_gap(run, event or copy.link, kind, _found(copy.link)))
        await self._write_down(run, gaps)
        failpoint("audit_reconcile_after_gap")
        events = {copy.link.event_id for copy in wrong}
        # The right rows first: a death between the two leaves one row too many, which the next run finds.
        await chain_store.insert(self._engine, list(restored.values()))
        await self._engine.execute(
            query("remove_from_engine"),
            {
                "orgs": [str(chain) for chain in {copy.link.chain for copy in wrong}],
                "events": list(map(str, events)),
                "prints": [copy.fingerprint for copy in wrong],
            },
        )
        await self._repaired(run, events, len(gaps))

    async def _keep(self, run: Reconciliation, alone: Sequence[Link]) -> set[Link]:
        """Which rows of no event stay, being of one that was deleted; those that are new are written down.

        One that an earlier run kept stays, whatever has its number or was done to the event before it since.
        """
        if not alone:
            return set()
        parameters = {
            "orgs": [str(chain) for chain in {link.chain for link in alone}],
            "events": [str(link.event_id) for link in alone],
        }
        result = await self._engine.query(query("known_deleted"), parameters)
        known = {(str(event_id), str(found)) for event_id, found in result.rows}
        kept = {link for link in alone if (str(link.event_id), _found(link)) in known}
        by_chain: dict[UUID, list[Link]] = {}
        for link in alone:
            if link not in kept:
                by_chain.setdefault(link.chain, []).append(link)
        new: list[Link] = []
        for chain, rest in by_chain.items():
            fits = await genuine(self._control, self._engine, chain, rest)
            # Whoever can write to the data plane can hash: where there is an event, no other one was.
            taken = await chain_store.hashes_of(self._control, chain, [link.seq for link in fits])
            new += [link for link in fits if link.seq not in taken]
        await self._write_down(run, [_gap(run, link, "deleted", _found(link)) for link in new])
        return kept.union(new)

    async def _look_for(self, run: Reconciliation, due: Sequence[Link]) -> None:
        """Insert events that are not there."""
        if not due:
            return
        there = await chain_store.there_of(self._engine, due)
        missing = [link for link in due if link.event_id not in there]
        if not missing:
            return
        await self._write_down(run, [_gap(run, link, "missing", "") for link in missing])
        failpoint("audit_reconcile_after_gap")
        await chain_store.insert(self._engine, missing)
        await self._repaired(run, {link.event_id for link in missing}, len(missing))

    async def _look_for_events(self, run: Reconciliation) -> None:
        """Write down keys and orgs whose making or end is not in the trail, those of before the chain aside."""
        since: datetime = await self._control.fetchval("chained_since")
        after, missing = "", ""
        while rows := await self._control.fetch("keys_without_event", after, since, PAGE, missing):
            after, missing = rows[-1]["public_id"], rows[-1]["missing"]
            await self._write_down_new(
                run, [(row["chain"], row["missing"], "api_key", row["public_id"], row["at"]) for row in rows]
            )
        org_id = NIL
        while rows := await self._control.fetch("orgs_without_event", org_id, since, PAGE):
            org_id = rows[-1]["id"]
            await self._write_down_new(
                run, [(row["id"], row["missing"], "org", str(row["id"]), row["at"]) for row in rows]
            )

    async def _write_down_new(self, run: Reconciliation, found: Sequence[tuple[UUID, str, str, str, datetime]]) -> None:
        result = await self._engine.query(query("known_without_event"), {"targets": [one[3] for one in found]})
        known = {(str(target_id), str(event_type)) for target_id, event_type in result.rows}
        gaps = []
        for chain, event_type, target_type, target_id, at in found:
            if (target_id, event_type) not in known:
                gaps.append(_gap(run, _absent(chain, event_type, target_type, target_id, at), "no_event", ""))
        await self._write_down(run, gaps)

    async def _write_down(self, run: Reconciliation, gaps: Sequence[tuple[Any, ...]]) -> None:
        await self._engine.insert_rows("audit_reconciliation_gap", _GAP_COLUMNS, gaps)
        run.gaps += len(gaps)
        for gap in gaps:
            self._metrics.gaps.labels(gap[8]).inc()

    async def _repaired(self, run: Reconciliation, events: Iterable[UUID], gaps: int) -> None:
        parameters = {"run": str(run.run_id), "events": list(map(str, events))}
        await self._engine.execute(query("repaired_gaps"), parameters)
        run.repaired += gaps


def _found(link: Link) -> str:
    """A row as a gap keeps it."""
    return json.dumps(link.document())


def _absent(chain: UUID, event_type: str, target_type: str, target_id: str, at: datetime) -> Link:
    """The event that is not there, as far as that can be said."""
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
