"""Lists of projects."""

from functools import partial
from uuid import UUID

import msgspec
from starlette.responses import Response

from tracebility.api import cursor, routing
from tracebility.api.answers import answer
from tracebility.api.auth import Reader, Services
from tracebility.api.pagination import Asked, Order, Page, PageQuery, read_page
from tracebility.api.schemas import answers
from tracebility.api.scope import NamedOrg
from tracebility.api.service import ApiServices
from tracebility.ids import OrgId
from tracebility.stores.postgres import Row
from tracebility.tenant.context import Scope, TenantContext
from tracebility.times import rfc3339

router = routing.router("projects")


class Project(msgspec.Struct, kw_only=True):
    """A project, and the workspace and org that it is in."""

    id: UUID
    name: str
    workspace_id: UUID
    workspace_name: str
    org_id: UUID
    created_at: str


_OLDEST_FIRST = Order(id_column="project_id")


@router.get(
    "/v1/projects",
    summary="The projects that the key may read",
    responses=answers(Page[Project], "A page of projects, the oldest first."),
)
async def list_projects(context: Reader, services: Services, asked: Asked) -> Response:
    """The key's own project; with the scope `admin`, every project of its org."""
    return answer(await readable_projects(services, context, asked))


@router.get(
    "/v1/admin/orgs/{org_id}/projects",
    summary="The projects of an org",
    responses=answers(Page[Project], "A page of projects, the oldest first."),
)
async def list_projects_of_org(org: NamedOrg, services: Services, asked: Asked) -> Response:
    """For operators, and admins of the org. Deleted projects are not listed."""
    return answer(await _projects_of_org(services, org, asked))


async def readable_projects(services: ApiServices, context: TenantContext, asked: PageQuery) -> Page[Project]:
    """A page of the projects that a key may read."""
    if Scope.ADMIN in context.scopes:
        return await _projects_of_org(services, context.org_id, asked)
    if asked.cursor is not None:  # there is one page only
        raise cursor.unfit()
    own = await services.control.fetchrow("read_project_of_org", context.org_id, context.project_id)
    return Page(items=[] if own is None else [_shape(context.org_id, own)], next_cursor=None)


async def _projects_of_org(services: ApiServices, org_id: OrgId, asked: PageQuery) -> Page[Project]:
    return await read_page(
        services.control,
        "read_projects_of_org",
        org_id,
        asked=asked,
        owner=b"projects" + org_id.bytes,
        shape=partial(_shape, org_id),
        order=_OLDEST_FIRST,
    )


def _shape(org_id: OrgId, row: Row) -> Project:
    return Project(
        id=row["project_id"],
        name=row["name"],
        workspace_id=row["workspace_id"],
        workspace_name=row["workspace_name"],
        org_id=org_id,
        created_at=rfc3339(cursor.microseconds(row["created_at"]) * 1000),
    )
