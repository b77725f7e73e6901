"""The queue's interface for operators: depths, ledger counts, dead letters, server state."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from tracebility.failpoints import failpoint
from tracebility.stores.queue.connection import QueueConnection, by_text
from tracebility.stores.queue.entries import (
    DEAD_BYTES,
    GROUP,
    LATE,
    MAYBE_DUPLICATE,
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
from tracebility.tenant.scripts import REMOVE_DEAD_LETTERS
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM

_FSYNC = ("CONFIG", "GET", "appendfsync")


class Inspection(QueueConnection):
    """Reads what the queue holds, and replays or removes dead letters."""

    async def replay(self, entry: Entry) -> StreamId:
        """Append a dead letter to the stream it came from and delete it. Returns its new id.

        A crash between the two steps leaves the dead letter, which may then be replayed twice.
        """
        lost = {b"reason", b"stream", b"entry_id", b"deliveries", b"at"}
        fields = {name.decode(): value for name, value in entry.fields.items() if name not in lost} | {
            MAYBE_DUPLICATE: b"1"
        }
        stream = entry.fields[b"stream"].decode()
        [new_id] = await self._pipeline([xadd(stream, fields)])
        failpoint("replay_after_add_before_delete")
        await self.remove_dead_letters([entry])
        added: StreamId = new_id
        return added

    async def remove_dead_letters(self, entries: Sequence[Entry]) -> int:
        """Delete dead letters and return their number."""
        said = [part for entry in entries for part in (entry.id, *owner_and_size(entry))]
        [deleted] = await self._pipeline([by_text(REMOVE_DEAD_LETTERS, [DEAD_LETTER_STREAM, DEAD_BYTES], said)])
        return int(deleted)

    async def dead_bytes(self) -> dict[UUID, int]:
        """Return dead-letter bytes per org. Entries without a readable org are not counted."""
        [said] = await self._pipeline([("HGETALL", DEAD_BYTES)])
        return {UUID(bytes(org_id).decode()): int(size) for org_id, size in zip(said[::2], said[1::2], strict=True)}

    async def range(
        self, stream: str, *, start: StreamId = b"-", end: StreamId = b"+", count: int = 100
    ) -> list[Entry]:
        """Return entries of ``stream`` from ``start`` to ``end`` inclusive; ``(id`` makes a bound exclusive."""
        [reply] = await self._pipeline([("XRANGE", stream, start, end, "COUNT", count)])
        return entries_of(reply)

    async def depths(self, streams: Sequence[str]) -> dict[str, Depth]:
        """Return the depth of each stream, in one round trip."""
        commands: list[Command] = []
        for stream in streams:
            commands += [
                ("XLEN", stream),
                ("XPENDING", stream, GROUP),
                ("XRANGE", stream, "-", "+", "COUNT", 1),
            ]
        replies = await self._pipeline(commands, raise_on_error=False)
        depths = {}
        for stream, (length, pending, first) in zip(streams, _in_threes(replies), strict=True):
            checked((length, first))
            # XPENDING fails for a stream without the group, where nothing is pending.
            waiting = 0 if isinstance(pending, Exception) else int(pending[0])
            oldest = int(first[0][0].split(b"-")[0]) if first else None
            depths[stream] = Depth(int(length), waiting, oldest)
        return depths

    async def late_slots(self, oldest_ms: int) -> list[int]:
        """Return the slots of late envelopes that may still be queued, and forget those that arrived before
        ``oldest_ms``, the time of the oldest entry in the queue.
        """
        _, slots = await self._pipeline([("ZREMRANGEBYSCORE", LATE, "-inf", f"({oldest_ms}"), ("ZRANGE", LATE, 0, -1)])
        return [int(slot) for slot in slots]

    async def length(self, stream: str) -> int:
        """Return the number of entries in ``stream``, delivered or not."""
        return (await self.depths([stream]))[stream].length

    async def accepted(self, streams: Sequence[str], org_id: UUID) -> int:
        """Return all items of an org ever accepted into ``streams``."""
        replies = await self._pipeline([("HVALS", accepted_key(stream, org_id)) for stream in streams])
        return sum(int(items) for reply in replies for items in reply)

    async def accepted_in(self, books: Sequence[tuple[str, UUID]], hours: Iterable[int]) -> list[int]:
        """Return for each (stream, org) the items accepted in ``hours`` (since 1970)."""
        fields = list(hours)
        replies = await self._pipeline([("HMGET", accepted_key(stream, org_id), *fields) for stream, org_id in books])
        return [sum(int(items) for items in reply if items is not None) for reply in replies]

    async def envelopes_in_flight(self, books: Sequence[tuple[str, UUID]]) -> list[int]:
        """Return for each (stream, org) the number of envelopes in flight."""
        return [
            int(count)
            for count in await self._pipeline([("HLEN", in_flight_key(stream, org_id)) for stream, org_id in books])
        ]

    async def in_flight(self, streams: Sequence[str], org_id: UUID) -> dict[UUID, int]:
        """Return the envelopes of an org in ``streams``, with the number of items of each."""
        replies = await self._pipeline([("HGETALL", in_flight_key(stream, org_id)) for stream in streams])
        return {
            UUID(bytes(envelope_id).decode()): int(said.split(b"|")[1])
            for reply in replies
            for envelope_id, said in zip(reply[::2], reply[1::2], strict=True)
        }

    async def missing(self, streams: Sequence[str]) -> list[tuple[UUID, UUID]]:
        """Return (org, envelope) of envelopes in flight in the ledger but missing in their stream. O(keys).

        An entry is added before it is recorded in flight, and one script removes both. So an envelope recorded
        before the oldest remaining entry was removed by something else.
        """
        found: list[tuple[UUID, UUID]] = []
        for stream in streams:
            cursor: bytes = b"0"
            while True:
                [[cursor, keys]] = await self._pipeline(
                    [("SCAN", cursor, "MATCH", in_flight_keys(stream), "COUNT", SCAN_COUNT)]
                )
                if keys:
                    # One transaction, so that no entry is removed between the two replies.
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
        """Return memory used and allowed, of the cluster node that is closest to its limit."""
        found = [
            Memory(int(said["used_memory"]), int(said.get("maxmemory", "0"))) for said in (await self.info()).values()
        ]
        return max(found, key=lambda memory: memory.used / memory.maximum if memory.maximum else 0.0)

    async def info(self) -> dict[str, dict[str, str]]:
        """Return the server, persistence and memory sections of INFO by server, for display.

        Includes ``appendfsync`` unless the server refuses CONFIG GET, as hosted ones do.
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
    """Whether a server has acknowledged writes on disk, from `Queue.info`. Unknown settings count as durable."""
    return (
        server.get("aof_enabled") == "1"
        and server.get("appendfsync", "always") == "always"
        and server.get("aof_last_write_status", "ok") == "ok"
    )


def _in_threes(replies: list[Any]) -> Iterator[tuple[Any, Any, Any]]:
    return zip(replies[::3], replies[1::3], replies[2::3], strict=True)
