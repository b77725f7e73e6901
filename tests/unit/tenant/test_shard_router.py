"""Routers behind a map that changes: wherever one sends an envelope, the org has been there, and a worker looks there.

A model of the whole: a map that only grows, routers that each know some of it, shards that hold what was sent, and
workers that read them all.
"""

from collections import Counter
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tracebility.ids import OrgId
from tracebility.tenant.shard_router import DEFAULT, MOVED, SHARDS, SPLIT, Placement, ShardRouter, shard_of

ORGS = [OrgId(UUID(int=number)) for number in range(1, 5)]
ROUTERS = 3

orgs = st.sampled_from(ORGS)
routers = st.integers(0, ROUTERS - 1)
places = st.lists(st.integers(0, SHARDS - 1), min_size=1, max_size=SHARDS, unique=True).map(tuple)


class Routing(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.map: list[Placement] = []
        self.routers = [ShardRouter() for _ in range(ROUTERS)]
        self.queued: dict[int, list[int]] = {shard: [] for shard in range(SHARDS)}
        self.sent = 0
        self.stored: Counter[int] = Counter()

    def ever(self, org: OrgId) -> set[int]:
        """The shards that some epoch of the map gave the org, the hash's of before any included."""
        return {shard_of(org)}.union(*(one.shards for one in self.map if one.org_id == org and one.state != DEFAULT))

    @rule(org=orgs, place=places)
    def move(self, org: OrgId, place: tuple[int, ...]) -> None:
        self.map.append(Placement(len(self.map) + 1, org, place, MOVED if len(place) == 1 else SPLIT))

    @rule(org=orgs)
    def undo_to_the_hash(self, org: OrgId) -> None:
        self.map.append(Placement(len(self.map) + 1, org, (shard_of(org),), DEFAULT))

    @rule(router=routers)
    def learn(self, router: int) -> None:
        """As a process does: what is newer than its copy, the latest of each org."""
        newer = {one.org_id: one for one in self.map if one.epoch > self.routers[router].epoch}
        self.routers[router].learn(newer.values())

    @rule(router=routers, seed=st.randoms(use_true_random=False))
    def hear_late_and_twice(self, router: int, seed: object) -> None:
        """Old news in any order makes no router forget newer ones."""
        known = [one for one in self.map if one.epoch <= self.routers[router].epoch]
        seed.shuffle(known)  # type: ignore[attr-defined]
        before = {org: self.routers[router].shards_of(org) for org in ORGS}
        self.routers[router].learn(known)
        assert {org: self.routers[router].shards_of(org) for org in ORGS} == before

    @rule(router=routers)
    def restart(self, router: int) -> None:
        standing = {one.org_id: one for one in self.map}
        self.routers[router] = ShardRouter(standing.values())

    @rule(router=routers, org=orgs, envelope=st.uuids())
    def send(self, router: int, org: OrgId, envelope: UUID) -> None:
        shard = self.routers[router].shard_for(org, envelope)
        assert shard in self.ever(org)
        self.queued[shard].append(self.sent)
        self.sent += 1

    @rule()
    def drain(self) -> None:
        """A worker reads every shard, whatever the map says."""
        for queued in self.queued.values():
            self.stored.update(queued)
            queued.clear()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        waiting = Counter(number for queued in self.queued.values() for number in queued)
        assert self.stored + waiting == Counter(range(self.sent))

    @invariant()
    def who_knows_the_latest_epoch_follows_it(self) -> None:
        for router in self.routers:
            if self.map and router.epoch == self.map[-1].epoch:
                for org in ORGS:
                    last = next((one for one in reversed(self.map) if one.org_id == org), None)
                    assert router.shards_of(org) == (last.shards if last else (shard_of(org),))


Routing.TestCase.settings = settings(stateful_step_count=40)
TestRouting = Routing.TestCase


@given(org=st.uuids().map(OrgId), place=places.filter(lambda place: len(place) > 1))
def test_a_split_org_is_spread_over_all_of_its_shards_and_no_other(org: OrgId, place: tuple[int, ...]) -> None:
    router = ShardRouter([Placement(1, org, place, SPLIT)])
    counts = Counter(router.shard_for(org, UUID(int=number)) for number in range(3000))
    assert set(counts) == set(place)
    assert max(counts.values()) < 3 * min(counts.values())


@given(org=st.uuids().map(OrgId), envelope=st.uuids())
def test_without_a_map_an_org_is_on_the_shard_of_its_hash(org: OrgId, envelope: UUID) -> None:
    assert ShardRouter().shard_for(org, envelope) == shard_of(org)
