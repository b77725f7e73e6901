"""Hourly usage of an org, for invoices. Usage counts by identity: a duplicate counts in the hour of the first copy."""

import csv
import io
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from tracebility.errors import Unprocessable
from tracebility.ids import OrgId
from tracebility.stores.postgres import Statements

MAX_HOURS = 24 * 400
HOUR_NS = 3_600 * 10**9


class UsedInHour(msgspec.Struct, kw_only=True):
    """Usage of one meter in one hour, by time of acceptance. ``id`` lets a reader recognise duplicate lines."""

    id: str
    hour: str
    meter: str
    quantity: int
    settled: bool


class UsageByHour(msgspec.Struct, kw_only=True):
    """Hours with usage, oldest first. Settled hours do not change any more."""

    items: list[UsedInHour]


class Rows(Protocol):
    """Runs named ClickHouse queries for one org."""

    async def rows(self, name: Any, **parameters: object) -> list[dict[str, Any]]:
        """Return the rows of a named query."""


async def read_usage(control: Statements, data_plane: Rows, org_id: OrgId, from_ns: int, to_ns: int) -> UsageByHour:
    """Return the usage of ``org_id`` in every hour that overlaps the time range. ``data_plane`` must be scoped to the
    org. A range up to now includes the current hour.

    Raises:
        Unprocessable: when the range is longer than `MAX_HOURS`, ends before it begins, or begins before 1970.
        StoreUnavailable: when a store is unavailable.
    """
    first, end = from_ns // HOUR_NS, -(-to_ns // HOUR_NS)
    if first < 0:  # hours are counted from there
        raise Unprocessable("from: takes a time from 1970 on.", hint="Nothing was used before; ask from a later time.")
    if from_ns > to_ns or end - first > MAX_HOURS:
        raise Unprocessable(
            f"to: between from and {MAX_HOURS} hours after it.", hint="Ask for a shorter time, from before to."
        )
    found = await data_plane.rows("usage_by_hour", first=first, end=end)
    settled = await control.fetchval("settled_hour") or 0
    return UsageByHour(
        items=[
            UsedInHour(
                id=f"{row['meter']}:{org_id}:{_hour(row['hour'])}",
                hour=_hour(row["hour"]),
                meter=row["meter"],
                quantity=int(row["quantity"]),
                settled=int(row["hour"]) < settled,
            )
            for row in found
        ]
    )


def as_csv(usage: UsageByHour) -> str:
    """Return the usage as CSV with a header line."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(field.name for field in msgspec.structs.fields(UsedInHour))
    lines.writerows(msgspec.structs.astuple(item) for item in usage.items)
    return text.getvalue()


def _hour(hour: int) -> str:
    return datetime.fromtimestamp(int(hour) * 3_600, UTC).strftime("%Y-%m-%dT%H:00:00Z")
