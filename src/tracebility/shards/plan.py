"""How orgs could lie better on the shards: a few moves and splits that make the hottest shard not much hotter than all.

Bin packing by weight, an org's weight being what it sent lately. It starts from what stands, because each move costs a
reader of the trail an explanation: the hottest shard gives up the org whose going helps most, until it is cool enough.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import ceil

from tracebility.ids import OrgId
from tracebility.tenant.shard_router import SHARDS

# What a plan goes for, hottest shard over the mean: below the 1.5 that is promised, so that it holds for a while.
AIM = 1.4
# An org larger than this share of a mean shard is spread over so many that each piece is smaller: then any piece fits
# beside what lies on a shard of mean load.
PIECE = 0.5
# A plan is read by people, and carried out in one sitting.
MOST_MOVES = 64
# How often one plan may think again about the same org, while later moves change what is best for it.
MOST_THOUGHTS = 3

Loads = Mapping[OrgId, int]  # items
Places = Mapping[OrgId, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ProposedMove:
    """An org, the shards it is on, those it should be on, and what it sent."""

    org_id: OrgId
    before: tuple[int, ...]
    after: tuple[int, ...]
    load: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """Moves, and the skew without and with them: load of the hottest shard over the mean, 1 is even."""

    moves: list[ProposedMove] = field(default_factory=list)
    before: float = 1.0
    after: float = 1.0


def shard_loads(loads: Loads, places: Places) -> list[float]:
    """What each shard would get if orgs went on as they were: an org's load, in equal parts over its shards."""
    on = [0.0] * SHARDS
    for org_id, load in loads.items():
        _put(on, places[org_id], load)
    return on


def skew(on: Collection[float]) -> float:
    """Load of the hottest shard over the mean; 1 where there is none."""
    total = sum(on)
    return max(on) * len(on) / total if total else 1.0


def coolest(on: list[float], count: int) -> tuple[int, ...]:
    """The ``count`` shards with the least load, in order of their number."""
    return tuple(sorted(sorted(range(SHARDS), key=lambda shard: (on[shard], shard))[:count]))


def propose(loads: Loads, places: Places, held: Collection[OrgId] = (), aim: float = AIM) -> Proposal:
    """Moves after which no shard has more than ``aim`` times the mean, as far as orgs that are not ``held`` allow it.

    Costs the moves times the orgs of a shard times the shards: tens of milliseconds for thousands of orgs.
    """
    now = dict(places)
    on = shard_loads(loads, now)
    before = skew(on)
    mean = sum(on) / SHARDS
    thoughts = dict.fromkeys(loads, 0)
    while skew(on) > aim and sum(now[org_id] != places[org_id] for org_id in loads) < MOST_MOVES:
        hottest = max(range(SHARDS), key=on.__getitem__)
        best: tuple[float, int, OrgId, tuple[int, ...]] | None = None
        for org_id, load in loads.items():
            if not load or hottest not in now[org_id] or org_id in held or thoughts[org_id] == MOST_THOUGHTS:
                continue
            to, peak = _best_place(on, now[org_id], load, mean)
            if peak < on[hottest] and (best is None or (peak, len(to)) < best[:2]):
                best = peak, len(to), org_id, to
        if best is None:
            break
        _, _, org_id, to = best
        _put(on, now[org_id], -loads[org_id])
        _put(on, to, loads[org_id])
        now[org_id] = to
        thoughts[org_id] += 1
    moves = [
        ProposedMove(org_id, tuple(places[org_id]), now[org_id], load)
        for org_id, load in sorted(loads.items(), key=lambda item: -item[1])
        if now[org_id] != places[org_id]
    ]
    return Proposal(moves, before, skew(shard_loads(loads, now)))


def _best_place(on: list[float], place: tuple[int, ...], load: float, mean: float) -> tuple[tuple[int, ...], float]:
    """Where an org would lie best, and the most that a shard it leaves or comes to would have then."""
    without = list(on)
    _put(without, place, -load)
    to = coolest(without, min(SHARDS, max(1, ceil(load / (PIECE * mean)))))
    piece = load / len(to)
    return to, max(*(without[shard] for shard in place), *(without[shard] + piece for shard in to))


def _put(on: list[float], place: tuple[int, ...], load: float) -> None:
    for shard in place:
        on[shard] += load / len(place)
