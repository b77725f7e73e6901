"""Workspaces of an org, projects in them, and the retention of a project."""

from fastapi import Request
from starlette.responses import Response

from tracebility.api import routing
from tracebility.api.answers import answer
from tracebility.api.auth import Administrator, Services
from tracebility.api.bodies import body_of
from tracebility.api.schemas import answers, takes
from tracebility.api.scope import NamedOrg, NamedProject, NamedWorkspace
from tracebility.orgs.projects import (
    ChangedProject,
    MadeProject,
    MadeWorkspace,
    NewPlace,
    ProjectChanges,
    change_project,
    create_project,
    create_workspace,
)

router = routing.router("workspaces")


@router.post(
    "/v1/orgs/{org_id}/workspaces",
    summary="Make a workspace",
    status_code=201,
    responses=answers(MadeWorkspace, "The workspace.", 201),
    openapi_extra=takes(NewPlace),
)
async def make_workspace(request: Request, holder: Administrator, org: NamedOrg, services: Services) -> Response:
    """The name must be unique in the org."""
    new = await body_of(request, NewPlace)
    async with services.changing() as transaction:
        made = await create_workspace(transaction, holder.actor, org, new)
    return answer(
        MadeWorkspace(id=made.workspace_id, workspace_id=made.workspace_id, org_id=made.org_id, name=new.name), 201
    )


@router.post(
    "/v1/workspaces/{workspace_id}/projects",
    summary="Make a project",
    status_code=201,
    responses=answers(MadeProject, "The project.", 201),
    openapi_extra=takes(NewPlace),
)
async def make_project(
    request: Request, holder: Administrator, workspace: NamedWorkspace, services: Services
) -> Response:
    """The name must be unique in the workspace."""
    new = await body_of(request, NewPlace)
    async with services.changing() as transaction:
        made = await create_project(transaction, holder.actor, workspace, new)
    return answer(
        MadeProject(
            id=made.project_id,
            project_id=made.project_id,
            workspace_id=made.workspace_id,
            org_id=made.org_id,
            name=new.name,
        ),
        201,
    )


@router.patch(
    "/v1/projects/{project_id}",
    summary="Change the retention of a project",
    responses=answers(ChangedProject, "The changed project."),
    openapi_extra=takes(ProjectChanges),
)
async def patch_project(request: Request, holder: Administrator, place: NamedProject, services: Services) -> Response:
    """The org's retention still applies when it is shorter; null means the org's retention."""
    changes = await body_of(request, ProjectChanges)
    async with services.changing() as transaction:
        changed = await change_project(transaction, holder.actor, place, changes)
    return answer(changed)
