"""Paged reads and writes of the audit log in both stores, for the relay, the reconciler and verification.

PostgreSQL has each event first and holds the hash chain. Each ClickHouse row is a copy made when the event was relayed.
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
_BEFORE_ALL = -(1 << 62)  # lower than any event's seq
_MAX_SEQ = (1 << 63) - 1  # PostgreSQL's bigint limit; a forged ClickHouse row may exceed it
# ClickHouse deletes events after 730 days. Older events are not compared, so that one about to expire is no gap.
ENGINE_RETENTION_US = 729 * 86_400 * 10**6

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
class ChainEvent:
    """An event in PostgreSQL. ``waiting``: in the outbox, not relayed yet; ``settled``: older than relaying takes."""

    link: Link
    waiting: bool
    settled: bool


@dataclass(frozen=True, slots=True)
class Copy:
    """A row in ClickHouse. ``fingerprint`` is a hash over all its columns."""

    link: Link
    fingerprint: str


def horizon_us() -> int:
    """The oldest event time, in microseconds since 1970, that is compared with ClickHouse."""
    return time.time_ns() // 1000 - ENGINE_RETENTION_US


async def heads(control: Statements) -> AsyncIterator[tuple[UUID, int, str]]:
    """Yield (org, seq, hash) of every chain's head row."""
    after = NIL
    while rows := await control.fetch("chain_heads", after, PAGE):
        for row in rows:
            after = row["org_id"]
            yield after, row["seq"], row["hash"]


async def event_pages(control: Statements, chain: UUID | None = None) -> AsyncIterator[list[ChainEvent]]:
    """Yield the PostgreSQL events of ``chain``, or of all chains, in pages ordered by chain and seq."""
    first, last = (NIL, SENTINEL) if chain is None else (chain, chain)
    seq, event_id = _BEFORE_ALL, NIL
    while True:
        rows = await control.fetch("chain_events", first, seq, event_id, PAGE, last)
        if not rows:
            return
        page = [ChainEvent(_link_from_postgres(row), row["waiting"], row["settled"]) for row in rows]
        first, seq, event_id = page[-1].link.chain, page[-1].link.seq, page[-1].link.event_id
        yield page
        if len(page) < PAGE:
            return


async def events_by_id(control: Statements, events: Iterable[UUID]) -> dict[UUID, Link]:
    """Return the PostgreSQL events with these ids; missing ones are left out."""
    return {row["event_id"]: _link_from_postgres(row) for row in await control.fetch("events_by_id", list(events))}


async def hashes_by_seq(control: Statements, chain: UUID, seqs: Iterable[int]) -> dict[int, str]:
    """Return the PostgreSQL hashes of these seqs of a chain; missing ones are left out."""
    rows = await control.fetch("hashes_by_seq", chain, [seq for seq in seqs if seq <= _MAX_SEQ])
    return {row["seq"]: row["hash"] for row in rows}


async def outbox_batch(control: Statements, limit: int) -> tuple[list[UUID], list[Link]]:
    """Return the oldest event ids in the outbox, and those of the events that still exist in the audit log."""
    rows = await control.fetch("relay_batch", limit)
    return (
        [row["waiting_id"] for row in rows],
        [_link_from_postgres(row) for row in rows if row["event_id"] is not None],
    )


async def ids_in_engine(engine: Engine, events: Sequence[Link]) -> set[UUID]:
    """Return the ids of those ``events`` that ClickHouse has under the same org."""
    times = [link.event_time_us for link in events]
    parameters = {
        "orgs": [str(chain) for chain in {link.chain for link in events}],
        "from_us": min(times),
        "to_us": max(times),
        "events": [str(link.event_id) for link in events],
    }
    result = await engine.query(query("engine_event_ids"), parameters)
    found = {(UUID(str(org_id)), UUID(str(event_id))) for org_id, event_id in result.rows}
    return {link.event_id for link in events if (link.chain, link.event_id) in found}


async def copy_pages(engine: Engine, chain: UUID | None = None) -> AsyncIterator[list[Copy]]:
    """Yield the ClickHouse rows of ``chain``, or of all chains, newer than the horizon, ordered by org and time."""
    first, last = (NIL, SENTINEL) if chain is None else (chain, chain)
    since_us = after_us = horizon_us()
    after_fingerprint = ""
    while True:
        parameters = {
            "org": str(first),
            "last": str(last),
            "since_us": since_us,
            "after_us": after_us,
            "after_fingerprint": after_fingerprint,
            "limit": PAGE,
        }
        rows = (await engine.query(query("engine_copies"), parameters)).dicts()
        page = [Copy(_link_from_engine(row), row["fingerprint"]) for row in rows]
        if not page:
            return
        first, after_us, after_fingerprint = page[-1].link.chain, page[-1].link.event_time_us, page[-1].fingerprint
        yield page
        if len(page) < PAGE:
            return


async def copies_of(
    engine: Engine, chain: UUID, seq_range: range, events: Iterable[UUID] = (), seqs: Iterable[int] = ()
) -> list[Link]:
    """Return the ClickHouse rows of a chain whose seq is in ``seq_range`` or ``seqs``, or whose id is in ``events``."""
    parameters = {
        "org": str(chain),
        "from_seq": max(seq_range.start, 0),
        "to_seq": max(seq_range.stop - 1, 0),
        "seqs": list(seqs),
        "events": list(map(str, events)),
    }
    return [_link_from_engine(row) for row in (await engine.query(query("engine_copies_of"), parameters)).dicts()]


async def copies_in_any_org(engine: Engine, events: Iterable[UUID]) -> list[Link]:
    """Return the ClickHouse rows of these events under any org. Cost: one scan of the event_id column."""
    result = await engine.query(query("engine_copies_in_any_org"), {"events": list(map(str, events))})
    return [_link_from_engine(row) for row in result.dicts()]


async def insert(engine: Engine, links: Sequence[Link]) -> None:
    """Write events to ClickHouse."""
    await engine.insert_rows("audit_log", _COLUMNS, [_row(link) for link in links])


def moment(us: int) -> datetime:
    """Convert microseconds since 1970 to a datetime."""
    return _EPOCH + timedelta(microseconds=us)


def microseconds(at: datetime) -> int:
    """Convert a datetime to microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def engine_moment(us: int) -> str:
    """Format microseconds since 1970 as a ClickHouse DateTime64."""
    return moment(us).strftime("%Y-%m-%d %H:%M:%S.%f")


def engine_now() -> str:
    """The current time as a ClickHouse DateTime64."""
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


def _link_from_postgres(row: Row) -> Link:
    return _link(row, row["org_id"])


def _link_from_engine(row: Any) -> Link:
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
