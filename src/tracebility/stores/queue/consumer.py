"""The queue's interface for workers: read, claim, acknowledge, and move entries to the dead letters."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from redis import exceptions

from tracebility.config import redact
from tracebility.errors import StoreUnavailable
from tracebility.failpoints import failpoint
from tracebility.stores.queue.connection import QueueConnection, by_text
from tracebility.stores.queue.entries import (
    COUNTS_IN_STREAM_MS,
    DEAD_BYTES,
    DEAD_LETTER_MARKS,
    GROUP,
    Entry,
    IdleEntry,
    LedgerRemoval,
    Removal,
    ScriptCall,
    StreamId,
    entries_of,
    owner_and_size,
)
from tracebility.stores.redis_transport import checked
from tracebility.tenant.ledger import counts_key
from tracebility.tenant.scripts import ADD_DEAD_LETTER, COUNTED_ENTRY
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM, primary_stream


class Consumer(QueueConnection):
    """Reads streams as a member of the consumer group `GROUP`."""

    async def ensure_group(self, streams: Iterable[str]) -> None:
        """Create missing streams and consumer groups; a new group starts at the first entry.

        A Redis whose memory is full refuses this even for existing groups; that error is ignored, because reading shows
        whether the group exists.
        """
        commands = [("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM") for stream in streams]
        for reply in await self._pipeline(commands, raise_on_error=False):
            is_there_or_full = isinstance(reply, exceptions.OutOfMemoryError) or str(reply).startswith("BUSYGROUP")
            if isinstance(reply, Exception) and not is_there_or_full:
                raise StoreUnavailable("redis", redact(str(reply))) from reply

    async def read(self, streams: Sequence[str], consumer: str, count_per_stream: int) -> list[tuple[str, list[Entry]]]:
        """Read new entries for ``consumer`` without blocking: one XREADGROUP per stream, in one round trip.

        COUNT is per stream, so the bound of the whole read is ``count_per_stream * len(streams)``.
        """
        return await self._read_group(streams, consumer, count_per_stream, b">")

    async def claim(
        self, stream: str, consumer: str, min_idle_ms: int, ids: Sequence[StreamId]
    ) -> tuple[list[tuple[Entry, int]], list[StreamId]]:
        """Claim those of ``ids`` that were idle for ``min_idle_ms``.

        Returns the claimed entries with their delivery count, including this one, and the ids that are pending but no
        longer in the stream: lost data.
        """
        looks = [("XPENDING", stream, GROUP, entry_id, entry_id, 1) for entry_id in ids]
        claiming = ("XCLAIM", stream, GROUP, consumer, min_idle_ms, *ids)
        # One transaction, so that no entry is acknowledged between the two replies.
        *found, taken = (await self._pipeline([("MULTI",), *looks, claiming, ("EXEC",)]))[-1]
        silent = {row[0]: int(row[3]) for rows in found for row in rows if int(row[2]) >= min_idle_ms}
        entries = {entry.id: entry for entry in entries_of(taken)}
        return (
            [(entry, silent.get(entry_id, 0) + 1) for entry_id, entry in entries.items()],
            [entry_id for entry_id in silent if entry_id not in entries],
        )

    async def refresh(self, stream: str, consumer: str, ids: Sequence[StreamId]) -> None:
        """Reset the idle time of ``ids``, so that no other worker claims them."""
        if ids:
            await self._pipeline([("XCLAIM", stream, GROUP, consumer, 0, *ids, "JUSTID")])

    async def idle(
        self, streams: Sequence[str], idle_ms: int, *, count: int, start: StreamId = b"-"
    ) -> list[tuple[str, list[IdleEntry]]]:
        """Return the oldest ``count`` pending entries of each stream from ``start`` on that were idle for ``idle_ms``.
        Does not count as a delivery.
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
        """Reset the delivery count of ``ids`` to one, because they did not cause ``consumer`` to stop."""
        if ids:
            await self._pipeline([("XCLAIM", stream, GROUP, consumer, 0, *ids, "RETRYCOUNT", 1, "JUSTID")])

    async def count(self, ledger_removals: Iterable[LedgerRemoval]) -> list[LedgerRemoval]:
        """Decide for each envelope, before its outcome is written, which of its entries counts in the ledger: the first
        that asks, also in later deliveries. On input, ``counts_elsewhere`` tells whether an outcome is known already.
        """
        by_shard: dict[str, list[LedgerRemoval]] = {}
        for one in ledger_removals:
            by_shard.setdefault(primary_stream(one.book.stream), []).append(one)
        answers = await self._run([_counting(some) for some in by_shard.values()])
        return [
            one._replace(counts_elsewhere=not counts)
            for some, answer in zip(by_shard.values(), answers, strict=True)
            for one, counts in zip(some, answer, strict=True)
        ]

    async def dead_letter(self, removal: "Removal", entry: Entry, *, reason: str, deliveries: int, at_us: int) -> int:
        """Move ``entry`` to the dead-letter stream with the reason. Returns the bytes of its org's dead letters, 0 if
        the org is unknown.

        The streams may be on two nodes, so the entry is in both for a moment. After a crash in between, the mark in
        `DEAD_LETTER_MARKS` prevents a second copy, and the repeated call only removes the entry.
        """
        fields = {
            "h": entry.fields.get(b"h", b""),
            "b": entry.fields.get(b"b", b""),
            "reason": reason.encode(),
            "stream": removal.stream.encode(),
            "entry_id": entry.id,
            "deliveries": str(deliveries).encode(),
            "at": str(at_us).encode(),
        }
        # A legacy envelope has another field, which a replay must restore unchanged.
        fields |= {name.decode(): value for name, value in entry.fields.items() if name not in (b"h", b"b")}
        origin = f"{removal.stream}|{entry.id.decode()}"
        arguments = [origin, *owner_and_size(entry), *(part for field in fields.items() for part in field)]
        [held_bytes] = await self._pipeline(
            [by_text(ADD_DEAD_LETTER, [DEAD_LETTER_STREAM, DEAD_LETTER_MARKS, DEAD_BYTES], arguments)]
        )
        failpoint("worker_after_bury_before_leave")
        await self.remove([removal])
        failpoint("worker_after_buried_left")
        with suppress(StoreUnavailable):  # a leftover mark is harmless
            await self._pipeline([("HDEL", DEAD_LETTER_MARKS, origin)])
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
                # Redis was emptied, or nothing was written to this stream yet.
                if str(reply).startswith("NOGROUP"):
                    await self.ensure_group([stream])
                else:
                    refused.append(reply)
            elif reply:
                found.append((stream, entries_of(reply[0][1])))
        if not found:  # entries that were read must be processed, even if other streams failed
            checked(refused)
        return found


def _counting(ledger_removals: Sequence[LedgerRemoval]) -> ScriptCall:
    keys = [counts_key(one.book) for one in ledger_removals]
    arguments = (
        part for book, is_known, entry_id in ledger_removals
        for part in (f"{book.stream}|{entry_id.decode()}", int(is_known))
    )  # fmt: skip
    return COUNTED_ENTRY, keys, [COUNTS_IN_STREAM_MS, *arguments]
