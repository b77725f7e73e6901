"""The operator's side of the queue: depths, ledger counts, dead letters, the server's own state."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from tracebility.failpoints import failpoint
from tracebility.stores.queue.connection import QueueConnection, by_text
from tracebility.stores.queue.entries import (
    AGAIN,
    DEAD_BYTES,
    GROUP,
    LATE,
    SCAN_COUNT,
    Depth,
    Entry,
    Memory,
    StreamId,
    entries_of,
    owner_and_size,
    xadd,
)
from tracebility.stores.redis_transport import Command, checked
from tracebility.tenant.ledger import accepted_key, in_flight_key, in_flight_keys, org_of
from tracebility.tenant.scripts import UNBURY
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM

_FSYNC = ("CONFIG", "GET", "appendfsync")


class Inspection(QueueConnection):
    """Reads what the queue holds, and replays or removes dead letters."""

    async def replay(self, entry: Entry) -> StreamId:
        """Put a dead letter back at the end of the stream it came from; its id there.

        It is added first and deleted then: should this end between the two, it may be replayed once more.
        """
        lost = {b"reason", b"stream", b"entry_id", b"deliveries", b"at"}
        fields = {name.decode(): value for name, value in entry.fields.items() if name not in lost} | {AGAIN: b"1"}
        stream = entry.fields[b"stream"].decode()
        [new_id] = await self._pipeline([xadd(stream, fields)])
        failpoint("replay_after_add_before_delete")
        await self.remove_dead_letters([entry])
        added: StreamId = new_id
        return added

    async def remove_dead_letters(self, entries: Sequence[Entry]) -> int:
        """Delete dead letters; how many there were."""
        said = [part for entry in entries for part in (entry.id, *owner_and_size(entry))]
        [deleted] = await self._pipeline([by_text(UNBURY, [DEAD_LETTER_STREAM, DEAD_BYTES], said)])
        return int(deleted)

    async def dead_bytes(self) -> dict[UUID, int]:
        """Bytes of dead letters by org, of those of which that can be told."""
        [said] = await self._pipeline([("HGETALL", DEAD_BYTES)])
        return {UUID(bytes(org_id).decode()): int(size) for org_id, size in zip(said[::2], said[1::2], strict=True)}

    async def range(
        self, stream: str, *, start: StreamId = b"-", end: StreamId = b"+", count: int = 100
    ) -> list[Entry]:
        """Entries of ``stream`` from ``start`` to ``end``, both included; ``(id`` leaves one out."""
        [reply] = await self._pipeline([("XRANGE", stream, start, end, "COUNT", count)])
        return entries_of(reply)

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

    async def late_slots(self, oldest_ms: int) -> list[int]:
        """Slots in which something was accepted that came late and is here still, where the first entry came at
        ``oldest_ms``. What came before that has left, and is forgotten.
        """
        _, slots = await self._pipeline([("ZREMRANGEBYSCORE", LATE, "-inf", f"({oldest_ms}"), ("ZRANGE", LATE, 0, -1)])
        return [int(slot) for slot in slots]

    async def length(self, stream: str) -> int:
        """Entries in ``stream``, delivered or not."""
        return (await self.depths([stream]))[stream].length

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


def is_durable(server: Mapping[str, str]) -> bool:
    """Whether a server, as `Queue.info` tells of it, has on disk what it acknowledges; also where it will not say."""
    return (
        server.get("aof_enabled") == "1"
        and server.get("appendfsync", "always") == "always"
        and server.get("aof_last_write_status", "ok") == "ok"
    )


def _in_threes(replies: list[Any]) -> Iterator[tuple[Any, Any, Any]]:
    return zip(replies[::3], replies[1::3], replies[2::3], strict=True)
