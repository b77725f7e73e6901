"""The ledger of an org: accepted = stored + dropped + dead + in flight, in items, each envelope counted once.

`accepted` and `in_flight` are Redis hashes in the same cluster slot as the envelope's stream, written by
`record_accepted.lua` and `remove_entries.lua`. Outcomes (stored, dropped, dead) are rows in ClickHouse. An entry that a
stream loses stays in flight for ever, which shows the loss. An envelope may have several entries, in its shard's
stream, in the overflow stream or in both, also after its org has moved: `counted_entry.lua` decides which one counts.
"""

from typing import NamedTuple
from uuid import UUID

from tracebility.tenant.redis_keys import stream_key
from tracebility.tenant.shard_router import primary_stream
from tracebility.wire.envelope import Header

STORED, DROPPED, DEAD = "stored", "dropped", "dead"

HOUR_US = 3_600_000_000


class LedgerEntry(NamedTuple):
    """The ledger's record of one envelope."""

    stream: str
    org_id: UUID
    envelope_id: UUID
    hour: int  # of acceptance, since 1970
    items: int

    @property
    def keys(self) -> tuple[str, str]:
        """The Redis keys of its `accepted` and `in_flight` hashes."""
        return accepted_key(self.stream, self.org_id), in_flight_key(self.stream, self.org_id)


def ledger_entry(stream: str, header: Header) -> LedgerEntry:
    """Return the ledger entry of an envelope in ``stream``."""
    return LedgerEntry(stream, header.org_id, header.id, header.accepted_at_us // HOUR_US, header.items)


def accepted_key(stream: str, org_id: UUID) -> str:
    """Key of the hash: hour since 1970 -> items of the org accepted into this stream."""
    return stream_key(stream, "accepted", str(org_id))


def in_flight_key(stream: str, org_id: UUID) -> str:
    """Key of the hash: envelope id -> ``hour|items|recorded_at_ms``, for the org's envelopes in this stream."""
    return stream_key(stream, "in_flight", str(org_id))


def in_flight_keys(stream: str) -> str:
    """SCAN pattern of the `in_flight` keys of all orgs."""
    return stream_key(stream, "in_flight") + ":*"


def counts_key(entry: LedgerEntry) -> str:
    """Key of the location of the one entry for which an envelope counts, in the shard's stream or its overflow."""
    return stream_key(primary_stream(entry.stream), "counts", str(entry.org_id), entry.envelope_id.hex)


def org_of(in_flight: str) -> UUID:
    """Return the org of an `in_flight` key."""
    return UUID(in_flight.rpartition(".")[2])
