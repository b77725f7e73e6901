"""The queue: streams of envelopes in Redis or Valkey, and the few verbs that edge, worker and operators need on them.

Commands stay within Redis 7.0, and no command names keys of two shards, so that a cluster can hold them. A reply that
did not come in time is *ambiguous*: the entry may be in the stream. Appends are therefore never retried here; the
caller keeps the envelope elsewhere, and the rows' identity makes the possible double harmless.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias
from uuid import UUID

from hiredis import pack_command
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tracebility.config import redact
from tracebility.errors import ConfigurationError, StoreUnavailable
from tracebility.stores.start import START_WAIT_S, Refused, until_reachable
from tracebility.tenant.books import Book, accepted_key, in_flight_key, in_flight_keys, org_of
from tracebility.tenant.scripts import ENTER, LEAVE, Script
from tracebility.tenant.shards import DEAD_LETTER_STREAM

VARIABLE = "TRACEBILITY_REDIS_URL"
GROUP = "ingest-worker"

CONNECT_TIMEOUT_S = 1.0  # a store on the same network answers in milliseconds; a blackhole must not hold a request
OPERATION_TIMEOUT_S = 3.0  # above the worst fsync stall of a healthy disk, below the patience of an exporter
MAX_CONNECTIONS = 32
SCAN_COUNT = 1_000
LARGE_BYTES = 8 << 10  # from here on a value is not worth a copy
# What is known of how full streams are, and for how long it is believed.
MOST_DEPTHS = 10_000
DEPTH_KNOWN_S = 0.25

# A field of entries that may be in the queue, or have been in it, once more: they come from a disk buffer or from the
# dead letters.
AGAIN = "again"

StreamId: TypeAlias = bytes
Fields: TypeAlias = Mapping[str, bytes]
EntryFields: TypeAlias = dict[bytes, bytes]
Append: TypeAlias = tuple[str, Fields]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream. ``fields`` is empty when the entry was deleted under a pending claim."""

    id: StreamId
    fields: EntryFields


@dataclass(frozen=True, slots=True)
class Claimed:
    """One step of a claim: continue at ``cursor`` until it is ``0-0``. ``deleted`` not empty means data was lost."""

    cursor: StreamId
    entries: list[Entry]
    deleted: list[StreamId]


@dataclass(frozen=True, slots=True)
class Depth:
    """How full a stream is. ``oldest_ms`` is the Unix time of its first entry, None when it is empty."""

    length: int
    pending: int
    oldest_ms: int | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes used and allowed; ``maximum`` is 0 when there is no bound."""

    used: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """Entries of a stream that are done with; and what the books say of their envelopes, each with whether its outcome
    was known before.
    """

    stream: str
    ids: Sequence[StreamId]
    books: Sequence[tuple[Book, bool]] = ()


async def connect(url: str, *, variable: str = VARIABLE, wait_s: float = START_WAIT_S) -> "Queue":
    """The queue at ``url``, which ``variable`` names, once it has answered.

    Raises:
        ConfigurationError: when nothing answers there for ``wait_s``, or it refuses the credentials or the database.
    """
    queue = Queue(open_client(url))
    try:
        await until_reachable(variable, url, queue.ping, wait_s=wait_s)
    except BaseException:
        await queue.close()
        raise
    return queue


def open_client(url: str) -> "Redis":
    """A client of the server at ``url``, not connected yet, whose replies are as they are on the wire.

    Raises:
        ConfigurationError: when ``url`` is malformed.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=OPERATION_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=None,  # `pipelined` bounds the whole operation, not each read of it
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            client_name="tracebility",
        )
    except ValueError as error:
        raise ConfigurationError(f"{VARIABLE} is malformed. Write it as redis://:password@host:6379/0.") from error
    client = Redis(connection_pool=pool)
    client.response_callbacks.clear()  # the same for every version of the client
    return client


class Queue:
    """What may be done with the streams. Every method raises `StoreUnavailable` when the store is away or refuses."""

    def __init__(self, client: "Redis") -> None:
        self._client = client
        self._depths: OrderedDict[tuple[str, UUID], tuple[int, float]] = OrderedDict()

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def ping(self) -> None:
        """Return when the store answers."""
        await self._pipeline([("PING",)])

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

        ``books`` are entered behind them. Should the connection end between the two, whoever takes the entries out of
        their stream makes up for it.
        """
        commands: list[tuple[Any, ...]] = []
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
            refusal = next(filter(None, map(_refusal, own)), None)
            if refusal is not None:
                results.append(StoreUnavailable("redis", redact(str(refusal))))
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

    async def withdraw(self, books: Sequence[Book]) -> None:
        """Take back what was entered for envelopes whose entries were refused."""
        streams = sorted({book.stream for book in books})
        await self.leave([Leaving(one, (), [(book, True) for book in books if book.stream == one]) for one in streams])

    # --- the worker ---

    async def ensure_group(self, streams: Iterable[str]) -> None:
        """Create stream and consumer group where missing; a new group starts at the first entry."""
        commands = [("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM") for stream in streams]
        for reply in await self._pipeline(commands, raise_on_error=False):
            if isinstance(reply, Exception) and not str(reply).startswith("BUSYGROUP"):
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

    async def autoclaim(
        self, stream: str, consumer: str, min_idle_ms: int, *, start: StreamId = b"0-0", count: int = 100
    ) -> Claimed:
        """Take over entries whose consumer has been silent for ``min_idle_ms``."""
        [reply] = await self._pipeline([("XAUTOCLAIM", stream, GROUP, consumer, min_idle_ms, start, "COUNT", count)])
        cursor, entries, deleted = reply[0], reply[1], reply[2] if len(reply) > 2 else []
        return Claimed(cursor, _entries(entries), list(deleted))

    async def keep(self, stream: str, consumer: str, ids: Sequence[StreamId]) -> None:
        """Say that ``consumer`` is still at work on ``ids``, so that nobody claims them."""
        if ids:
            await self._pipeline([("XCLAIM", stream, GROUP, consumer, 0, *ids, "JUSTID")])

    async def deliveries(self, stream: str, ids: Sequence[StreamId]) -> dict[StreamId, int]:
        """How often each pending id has been delivered."""
        replies = await self._pipeline([("XPENDING", stream, GROUP, entry_id, entry_id, 1) for entry_id in ids])
        return {row[0]: int(row[3]) for reply in replies for row in reply}

    async def ack_and_delete(self, stream: str, ids: Sequence[StreamId]) -> None:
        """Acknowledge and delete: an acknowledgement alone frees no memory."""
        await self.leave([Leaving(stream, ids)])

    async def leave(self, leaving: Sequence["Leaving"]) -> None:
        """As `ack_and_delete` for several streams, in one round trip, and out of the books with what is in them."""
        scripts = [_leaving(one) for one in leaving if one.ids or one.books]
        replies = await self._pipeline([_by_sha(*one) for one in scripts], raise_on_error=False)
        unknown = [one for one, reply in zip(scripts, replies, strict=True) if _is_unknown_script(reply)]
        await self._pipeline([_by_text(*one) for one in unknown])
        refusal = next((reply for reply in map(_refusal, replies) if reply and not _is_unknown_script(reply)), None)
        if refusal is not None:
            raise StoreUnavailable("redis", redact(str(refusal))) from refusal

    async def dead_letter(self, leaving: "Leaving", entry: Entry, *, reason: str, deliveries: int, at_us: int) -> None:
        """Move ``entry`` from its stream to the dead-letter stream with what happened, in one transaction."""
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
        await self._pipeline([("MULTI",), _xadd(DEAD_LETTER_STREAM, fields), _by_text(*_leaving(leaving)), ("EXEC",)])

    # --- operators ---

    async def replay(self, entry: Entry) -> StreamId:
        """Put a dead letter back at the end of the stream it came from; its id there."""
        lost = {b"reason", b"stream", b"entry_id", b"deliveries", b"at"}
        fields = {name.decode(): value for name, value in entry.fields.items() if name not in lost} | {AGAIN: b"1"}
        stream = entry.fields[b"stream"].decode()
        replies = await self._pipeline(
            [("MULTI",), _xadd(stream, fields), ("XDEL", DEAD_LETTER_STREAM, entry.id), ("EXEC",)]
        )
        new_id: StreamId = replies[-1][0]
        return new_id

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
        commands: list[tuple[Any, ...]] = []
        for stream in streams:
            commands += [("XLEN", stream), ("XPENDING", stream, GROUP), ("XRANGE", stream, "-", "+", "COUNT", 1)]
        replies = await self._pipeline(commands, raise_on_error=False)
        depths = {}
        for stream, (length, pending, first) in zip(streams, _in_threes(replies), strict=True):
            # XPENDING of a stream without the group is an error; nothing is pending there.
            waiting = 0 if isinstance(pending, Exception) else int(pending[0])
            oldest = int(first[0][0].split(b"-")[0]) if first else None
            depths[stream] = Depth(int(length), waiting, oldest)
        return depths

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
                    commands: list[tuple[Any, ...]] = [("XRANGE", stream, "-", "+", "COUNT", 1)]
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

    async def forget_books(self, streams: Sequence[str], org_id: UUID) -> int:
        """Delete what is kept of an org beside ``streams``; how many keys there were."""
        keys = [at for stream in streams for at in (accepted_key(stream, org_id), in_flight_key(stream, org_id))]
        return sum(map(int, await self._pipeline([("DEL", at) for at in keys])))

    async def info_memory(self) -> Memory:
        """Memory used and allowed, to stop before the store refuses."""
        [reply] = await self._pipeline([("INFO", "memory")])
        lines = dict(line.split(b":", 1) for line in reply.splitlines() if b":" in line)
        return Memory(int(lines[b"used_memory"]), int(lines[b"maxmemory"]))

    async def server(self) -> dict[str, str]:
        """INFO's server, persistence and memory sections, for people: versions, what is fsynced, what is evicted."""
        replies = await self._pipeline([("INFO", section) for section in ("server", "persistence", "memory")])
        lines = (line.split(b":", 1) for reply in replies for line in reply.splitlines() if b":" in line)
        return {name.decode(): value.decode(errors="replace") for name, value in lines}

    async def setting(self, name: str) -> str | None:
        """The server's setting of this name; None when it keeps its settings to itself, as hosted ones do."""
        [reply] = await self._pipeline([("CONFIG", "GET", name)], raise_on_error=False)
        return None if isinstance(reply, Exception) or len(reply) < 2 else bytes(reply[1]).decode(errors="replace")

    async def _read_group(
        self, streams: Sequence[str], consumer: str, count: int, after: StreamId
    ) -> list[tuple[str, list[Entry]]]:
        commands = [
            ("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count, "STREAMS", stream, after) for stream in streams
        ]
        found: list[tuple[str, list[Entry]]] = []
        for stream, reply in zip(streams, await self._pipeline(commands, raise_on_error=False), strict=True):
            if isinstance(reply, Exception):
                if not str(reply).startswith("NOGROUP"):
                    raise StoreUnavailable("redis", redact(str(reply))) from reply
                # A store that was emptied, or a stream that nobody has written yet.
                await self.ensure_group([stream])
            elif reply:
                found.append((stream, _entries(reply[0][1])))
        return found

    async def _pipeline(self, commands: Sequence[tuple[Any, ...]], *, raise_on_error: bool = True) -> list[Any]:
        return await pipelined(self._client, commands, raise_on_error=raise_on_error)


async def pipelined(
    client: "Redis", commands: Sequence[tuple[Any, ...]], *, raise_on_error: bool = True, within_s: float | None = None
) -> list[Any]:
    """Send ``commands`` in one write and return their raw replies, within the operation's time.

    Raises:
        StoreUnavailable: when the store is away, or did not answer in time: any of them may or may not have run.
        Refused: when it does not take the credentials.
    """
    if not commands:
        return []
    within_s = OPERATION_TIMEOUT_S if within_s is None else within_s
    try:
        async with asyncio.timeout(within_s):
            replies = await _replies(client, commands)
    except (*_UNWELCOME, exceptions.ResponseError) as error:
        # Outside of a pipeline's own replies only the handshake can be answered with an error.
        raise Refused("redis", redact(str(error))) from error
    except (TimeoutError, exceptions.TimeoutError) as error:
        raise StoreUnavailable("redis", f"no answer within {within_s:g} s") from error
    except (exceptions.RedisError, OSError, RuntimeError) as error:
        # A RuntimeError is how the event loop says that the connection was closed while it was written to.
        raise StoreUnavailable("redis", redact(str(error))) from error
    if raise_on_error:
        refusal = next(filter(None, map(_refusal, replies)), None)
        if refusal is not None:
            kind = Refused if isinstance(refusal, _UNWELCOME) else StoreUnavailable
            raise kind("redis", redact(str(refusal))) from refusal
    return replies


async def _replies(client: "Redis", commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What the client's own pipeline does, with commands that are packed without its detours (`_packed`)."""
    pool: Any = client.connection_pool
    connection = await pool.get_connection()
    try:
        try:
            await connection.send_packed_command(_packed(commands))
            return [await _reply(connection) for _ in commands]
        except BaseException:
            # A reply that is still to come must not be taken for the next one's.
            await connection.disconnect(nowait=True)
            raise
    finally:
        await pool.release(connection)


def _packed(commands: Sequence[tuple[Any, ...]]) -> list[bytes]:
    """``commands`` on the wire (RESP), to be written one after the other.

    Small ones are packed in C. A large value goes to the kernel from where it is: to copy 100 KB twice, into fresh
    memory, costs the edge 170 us of a request's 1,000.
    """
    pieces: list[bytes] = []
    small: list[bytes] = []
    for command in commands:
        if not any(isinstance(part, bytes) and len(part) > LARGE_BYTES for part in command):
            small.append(pack_command(command))
            continue
        small.append(b"*%d" % len(command))
        for part in command:
            value = part if isinstance(part, bytes) else str(part).encode()
            small.append(b"\r\n$%d\r\n" % len(value))
            if len(value) > LARGE_BYTES:
                pieces += (b"".join(small), value)
                small = []
            else:
                small.append(value)
        small.append(b"\r\n")
    return [*pieces, b"".join(small)]


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except exceptions.ResponseError as error:
        return error


_UNWELCOME = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)


def _refusal(reply: Any) -> Exception | None:
    """The error that ``reply`` is, or holds as the reply of a transaction."""
    if isinstance(reply, Exception):
        return reply
    if isinstance(reply, list):
        return next((part for part in reply if isinstance(part, Exception)), None)
    return None


def _xadd(stream: str, fields: Fields) -> tuple[Any, ...]:
    return ("XADD", stream, "*", *(part for field in fields.items() for part in field))


def _entering(_: str, books: Sequence[Book]) -> tuple[Script, list[str], list[Any]]:
    keys = [key for book in books for key in book.keys]
    return ENTER, keys, [part for book in books for part in (book.envelope_id.hex, book.hour, book.items)]


def _leaving(leaving: Leaving) -> tuple[Script, list[str], list[Any]]:
    keys = [leaving.stream, *(key for book, _ in leaving.books for key in book.keys)]
    said = (
        part for book, was_known in leaving.books
        for part in (book.envelope_id.hex, book.hour, book.items, int(was_known))
    )  # fmt: skip
    return LEAVE, keys, [GROUP, len(leaving.ids), *leaving.ids, *said]


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
