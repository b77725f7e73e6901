"""Usage of an org by hour, as JSON or CSV."""

from typing import Annotated, Literal

from fastapi import Query, Request
from starlette.responses import Response

from tracebility.api import routing
from tracebility.api.answers import answer
from tracebility.api.auth import Administrator, Services
from tracebility.api.schemas import answers
from tracebility.api.scope import OrgRows, route_of
from tracebility.api.times import instant
from tracebility.quota.usage import UsageByHour, as_csv, read_usage

router = routing.router("admin")


@router.get(
    "/v1/admin/orgs/{org_id}/usage",
    summary="The usage of an org by hour",
    responses=answers(UsageByHour, "Hours, the oldest first; with format=csv the same as CSV."),
)
async def get_usage(
    request: Request,
    holder: Administrator,
    rows: OrgRows,
    services: Services,
    since: Annotated[str, Query(alias="from", description="The first hour contains this time (RFC 3339).")],
    until: Annotated[str, Query(alias="to", description="The last hour contains this time (RFC 3339).")],
    format_: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
) -> Response:
    """Each item counts once, in the hour in which it first arrived."""
    org_id = rows.scope.org_id
    usage = await read_usage(services.control, rows, org_id, instant("from", since), instant("to", until))
    if format_ == "json":
        return answer(usage)
    await services.access.exported(org_id, holder.actor, ("org", str(org_id)), route_of(request))
    return Response(as_csv(usage), media_type="text/csv")
