"""Verify the audit log: recompute every hash chain in PostgreSQL and compare it with the copies in ClickHouse.

Each hash covers the hash before it, so a changed event shows where it was changed. The chain alone cannot show that its
end was cut off or that all of it was rewritten; the ClickHouse copies can, because they hold the seq and the hash that
each event had when it was relayed. Where the stores differ, the copy whose hash fits its neighbours is the genuine one.
"""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tracebility.audit import chain_store
from tracebility.audit.chain import GENESIS_HASH, Link
from tracebility.audit.chain_store import ChainEvent
from tracebility.audit.prefilter import suspect_chains
from tracebility.ids import SENTINEL
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres, Transaction

PERIOD_S = 3600.0
# The hourly verification keeps at most this many problems; `tracebility audit verify` lists all.
MAX_PROBLEMS = 1_000
_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One difference from the log as it was written. ``org_id`` is None for the installation's own chain."""

    org_id: UUID | None
    kind: str
    event_id: UUID | None = None
    seq: int | None = None

    def document(self) -> dict[str, Any]:
        """The problem as a JSON object without its unknown fields."""
        document: dict[str, Any] = {"org_id": None if self.org_id is None else str(self.org_id), "kind": self.kind}
        if self.event_id is not None:
            document["event_id"] = str(self.event_id)
        if self.seq is not None:
            document["seq"] = self.seq
        return document


class Verification:
    """Verifies every chain periodically and keeps the latest result in ``found``."""

    def __init__(self, control: Postgres, engine: Engine) -> None:
        self._control = control
        self._engine = engine
        self.found: list[Problem] = []

    async def tick(self) -> list[Problem]:
        """Verify all chains once.

        Raises:
            StoreUnavailable: when a store is unavailable; ``found`` keeps the previous result.
        """
        found: list[Problem] = []
        async for problem in problems(self._control, self._engine):
            found.append(problem)
            if len(found) == MAX_PROBLEMS:
                break
        self.found = found
        return found


async def problems(control: Postgres, engine: Engine, chain: UUID | None = None) -> AsyncIterator[Problem]:
    """Yield every problem of ``chain``, or of all chains."""
    for one in [chain] if chain is not None else await suspect_chains(control, engine):
        async for problem in _Chain(control, engine, one).problems():
            yield problem


@dataclass(frozen=True, slots=True)
class _EngineCopies:
    """The ClickHouse rows of part of a chain, by event id and by seq."""

    by_event: dict[UUID, list[Link]] = field(default_factory=dict)
    by_seq: dict[int, list[Link]] = field(default_factory=dict)

    @classmethod
    def of(cls, links: Sequence[Link]) -> "_EngineCopies":
        made = cls()
        for link in links:
            made.by_event.setdefault(link.event_id, []).append(link)
            made.by_seq.setdefault(link.seq, []).append(link)
        return made

    def hashes_before(self, seq: int) -> list[str]:
        """Return the possible hashes of the event before ``seq``. Malformed hashes of forged rows are ignored."""
        if seq == 1:
            return [GENESIS_HASH]
        return [link.hash for link in self.by_seq.get(seq - 1, ()) if _HASH.fullmatch(link.hash)]


async def genuine(control: Postgres, engine: Engine, chain: UUID, unmatched: Sequence[Link]) -> set[Link]:
    """Return those rows whose event existed and was deleted from PostgreSQL; the other rows were forged.

    ``unmatched`` are ClickHouse rows without an event in PostgreSQL. A row is genuine when its hash follows from the
    event before it, as either store has it.
    """
    previous_seqs = {link.seq - 1 for link in unmatched if link.seq > 1}
    copies = _EngineCopies.of(await chain_store.copies_of(engine, chain, range(1, 1), seqs=previous_seqs))
    postgres_hashes = await chain_store.hashes_by_seq(control, chain, previous_seqs)
    return {
        link
        for link in unmatched
        if link.seq > 0 and link.follows(*copies.hashes_before(link.seq), postgres_hashes.get(link.seq - 1))
    }


class _Chain:
    """Verifies one chain."""

    def __init__(self, control: Postgres, engine: Engine, chain: UUID) -> None:
        self._control = control
        self._engine = engine
        self._chain = chain
        self._org_id = None if chain == SENTINEL else chain
        self._missing: dict[int, Problem] = {}  # by seq: numbers without an event
        self._head = 0
        self._end = 0
        self._last_hash = GENESIS_HASH

    async def problems(self) -> AsyncIterator[Problem]:
        async with self._control.transaction() as snapshot:
            await snapshot.execute("one_snapshot")
            head = await snapshot.fetchrow("chain_head", self._chain)
            self._head = 0 if head is None else head["seq"]
            async for problem in self._events(snapshot):
                yield problem
        if self._head > self._end:
            self._missing[self._end + 1] = self._problem("truncated", None, self._end + 1)
        elif self._end and (head is None or (head["seq"], head["hash"]) != (self._end, self._last_hash)):
            yield self._problem("truncated", None, self._head or None)
        async for problem in self._copies_without_event():
            yield problem
        for problem in self._missing.values():
            yield problem

    async def _events(self, snapshot: Transaction) -> AsyncIterator[Problem]:
        previous: Link | None = None
        async for page in chain_store.event_pages(snapshot, self._chain):
            copies = await self._engine_copies(page)
            for index, event in enumerate(page):
                after = page[index + 1].link if index + 1 < len(page) else None
                kinds = _problem_kinds(event, previous, after, copies)
                for kind in kinds:
                    yield self._problem(kind, event.link.event_id, event.link.seq)
                if "inserted" in kinds:
                    continue  # the genuine chain continues after it
                expected = 1 if previous is None else previous.seq + 1
                if event.link.seq > expected:
                    self._missing[expected] = self._problem("deleted", None, expected)
                previous = event.link
                self._end, self._last_hash = event.link.seq, event.link.hash

    async def _engine_copies(self, page: Sequence[ChainEvent]) -> _EngineCopies:
        seqs = [event.link.seq for event in page]
        nearby = range(min(seqs) - 1, max(seqs) + 2)
        links = await chain_store.copies_of(self._engine, self._chain, nearby, (event.link.event_id for event in page))
        distant = {link.seq - 1 for link in links if link.seq > 1 and link.seq - 1 not in nearby}
        if distant:  # the predecessors of events whose seq was changed
            links += await chain_store.copies_of(self._engine, self._chain, range(1, 1), seqs=distant)
        lost = {event.link.event_id for event in page if not event.waiting} - {link.event_id for link in links}
        if lost:  # a row under another org was edited, it is not missing
            links += await chain_store.copies_in_any_org(self._engine, lost)
        return _EngineCopies.of(links)

    async def _copies_without_event(self) -> AsyncIterator[Problem]:
        """Yield a problem for each ClickHouse row without an event in PostgreSQL: deleted there, or forged here."""
        async for copies in chain_store.copy_pages(self._engine, self._chain):
            known = await chain_store.events_by_id(self._control, {copy.link.event_id for copy in copies})
            unmatched = [copy.link for copy in copies if copy.link.event_id not in known]
            if not unmatched:
                continue
            deleted = await genuine(self._control, self._engine, self._chain, unmatched)
            for link in unmatched:
                if link not in deleted:
                    yield self._problem("inserted_in_clickhouse", link.event_id, link.seq or None)
                    continue
                kind = "truncated" if link.seq > self._end else "deleted"
                self._missing.pop(link.seq, None)
                yield self._problem(kind, link.event_id, link.seq)

    def _problem(self, kind: str, event_id: UUID | None, seq: int | None) -> Problem:
        return Problem(self._org_id, kind, event_id, seq)


def _problem_kinds(event: ChainEvent, previous: Link | None, after: Link | None, engine: _EngineCopies) -> list[str]:
    """Return the kinds of problem of an event and of its ClickHouse rows."""
    link = event.link
    copies = engine.by_event.get(link.event_id, [])
    is_adjacent = previous is None or previous.seq == link.seq - 1
    postgres_hashes = [GENESIS_HASH if previous is None else previous.hash] if is_adjacent else []
    if link.seq == 1:
        postgres_hashes = [GENESIS_HASH]
    previous_hashes = [*postgres_hashes, *engine.hashes_before(link.seq)]
    # When neither store has the previous event, the hash cannot be checked: assume that it is correct.
    fits = link.follows(*previous_hashes) or (not previous_hashes and link.seq > 1)
    same = [copy for copy in copies if copy == link]
    others = [copy for copy in copies if copy != link]
    if not copies:
        is_expected = not event.waiting and link.event_time_us > chain_store.horizon_us()
        if fits:
            return ["missing_in_clickhouse"] if is_expected else []
        return ["inserted"] if is_expected else ["edited"]
    if not fits:
        kinds = ["reordered" if any(_is_moved(link, copy) for copy in others) else "edited"]
        has_genuine = not others or any(
            copy.follows(*previous_hashes, *engine.hashes_before(copy.seq)) for copy in others
        )
        return kinds if has_genuine else [*kinds, "edited_in_clickhouse"]
    if not others:
        return []
    if same:
        return ["edited_in_clickhouse"]
    # Both fit the previous event, so one of the two was rehashed: the next event's hash covers the genuine one.
    has_genuine = any(copy.follows(*previous_hashes) for copy in others)
    if not has_genuine or (after is not None and after.follows(link.hash) and not _is_rewritten(after, engine)):
        return ["edited_in_clickhouse"]
    return ["edited"]


def _is_moved(link: Link, copy: Link) -> bool:
    """Whether both are the same event under different seqs."""
    return link.seq != copy.seq and link.hash == copy.hash


def _is_rewritten(after: Link, engine: _EngineCopies) -> bool:
    """Whether ClickHouse has another hash for the next event too: then PostgreSQL's chain was rewritten from here."""
    return any(copy.hash != after.hash for copy in engine.by_event.get(after.event_id, ()))
