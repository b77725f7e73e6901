"""Where an org's envelopes queue: the shard of its hash, unless the shard map says otherwise; and a shard's stream.

Nothing depends on where an envelope queues. Workers read all shards always, rows merge by their identity and version
and never by their arrival, and books are kept beside each stream. So a router may be behind the map for as long as it
likes, and a move needs no barrier: what was queued before it drains from where it is.
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
    """The org's shard by its hash, 0 to 15: ``blake2b(org_id) mod 16``, to the letter of the specification."""
    return _hash(org_id) % SHARDS


def stream_of(shard: int) -> str:
    """The stream that holds a shard's envelopes."""
    return f"{STREAM_PREFIX}:{shard}"


def overflow_of(shard: int) -> str:
    """The stream for what an org has too much of in a shard's stream: served beside it, at a lower weight."""
    return f"{STREAM_PREFIX}:{shard}{_OVERFLOW}"


def beside(stream: str) -> str:
    """The stream that an overflow is beside; of any other, itself."""
    return stream.removesuffix(_OVERFLOW)


SHARD_STREAMS = tuple(map(stream_of, range(SHARDS)))
OVERFLOW_STREAMS = tuple(map(overflow_of, range(SHARDS)))
# Wherever an envelope may be.
ALL_STREAMS = (LEGACY_STREAM, *SHARD_STREAMS, *OVERFLOW_STREAMS)


class Placement(NamedTuple):
    """What an epoch of the map says of an org. ``state`` is moved, split, or default: by the hash again."""

    epoch: int
    org_id: OrgId
    shards: tuple[int, ...]
    state: str


class ShardRouter:
    """One process's copy of the shard map; without a map, every org is in the shard of its hash."""

    def __init__(self, placements: Iterable[Placement] = ()) -> None:
        self.epoch = 0
        self._placements: dict[OrgId, Placement] = {}
        self.learn(placements)

    def learn(self, placements: Iterable[Placement]) -> None:
        """Take over what is newer than what is known, in whatever order it comes."""
        for placement in placements:
            known = self._placements.get(placement.org_id)
            if known is None or known.epoch < placement.epoch:
                self._placements[placement.org_id] = placement
            self.epoch = max(self.epoch, placement.epoch)

    def shards_of(self, org_id: OrgId) -> tuple[int, ...]:
        """The shards that an org's envelopes go to."""
        placement = self._placements.get(org_id)
        return (shard_of(org_id),) if placement is None or placement.state == DEFAULT else placement.shards

    def shard_for(self, org_id: OrgId, envelope_id: UUID) -> int:
        """The shard of one request. An org with several is spread by the ids of envelopes, without coordination."""
        shards = self.shards_of(org_id)
        return shards[0] if len(shards) == 1 else shards[_hash(envelope_id) % len(shards)]


def _hash(uuid: UUID) -> int:
    return int.from_bytes(blake2b(uuid.bytes, digest_size=8).digest(), "big")
