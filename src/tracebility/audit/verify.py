"""Verifies the audit trail: every chain of the control plane hash by hash, and against what the data plane was told.

Each event stands on the hash of the one before it, so a change shows where it was made. What a chain alone cannot show
(its end cut off, or all of it written anew) the data plane does: it has the number and the hash that each event had
when it was relayed. Where the two differ, the side whose event fits its neighbours is the one that is right.
"""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tracebility.audit import chain_store
from tracebility.audit.chain import NOTHING_BEFORE, Link
from tracebility.audit.chain_store import Written
from tracebility.audit.prefilter import suspects
from tracebility.ids import SENTINEL
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres, Transaction

PERIOD_S = 3600.0
# Of what an hourly look finds; `tracebility audit verify` names all.
MOST_PROBLEMS = 1_000
_A_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it was written. ``org_id`` is None for what concerns no org."""

    org_id: UUID | None
    kind: str
    event_id: UUID | None = None
    seq: int | None = None

    def document(self) -> dict[str, Any]:
        """For programs; what is not known is left out."""
        document: dict[str, Any] = {"org_id": None if self.org_id is None else str(self.org_id), "kind": self.kind}
        if self.event_id is not None:
            document["event_id"] = str(self.event_id)
        if self.seq is not None:
            document["seq"] = self.seq
        return document


class Verification:
    """Verifies every chain again and again, and remembers what the last time found."""

    def __init__(self, control: Postgres, engine: Engine) -> None:
        self._control = control
        self._engine = engine
        self.found: list[Problem] = []

    async def tick(self) -> list[Problem]:
        """One verification.

        Raises:
            StoreUnavailable: when a store is away; what was found before stands.
        """
        found: list[Problem] = []
        async for problem in problems(self._control, self._engine):
            found.append(problem)
            if len(found) == MOST_PROBLEMS:
                break
        self.found = found
        return found


async def problems(control: Postgres, engine: Engine, chain: UUID | None = None) -> AsyncIterator[Problem]:
    """All that is wrong with ``chain``, or with every chain."""
    for one in [chain] if chain is not None else await suspects(control, engine):
        async for problem in _Chain(control, engine, one).problems():
            yield problem


@dataclass(frozen=True, slots=True)
class _Told:
    """What the data plane says of a stretch of a chain."""

    by_event: dict[UUID, list[Link]] = field(default_factory=dict)
    by_seq: dict[int, list[Link]] = field(default_factory=dict)

    @classmethod
    def of(cls, told: Sequence[Link]) -> "_Told":
        made = cls()
        for link in told:
            made.by_event.setdefault(link.event_id, []).append(link)
            made.by_seq.setdefault(link.seq, []).append(link)
        return made

    def before(self, seq: int) -> list[str]:
        """The hashes that the event of this number may stand on. A forged row may have anything in a hash's place."""
        if seq == 1:
            return [NOTHING_BEFORE]
        return [link.hash for link in self.by_seq.get(seq - 1, ()) if _A_HASH.fullmatch(link.hash)]


async def genuine(control: Postgres, engine: Engine, chain: UUID, alone: Sequence[Link]) -> set[Link]:
    """Which of these rows, of no event of the control plane, are of one that is gone from there.

    It is those whose hash is right behind the event before them, as either store has it; the others never were written.
    """
    befores = {link.seq - 1 for link in alone if link.seq > 1}
    told = _Told.of(await chain_store.copies_near(engine, chain, range(1, 1), seqs=befores))
    here = await chain_store.hashes_of(control, chain, befores)
    return {link for link in alone if link.seq > 0 and link.follows(*told.before(link.seq), here.get(link.seq - 1))}


class _Chain:
    """One chain under verification."""

    def __init__(self, control: Postgres, engine: Engine, chain: UUID) -> None:
        self._control = control
        self._engine = engine
        self._chain = chain
        self._org_id = None if chain == SENTINEL else chain
        self._missing: dict[int, Problem] = {}  # numbers that no event has
        self._head = 0
        self._end = 0
        self._last_hash = NOTHING_BEFORE

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
        async for problem in self._told_alone():
            yield problem
        for problem in self._missing.values():
            yield problem

    async def _events(self, snapshot: Transaction) -> AsyncIterator[Problem]:
        previous: Link | None = None
        async for page in chain_store.written(snapshot, self._chain):
            told = await self._told(page)
            for index, one in enumerate(page):
                after = page[index + 1].link if index + 1 < len(page) else None
                kinds = _judged(one, previous, after, told)
                for kind in kinds:
                    yield self._problem(kind, one.link.event_id, one.link.seq)
                if "inserted" in kinds:
                    continue  # what was there before it goes on behind it
                expected = 1 if previous is None else previous.seq + 1
                if one.link.seq > expected:
                    self._missing[expected] = self._problem("deleted", None, expected)
                previous = one.link
                self._end, self._last_hash = one.link.seq, one.link.hash

    async def _told(self, page: Sequence[Written]) -> _Told:
        seqs = [one.link.seq for one in page]
        stretch = range(min(seqs) - 1, max(seqs) + 2)
        told = await chain_store.copies_near(self._engine, self._chain, stretch, (one.link.event_id for one in page))
        strays = {link.seq - 1 for link in told if link.seq > 1 and link.seq - 1 not in stretch}
        if strays:  # what an event stood on that was moved far
            told += await chain_store.copies_near(self._engine, self._chain, range(1, 1), seqs=strays)
        lost = {one.link.event_id for one in page if not one.waiting} - {link.event_id for link in told}
        if lost:  # under another org, they are not missing but changed
            told += await chain_store.copies_anywhere(self._engine, lost)
        return _Told.of(told)

    async def _told_alone(self) -> AsyncIterator[Problem]:
        """Rows of the data plane that are of no event: of one that is gone, or of one that never was."""
        async for copies in chain_store.copies(self._engine, self._chain):
            known = await chain_store.written_of(self._control, {copy.link.event_id for copy in copies})
            alone = [copy.link for copy in copies if copy.link.event_id not in known]
            if not alone:
                continue
            were = await genuine(self._control, self._engine, self._chain, alone)
            for link in alone:
                if link not in were:
                    yield self._problem("inserted_in_clickhouse", link.event_id, link.seq or None)
                    continue
                kind = "truncated" if link.seq > self._end else "deleted"
                self._missing.pop(link.seq, None)
                yield self._problem(kind, link.event_id, link.seq)

    def _problem(self, kind: str, event_id: UUID | None, seq: int | None) -> Problem:
        return Problem(self._org_id, kind, event_id, seq)


def _judged(one: Written, previous: Link | None, after: Link | None, told: _Told) -> list[str]:
    """What is wrong with an event, or with its row in the data plane."""
    link = one.link
    copies = told.by_event.get(link.event_id, [])
    follows = previous is None or previous.seq == link.seq - 1
    here = [NOTHING_BEFORE if previous is None else previous.hash] if follows else []
    if link.seq == 1:
        here = [NOTHING_BEFORE]
    befores = [*here, *told.before(link.seq)]
    # Behind a hole of which the data plane knows nothing either, there is no telling.
    fits = link.follows(*befores) or (not befores and link.seq > 1)
    same = [copy for copy in copies if copy == link]
    others = [copy for copy in copies if copy != link]
    if not copies:
        is_expected = not one.waiting and link.event_time_us > chain_store.horizon_us()
        if fits:
            return ["missing_in_clickhouse"] if is_expected else []
        return ["inserted"] if is_expected else ["edited"]
    if not fits:
        kinds = ["reordered" if any(_moved(link, copy) for copy in others) else "edited"]
        genuine = not others or any(copy.follows(*befores, *told.before(copy.seq)) for copy in others)
        return kinds if genuine else [*kinds, "edited_in_clickhouse"]
    if not others:
        return []
    if same:
        return ["edited_in_clickhouse"]
    # Each fits what is before it, so one of the two was hashed anew: what comes after stands on the other.
    is_genuine = any(copy.follows(*befores) for copy in others)
    if not is_genuine or (after is not None and after.follows(link.hash) and not _all_anew(after, told)):
        return ["edited_in_clickhouse"]
    return ["edited"]


def _moved(link: Link, copy: Link) -> bool:
    """Whether the two are one event under different numbers."""
    return link.seq != copy.seq and link.hash == copy.hash


def _all_anew(after: Link, told: _Told) -> bool:
    """Whether the data plane has another hash for what comes after, too: then the chain is another from here on."""
    return any(copy.hash != after.hash for copy in told.by_event.get(after.event_id, ()))
