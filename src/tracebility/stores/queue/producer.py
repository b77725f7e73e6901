"""The queue's interface for ingest: append envelopes, and estimate how many of an org are queued."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

from tracebility.config import redact
from tracebility.errors import StoreUnavailable
from tracebility.stores.queue.connection import QueueConnection, by_sha, by_text, is_unknown_script
from tracebility.stores.queue.entries import (
    DEPTH_KNOWN_S,
    LATE,
    MAX_DEPTHS,
    Append,
    LedgerRemoval,
    Removal,
    ScriptCall,
    StreamId,
    xadd,
)
from tracebility.stores.redis_transport import Command, Servers, refusal
from tracebility.tenant.ledger import LedgerEntry
from tracebility.tenant.scripts import RECORD_ACCEPTED


class Producer(QueueConnection):
    """Appends envelopes. Never retries: a timeout is ambiguous, and the caller keeps the envelope."""

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers)
        self._depths: OrderedDict[tuple[str, UUID], tuple[int, float]] = OrderedDict()

    async def append_groups(
        self, groups: Sequence[Sequence[Append]], ledger_entries: Sequence[LedgerEntry] = ()
    ) -> list[list[StreamId] | StoreUnavailable]:
        """Append groups of entries, each atomically. All entries of a group are for one stream.

        Returns for each group its entry ids or the error. A group whose cluster node is unavailable may have been
        appended. ``ledger_entries`` are recorded as accepted and in flight afterwards; if the connection fails in
        between, removing the entries corrects the ledger.
        """
        commands: list[Command] = []
        for group in groups:
            if len(group) == 1:
                commands.append(xadd(*group[0]))
            else:
                commands += [("MULTI",), *(xadd(*entry) for entry in group), ("EXEC",)]
        recording = [
            _recording(stream, list(group))
            for stream, group in groupby(sorted(ledger_entries), lambda book: book.stream)
        ]
        replies = await self._pipeline([*commands, *(by_sha(*one) for one in recording)], raise_on_error=False)
        results: list[list[StreamId] | StoreUnavailable] = []
        following = iter(replies)
        for group in groups:
            # EXEC's reply holds the results; the replies before it are OK, QUEUED or the reason why EXEC fails.
            own = [next(following) for _ in range(1 if len(group) == 1 else len(group) + 2)]
            why = next(filter(None, map(refusal, own)), None)
            if why is not None:
                results.append(StoreUnavailable("redis", redact(str(why))))
            else:
                results.append(own if len(group) == 1 else own[-1])
        said = list(following)
        unknown = [one for one, reply in zip(recording, said, strict=True) if is_unknown_script(reply)]
        if unknown:
            await self._pipeline([by_text(*one) for one in unknown])
        self._learn_depths(sorted(ledger_entries), said)
        return results

    def depth(self, stream: str, org_id: UUID) -> int:
        """Return how many envelopes of an org were in a stream at the last append from this process; 0 after
        ``DEPTH_KNOWN_S``.
        """
        depth, at = self._depths.get((stream, org_id), (0, 0.0))
        return depth if time.monotonic() - at < DEPTH_KNOWN_S else 0

    def _learn_depths(self, ledger_entries: Sequence[LedgerEntry], replies: Sequence[Any]) -> None:
        depths = [depth for reply in replies if isinstance(reply, list) for depth in reply]
        if len(depths) != len(ledger_entries):
            return
        now = time.monotonic()
        for book, depth in zip(ledger_entries, depths, strict=True):
            self._depths[book.stream, book.org_id] = (int(depth), now)
            self._depths.move_to_end((book.stream, book.org_id))
        while len(self._depths) > MAX_DEPTHS:
            self._depths.popitem(last=False)

    async def record_late(self, slot: int, until_ms: int) -> None:
        """Record that envelopes arriving until ``until_ms`` may have been accepted in ``slot``."""
        await self._pipeline([("ZADD", LATE, "GT", until_ms, slot)])

    async def withdraw(self, ledger_entries: Sequence[LedgerEntry]) -> None:
        """Remove the ledger entries of envelopes whose append was refused."""
        ledger_removals = [LedgerRemoval(book, True, b"") for book in sorted(ledger_entries)]
        await self.remove(
            [
                Removal(stream, (), list(group))
                for stream, group in groupby(ledger_removals, lambda one: one.book.stream)
            ]
        )


def _recording(_: str, ledger_entries: Sequence[LedgerEntry]) -> ScriptCall:
    keys = [key for book in ledger_entries for key in book.keys]
    return (
        RECORD_ACCEPTED,
        keys,
        [part for book in ledger_entries for part in (book.envelope_id.hex, book.hour, book.items)],
    )
