"""What an org has used, hour by hour: for invoices, as JSON or CSV."""

import csv
import io
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from tracebility.api.answers import answer, schema_of
from tracebility.api.auth import Administrator, Services
from tracebility.api.scope import OrgRows, route_of
from tracebility.api.times import instant
from tracebility.errors import Unprocessable

router = APIRouter(tags=["admin"])

MOST_HOURS = 24 * 400
_HOUR_NS = 3_600 * 10**9


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


@router.get(
    "/v1/admin/orgs/{org_id}/usage",
    summary="What an org has used, by hour",
    responses=schema_of(UsageByHour, "Hours, the oldest first; with format=csv, lines of the same."),
)
async def get_usage(
    request: Request,
    holder: Administrator,
    rows: OrgRows,
    services: Services,
    since: Annotated[str, Query(alias="from", description="From the hour of this time on (RFC 3339).")],
    until: Annotated[str, Query(alias="to", description="Before the hour of this time (RFC 3339).")],
    format_: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
) -> Response:
    """By identity: what was sent twice is in the hour in which it came first."""
    first, end = instant("from", since) // _HOUR_NS, instant("to", until) // _HOUR_NS
    if not 0 <= end - first <= MOST_HOURS:
        raise Unprocessable(
            f"to: between from and {MOST_HOURS} hours after it.", hint="Ask for a shorter time, from before to."
        )
    org_id = rows.scope.org_id
    found = await rows.rows("usage_by_hour", first=first, end=end)
    settled = await services.control.fetchval("settled_hour") or 0
    items = [
        UsedInHour(
            id=f"{row['meter']}:{org_id}:{_hour(row['hour'])}",
            hour=_hour(row["hour"]),
            meter=row["meter"],
            quantity=int(row["quantity"]),
            settled=int(row["hour"]) < settled,
        )
        for row in found
    ]
    if format_ == "json":
        return answer(UsageByHour(items=items))
    await services.access.exported(org_id, holder.actor, ("org", str(org_id)), route_of(request))
    return _csv(items)


def _hour(hour: int) -> str:
    return datetime.fromtimestamp(int(hour) * 3_600, UTC).strftime("%Y-%m-%dT%H:00:00Z")


def _csv(items: list[UsedInHour]) -> Response:
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(field.name for field in msgspec.structs.fields(UsedInHour))
    lines.writerows(msgspec.structs.astuple(item) for item in items)
    return Response(text.getvalue(), media_type="text/csv")
