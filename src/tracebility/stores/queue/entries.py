"""Types of the queue (entries, depths, removals) and the names of its Redis keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from tracebility.tenant.ledger import LedgerEntry
from tracebility.tenant.redis_keys import shared_key, stream_key
from tracebility.tenant.scripts import Script
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM
from tracebility.wire.envelope import MalformedEnvelope, from_fields

GROUP = "ingest-worker"

SCAN_COUNT = 1_000
# Cached stream depths, and how long one is used.
MAX_DEPTHS = 10_000
DEPTH_KNOWN_S = 0.25

# Field of entries that may be duplicates, because they come from a disk buffer or from the dead letters.
MAYBE_DUPLICATE = "again"

# How long the counted entry of an envelope is remembered: while it may be in its stream, even if no worker runs for
# weeks. After its removal the outcome row has the answer, but a worker that read the outcomes just before needs the key
# for a moment longer. A key takes 0.3 KB: 34 MB at a thousand envelopes per second.
COUNTS_IN_STREAM_MS = 30 * 24 * 3_600_000
COUNTS_LEFT_MS = 120_000

# Hash in the dead letters' slot: stream and id of entries that are in the dead letters and maybe still in their stream.
DEAD_LETTER_MARKS = stream_key(DEAD_LETTER_STREAM, "buried")
# Hash: org -> bytes of dead letters. Entries without a readable org are not counted.
DEAD_BYTES = stream_key(DEAD_LETTER_STREAM, "bytes")

# Sorted set: time slot with envelopes that reached the queue late, from a disk buffer -> time (ms) of their arrival.
LATE = shared_key("late")

StreamId: TypeAlias = bytes
Fields: TypeAlias = Mapping[str, bytes]
EntryFields: TypeAlias = dict[bytes, bytes]
Append: TypeAlias = tuple[str, Fields]
ScriptCall: TypeAlias = tuple[Script, list[str], list[Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream. ``fields`` is empty when the entry was deleted while it was pending."""

    id: StreamId
    fields: EntryFields


class IdleEntry(NamedTuple):
    """A pending entry that no worker refreshes, and how often it was delivered."""

    id: StreamId
    deliveries: int


@dataclass(frozen=True, slots=True)
class Depth:
    """Entries of a stream. ``oldest_ms`` is the Unix time of the first one, None when the stream is empty."""

    length: int
    pending: int
    oldest_ms: int | None

    def __add__(self, other: "Depth") -> "Depth":
        """The depth of two streams together."""
        oldest = [at for at in (self.oldest_ms, other.oldest_ms) if at is not None]
        return Depth(self.length + other.length, self.pending + other.pending, min(oldest, default=None))


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes used and allowed; ``maximum`` is 0 when unlimited."""

    used: int
    maximum: int


class LedgerRemoval(NamedTuple):
    """An envelope to remove from the ledger's `in_flight`.

    ``counts_elsewhere``: another entry of the envelope counts in the ledger. ``entry_id``: the entry being removed;
    empty if there is none.
    """

    book: LedgerEntry
    counts_elsewhere: bool
    entry_id: StreamId


@dataclass(frozen=True, slots=True)
class Removal:
    """Processed entries of a stream to delete, and their envelopes."""

    stream: str
    ids: Sequence[StreamId]
    ledger_removals: Sequence[LedgerRemoval] = ()


def entries_of(reply: list[Any] | None) -> list[Entry]:
    return [Entry(row[0], dict(zip(row[1][::2], row[1][1::2], strict=True)) if row[1] else {}) for row in reply or ()]


def owner_and_size(entry: Entry) -> tuple[str, int]:
    """Return the org of an envelope ('' if unreadable) and its size in bytes."""
    size = sum(len(entry.fields.get(name, b"")) for name in (b"h", b"b", b"d"))
    try:
        return str(from_fields(entry.fields).header.org_id), size
    except MalformedEnvelope:
        return "", size


def xadd(stream: str, fields: Fields) -> tuple[Any, ...]:
    return ("XADD", stream, "*", *(part for field in fields.items() for part in field))
