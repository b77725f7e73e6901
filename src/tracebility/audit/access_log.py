"""Audit events for reads, exports and refused requests, with a bounded number of events per minute.

Events with the same actor, action and target share one counter. The first few in each minute are written one by one;
the rest are counted and written as one event with a `count` when the minute ends. A process that dies loses the counts
of its last minute, and single events only while PostgreSQL is unavailable.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from tracebility.audit.events import Actor, Event, EventType
from tracebility.errors import AuditLogTampered, StoreUnavailable
from tracebility.ids import OrgId, uuid7

WINDOW_S = 60.0
FLUSH_S = 1.0
# Exports and refusals are rare, so each is written singly until a client loops. Reads usually come in loops.
EVENTS_PER_WINDOW = 20
READ_EVENTS_PER_WINDOW = 1
# About 1 kB each. Beyond this many counters, events with a new key are written one by one.
MAX_COUNTERS = 10_000
# A request waits at most this long for its event.
WRITE_TIMEOUT_S = 2.0

_log = structlog.get_logger()

# Stands for the result of a write that was cancelled because the client disconnected.
_CANCELLED = RuntimeError("the write was cancelled")


@dataclass(slots=True)
class _Counter:
    """Events with one key since ``since`` (seconds since 1970): ``written`` singly, and ``unwritten`` so far."""

    last: Event
    since: float
    written: int = 0
    unwritten: int = 0


class AccessLog:
    """Records the reads, exports and refusals of one process.

    Args:
        write: writes one event to the audit log, or raises.
        now: seconds since 1970.
    """

    def __init__(self, write: Callable[[Event], Awaitable[None]], now: Callable[[], float] = time.time) -> None:
        self._write = write
        self._now = now
        self._counters: dict[Hashable, _Counter] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def read(self, org_id: OrgId, actor: Actor, target: tuple[str, str], route: str, *, must: bool) -> None:
        """Record that ``actor`` reads ``target`` (type and id) through ``route``.

        Raises:
            StoreUnavailable: with ``must``, when the event cannot be written before the read.
            AuditLogTampered: with ``must``, when the org's hash chain is broken and refuses new events.
        """
        event = Event(EventType.EGRESS_READ, org_id, actor, *target, {"route": route, "count": 1})
        await self._record((event.type, org_id, actor, target, route), event, READ_EVENTS_PER_WINDOW, must=must)

    async def exported(self, org_id: OrgId, actor: Actor, target: tuple[str, str], route: str) -> None:
        """Record that ``actor`` exports ``target`` as a file.

        Raises:
            StoreUnavailable: when the event cannot be written.
            AuditLogTampered: when the org's hash chain is broken and refuses new events.
        """
        event = Event(EventType.EGRESS_EXPORTED, org_id, actor, *target, {"route": route, "count": 1})
        await self._record((event.type, org_id, actor, target, route), event, EVENTS_PER_WINDOW, must=True)

    async def denied(self, org_id: OrgId | None, actor: Actor, target: tuple[str, str]) -> None:
        """Record that ``actor`` asked for another org's ``target`` and was answered 404."""
        event = Event(EventType.ACCESS_DENIED, org_id, actor, *target, {"count": 1})
        await self._record((event.type, org_id, actor, target[0]), event, EVENTS_PER_WINDOW, must=False)

    def denied_later(self, org_id: OrgId | None, actor: Actor, target: tuple[str, str]) -> None:
        """Record a denial in the background, so that the response time does not reveal that the target exists."""
        writing = asyncio.get_running_loop().create_task(self.denied(org_id, actor, target))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    async def flush(self, *, everything: bool = False) -> None:
        """Write the counts of windows that have ended, or of all. Counts that cannot be written are kept."""
        if everything:
            await asyncio.gather(*self._writing)
        now = self._now()
        ended = [
            (key, counter)
            for key, counter in self._counters.items()
            if everything or not 0 <= now - counter.since < WINDOW_S  # also when the clock was set back
        ]
        for key, counter in ended:
            del self._counters[key]
            if not counter.unwritten:
                continue
            since = datetime.fromtimestamp(counter.since, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            details = {**counter.last.details, "count": counter.unwritten, "since": since}
            failure: Exception | None = _CANCELLED
            try:
                failure = await self._write_failure(replace(counter.last, details=details, id=uuid7()))
            finally:
                if failure is not None:
                    newer = self._counters.setdefault(key, counter)
                    if newer is not counter:
                        newer.unwritten, newer.since = newer.unwritten + counter.unwritten, counter.since
            if failure is not None and not isinstance(failure, AuditLogTampered):
                return  # PostgreSQL is unavailable: retry at the next flush. A tampered chain stops only its own org.

    async def run(self) -> None:
        """Flush every ``FLUSH_S`` until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def _record(self, key: Hashable, event: Event, max_single: int, *, must: bool) -> None:
        counter = self._counters.get(key)
        if counter is None:
            counter = _Counter(event, self._now())
            if len(self._counters) < MAX_COUNTERS:
                self._counters[key] = counter
        counter.last = event
        if counter.written >= max_single:
            counter.unwritten += 1
            return
        counter.written += 1
        failure: Exception | None = _CANCELLED
        try:
            failure = await self._write_failure(event)
        finally:  # also when the client disconnected
            if failure is not None and must:
                counter.written -= 1
            elif failure is not None:
                counter.unwritten += 1
        if must and isinstance(failure, AuditLogTampered):
            raise failure
        if must and failure is not None:
            raise StoreUnavailable("postgres", "this read must be recorded in the audit log first")

    async def _write_failure(self, event: Event) -> Exception | None:
        """Write ``event``. Returns the error if that failed, else None."""
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self._write(event)
        except Exception as error:  # noqa: BLE001 - the client must not learn why its event could not be written
            _log.warning("access_not_recorded", kind=event.type, reason=str(error) or type(error).__name__)
            return error
        return None
