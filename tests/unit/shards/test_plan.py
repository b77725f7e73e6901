"""A plan makes shards even with a few moves, whoever sends how much."""

import random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracebility.ids import OrgId
from tracebility.shards import plan
from tracebility.shards.plan import PIECE, Proposal, propose, shard_loads, skew
from tracebility.tenant.shard_router import SHARDS, shard_of

PROMISED = 1.5


def orgs_of(seed: int, count: int) -> list[OrgId]:
    made = random.Random(seed)
    return [OrgId(UUID(int=made.getrandbits(128))) for _ in range(count)]


def by_hash(orgs: list[OrgId]) -> dict[OrgId, tuple[int, ...]]:
    return {org: (shard_of(org),) for org in orgs}


def zipf(orgs: list[OrgId], exponent: float) -> dict[OrgId, int]:
    """The first org sends the most; how much the others do falls with their rank."""
    return {org: round(1e9 / rank**exponent) for rank, org in enumerate(orgs, 1)}


def applied(proposal: Proposal, places: dict[OrgId, tuple[int, ...]]) -> dict[OrgId, tuple[int, ...]]:
    return places | {move.org_id: move.after for move in proposal.moves}


@pytest.mark.parametrize(("count", "exponent"), [(1000, 1.0), (1000, 1.3), (50, 1.3)])
@settings(max_examples=settings().max_examples // 3)  # of a thousand orgs each
@given(seed=st.integers(0, 2**32))
def test_skewed_traffic_is_evened_out(count: int, exponent: float, seed: int) -> None:
    orgs = orgs_of(seed, count)
    loads, places = zipf(orgs, exponent), by_hash(orgs)
    proposal = propose(loads, places)
    assert skew(shard_loads(loads, applied(proposal, places))) == pytest.approx(proposal.after)
    assert proposal.after <= PROMISED
    assert proposal.after <= proposal.before
    assert len(proposal.moves) <= 12, "an operator reads each of them"


@given(
    loads=st.dictionaries(st.uuids().map(OrgId), st.integers(0, 10**9), max_size=60),
    taken=st.sets(st.integers(0, SHARDS - 1), min_size=1),
)
def test_a_plan_is_well_formed_and_never_makes_it_worse(loads: dict[OrgId, int], taken: set[int]) -> None:
    """Also from wherever earlier moves have left everyone."""
    places = {org: tuple(sorted(taken)) if org.int % 3 == 0 else (shard_of(org),) for org in loads}
    proposal = propose(loads, places)
    assert proposal.after <= proposal.before + 1e-9
    assert len(proposal.moves) <= plan.MAX_MOVES
    for move in proposal.moves:
        assert move.before == places[move.org_id] != move.after
        assert len(set(move.after)) == len(move.after)
        assert set(move.after) <= set(range(SHARDS))


@given(seed=st.integers(0, 2**32))
def test_an_org_larger_than_half_a_shard_is_split_into_pieces_that_fit_beside_others(seed: int) -> None:
    orgs = orgs_of(seed, 50)
    loads = zipf(orgs, 1.3)
    largest = next(move for move in propose(loads, by_hash(orgs)).moves if move.org_id == orgs[0])
    mean = sum(loads.values()) / SHARDS
    assert loads[orgs[0]] / len(largest.after) <= PIECE * mean


@given(seed=st.integers(0, 2**32))
def test_who_was_moved_lately_stays(seed: int) -> None:
    orgs = orgs_of(seed, 50)
    loads, places = zipf(orgs, 1.3), by_hash(orgs)
    held = set(orgs[:3])
    assert not held & {move.org_id for move in propose(loads, places, held).moves}


@given(seed=st.integers(0, 2**32))
def test_what_is_even_enough_is_left_alone(seed: int) -> None:
    """So a plan that was carried out is followed by none."""
    orgs = orgs_of(seed, 50)
    loads, places = zipf(orgs, 1.3), by_hash(orgs)
    assert propose(loads, applied(propose(loads, places), places)).moves == []


def test_nothing_sent_is_even() -> None:
    assert propose({}, {}) == Proposal([], 1.0, 1.0)
