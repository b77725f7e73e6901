"""The books of an org: accepted = stored + dropped + dead + in flight, in items, each envelope once.

What is accepted, and what is in flight, is kept beside the stream of the envelope, in its slot of a cluster; what
became of an envelope is in the data plane. `enter.lua` and `leave.lua` keep the first two; an entry that a stream lost
stays in flight for ever, and tells which it was. An envelope may have several entries, in the stream of its shard, in
the overflow or in both, also after its org has moved: `count.lua` says which of them it counts for.
"""

from typing import NamedTuple
from uuid import UUID

from tracebility.tenant.redis_keys import stream_key
from tracebility.tenant.shard_router import beside
from tracebility.wire.envelope import Header

STORED, DROPPED, DEAD = "stored", "dropped", "dead"

HOUR_US = 3_600_000_000


class Book(NamedTuple):
    """What the books say of an envelope."""

    stream: str
    org_id: UUID
    envelope_id: UUID
    hour: int  # of its accept, since 1970
    items: int

    @property
    def keys(self) -> tuple[str, str]:
        """Where it is accepted, and where it is in flight."""
        return accepted_key(self.stream, self.org_id), in_flight_key(self.stream, self.org_id)


def book_of(stream: str, header: Header) -> Book:
    """The entry for the envelope of ``header`` in ``stream``."""
    return Book(stream, header.org_id, header.id, header.accepted_at_us // HOUR_US, header.items)


def accepted_key(stream: str, org_id: UUID) -> str:
    """Items of an org that were accepted into a stream, by hour since 1970."""
    return stream_key(stream, "accepted", str(org_id))


def in_flight_key(stream: str, org_id: UUID) -> str:
    """Envelopes of an org that are in a stream, each with its hour, its items, and when it was entered (ms)."""
    return stream_key(stream, "in_flight", str(org_id))


def in_flight_keys(stream: str) -> str:
    """A pattern of the keys of all orgs."""
    return stream_key(stream, "in_flight") + ":*"


def counts_key(book: Book) -> str:
    """The place of the entry that an envelope counts for, be that in the stream of its shard or in the overflow."""
    return stream_key(beside(book.stream), "counts", str(book.org_id), book.envelope_id.hex)


def org_of(in_flight: str) -> UUID:
    """The org of one of those keys."""
    return UUID(in_flight.rpartition(".")[2])
