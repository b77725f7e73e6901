"""Where an org's envelopes queue: the shard of its hash, and the stream of the shard."""

from hashlib import blake2b

from tracebility.ids import OrgId

SHARDS = 16
STREAM_PREFIX = "tracebility:ingest:v1"
LEGACY_STREAM = STREAM_PREFIX
DEAD_LETTER_STREAM = f"{STREAM_PREFIX}:dlq"


def shard_of(org_id: OrgId) -> int:
    """The org's shard, 0 to 15: ``blake2b(org_id) mod 16``, to the letter of the specification."""
    return int.from_bytes(blake2b(org_id.bytes, digest_size=8).digest(), "big") % SHARDS


def stream_of(shard: int) -> str:
    """The stream that holds a shard's envelopes."""
    return f"{STREAM_PREFIX}:{shard}"
