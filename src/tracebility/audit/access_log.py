"""What was read and who was refused, in the trail: events that requests alone cause, bounded whatever requests come.

Of a kind (who, what, of which target) so many get a line each in a minute; the rest are counted, and make one line with
their count when the minute is over. A process that dies takes the counts of a minute with it, and a first line only
while Postgres is away.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from tracebility.audit.events import Actor, Event, EventType
from tracebility.errors import StoreUnavailable, TrailTampered
from tracebility.ids import OrgId, uuid7

WINDOW_S = 60.0
FLUSH_S = 1.0
# Exports and refusals: each has a line, until somebody makes them in a loop. Reads come in loops as it is.
LINES_A_WINDOW = 20
READ_LINES_A_WINDOW = 1
# Some 1 kB each. Past this, what is of a new kind has a line each, as if there was no counting.
MOST_KINDS = 10_000
# Nobody waits longer for a line.
WRITE_WAIT_S = 2.0

_log = structlog.get_logger()

# Whoever asked went away meanwhile.
_NOT_TRIED = RuntimeError("was not tried to the end")


@dataclass(slots=True)
class _Count:
    """What came of a kind since ``since`` (seconds since 1970): ``lines`` that are written, ``more`` that are not."""

    last: Event
    since: float
    lines: int = 0
    more: int = 0


class AccessTrail:
    """One process's reads and refusals. ``write`` puts an event into the trail, or raises."""

    def __init__(self, write: Callable[[Event], Awaitable[None]], now: Callable[[], float] = time.time) -> None:
        self._write = write
        self._now = now
        self._counts: dict[Hashable, _Count] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def read(self, org_id: OrgId, actor: Actor, target: tuple[str, str], route: str, *, must: bool) -> None:
        """``actor`` is let in to what ``route`` shows of ``target`` (its type and id).

        Raises:
            StoreUnavailable: when it ``must`` be in the trail first, and cannot be written.
            TrailTampered: when it must, and the trail takes no more.
        """
        event = Event(EventType.EGRESS_READ, org_id, actor, *target, {"route": route, "count": 1})
        await self._record((event.type, org_id, actor, target, route), event, READ_LINES_A_WINDOW, must=must)

    async def exported(self, org_id: OrgId, actor: Actor, target: tuple[str, str], route: str) -> None:
        """``actor`` takes ``target`` away as a file.

        Raises:
            StoreUnavailable: when it cannot be written.
        """
        event = Event(EventType.EGRESS_EXPORTED, org_id, actor, *target, {"route": route, "count": 1})
        await self._record((event.type, org_id, actor, target, route), event, LINES_A_WINDOW, must=True)

    async def denied(self, org_id: OrgId | None, actor: Actor, target: tuple[str, str]) -> None:
        """``actor`` asked for another org's ``target``, and is told that there is none."""
        event = Event(EventType.ACCESS_DENIED, org_id, actor, *target, {"count": 1})
        await self._record((event.type, org_id, actor, target[0]), event, LINES_A_WINDOW, must=False)

    def denied_later(self, org_id: OrgId | None, actor: Actor, target: tuple[str, str]) -> None:
        """As `denied`, once the answer is on its way: the time of a refusal must not tell that there is something."""
        writing = asyncio.get_running_loop().create_task(self.denied(org_id, actor, target))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    async def flush(self, *, all_of_it: bool = False) -> None:
        """Write the counts of windows that are over, or of every one. What cannot be written is kept."""
        if all_of_it:
            await asyncio.gather(*self._writing)
        now = self._now()
        over = [
            (kind, count)
            for kind, count in self._counts.items()
            if all_of_it or not 0 <= now - count.since < WINDOW_S  # also when the clock was set back
        ]
        for kind, count in over:
            del self._counts[kind]
            if not count.more:
                continue
            since = datetime.fromtimestamp(count.since, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            details = {**count.last.details, "count": count.more, "since": since}
            failure: Exception | None = _NOT_TRIED
            try:
                failure = await self._failure(replace(count.last, details=details, id=uuid7()))
            finally:
                if failure is not None:
                    newer = self._counts.setdefault(kind, count)
                    if newer is not count:
                        newer.more, newer.since = newer.more + count.more, count.since
            if failure is not None and not isinstance(failure, TrailTampered):
                return  # the store is away; the next time. A trail that takes no more keeps no other waiting.

    async def run(self) -> None:
        """Flush for ever. Cancel it to end."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def _record(self, kind: Hashable, event: Event, at_once: int, *, must: bool) -> None:
        count = self._counts.get(kind)
        if count is None:
            count = _Count(event, self._now())
            if len(self._counts) < MOST_KINDS:
                self._counts[kind] = count
        count.last = event
        if count.lines >= at_once:
            count.more += 1
            return
        count.lines += 1
        failure: Exception | None = _NOT_TRIED
        try:
            failure = await self._failure(event)
        finally:  # also when whoever asked has gone
            if failure is not None and must:
                count.lines -= 1
            elif failure is not None:
                count.more += 1
        if must and isinstance(failure, TrailTampered):
            raise failure
        if must and failure is not None:
            raise StoreUnavailable("postgres", "what is read here has to be in the audit trail first")

    async def _failure(self, event: Event) -> Exception | None:
        """Why ``event`` could not be written; None when it was."""
        try:
            async with asyncio.timeout(WRITE_WAIT_S):
                await self._write(event)
        except Exception as error:  # noqa: BLE001 - an answer must not tell why its line could not be written
            _log.warning("access_not_recorded", kind=event.type, reason=str(error) or type(error).__name__)
            return error
        return None
