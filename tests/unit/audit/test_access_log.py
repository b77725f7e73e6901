"""Reads and refusals in the trail: nothing is uncounted, and no flood makes more than so many lines.

The model is a count of what was asked for, against a trail that is sometimes away and a clock that also goes back.
"""

import asyncio
from collections import Counter
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tracebility.audit.access_log import EVENTS_PER_WINDOW, READ_EVENTS_PER_WINDOW, WINDOW_S, AccessLog
from tracebility.audit.events import Actor, Event, EventType
from tracebility.errors import AuditLogTampered, StoreUnavailable
from tracebility.ids import OrgId

ORG = OrgId(UUID(int=1))
ACTORS = [Actor("api_key", "one"), Actor("api_key", "two"), Actor("operator", "three")]
PROJECTS = [("project", "p"), ("project", "q")]

actors = st.sampled_from(ACTORS)
projects = st.sampled_from(PROJECTS)


class Accesses(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.at = 1_795_000_000.0
        self.away = False
        self.lines: list[Event] = []
        self.asked: Counter[tuple[str, Actor]] = Counter()
        self.windows = 1
        self.trail = AccessLog(self.write, lambda: self.at)

    async def write(self, event: Event) -> None:
        if self.away:
            raise StoreUnavailable("postgres", "away")
        self.lines.append(event)

    @rule(actor=actors, project=projects, times=st.integers(1, 40))
    def read(self, actor: Actor, project: tuple[str, str], times: int) -> None:
        for _ in range(times):
            asyncio.run(self.trail.read(ORG, actor, project, "/runs", must=False))
        self.asked[EventType.EGRESS_READ, actor] += times

    @rule(actor=actors, project=projects)
    def export(self, actor: Actor, project: tuple[str, str]) -> None:
        try:
            asyncio.run(self.trail.exported(ORG, actor, project, "/usage"))
        except StoreUnavailable:
            return  # nothing has left
        self.asked[EventType.EGRESS_EXPORTED, actor] += 1

    @rule(actor=actors, first=st.integers(0, 9), times=st.integers(1, 40))
    def ask_for_what_is_anothers(self, actor: Actor, first: int, times: int) -> None:
        for number in range(first, first + times):
            asyncio.run(self.trail.denied(ORG, actor, ("project", str(number))))
        self.asked[EventType.ACCESS_DENIED, actor] += times

    @rule(seconds=st.sampled_from([0.5, 1.0, WINDOW_S - 1, WINDOW_S, 3600.0, -3600.0]))
    def let_time_go(self, seconds: float) -> None:
        self.at += seconds
        self.windows += 1
        asyncio.run(self.trail.flush())

    @rule(away=st.booleans())
    def the_trail_comes_and_goes(self, away: bool) -> None:
        self.away = away

    @invariant()
    def no_line_is_written_twice(self) -> None:
        assert len({line.id for line in self.lines}) == len(self.lines)

    @invariant()
    def nothing_is_told_that_was_not_asked_for(self) -> None:
        told = self.told()
        assert all(told[kind] <= self.asked[kind] for kind in told)

    @invariant()
    def lines_are_bounded_by_time_not_by_requests(self) -> None:
        lines = Counter((line.type, line.actor) for line in self.lines)
        for (kind, _), count in lines.items():
            targets = 1 if kind == EventType.ACCESS_DENIED else len(PROJECTS)
            at_once = READ_EVENTS_PER_WINDOW if kind == EventType.EGRESS_READ else EVENTS_PER_WINDOW
            assert count <= self.windows * targets * (at_once + 1)

    def teardown(self) -> None:
        """When the trail is there at the end, it has all of it."""
        self.away = False
        asyncio.run(self.trail.flush(everything=True))
        assert self.told() == self.asked

    def told(self) -> Counter[tuple[str, Actor]]:
        told: Counter[tuple[str, Actor]] = Counter()
        for line in self.lines:
            told[line.type, line.actor] += line.details["count"]
        return told


test_reads_and_refusals_are_told_as_the_model_has_them = Accesses.TestCase


async def test_what_must_be_in_the_trail_is_refused_without_it_and_let_in_once_it_is_back() -> None:
    lines: list[Event] = []
    away = True

    async def write(event: Event) -> None:
        if away:
            raise StoreUnavailable("postgres", "away")
        lines.append(event)

    trail = AccessLog(write)
    for _ in range(EVENTS_PER_WINDOW + 1):
        with pytest.raises(StoreUnavailable):
            await trail.read(ORG, ACTORS[2], PROJECTS[0], "/quotas", must=True)
    away = False
    await trail.read(ORG, ACTORS[2], PROJECTS[0], "/quotas", must=True)
    await trail.flush(everything=True)
    assert [line.details["count"] for line in lines] == [1]


async def test_a_trail_that_takes_no_more_keeps_no_other_waiting() -> None:
    lines: list[Event] = []
    other, at = OrgId(UUID(int=2)), [0.0]

    async def write(event: Event) -> None:
        if event.org_id == ORG:
            raise AuditLogTampered
        lines.append(event)

    trail = AccessLog(write, lambda: at[0])
    for org_id in (ORG, other):
        for _ in range(EVENTS_PER_WINDOW + 5):
            await trail.denied(org_id, ACTORS[0], PROJECTS[0])
    at[0] += WINDOW_S
    await trail.flush()
    assert {event.org_id for event in lines} == {other}
    assert sum(int(event.details["count"]) for event in lines) == EVENTS_PER_WINDOW + 5
    with pytest.raises(AuditLogTampered):
        await trail.exported(ORG, ACTORS[0], PROJECTS[0], "/usage")


async def test_a_refusal_whose_asker_went_away_is_counted() -> None:
    begun = asyncio.Event()
    lines: list[Event] = []

    async def hangs(_: Event) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def write(event: Event) -> None:
        lines.append(event)

    trail = AccessLog(lambda event: (write if begun.is_set() else hangs)(event))
    asking = asyncio.create_task(trail.denied(ORG, ACTORS[0], PROJECTS[0]))
    await begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await trail.flush(everything=True)
    assert [(line.target_id, line.details["count"]) for line in lines] == [("p", 1)]


async def test_what_comes_while_a_count_cannot_be_written_is_counted_with_it() -> None:
    at, is_away = 1_795_000_000.0, False
    lines: list[Event] = []
    asked, told = asyncio.Event(), asyncio.Event()

    async def write(event: Event) -> None:
        if is_away:
            asked.set()
            await told.wait()
            raise StoreUnavailable("postgres", "away")
        lines.append(event)

    async def read(times: int) -> None:
        for _ in range(times):
            await trail.read(ORG, ACTORS[0], PROJECTS[0], "/runs", must=False)

    trail = AccessLog(write, lambda: at)
    await read(3)
    at, is_away = at + WINDOW_S, True
    flushing = asyncio.create_task(trail.flush())
    await asked.wait()
    reading = asyncio.create_task(read(4))
    await asyncio.sleep(0)
    told.set()
    await asyncio.gather(flushing, reading)
    is_away = False
    await trail.flush(everything=True)
    assert sum(line.details["count"] for line in lines) == 7
