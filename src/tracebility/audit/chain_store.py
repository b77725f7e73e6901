"""The audit trail as each store has it, a page at a time: for what relays it and what proves it.

The control plane has it first, and holds the chain. The data plane's rows say what the chain said when they came.
"""

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tracebility.audit.chain import Link
from tracebility.ids import SENTINEL
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Row, Statements
from tracebility.stores.queries import query

PAGE = 1000
NIL = UUID(int=0)
_BEFORE_ALL = -(1 << 62)  # a number that no event of a chain has
_LAST_NUMBER = (1 << 63) - 1  # the control plane has none that are larger; a row of the data plane may
# The data plane keeps an event for 730 days. Nobody looks there for one that is about to go.
ENGINE_HOLDS_US = 729 * 86_400 * 10**6

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS = (
    "event_id",
    "event_time",
    "event_type",
    "org_id",
    "actor_type",
    "actor_user_id",
    "target_type",
    "target_id",
    "details",
    "seq",
    "hash",
)


@dataclass(frozen=True, slots=True)
class Written:
    """An event of the control plane. ``waiting``: it is not relayed yet; ``settled``: it is older than that takes."""

    link: Link
    waiting: bool
    settled: bool


@dataclass(frozen=True, slots=True)
class Copy:
    """A row of the data plane. ``fingerprint`` is of all that it says."""

    link: Link
    fingerprint: str


def horizon_us() -> int:
    """Events from before this are not looked for in the data plane."""
    return time.time_ns() // 1000 - ENGINE_HOLDS_US


async def heads(control: Statements) -> AsyncIterator[tuple[UUID, int, str]]:
    """The number and the hash of the last event of every chain, as its head has them."""
    after = NIL
    while rows := await control.fetch("chain_heads", after, PAGE):
        for row in rows:
            after = row["org_id"]
            yield after, row["seq"], row["hash"]


async def written(control: Statements, chain: UUID | None = None) -> AsyncIterator[list[Written]]:
    """A chain, or one after the other, page by page, as its numbers say."""
    first, last = (NIL, SENTINEL) if chain is None else (chain, chain)
    seq, event_id = _BEFORE_ALL, NIL
    while True:
        rows = await control.fetch("links_of_chains", first, seq, event_id, PAGE, last)
        if not rows:
            return
        page = [Written(_of_control(row), row["waiting"], row["settled"]) for row in rows]
        first, seq, event_id = page[-1].link.chain, page[-1].link.seq, page[-1].link.event_id
        yield page
        if len(page) < PAGE:
            return


async def written_of(control: Statements, events: Iterable[UUID]) -> dict[UUID, Link]:
    """What the control plane has of these events."""
    return {row["event_id"]: _of_control(row) for row in await control.fetch("links_of_events", list(events))}


async def hashes_of(control: Statements, chain: UUID, numbers: Iterable[int]) -> dict[int, str]:
    """The hashes of the events that have these numbers of a chain in the control plane."""
    rows = await control.fetch("hashes_of_numbers", chain, [number for number in numbers if number <= _LAST_NUMBER])
    return {row["seq"]: row["hash"] for row in rows}


async def waiting(control: Statements, limit: int) -> tuple[list[UUID], list[Link]]:
    """The oldest ids of the outbox, and the events of those that are in the trail."""
    rows = await control.fetch("relay_batch", limit)
    return (
        [row["waiting_id"] for row in rows],
        [_of_control(row) for row in rows if row["event_id"] is not None],
    )


async def there_of(engine: Engine, events: Sequence[Link]) -> set[UUID]:
    """Which of ``events`` the data plane has, of the org that they are of."""
    times = [link.event_time_us for link in events]
    parameters = {
        "orgs": [str(chain) for chain in {link.chain for link in events}],
        "from_us": min(times),
        "to_us": max(times),
        "events": [str(link.event_id) for link in events],
    }
    result = await engine.query(query("engine_events"), parameters)
    there = {(UUID(str(org_id)), UUID(str(event_id))) for org_id, event_id in result.rows}
    return {link.event_id for link in events if (link.chain, link.event_id) in there}


async def copies(engine: Engine, chain: UUID | None = None) -> AsyncIterator[list[Copy]]:
    """The rows of an org in the data plane, or of one after the other, page by page as time goes, since the horizon."""
    first, last = (NIL, SENTINEL) if chain is None else (chain, chain)
    since_us = after_us = horizon_us()
    after_print = ""
    while True:
        parameters = {
            "org": str(first),
            "last": str(last),
            "since_us": since_us,
            "after_us": after_us,
            "after_print": after_print,
            "limit": PAGE,
        }
        rows = (await engine.query(query("engine_links"), parameters)).dicts()
        page = [Copy(_of_engine(row), row["print"]) for row in rows]
        if not page:
            return
        first, after_us, after_print = page[-1].link.chain, page[-1].link.event_time_us, page[-1].fingerprint
        yield page
        if len(page) < PAGE:
            return


async def copies_near(
    engine: Engine, chain: UUID, stretch: range, events: Iterable[UUID] = (), seqs: Iterable[int] = ()
) -> list[Link]:
    """The rows of a stretch of a chain, of other numbers in it, and of events wherever they are in it."""
    parameters = {
        "org": str(chain),
        "from_seq": max(stretch.start, 0),
        "to_seq": max(stretch.stop - 1, 0),
        "seqs": list(seqs),
        "events": list(map(str, events)),
    }
    return [_of_engine(row) for row in (await engine.query(query("engine_links_near"), parameters)).dicts()]


async def copies_anywhere(engine: Engine, events: Iterable[UUID]) -> list[Link]:
    """What the data plane says of events, of whatever org. Reads its ids as a whole."""
    result = await engine.query(query("engine_links_anywhere"), {"events": list(map(str, events))})
    return [_of_engine(row) for row in result.dicts()]


async def insert(engine: Engine, links: Sequence[Link]) -> None:
    """Write events to the data plane."""
    await engine.insert_rows("audit_log", _COLUMNS, [_row(link) for link in links])


def moment(us: int) -> datetime:
    """Microseconds since 1970 as a time."""
    return _EPOCH + timedelta(microseconds=us)


def microseconds(at: datetime) -> int:
    """A time in microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def engine_moment(us: int) -> str:
    """A time as the engine reads it."""
    return moment(us).strftime("%Y-%m-%d %H:%M:%S.%f")


def engine_now() -> str:
    """This moment, as the engine reads it."""
    return engine_moment(time.time_ns() // 1000)


def _row(link: Link) -> tuple[Any, ...]:
    return (
        str(link.event_id),
        engine_moment(link.event_time_us),
        link.event_type,
        str(link.chain),
        link.actor_type,
        link.actor_id,
        link.target_type,
        link.target_id,
        link.details,
        link.seq,
        link.hash,
    )


def _of_control(row: Row) -> Link:
    return _link(row, row["org_id"])


def _of_engine(row: Any) -> Link:
    org_id = UUID(str(row["org_id"]))
    return _link(row, None if org_id == SENTINEL else org_id)


def _link(row: Any, org_id: UUID | None) -> Link:
    return Link(
        UUID(str(row["event_id"])),
        row["event_time_us"],
        row["event_type"],
        org_id,
        row["actor_type"],
        row["actor_id"],
        row["target_type"],
        row["target_id"],
        row["details"],
        row["seq"],
        row["hash"],
    )
