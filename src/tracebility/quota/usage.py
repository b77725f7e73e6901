"""What an org has used, hour by hour, for invoices. By identity: what came twice is in the hour it came first in."""

import csv
import io
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from tracebility.errors import Unprocessable
from tracebility.ids import OrgId
from tracebility.stores.postgres import Statements

MOST_HOURS = 24 * 400
HOUR_NS = 3_600 * 10**9


class UsedInHour(msgspec.Struct, kw_only=True):
    """What was used of a meter in an hour, by when it was accepted. ``id`` names the line, for whoever adds it up."""

    id: str
    hour: str
    meter: str
    quantity: int
    settled: bool


class UsageByHour(msgspec.Struct, kw_only=True):
    """Hours in which something was used, the oldest first. What is settled changes no more."""

    items: list[UsedInHour]


class Rows(Protocol):
    """The data plane, seen through one org."""

    async def rows(self, name: Any, **parameters: object) -> list[dict[str, Any]]:
        """The rows of a named query."""


async def read_usage(control: Statements, data_plane: Rows, org_id: OrgId, from_ns: int, to_ns: int) -> UsageByHour:
    """The usage of ``org_id``, which ``data_plane`` is seen through, in every hour that is touched from a time up to
    another: so that up to now is with the hour that is now.

    Raises:
        Unprocessable: when that is more than `MOST_HOURS`, ends before it begins, or begins before 1970.
        StoreUnavailable: when a store is away.
    """
    first, end = from_ns // HOUR_NS, -(-to_ns // HOUR_NS)
    if first < 0:  # hours are counted from there
        raise Unprocessable("from: takes a time from 1970 on.", hint="Nothing was used before; ask from a later time.")
    if from_ns > to_ns or end - first > MOST_HOURS:
        raise Unprocessable(
            f"to: between from and {MOST_HOURS} hours after it.", hint="Ask for a shorter time, from before to."
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
    """Lines of the same, behind one with the names."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(field.name for field in msgspec.structs.fields(UsedInHour))
    lines.writerows(msgspec.structs.astuple(item) for item in usage.items)
    return text.getvalue()


def _hour(hour: int) -> str:
    return datetime.fromtimestamp(int(hour) * 3_600, UTC).strftime("%Y-%m-%dT%H:00:00Z")
