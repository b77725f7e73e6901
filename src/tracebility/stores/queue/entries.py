"""What the queue holds: entries of streams, how full a stream is, and what leaves it; the names that its keys have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from tracebility.tenant.ledger import Book
from tracebility.tenant.redis_keys import shared_key, stream_key
from tracebility.tenant.scripts import Script
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM
from tracebility.wire.envelope import MalformedEnvelope, from_fields

GROUP = "ingest-worker"

SCAN_COUNT = 1_000
# What is known of how full streams are, and for how long it is believed.
MOST_DEPTHS = 10_000
DEPTH_KNOWN_S = 0.25

# A field of entries that may be in the queue, or have been in it, once more: they come from a disk buffer or from the
# dead letters.
AGAIN = "again"

# Which entry an envelope counts for is remembered while that may be in its stream, also when no worker runs for weeks.
# Once it has left, its outcome tells; but not to who asked just before that was written, and is to decide now.
# A mark is 0.3 KB: 34 MB at a thousand envelopes a second.
COUNTS_IN_STREAM_MS = 30 * 24 * 3_600_000
COUNTS_LEFT_MS = 120_000

# Entries, by stream and id, that are in the dead letters and may be in their stream still; in the dead letters' slot.
BURIED = stream_key(DEAD_LETTER_STREAM, "buried")
# Bytes of dead letters by org, of those of which that can be told.
DEAD_BYTES = stream_key(DEAD_LETTER_STREAM, "bytes")

# Slots in which something was accepted that came to the queue late, from a disk buffer, each with the milliseconds by
# which it had come.
LATE = shared_key("late")

StreamId: TypeAlias = bytes
Fields: TypeAlias = Mapping[str, bytes]
EntryFields: TypeAlias = dict[bytes, bytes]
Append: TypeAlias = tuple[str, Fields]
ScriptCall: TypeAlias = tuple[Script, list[str], list[Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream. ``fields`` is empty when the entry was deleted under a pending claim."""

    id: StreamId
    fields: EntryFields


class IdleEntry(NamedTuple):
    """A pending entry that nobody says they are at work on, and how often it was delivered."""

    id: StreamId
    deliveries: int


@dataclass(frozen=True, slots=True)
class Depth:
    """How full a stream is. ``oldest_ms`` is the Unix time of its first entry, None when it is empty."""

    length: int
    pending: int
    oldest_ms: int | None

    def __add__(self, other: "Depth") -> "Depth":
        """Of two streams that are looked at as one."""
        oldest = [at for at in (self.oldest_ms, other.oldest_ms) if at is not None]
        return Depth(self.length + other.length, self.pending + other.pending, min(oldest, default=None))


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes used and allowed; ``maximum`` is 0 when there is no bound."""

    used: int
    maximum: int


class Departure(NamedTuple):
    """What the books say of an envelope, whether it counts for another of its entries, and the one that it leaves with,
    b'' for none.
    """

    book: Book
    counts_elsewhere: bool
    entry_id: StreamId


@dataclass(frozen=True, slots=True)
class Leaving:
    """Entries of a stream that are done with, and their envelopes."""

    stream: str
    ids: Sequence[StreamId]
    departures: Sequence[Departure] = ()


def entries_of(reply: list[Any] | None) -> list[Entry]:
    return [Entry(row[0], dict(zip(row[1][::2], row[1][1::2], strict=True)) if row[1] else {}) for row in reply or ()]


def owner_and_size(entry: Entry) -> tuple[str, int]:
    """The org of an envelope, '' where it cannot be told, and the bytes it takes."""
    size = sum(len(entry.fields.get(name, b"")) for name in (b"h", b"b", b"d"))
    try:
        return str(from_fields(entry.fields).header.org_id), size
    except MalformedEnvelope:
        return "", size


def xadd(stream: str, fields: Fields) -> tuple[Any, ...]:
    return ("XADD", stream, "*", *(part for field in fields.items() for part in field))
