"""Orgs: operators make and change them; admins read their own."""

from fastapi import Request
from starlette.responses import Response

from tracebility.api import routing
from tracebility.api.answers import answer
from tracebility.api.auth import Administrator, Operator, Services
from tracebility.api.bodies import body_of
from tracebility.api.pagination import Asked, Page, read_page
from tracebility.api.schemas import answers, takes
from tracebility.api.scope import NamedOrg, OperatedOrg
from tracebility.orgs.orgs import MadeOrg, NewOrg, Org, OrgChanges, change_org, create_org, read_org, shape_org
from tracebility.quota.quotas import Quotas, read_quotas

router = routing.router("admin")


@router.get("/v1/admin/orgs", summary="Every org", responses=answers(Page[Org], "A page of orgs, the oldest first."))
async def list_orgs(holder: Operator, services: Services, asked: Asked) -> Response:
    """Every org, also those that are deleted."""
    return answer(await read_page(services.control, "read_orgs", asked=asked, owner=b"orgs", shape=shape_org))


@router.post(
    "/v1/admin/orgs",
    summary="Make an org",
    status_code=201,
    responses=answers(MadeOrg, "The ids of what was made, and a key, shown once.", 201),
    openapi_extra=takes(NewOrg),
)
async def make_org(request: Request, holder: Operator, services: Services) -> Response:
    """Makes a usable tenant: an org with a workspace, a project, and a key with every scope of a tenant."""
    new = await body_of(request, NewOrg)
    async with services.changing() as transaction:
        made = await create_org(transaction, holder.actor, new, services.now())
    return answer(made, 201)


@router.get("/v1/admin/orgs/{org_id}", summary="One org", responses=answers(Org, "The org."))
async def get_org(holder: Administrator, org: NamedOrg, services: Services) -> Response:
    """For operators, and admins of the org."""
    return answer(await read_org(services.control, org))


@router.patch(
    "/v1/admin/orgs/{org_id}",
    summary="Change an org's plan or retention, suspend or resume it",
    responses=answers(Org, "The changed org."),
    openapi_extra=takes(OrgChanges),
)
async def patch_org(request: Request, holder: Administrator, org: OperatedOrg, services: Services) -> Response:
    """Absent fields stay. A suspended org keeps its data; its keys are refused on every route."""
    changes = await body_of(request, OrgChanges)
    async with services.changing() as transaction:
        changed = await change_org(transaction, holder.actor, org, changes, services.now())
    return answer(changed)


@router.get(
    "/v1/admin/orgs/{org_id}/quotas",
    summary="The usage of an org in this month",
    responses=answers(Quotas, "Every meter, with its limits."),
)
async def get_quotas(holder: Administrator, org: NamedOrg, services: Services) -> Response:
    """As last counted in the data plane; `as_of` is the time of that count."""
    return answer(await read_quotas(services.control, org, services.now()))
