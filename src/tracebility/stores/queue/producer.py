"""The edge's side of the queue: append envelopes, and know how many of an org wait."""

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
    MOST_DEPTHS,
    Append,
    Departure,
    Leaving,
    ScriptCall,
    StreamId,
    xadd,
)
from tracebility.stores.redis_transport import Command, Servers, refusal
from tracebility.tenant.ledger import Book
from tracebility.tenant.scripts import ENTER


class Producer(QueueConnection):
    """Never retries an append: a late reply is ambiguous, and the caller keeps the envelope."""

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers)
        self._depths: OrderedDict[tuple[str, UUID], tuple[int, float]] = OrderedDict()

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
                commands.append(xadd(*group[0]))
            else:
                commands += [("MULTI",), *(xadd(*entry) for entry in group), ("EXEC",)]
        entering = [_entering(stream, list(some)) for stream, some in groupby(sorted(books), lambda book: book.stream)]
        replies = await self._pipeline([*commands, *(by_sha(*one) for one in entering)], raise_on_error=False)
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
        unknown = [one for one, reply in zip(entering, said, strict=True) if is_unknown_script(reply)]
        if unknown:
            await self._pipeline([by_text(*one) for one in unknown])
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

    async def note_late(self, slot: int, until_ms: int) -> None:
        """Say that what enters up to ``until_ms`` may have been accepted in ``slot``."""
        await self._pipeline([("ZADD", LATE, "GT", until_ms, slot)])

    async def withdraw(self, books: Sequence[Book]) -> None:
        """Take back what was entered for envelopes whose entries were refused."""
        departures = [Departure(book, True, b"") for book in sorted(books)]
        await self.leave(
            [Leaving(stream, (), list(some)) for stream, some in groupby(departures, lambda one: one.book.stream)]
        )


def _entering(_: str, books: Sequence[Book]) -> ScriptCall:
    keys = [key for book in books for key in book.keys]
    return ENTER, keys, [part for book in books for part in (book.envelope_id.hex, book.hour, book.items)]
