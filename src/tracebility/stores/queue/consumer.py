"""The worker's side of the queue: read, claim, acknowledge, and move to the dead letters."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from redis import exceptions

from tracebility.config import redact
from tracebility.errors import StoreUnavailable
from tracebility.failpoints import failpoint
from tracebility.stores.queue.connection import QueueConnection, by_text
from tracebility.stores.queue.entries import (
    BURIED,
    COUNTS_IN_STREAM_MS,
    DEAD_BYTES,
    GROUP,
    Departure,
    Entry,
    IdleEntry,
    Leaving,
    ScriptCall,
    StreamId,
    entries_of,
    owner_and_size,
)
from tracebility.stores.redis_transport import checked
from tracebility.tenant.ledger import counts_key
from tracebility.tenant.scripts import BURY, COUNT
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM, beside


class Consumer(QueueConnection):
    """Reads as one member of the consumer group `GROUP`."""

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
        entries = {entry.id: entry for entry in entries_of(taken)}
        return (
            [(entry, silent.get(entry_id, 0) + 1) for entry_id, entry in entries.items()],
            [entry_id for entry_id in silent if entry_id not in entries],
        )

    async def refresh(self, stream: str, consumer: str, ids: Sequence[StreamId]) -> None:
        """Say that ``consumer`` is still at work on ``ids``, so that nobody claims them."""
        if ids:
            await self._pipeline([("XCLAIM", stream, GROUP, consumer, 0, *ids, "JUSTID")])

    async def idle(
        self, streams: Sequence[str], idle_ms: int, *, count: int, start: StreamId = b"-"
    ) -> list[tuple[str, list[IdleEntry]]]:
        """The oldest ``count`` pending entries of each stream, from ``start`` on, of which nothing was heard for
        ``idle_ms``. Looking is no delivery.
        """
        replies = await self._pipeline(
            [("XPENDING", stream, GROUP, "IDLE", idle_ms, start, "+", count) for stream in streams]
        )
        return [
            (stream, [IdleEntry(row[0], int(row[3])) for row in reply])
            for stream, reply in zip(streams, replies, strict=True)
            if reply
        ]

    async def reset_deliveries(self, stream: str, consumer: str, ids: Sequence[StreamId]) -> None:
        """Say that ``ids`` are not why ``consumer`` ends: their deliveries count as one."""
        if ids:
            await self._pipeline([("XCLAIM", stream, GROUP, consumer, 0, *ids, "RETRYCOUNT", 1, "JUSTID")])

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
        said = [origin, *owner_and_size(entry), *(part for field in fields.items() for part in field)]
        [held_bytes] = await self._pipeline([by_text(BURY, [DEAD_LETTER_STREAM, BURIED, DEAD_BYTES], said)])
        failpoint("worker_after_bury_before_leave")
        await self.leave([leaving])
        failpoint("worker_after_buried_left")
        with suppress(StoreUnavailable):  # a mark that stays is in nobody's way; one that is gone must not be asked for
            await self._pipeline([("HDEL", BURIED, origin)])
        return int(held_bytes)

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
                found.append((stream, entries_of(reply[0][1])))
        if not found:  # what was found is in nobody else's hands
            checked(refused)
        return found


def _counting(departures: Sequence[Departure]) -> ScriptCall:
    keys = [counts_key(one.book) for one in departures]
    said = (
        part for book, is_known, entry_id in departures
        for part in (f"{book.stream}|{entry_id.decode()}", int(is_known))
    )  # fmt: skip
    return COUNT, keys, [COUNTS_IN_STREAM_MS, *said]
