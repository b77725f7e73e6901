"""The queue: streams of envelopes in Redis or Valkey, and the few verbs that edge, worker and operators need on them.

Commands stay within Redis 7.0, and no command or transaction names keys of two streams, so that a cluster can hold
them: what changes two streams does so in steps, each of which may be done again. A reply that
did not come in time is *ambiguous*: the entry may be in the stream. Appends are therefore never retried here; the
caller keeps the envelope elsewhere, and the rows' identity makes the possible double harmless.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from redis import exceptions

from tracebility.config import redact
from tracebility.errors import StoreUnavailable
from tracebility.failpoints import failpoint
from tracebility.stores.redis_transport import VARIABLE, Command, Servers, checked, refusal
from tracebility.stores.start import START_WAIT_S, until_reachable
from tracebility.tenant.ledger import Book, accepted_key, counts_key, in_flight_key, in_flight_keys, org_of
from tracebility.tenant.redis_keys import shared_key, stream_key
from tracebility.tenant.scripts import BURY, COUNT, ENTER, LEAVE, UNBURY, Script
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM, beside
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

_FSYNC = ("CONFIG", "GET", "appendfsync")

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


class Silent(NamedTuple):
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


async def connect(url: str, *, variable: str = VARIABLE, wait_s: float = START_WAIT_S) -> "Queue":
    """The queue at ``url``, which ``variable`` names, once it has answered.

    Raises:
        ConfigurationError: when nothing answers there for ``wait_s``, or it refuses the credentials or the database.
    """
    queue = Queue(Servers(url, variable))
    try:
        await until_reachable(variable, url, queue.ping, wait_s=wait_s)
    except BaseException:
        await queue.close()
        raise
    return queue


class Queue:
    """What may be done with the streams. Every method raises `StoreUnavailable` when the store is away or refuses."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._depths: OrderedDict[tuple[str, UUID], tuple[int, float]] = OrderedDict()

    async def close(self) -> None:
        """Close every connection."""
        await self._servers.close()

    async def ping(self) -> None:
        """Return when the store answers, each server of it."""
        for server in await self._servers.each():
            checked(await server.pipelined([("PING",)]))

    # --- the edge ---

    async def append(self, entries: Sequence[Append]) -> list[StreamId | StoreUnavailable]:
        """Append each entry, all in one round trip; the id or the refusal of each, in order.

        Raises:
            StoreUnavailable: when the connection failed: any of the entries may or may not be in its stream.
        """
        return [
            result if isinstance(result, StoreUnavailable) else result[0]
            for result in await self.append_groups([[entry] for entry in entries])
        ]

    async def append_groups(
        self, groups: Sequence[Sequence[Append]], books: Sequence[Book] = ()
    ) -> list[list[StreamId] | StoreUnavailable]:
        """As `append`, but the entries of one group get in together or not at all. A group is of one stream.

        In a cluster a group whose node is away is among the refused, and may or may not be in its stream.

        ``books`` are entered behind them. Should the connection end between the two, whoever takes the entries out of
        their stream makes up for it.
        """
        commands: list[Command] = []
        for group in groups:
            if len(group) == 1:
                commands.append(_xadd(*group[0]))
            else:
                commands += [("MULTI",), *(_xadd(*entry) for entry in group), ("EXEC",)]
        entering = [_entering(stream, list(some)) for stream, some in groupby(sorted(books), lambda book: book.stream)]
        replies = await self._pipeline([*commands, *(_by_sha(*one) for one in entering)], raise_on_error=False)
        results: list[list[StreamId] | StoreUnavailable] = []
        following = iter(replies)
        for group in groups:
            # Of a transaction only EXEC's reply tells; those before it are OK, QUEUED or why EXEC refuses.
            own = [next(following) for _ in range(1 if len(group) == 1 else len(group) + 2)]
            why = next(filter(None, map(refusal, own)), None)
            if why is not None:
                results.append(StoreUnavailable("redis", redact(str(why))))
            else:
                results.append(own if len(group) == 1 else own[-1])
        said = list(following)
        unknown = [one for one, reply in zip(entering, said, strict=True) if _is_unknown_script(reply)]
        if unknown:
            await self._pipeline([_by_text(*one) for one in unknown])
        self._learn_depths(sorted(books), said)
        return results

    def depth(self, stream: str, org_id: UUID) -> int:
        """How many envelopes of an org were in a stream when one of them was last added from here; 0 when that was
        long ago.
        """
        depth, at = self._depths.get((stream, org_id), (0, 0.0))
        return depth if time.monotonic() - at < DEPTH_KNOWN_S else 0

    def _learn_depths(self, books: Sequence[Book], replies: Sequence[Any]) -> None:
        depths = [depth for reply in replies if isinstance(reply, list) for depth in reply]
        if len(depths) != len(books):
            return
        now = time.monotonic()
        for book, depth in zip(books, depths, strict=True):
            self._depths[book.stream, book.org_id] = (int(depth), now)
            self._depths.move_to_end((book.stream, book.org_id))
        while len(self._depths) > MOST_DEPTHS:
            self._depths.popitem(last=False)

    async def say_late(self, slot: int, until_ms: int) -> None:
        """Say that what enters up to ``until_ms`` may have been accepted in ``slot``."""
        await self._pipeline([("ZADD", LATE, "GT", until_ms, slot)])

    async def withdraw(self, books: Sequence[Book]) -> None:
        """Take back what was entered for envelopes whose entries were refused."""
        departures = [Departure(book, True, b"") for book in sorted(books)]
        await self.leave(
            [Leaving(stream, (), list(some)) for stream, some in groupby(departures, lambda one: one.book.stream)]
        )

    # --- the worker ---

    async def ensure_group(self, streams: Iterable[str]) -> None:
        """Create stream and consumer group where missing; a new group starts at the first entry.

        A store whose memory is full makes none, and says so also of what is there: whoever reads finds out.
        """
        commands = [("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM") for stream in streams]
        for reply in await self._pipeline(commands, raise_on_error=False):
            is_there_or_full = isinstance(reply, exceptions.OutOfMemoryError) or str(reply).startswith("BUSYGROUP")
            if isinstance(reply, Exception) and not is_there_or_full:
                raise StoreUnavailable("redis", redact(str(reply))) from reply

    async def read(self, streams: Sequence[str], consumer: str, count_per_stream: int) -> list[tuple[str, list[Entry]]]:
        """New entries for ``consumer``, without waiting: one XREADGROUP for each stream, in one round trip.

        COUNT is per stream, so the bound of the whole read is ``count_per_stream * len(streams)``.
        """
        return await self._read_group(streams, consumer, count_per_stream, b">")

    async def read_pending(self, stream: str, consumer: str, after: StreamId, count: int) -> list[Entry]:
        """Entries after ``after`` that ``consumer`` was given and has not acknowledged, as after its restart."""
        found = await self._read_group([stream], consumer, count, after)
        return found[0][1] if found else []

    async def claim(
        self, stream: str, consumer: str, min_idle_ms: int, ids: Sequence[StreamId]
    ) -> tuple[list[tuple[Entry, int]], list[StreamId]]:
        """Take over those of ``ids`` of which nothing was heard for ``min_idle_ms``, each with its deliveries, this one
        counted. Also those that are pending and in no stream any more: data that was lost.
        """
        looks = [("XPENDING", stream, GROUP, entry_id, entry_id, 1) for entry_id in ids]
        claiming = ("XCLAIM", stream, GROUP, consumer, min_idle_ms, *ids)
        # In one transaction, so that nobody acknowledges between the two answers.
        *found, taken = (await self._pipeline([("MULTI",), *looks, claiming, ("EXEC",)]))[-1]
        silent = {row[0]: int(row[3]) for rows in found for row in rows if int(row[2]) >= min_idle_ms}
        entries = {entry.id: entry for entry in _entries(taken)}
        return (
            [(entry, silent.get(entry_id, 0) + 1) for entry_id, entry in entries.items()],
            [entry_id for entry_id in silent if entry_id not in entries],
        )

    async def keep(self, stream: str, consumer: str, ids: Sequence[StreamId]) -> None:
        """Say that ``consumer`` is still at work on ``ids``, so that nobody claims them."""
        if ids:
            await self._pipeline([("XCLAIM", stream, GROUP, consumer, 0, *ids, "JUSTID")])

    async def silent(
        self, streams: Sequence[str], idle_ms: int, *, count: int, start: StreamId = b"-"
    ) -> list[tuple[str, list[Silent]]]:
        """The oldest ``count`` pending entries of each stream, from ``start`` on, of which nothing was heard for
        ``idle_ms``. Looking is no delivery.
        """
        replies = await self._pipeline(
            [("XPENDING", stream, GROUP, "IDLE", idle_ms, start, "+", count) for stream in streams]
        )
        return [
            (stream, [Silent(row[0], int(row[3])) for row in reply])
            for stream, reply in zip(streams, replies, strict=True)
            if reply
        ]

    async def excuse(self, stream: str, consumer: str, ids: Sequence[StreamId]) -> None:
        """Say that ``ids`` are not why ``consumer`` ends: their deliveries count as one."""
        if ids:
            await self._pipeline([("XCLAIM", stream, GROUP, consumer, 0, *ids, "RETRYCOUNT", 1, "JUSTID")])

    async def ack_and_delete(self, stream: str, ids: Sequence[StreamId]) -> None:
        """Acknowledge and delete: an acknowledgement alone frees no memory."""
        await self.leave([Leaving(stream, ids)])

    async def count(self, departures: Iterable[Departure]) -> list[Departure]:
        """Decide which entry each envelope counts for, before it has an outcome: the first that asks, now and whenever
        it is delivered again. Given is whether an outcome is known already.
        """
        by_shard: dict[str, list[Departure]] = {}
        for one in departures:
            by_shard.setdefault(beside(one.book.stream), []).append(one)
        answers = await self._run([_counting(some) for some in by_shard.values()])
        return [
            one._replace(counts_elsewhere=not counts)
            for some, answer in zip(by_shard.values(), answers, strict=True)
            for one, counts in zip(some, answer, strict=True)
        ]

    async def leave(self, leaving: Sequence["Leaving"]) -> None:
        """As `ack_and_delete` for several streams, and out of the books with what is in them.

        Does no harm when it was done before, so that whoever got no answer may ask again.
        """
        await self._run([_leaving(one) for one in leaving if one.ids or one.departures])
        counted = [one.book for each in leaving for one in each.departures if not one.counts_elsewhere]
        await self._pipeline([("PEXPIRE", counts_key(book), COUNTS_LEFT_MS) for book in counted])

    async def dead_letter(self, leaving: "Leaving", entry: Entry, *, reason: str, deliveries: int, at_us: int) -> int:
        """Move ``entry`` from its stream to the dead-letter stream with what happened; the bytes of dead letters that
        its org has then, 0 where it cannot be told whose it is.

        The two may be on two nodes, so it is in both for a moment. Whoever is to do it again after a crash finds it
        marked as buried, and only lets it leave.
        """
        fields = {
            "h": entry.fields.get(b"h", b""),
            "b": entry.fields.get(b"b", b""),
            "reason": reason.encode(),
            "stream": leaving.stream.encode(),
            "entry_id": entry.id,
            "deliveries": str(deliveries).encode(),
            "at": str(at_us).encode(),
        }
        # An envelope of before the shards has one field of its own; it must come back from here as it was.
        fields |= {name.decode(): value for name, value in entry.fields.items() if name not in (b"h", b"b")}
        origin = f"{leaving.stream}|{entry.id.decode()}"
        said = [origin, *_whose(entry), *(part for field in fields.items() for part in field)]
        [held_bytes] = await self._pipeline([_by_text(BURY, [DEAD_LETTER_STREAM, BURIED, DEAD_BYTES], said)])
        failpoint("worker_after_bury_before_leave")
        await self.leave([leaving])
        failpoint("worker_after_buried_left")
        with suppress(StoreUnavailable):  # a mark that stays is in nobody's way; one that is gone must not be asked for
            await self._pipeline([("HDEL", BURIED, origin)])
        return int(held_bytes)

    # --- operators ---

    async def replay(self, entry: Entry) -> StreamId:
        """Put a dead letter back at the end of the stream it came from; its id there.

        It is added first and deleted then: should this end between the two, it may be replayed once more.
        """
        lost = {b"reason", b"stream", b"entry_id", b"deliveries", b"at"}
        fields = {name.decode(): value for name, value in entry.fields.items() if name not in lost} | {AGAIN: b"1"}
        stream = entry.fields[b"stream"].decode()
        [new_id] = await self._pipeline([_xadd(stream, fields)])
        failpoint("replay_after_add_before_delete")
        await self.unbury([entry])
        added: StreamId = new_id
        return added

    async def unbury(self, entries: Sequence[Entry]) -> int:
        """Delete dead letters; how many there were."""
        said = [part for entry in entries for part in (entry.id, *_whose(entry))]
        [deleted] = await self._pipeline([_by_text(UNBURY, [DEAD_LETTER_STREAM, DEAD_BYTES], said)])
        return int(deleted)

    async def dead_bytes(self) -> dict[UUID, int]:
        """Bytes of dead letters by org, of those of which that can be told."""
        [said] = await self._pipeline([("HGETALL", DEAD_BYTES)])
        return {UUID(bytes(org_id).decode()): int(size) for org_id, size in zip(said[::2], said[1::2], strict=True)}

    async def delete(self, stream: str, ids: Sequence[StreamId]) -> int:
        """Delete entries; how many there were."""
        [deleted] = await self._pipeline([("XDEL", stream, *ids)]) if ids else [0]
        return int(deleted)

    async def range(
        self, stream: str, *, start: StreamId = b"-", end: StreamId = b"+", count: int = 100
    ) -> list[Entry]:
        """Entries of ``stream`` from ``start`` to ``end``, both included; ``(id`` leaves one out."""
        [reply] = await self._pipeline([("XRANGE", stream, start, end, "COUNT", count)])
        return _entries(reply)

    async def depths(self, streams: Sequence[str]) -> dict[str, Depth]:
        """How full each stream is, in one round trip."""
        commands: list[Command] = []
        for stream in streams:
            commands += [("XLEN", stream), ("XPENDING", stream, GROUP), ("XRANGE", stream, "-", "+", "COUNT", 1)]
        replies = await self._pipeline(commands, raise_on_error=False)
        depths = {}
        for stream, (length, pending, first) in zip(streams, _in_threes(replies), strict=True):
            checked((length, first))
            # XPENDING of a stream without the group is an error; nothing is pending there.
            waiting = 0 if isinstance(pending, Exception) else int(pending[0])
            oldest = int(first[0][0].split(b"-")[0]) if first else None
            depths[stream] = Depth(int(length), waiting, oldest)
        return depths

    async def late(self, oldest_ms: int) -> list[int]:
        """Slots in which something was accepted that came late and is here still, where the first entry came at
        ``oldest_ms``. What came before that has left, and is forgotten.
        """
        _, slots = await self._pipeline([("ZREMRANGEBYSCORE", LATE, "-inf", f"({oldest_ms}"), ("ZRANGE", LATE, 0, -1)])
        return [int(slot) for slot in slots]

    async def length(self, stream: str) -> int:
        """Entries in ``stream``, delivered or not."""
        return (await self.depths([stream]))[stream].length

    async def pending(self, stream: str) -> int:
        """Entries of ``stream`` that were delivered and not acknowledged."""
        return (await self.depths([stream]))[stream].pending

    async def oldest(self, stream: str) -> int | None:
        """Unix milliseconds of the first entry of ``stream``."""
        return (await self.depths([stream]))[stream].oldest_ms

    async def accepted(self, streams: Sequence[str], org_id: UUID) -> int:
        """Items of an org that were accepted into ``streams``, ever."""
        replies = await self._pipeline([("HVALS", accepted_key(stream, org_id)) for stream in streams])
        return sum(int(items) for reply in replies for items in reply)

    async def accepted_in(self, books: Sequence[tuple[str, UUID]], hours: Iterable[int]) -> list[int]:
        """Items that were accepted into a stream from an org in ``hours``, counted since 1970; of each of ``books``."""
        fields = list(hours)
        replies = await self._pipeline([("HMGET", accepted_key(stream, org_id), *fields) for stream, org_id in books])
        return [sum(int(items) for items in reply if items is not None) for reply in replies]

    async def envelopes_in_flight(self, books: Sequence[tuple[str, UUID]]) -> list[int]:
        """How many envelopes of an org are in a stream, for each of ``books``."""
        return [
            int(count)
            for count in await self._pipeline([("HLEN", in_flight_key(stream, org_id)) for stream, org_id in books])
        ]

    async def in_flight(self, streams: Sequence[str], org_id: UUID) -> dict[UUID, int]:
        """Envelopes of an org that are in ``streams``, and the items of each."""
        replies = await self._pipeline([("HGETALL", in_flight_key(stream, org_id)) for stream in streams])
        return {
            UUID(bytes(envelope_id).decode()): int(said.split(b"|")[1])
            for reply in replies
            for envelope_id, said in zip(reply[::2], reply[1::2], strict=True)
        }

    async def missing(self, streams: Sequence[str]) -> list[tuple[UUID, UUID]]:
        """Envelopes, by org, that are in flight by the books and in their stream no more. O(keys of the server).

        An entry is added just before it is entered, and both are taken away in one step: one that was entered before
        the first entry that is left was taken away by something else.
        """
        found: list[tuple[UUID, UUID]] = []
        for stream in streams:
            cursor: bytes = b"0"
            while True:
                [[cursor, keys]] = await self._pipeline(
                    [("SCAN", cursor, "MATCH", in_flight_keys(stream), "COUNT", SCAN_COUNT)]
                )
                if keys:
                    # In one transaction, so that nothing leaves between the two answers.
                    commands: list[Command] = [("XRANGE", stream, "-", "+", "COUNT", 1)]
                    commands += [("HGETALL", key) for key in keys]
                    first, *held = (await self._pipeline([("MULTI",), *commands, ("EXEC",)]))[-1]
                    oldest_ms = int(first[0][0].split(b"-")[0]) if first else None
                    for key, fields in zip(keys, held, strict=True):
                        org_id = org_of(bytes(key).decode())
                        for envelope_id, said in zip(fields[::2], fields[1::2], strict=True):
                            if oldest_ms is None or int(said.split(b"|")[2]) < oldest_ms:
                                found.append((org_id, UUID(bytes(envelope_id).decode())))
                if cursor == b"0":
                    break
        return found

    async def info_memory(self) -> Memory:
        """Memory used and allowed, to stop before the store refuses; of a cluster's node that is nearest to it."""
        found = [
            Memory(int(said["used_memory"]), int(said.get("maxmemory", "0"))) for said in (await self.info()).values()
        ]
        return max(found, key=lambda memory: memory.used / memory.maximum if memory.maximum else 0.0)

    async def info(self) -> dict[str, dict[str, str]]:
        """INFO's server, persistence and memory sections of each server, by its place: for people.

        ``appendfsync`` is with them, where the server does not keep its settings to itself, as hosted ones do.
        """
        found: dict[str, dict[str, str]] = {}
        for server in await self._servers.each():
            *sections, setting = await server.pipelined(
                [*(("INFO", section) for section in ("server", "persistence", "memory")), _FSYNC]
            )
            checked(sections)
            lines = [line.split(b":", 1) for section in sections for line in section.splitlines() if b":" in line]
            if not isinstance(setting, Exception) and len(setting) == 2:
                lines.append(setting)
            found[server.place] = {name.decode(): value.decode(errors="replace") for name, value in lines}
        return found

    async def _read_group(
        self, streams: Sequence[str], consumer: str, count: int, after: StreamId
    ) -> list[tuple[str, list[Entry]]]:
        commands = [
            ("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count, "STREAMS", stream, after) for stream in streams
        ]
        found: list[tuple[str, list[Entry]]] = []
        refused: list[Exception] = []
        for stream, reply in zip(streams, await self._pipeline(commands, raise_on_error=False), strict=True):
            if isinstance(reply, Exception):
                # A store that was emptied, or a stream that nobody has written yet.
                if str(reply).startswith("NOGROUP"):
                    await self.ensure_group([stream])
                else:
                    refused.append(reply)
            elif reply:
                found.append((stream, _entries(reply[0][1])))
        if not found:  # what was found is in nobody else's hands
            checked(refused)
        return found

    async def _run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        replies = await self._pipeline([_by_sha(*one) for one in calls], raise_on_error=False)
        unknown = [nth for nth, reply in enumerate(replies) if _is_unknown_script(reply)]
        by_text = await self._pipeline([_by_text(*calls[nth]) for nth in unknown])
        for nth, reply in zip(unknown, by_text, strict=True):
            replies[nth] = reply
        checked(replies)
        return replies

    async def _pipeline(self, commands: Sequence[Command], *, raise_on_error: bool = True) -> list[Any]:
        return await self._servers.pipelined(commands, raise_on_error=raise_on_error)


def is_durable(server: Mapping[str, str]) -> bool:
    """Whether a server, as `Queue.info` tells of it, has on disk what it acknowledges; also where it will not say."""
    return (
        server.get("aof_enabled") == "1"
        and server.get("appendfsync", "always") == "always"
        and server.get("aof_last_write_status", "ok") == "ok"
    )


def _xadd(stream: str, fields: Fields) -> tuple[Any, ...]:
    return ("XADD", stream, "*", *(part for field in fields.items() for part in field))


def _entering(_: str, books: Sequence[Book]) -> ScriptCall:
    keys = [key for book in books for key in book.keys]
    return ENTER, keys, [part for book in books for part in (book.envelope_id.hex, book.hour, book.items)]


def _counting(departures: Sequence[Departure]) -> ScriptCall:
    keys = [counts_key(one.book) for one in departures]
    said = (
        part for book, is_known, entry_id in departures
        for part in (f"{book.stream}|{entry_id.decode()}", int(is_known))
    )  # fmt: skip
    return COUNT, keys, [COUNTS_IN_STREAM_MS, *said]


def _leaving(leaving: Leaving) -> ScriptCall:
    keys = [leaving.stream, *(key for one in leaving.departures for key in one.book.keys)]
    said = (
        part for book, counts_elsewhere, entry_id in leaving.departures
        for part in (book.envelope_id.hex, book.hour, book.items, int(counts_elsewhere), entry_id)
    )  # fmt: skip
    return LEAVE, keys, [GROUP, len(leaving.ids), *leaving.ids, *said]


def _whose(entry: Entry) -> tuple[str, int]:
    """The org of an envelope, '' where it cannot be told, and the bytes it takes."""
    size = sum(len(entry.fields.get(name, b"")) for name in (b"h", b"b", b"d"))
    try:
        return str(from_fields(entry.fields).header.org_id), size
    except MalformedEnvelope:
        return "", size


def _by_sha(script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> tuple[Any, ...]:
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


def _by_text(script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> tuple[Any, ...]:
    return ("EVAL", script.text, len(keys), *keys, *arguments)


def _is_unknown_script(reply: Any) -> bool:
    return isinstance(reply, exceptions.NoScriptError)


def _entries(reply: list[Any] | None) -> list[Entry]:
    return [Entry(row[0], dict(zip(row[1][::2], row[1][1::2], strict=True)) if row[1] else {}) for row in reply or ()]


def _in_threes(replies: list[Any]) -> Iterator[tuple[Any, Any, Any]]:
    return zip(replies[::3], replies[1::3], replies[2::3], strict=True)
