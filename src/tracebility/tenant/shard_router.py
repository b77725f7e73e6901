"""Maps an org to its shards (by hash, unless the shard map overrides it), and a shard to its streams.

Correctness does not depend on the shard of an envelope: workers read all shards, rows merge by identity and version,
and each stream has its own ledger keys. So a router may use an outdated map, and moving an org needs no barrier:
envelopes queued before the move are read from their old shard.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

from tracebility.ids import OrgId

SHARDS = 16
STREAM_PREFIX = "tracebility:ingest:v1"
LEGACY_STREAM = STREAM_PREFIX
DEAD_LETTER_STREAM = f"{STREAM_PREFIX}:dlq"
_OVERFLOW = ":overflow"

MOVED, SPLIT, DEFAULT = "moved", "split", "default"


def shard_of(org_id: OrgId) -> int:
    """Return the org's default shard, 0 to 15: ``blake2b(org_id) mod 16``, as the specification defines it."""
    return _hash(org_id) % SHARDS


def stream_of(shard: int) -> str:
    """Return the stream of a shard."""
    return f"{STREAM_PREFIX}:{shard}"


def overflow_of(shard: int) -> str:
    """Return a shard's overflow stream, which takes the excess of busy orgs and is read at a lower weight."""
    return f"{STREAM_PREFIX}:{shard}{_OVERFLOW}"


def primary_stream(stream: str) -> str:
    """Return the shard's stream for an overflow stream; any other stream is returned unchanged."""
    return stream.removesuffix(_OVERFLOW)


SHARD_STREAMS = tuple(map(stream_of, range(SHARDS)))
OVERFLOW_STREAMS = tuple(map(overflow_of, range(SHARDS)))
# All streams that may hold envelopes.
ALL_STREAMS = (LEGACY_STREAM, *SHARD_STREAMS, *OVERFLOW_STREAMS)


class Placement(NamedTuple):
    """The shards of an org as of an epoch of the shard map. ``state``: moved, split, or default (by hash)."""

    epoch: int
    org_id: OrgId
    shards: tuple[int, ...]
    state: str


class ShardRouter:
    """This process's copy of the shard map. Orgs without a placement use their default shard."""

    def __init__(self, placements: Iterable[Placement] = ()) -> None:
        self.epoch = 0
        self._placements: dict[OrgId, Placement] = {}
        self.learn(placements)

    def learn(self, placements: Iterable[Placement]) -> None:
        """Apply placements with a newer epoch than the known one, in any order."""
        for placement in placements:
            known = self._placements.get(placement.org_id)
            if known is None or known.epoch < placement.epoch:
                self._placements[placement.org_id] = placement
            self.epoch = max(self.epoch, placement.epoch)

    def shards_of(self, org_id: OrgId) -> tuple[int, ...]:
        """Return the shards of an org."""
        placement = self._placements.get(org_id)
        return (shard_of(org_id),) if placement is None or placement.state == DEFAULT else placement.shards

    def shard_for(self, org_id: OrgId, envelope_id: UUID) -> int:
        """Return the shard of one request. An org with several shards is spread by envelope id."""
        shards = self.shards_of(org_id)
        return shards[0] if len(shards) == 1 else shards[_hash(envelope_id) % len(shards)]


def _hash(uuid: UUID) -> int:
    return int.from_bytes(blake2b(uuid.bytes, digest_size=8).digest(), "big")
