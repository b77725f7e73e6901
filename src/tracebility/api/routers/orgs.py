"""Orgs: made and steered by operators, seen by their own admins too."""

from uuid import UUID

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from tracebility.api import cursor
from tracebility.api.answers import LIMIT_DEFAULT, CursorText, Limit, answer, schema_of
from tracebility.api.auth import Administrator, Operator, Services
from tracebility.api.bodies import body_of, takes
from tracebility.api.scope import NamedOrg, OperatedOrg
from tracebility.orgs.orgs import MadeOrg, NewOrg, Org, OrgChanges, change_org, create_org, read_org, shape_org
from tracebility.quota.quotas import Quotas, read_quotas

router = APIRouter(tags=["admin"])

_LIST = b"orgs"


class OrgPage(msgspec.Struct, kw_only=True):
    """A page of orgs, the oldest first."""

    items: list[Org]
    next_cursor: str | None


@router.get("/v1/admin/orgs", summary="Every org", responses=schema_of(OrgPage, "A page of orgs, the oldest first."))
async def list_orgs(
    holder: Operator, services: Services, limit: Limit = LIMIT_DEFAULT, cursor_text: CursorText = None
) -> Response:
    """In the order in which they were made."""
    created_at, last = cursor.unseal_made(cursor_text, _LIST) if cursor_text is not None else (cursor.EPOCH, bytes(16))
    if len(last) != len(UUID(int=0).bytes):
        raise cursor.unfit()
    rows = await services.control.fetch("read_orgs", created_at, UUID(bytes=last), limit + 1)
    items = rows[:limit]
    more = len(rows) > limit
    return answer(
        OrgPage(
            items=[shape_org(row) for row in items],
            next_cursor=cursor.seal_made(items[-1]["created_at"], items[-1]["id"].bytes, _LIST) if more else None,
        )
    )


@router.post(
    "/v1/admin/orgs",
    summary="Make an org",
    status_code=201,
    responses=schema_of(MadeOrg, "The ids of what was made, and a key, shown once.", 201),
    openapi_extra=takes(NewOrg),
)
async def make_org(request: Request, holder: Operator, services: Services) -> Response:
    """A usable tenant in one call: a workspace and a project, and a key with every scope a tenant's can have."""
    new = await body_of(request, NewOrg)
    async with services.changing() as transaction:
        made = await create_org(transaction, holder.actor, new, services.now())
    return answer(made, 201)


@router.get("/v1/admin/orgs/{org_id}", summary="One org", responses=schema_of(Org, "The org."))
async def get_org(holder: Administrator, org: NamedOrg, services: Services) -> Response:
    """For operators, and admins of the org."""
    return answer(await read_org(services.control, org))


@router.patch(
    "/v1/admin/orgs/{org_id}",
    summary="Change an org's plan or retention, suspend it, let it in again",
    responses=schema_of(Org, "The org as it is now."),
    openapi_extra=takes(OrgChanges),
)
async def patch_org(request: Request, holder: Administrator, org: OperatedOrg, services: Services) -> Response:
    """What is absent stays. A suspended org keeps its data, and its keys are refused everywhere."""
    changes = await body_of(request, OrgChanges)
    async with services.changing() as transaction:
        changed = await change_org(transaction, holder.actor, org, changes, services.now())
    return answer(changed)


@router.get(
    "/v1/admin/orgs/{org_id}/quotas",
    summary="What an org has used this month",
    responses=schema_of(Quotas, "Every meter, with its limits."),
)
async def get_quotas(holder: Administrator, org: NamedOrg, services: Services) -> Response:
    """As last summed from the data plane; `as_of` says up to when."""
    return answer(await read_quotas(services.control, org, services.now()))
