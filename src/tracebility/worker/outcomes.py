"""What became of envelopes, written before the queue forgets them: the part of the books that the data plane keeps."""

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

# What every reason of a kind begins with; the details are the dead letter's.
_KIND = re.compile(r"[^:,]*")


class Outcome(NamedTuple):
    """An envelope, where it came from, and what became of it."""

    stream: str
    entry: Entry
    header: Header
    outcome: str
    reason: str = ""

    @property
    def book(self) -> LedgerEntry:
        """What the books say of it."""
        return ledger_entry(self.stream, self.header)


async def known_before(engine: Engine, outcomes: Iterable[Outcome]) -> set[UUID]:
    """The envelopes whose outcome is written already, of those that may be here once more."""
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
    """Rows of ``envelope_outcome``."""
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
    """Whether a copy of it may have come and gone, and be forgotten; clocks may differ by half of that."""
    return time.time() * 1000 - int(entry.id.partition(b"-")[0]) > COUNTS_LEFT_MS / 2


def _kind(reason: str) -> str:
    found = _KIND.match(reason)
    return found[0] if found else ""
