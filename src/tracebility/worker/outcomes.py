"""Writes the outcomes of envelopes (stored, dropped, dead) to ClickHouse, before their entries leave the queue."""

import re
import time
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple
from uuid import UUID

from tracebility.stores import native_format as native
from tracebility.stores.clickhouse import Engine
from tracebility.stores.native_format import Column
from tracebility.stores.queries import query
from tracebility.stores.queue.entries import COUNTS_LEFT_MS, MAYBE_DUPLICATE, Entry
from tracebility.tenant.ledger import LedgerEntry, ledger_entry
from tracebility.wire.envelope import Header
from tracebility.worker.columns import Block

# The constant beginning of a reason. Its details are kept in the dead letter only.
_KIND = re.compile(r"[^:,]*")


class Outcome(NamedTuple):
    """The outcome of an envelope."""

    stream: str
    entry: Entry
    header: Header
    outcome: str
    reason: str = ""

    @property
    def book(self) -> LedgerEntry:
        """The envelope's ledger entry."""
        return ledger_entry(self.stream, self.header)


async def envelopes_with_outcome(engine: Engine, outcomes: Iterable[Outcome]) -> set[UUID]:
    """Return the possible redeliveries that already have an outcome."""
    again = [one.header for one in outcomes if MAYBE_DUPLICATE.encode() in one.entry.fields or _is_old(one.entry)]
    if not again:
        return set()
    found = await engine.query(
        query("known_outcomes"),
        {
            "orgs": sorted({str(header.org_id) for header in again}),
            "ids": sorted({str(header.id) for header in again}),
            "from_us": min(header.accepted_at_us for header in again),
            "to_us": max(header.accepted_at_us for header in again),
        },
    )
    return {UUID(str(row[0])) for row in found.rows}


def outcome_block(outcomes: Sequence[Outcome]) -> Block:
    """Encode the rows of ``envelope_outcome``."""
    headers = [one.header for one in outcomes]
    now_us = time.time_ns() // 1000
    columns = (
        Column("org_id", "UUID", native.uuids(b"".join(header.org_id.bytes for header in headers))),
        Column("project_id", "UUID", native.uuids(b"".join(header.project_id.bytes for header in headers))),
        Column("envelope_id", "UUID", native.uuids(b"".join(header.id.bytes for header in headers))),
        Column("accepted_at", "DateTime64(6, 'UTC')", native.signed([header.accepted_at_us for header in headers])),
        Column("outcome", "LowCardinality(String)", native.low_cardinality([one.outcome for one in outcomes])),
        Column("reason", "LowCardinality(String)", native.low_cardinality([_kind(one.reason) for one in outcomes])),
        Column("items", "UInt64", native.unsigned(header.items for header in headers)),
        Column("bytes", "UInt64", native.unsigned(header.bytes for header in headers)),
        Column("version", "UInt64", native.unsigned(repeat(now_us, len(headers)))),
    )
    names = tuple(column.name for column in columns)
    return Block("envelope_outcome", names, len(headers), native.block(columns, len(headers)))


def _is_old(entry: Entry) -> bool:
    """Whether another entry of the envelope may have been removed and forgotten. Allows for some clock skew."""
    return time.time() * 1000 - int(entry.id.partition(b"-")[0]) > COUNTS_LEFT_MS / 2


def _kind(reason: str) -> str:
    found = _KIND.match(reason)
    return found[0] if found else ""
