"""Projects: which ones a key may see."""

from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from tracebility.api import cursor
from tracebility.api.answers import LIMIT_DEFAULT, CursorText, Limit, answer, schema_of
from tracebility.api.auth import Reader, Services
from tracebility.api.service import ApiServices
from tracebility.stores.postgres import Row
from tracebility.tenant.context import Scope, TenantContext
from tracebility.times import rfc3339

router = APIRouter(tags=["projects"])


class Project(msgspec.Struct, kw_only=True):
    """A project, and the workspace and org that it is in."""

    id: UUID
    name: str
    workspace_id: UUID
    workspace_name: str
    org_id: UUID
    created_at: str


class ProjectPage(msgspec.Struct, kw_only=True):
    """A page of projects, the oldest first."""

    items: list[Project]
    next_cursor: str | None


@router.get(
    "/v1/projects",
    summary="The projects that the key may see",
    responses=schema_of(ProjectPage, "A page of projects, the oldest first."),
)
async def list_projects(
    context: Reader, services: Services, limit: Limit = LIMIT_DEFAULT, cursor_text: CursorText = None
) -> Response:
    """Its own project; with the scope `admin`, every project of its org."""
    after = _unpack(cursor_text, context) if cursor_text else FIRST_PLACE
    projects = await visible_projects(services, context, after, limit + 1)
    more = len(projects) > limit
    items = projects[:limit]
    return answer(
        ProjectPage(
            items=[_shape(row, context) for row in items], next_cursor=_pack(items[-1], context) if more else None
        )
    )


async def visible_projects(
    services: ApiServices, context: TenantContext, after: tuple[datetime, UUID], limit: int
) -> list[Row]:
    """At most ``limit`` of the projects that the key may see, after the place ``after``."""
    if Scope.ADMIN in context.scopes:
        return list(await services.control.fetch("read_projects_of_org", context.org_id, *after, limit))
    own = await services.control.fetchrow("read_project_of_org", context.org_id, context.project_id)
    return [own] if own is not None and (own["created_at"], own["project_id"]) > after else []


FIRST_PLACE = (cursor.EPOCH, UUID(int=0))


def _shape(row: Row, context: TenantContext) -> Project:
    return Project(
        id=row["project_id"],
        name=row["name"],
        workspace_id=row["workspace_id"],
        workspace_name=row["workspace_name"],
        org_id=context.org_id,
        created_at=rfc3339(_microseconds(row["created_at"]) * 1000),
    )


def _pack(last: Row, context: TenantContext) -> str:
    return cursor.seal_made(last["created_at"], last["project_id"].bytes, _owner(context))


def _unpack(text: str, context: TenantContext) -> tuple[datetime, UUID]:
    created_at, project = cursor.unseal_made(text, _owner(context))
    try:
        return created_at, UUID(bytes=project)
    except ValueError:
        raise cursor.unfit() from None


def _owner(context: TenantContext) -> bytes:
    return b"projects" + context.org_id.bytes


def _microseconds(moment: datetime) -> int:
    return (moment - cursor.EPOCH) // timedelta(microseconds=1)
