"""Operators' view of the shard map: status, plans, moves and their undo.

A move is one row: it takes effect when the row is committed, and routers load it. No data is copied, so a move that
fails before the commit has no effect.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from tracebility.audit.events import Actor, AuditWriter, Event, EventType
from tracebility.errors import MovedLately, NotFound, Unprocessable
from tracebility.failpoints import failpoint
from tracebility.ids import OrgId
from tracebility.shards.plan import coolest, propose, shard_loads, skew
from tracebility.shards.routing import LOAD_HOURS, ShardQueue, org_loads, placement, placements
from tracebility.stores.postgres import Row, Statements, Transaction
from tracebility.tenant.shard_router import (
    DEFAULT,
    MOVED,
    OVERFLOW_STREAMS,
    SHARD_STREAMS,
    SHARDS,
    SPLIT,
    ShardRouter,
    overflow_of,
    shard_of,
    stream_of,
)
from tracebility.validation import stamp, unacceptable

# The effect of a move shows only after a while, so an org is not moved again earlier.
HYSTERESIS = timedelta(minutes=15)
# Largest orgs per shard in `status`.
ORGS_SHOWN = 5
REASON_CHARS = 200

ShardNumber = Annotated[int, Meta(ge=0, le=SHARDS - 1)]
Pieces = Annotated[int, Meta(ge=2, le=SHARDS)]


class ShardMove(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Request to move an org to ``shards``. ``dry_run`` changes nothing; ``force`` ignores `HYSTERESIS`."""

    org_id: UUID
    shards: Annotated[list[ShardNumber], Meta(min_length=1, max_length=SHARDS)]
    dry_run: bool = False
    force: bool = False
    reason: Annotated[str, Meta(max_length=REASON_CHARS)] = ""

    def __post_init__(self) -> None:
        if len(set(self.shards)) < len(self.shards):
            raise ValueError("shards: must not contain a shard twice")
        if "\0" in self.reason:
            raise ValueError("reason: must not contain control characters")


class ShardTarget(msgspec.Struct):
    """A shard number from the command line, within its bounds."""

    shard: ShardNumber


class ShardSplit(msgspec.Struct):
    """A number of shards for a split from the command line, within its bounds."""

    n: Pieces


class ShardMoved(msgspec.Struct, kw_only=True):
    """The result of a move or dry run. ``epoch`` is the epoch of the change; null when nothing was changed."""

    org_id: UUID
    before: list[int]
    after: list[int]
    state: str
    epoch: int | None
    dry_run: bool
    skew_before: float | None = None
    skew_after: float | None = None


class ShardOrg(msgspec.Struct, kw_only=True):
    """An org on a shard: its items of the last hours on this shard, and its envelopes in flight."""

    org_id: UUID
    items: int
    envelopes_in_flight: int


class ShardState(msgspec.Struct, kw_only=True):
    """A shard: entries of its stream and overflow stream, items of the last hours, and its largest orgs."""

    shard: int
    entries: int
    pending: int
    oldest_s: float | None
    items: int
    orgs: list[ShardOrg]


class PlacedOrg(msgspec.Struct, kw_only=True):
    """An org that is not on its default shard."""

    org_id: UUID
    shards: list[int]
    state: str
    epoch: int
    moved_at: str | None
    moved_by: str
    reason: str


class ShardStatus(msgspec.Struct, kw_only=True):
    """All shards. ``skew``: load of the hottest shard over the mean, by the current placement."""

    epoch: int
    skew: float
    hours: int
    shards: list[ShardState]
    placed: list[PlacedOrg]


class ShardPlanMove(msgspec.Struct, kw_only=True):
    """A proposed move."""

    org_id: UUID
    before: list[int]
    after: list[int]
    items: int


class ShardPlan(msgspec.Struct, kw_only=True):
    """Proposed moves that even out the shards. ``held``: orgs that were moved too recently to be included."""

    skew_before: float
    skew_after: float
    moves: list[ShardPlanMove]
    held: list[UUID]


async def look(control: Statements, queue: ShardQueue, now: datetime) -> ShardStatus:
    """Return the load, depth and largest orgs of each shard.

    Raises:
        StoreUnavailable: when a store is away.
    """
    rows = await control.fetch("shard_map_since", 0)
    router = ShardRouter(placement(row) for row in rows)
    loads = await org_loads(control, queue, now)
    places = _places(router, loads)
    on = shard_loads(loads, places)
    found = await queue.depths((*SHARD_STREAMS, *OVERFLOW_STREAMS))
    depths = {stream_of(shard): found[stream_of(shard)] + found[overflow_of(shard)] for shard in range(SHARDS)}
    largest = {shard: _largest(loads, places, shard) for shard in range(SHARDS)}
    books = [(stream_of(shard), org_id) for shard, orgs in largest.items() for org_id in orgs]
    in_flight = dict(zip(books, await queue.envelopes_in_flight(books), strict=True))
    shards = []
    for shard, (stream, depth) in enumerate(depths.items()):
        oldest_s = None if depth.oldest_ms is None else max(0.0, now.timestamp() - depth.oldest_ms / 1000)
        orgs = [
            ShardOrg(
                org_id=org_id,
                items=round(loads[org_id] / len(places[org_id])),
                envelopes_in_flight=in_flight[stream, org_id],
            )
            for org_id in largest[shard]
        ]
        shards.append(
            ShardState(
                shard=shard,
                entries=depth.length,
                pending=depth.pending,
                oldest_s=oldest_s,
                items=round(on[shard]),
                orgs=orgs,
            )
        )
    placed = [_placed(row) for row in rows if row["state"] != DEFAULT]
    return ShardStatus(epoch=router.epoch, skew=round(skew(on), 3), hours=LOAD_HOURS, shards=shards, placed=placed)


async def plan(control: Statements, queue: ShardQueue, now: datetime) -> ShardPlan:
    """Propose moves that even out the shards, without changing anything.

    Raises:
        StoreUnavailable: when a store is away.
    """
    rows = await control.fetch("shard_map_since", 0)
    router = ShardRouter(placement(row) for row in rows)
    loads = await org_loads(control, queue, now)
    held = {OrgId(row["org_id"]) for row in rows if now - row["moved_at"] < HYSTERESIS}
    proposal = propose(loads, _places(router, loads), held)
    return ShardPlan(
        skew_before=round(proposal.before, 3),
        skew_after=round(proposal.after, 3),
        moves=[
            ShardPlanMove(org_id=move.org_id, before=list(move.before), after=list(move.after), items=move.load)
            for move in proposal.moves
        ],
        held=sorted(held),
    )


async def move(
    transaction: Transaction, actor: Actor, wanted: ShardMove, now: datetime, load: int | None = None
) -> ShardMoved:
    """Move an org to other shards, effective from the commit. Does nothing if it is on these shards already.

    Raises:
        NotFound: when there is no such org.
        MovedLately: when it was moved less than `HYSTERESIS` ago, and ``force`` is not set.
    """
    org_id = OrgId(wanted.org_id)
    standing = await _standing(transaction, org_id)
    before, after = _shards(org_id, standing), sorted(wanted.shards)
    state = MOVED if len(after) == 1 else SPLIT
    if before == after:
        return _moved(org_id, before, after, state, None, wanted.dry_run)
    if standing is not None and not wanted.force and now - standing["moved_at"] < HYSTERESIS:
        raise _too_soon(standing["moved_at"], now)
    if wanted.dry_run:
        return _moved(org_id, before, after, state, None, True)
    replaced = None if standing is None else standing["epoch"]
    epoch = await _write(transaction, actor, org_id, after, load, state, replaced, now, wanted.reason)
    kind = EventType.SHARD_MOVED if state == MOVED else EventType.SHARD_SPLIT
    details = {"before": before, "after": after, "epoch": epoch, "reason": wanted.reason, "forced": wanted.force}
    await AuditWriter().record(transaction, Event(kind, org_id, actor, "org", str(org_id), details))
    failpoint("shard_move_before_commit")
    return _moved(org_id, before, after, state, epoch, False)


async def undo(transaction: Transaction, actor: Actor, org_id: OrgId | None, now: datetime) -> ShardMoved:
    """Undo the last move of an org; repeated calls undo earlier moves. `HYSTERESIS` does not apply.

    Without an org, undo the latest move that can be undone.

    Raises:
        NotFound: when there is no such org.
        Unprocessable: when there is no move to undo.
    """
    await transaction.execute("lock_shard_map")
    if org_id is None:
        rows = [row for row in await transaction.fetch("shard_map_since", 0) if _can_undo(row)]
        if not rows:
            raise _nothing()
        org_id = OrgId(max(rows, key=lambda row: int(row["epoch"]))["org_id"])
    standing = await _standing(transaction, org_id)
    if standing is None or not _can_undo(standing):
        raise _nothing()
    earlier = None
    if standing["replaced"] is not None:
        earlier = await transaction.fetchrow("shard_map_at", standing["replaced"])
    before = _shards(org_id, standing)
    # Restore the previous row, including its own predecessor for further undos.
    after = _shards(org_id, earlier)
    state = DEFAULT if earlier is None else earlier["state"]
    weight, replaced = (None, None) if earlier is None else (earlier["weight"], earlier["replaced"])
    epoch = await _write(transaction, actor, org_id, after, weight, state, replaced, now, "undo")
    details = {"before": before, "after": after, "epoch": epoch, "undone": standing["epoch"]}
    await AuditWriter().record(transaction, Event(EventType.SHARD_UNDONE, org_id, actor, "org", str(org_id), details))
    return _moved(org_id, before, after, state, epoch, False)


async def foreseen(control: Statements, queue: ShardQueue, moved: ShardMoved, now: datetime) -> ShardMoved:
    """Add to ``moved``, a dry run, the skew before and after it.

    Raises:
        StoreUnavailable: when a store is away.
    """
    loads = await org_loads(control, queue, now)
    places = _places(ShardRouter(await placements(control)), loads)
    after = places | {OrgId(moved.org_id): tuple(moved.after)}
    return msgspec.structs.replace(
        moved,
        skew_before=round(skew(shard_loads(loads, places)), 3),
        skew_after=round(skew(shard_loads(loads, after)), 3),
    )


async def coolest_for(control: Statements, queue: ShardQueue, org_id: OrgId, pieces: int, now: datetime) -> list[int]:
    """Return the least loaded shards without this org, as targets for its pieces.

    Raises:
        StoreUnavailable: when a store is away.
    """
    loads = await org_loads(control, queue, now)
    loads.pop(org_id, None)
    places = _places(ShardRouter(await placements(control)), loads)
    return list(coolest(shard_loads(loads, places), pieces))


async def carry_out(
    transaction: Transaction, actor: Actor, moves: Sequence[ShardPlanMove], now: datetime, reason: str
) -> list[ShardMoved]:
    """Apply all moves of a plan in one transaction.

    Raises:
        MovedLately: when one of the orgs was moved meanwhile.
    """
    return [
        await move(transaction, actor, ShardMove(org_id=one.org_id, shards=one.after, reason=reason), now, one.items)
        for one in moves
    ]


def _places(router: ShardRouter, loads: Mapping[OrgId, Any]) -> dict[OrgId, tuple[int, ...]]:
    return {org_id: router.shards_of(org_id) for org_id in loads}


def _largest(loads: Mapping[OrgId, int], places: Mapping[OrgId, tuple[int, ...]], shard: int) -> list[OrgId]:
    here = [org_id for org_id, place in places.items() if shard in place]
    return sorted(here, key=lambda org_id: -loads[org_id] / len(places[org_id]))[:ORGS_SHOWN]


async def _standing(transaction: Transaction, org_id: OrgId) -> Row | None:
    """Return the org's current row, None if it was never moved, and lock the map until the transaction ends."""
    await transaction.execute("lock_shard_map")
    if await transaction.fetchrow("lock_org", org_id) is None:
        raise NotFound
    return await transaction.fetchrow("shard_map_of_org", org_id)


def _shards(org_id: OrgId, row: Row | None) -> list[int]:
    return [shard_of(org_id)] if row is None else list(row["shards"])


def _can_undo(row: Row) -> bool:
    return row["state"] != DEFAULT or row["replaced"] is not None


async def _write(
    transaction: Transaction,
    actor: Actor,
    org_id: OrgId,
    shards: Sequence[int],
    weight: int | None,
    state: str,
    replaced: int | None,
    now: datetime,
    reason: str,
) -> int:
    epoch: int = await transaction.fetchval(
        "insert_shard_move", org_id, list(shards), weight, state, replaced, now, f"{actor.type}:{actor.id}", reason
    )
    return epoch


def _moved(
    org_id: OrgId, before: list[int], after: list[int], state: str, epoch: int | None, dry_run: bool
) -> ShardMoved:
    return ShardMoved(org_id=org_id, before=before, after=after, state=state, epoch=epoch, dry_run=dry_run)


def _placed(row: Row) -> PlacedOrg:
    return PlacedOrg(
        org_id=row["org_id"],
        shards=list(row["shards"]),
        state=row["state"],
        epoch=row["epoch"],
        moved_at=stamp(row["moved_at"]),
        moved_by=row["moved_by"],
        reason=row["reason"],
    )


def _too_soon(moved_at: datetime, now: datetime) -> MovedLately:
    wait = HYSTERESIS - (now - moved_at)
    return MovedLately(stamp(moved_at) or "", max(1, int(wait.total_seconds()) + 1))


def _nothing() -> Unprocessable:
    return unacceptable("org_id", "there is no move to undo; 'tracebility shards status' shows the current moves")
