"""Plans moves and splits of orgs that even out the load of the shards.

Greedy bin packing, weighted by each org's recent load. It starts from the current placement, so that few orgs move: it
repeatedly takes the org off the hottest shard that lowers the peak most, until the skew is acceptable.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import ceil

from tracebility.ids import OrgId
from tracebility.tenant.shard_router import SHARDS

# Target skew (hottest shard over the mean). Below the promised 1.5, so that the result holds for a while.
AIM = 1.4
# An org with more than this share of a shard's mean load is split into smaller pieces, which then fit on any shard of
# mean load.
PIECE = 0.5
# Plans are reviewed by people, so they are short.
MAX_MOVES = 64
# How often a plan may move the same org again, because later moves change its best placement.
MAX_MOVES_PER_ORG = 3

Loads = Mapping[OrgId, int]  # items
Places = Mapping[OrgId, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ProposedMove:
    """Move an org from shards ``before`` to ``after``. ``load`` is its number of items."""

    org_id: OrgId
    before: tuple[int, ...]
    after: tuple[int, ...]
    load: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """Moves, and the skew before and after them (load of the hottest shard over the mean; 1 is even)."""

    moves: list[ProposedMove] = field(default_factory=list)
    before: float = 1.0
    after: float = 1.0


def shard_loads(loads: Loads, places: Places) -> list[float]:
    """Return the load of each shard. An org's load is divided equally among its shards."""
    by_shard = [0.0] * SHARDS
    for org_id, load in loads.items():
        _put(by_shard, places[org_id], load)
    return by_shard


def skew(by_shard: Collection[float]) -> float:
    """Return the load of the hottest shard over the mean; 1 without load."""
    total = sum(by_shard)
    return max(by_shard) * len(by_shard) / total if total else 1.0


def coolest(by_shard: list[float], count: int) -> tuple[int, ...]:
    """Return the ``count`` least loaded shards, in numerical order."""
    return tuple(sorted(sorted(range(SHARDS), key=lambda shard: (by_shard[shard], shard))[:count]))


def propose(loads: Loads, places: Places, held: Collection[OrgId] = (), aim: float = AIM) -> Proposal:
    """Propose moves after which, if possible, no shard has more than ``aim`` times the mean load.

    Orgs in ``held`` are not moved. Cost: moves x orgs per shard x shards; tens of milliseconds for thousands of orgs.
    """
    now = dict(places)
    by_shard = shard_loads(loads, now)
    before = skew(by_shard)
    mean = sum(by_shard) / SHARDS
    move_counts = dict.fromkeys(loads, 0)
    while skew(by_shard) > aim and sum(now[org_id] != places[org_id] for org_id in loads) < MAX_MOVES:
        hottest = max(range(SHARDS), key=by_shard.__getitem__)
        best: tuple[float, int, OrgId, tuple[int, ...]] | None = None
        for org_id, load in loads.items():
            if not load or hottest not in now[org_id] or org_id in held or move_counts[org_id] == MAX_MOVES_PER_ORG:
                continue
            to, peak = _best_place(by_shard, now[org_id], load, mean)
            if peak < by_shard[hottest] and (best is None or (peak, len(to)) < best[:2]):
                best = peak, len(to), org_id, to
        if best is None:
            break
        _, _, org_id, to = best
        _put(by_shard, now[org_id], -loads[org_id])
        _put(by_shard, to, loads[org_id])
        now[org_id] = to
        move_counts[org_id] += 1
    moves = [
        ProposedMove(org_id, tuple(places[org_id]), now[org_id], load)
        for org_id, load in sorted(loads.items(), key=lambda item: -item[1])
        if now[org_id] != places[org_id]
    ]
    return Proposal(moves, before, skew(shard_loads(loads, now)))


def _best_place(
    by_shard: list[float], place: tuple[int, ...], load: float, mean: float
) -> tuple[tuple[int, ...], float]:
    """Return the best shards for an org, and the highest load among the shards that the org leaves or joins."""
    without = list(by_shard)
    _put(without, place, -load)
    to = coolest(without, min(SHARDS, max(1, ceil(load / (PIECE * mean)))))
    piece = load / len(to)
    return to, max(*(without[shard] for shard in place), *(without[shard] + piece for shard in to))


def _put(by_shard: list[float], place: tuple[int, ...], load: float) -> None:
    for shard in place:
        by_shard[shard] += load / len(place)
