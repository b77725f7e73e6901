"""Deletions of runs, users, projects and orgs: requested and followed here. The operator target executes them."""

from fastapi import Request
from starlette.responses import Response

from tracebility.api import routing
from tracebility.api.answers import answer
from tracebility.api.auth import Administrator, Services
from tracebility.api.bodies import body_of
from tracebility.api.pagination import NEWEST_REQUEST_FIRST, Asked, Page, read_page
from tracebility.api.schemas import answers, takes
from tracebility.api.scope import NamedDeletion, NamedOrg, NamedProject, NamedProjectOrDeleted, OperatedOrg
from tracebility.deletion.jobs import (
    Deletion,
    UserDeletion,
    delete_org,
    delete_project,
    delete_run,
    delete_user,
    read_deletion,
    shape_deletion,
)

router = routing.router("deletions")

_REQUESTED = "The deletion job. When `state` is `done` it has a certificate."


@router.delete(
    "/v1/admin/orgs/{org_id}",
    summary="Delete an org and all its data",
    status_code=202,
    responses=answers(Deletion, _REQUESTED, 202),
)
async def end_org(holder: Administrator, org: OperatedOrg, services: Services) -> Response:
    """Its keys are refused at once. Usage, the audit log and the org's row are kept."""
    async with services.changing() as transaction:
        job = await delete_org(transaction, holder.actor, org, services.now())
    return answer(job, 202)


@router.delete(
    "/v1/projects/{project_id}",
    summary="Delete a project and all its data",
    status_code=202,
    responses=answers(Deletion, _REQUESTED, 202),
)
async def end_project(holder: Administrator, place: NamedProjectOrDeleted, services: Services) -> Response:
    """Its keys are revoked at once, except the key of this request, which has no project from then on."""
    async with services.changing() as transaction:
        job = await delete_project(transaction, holder.actor, place, services.now())
    return answer(job, 202)


@router.delete(
    "/v1/projects/{project_id}/runs/{run_id}",
    summary="Delete a run",
    status_code=202,
    responses=answers(Deletion, _REQUESTED, 202),
)
async def end_run(holder: Administrator, place: NamedProject, run_id: str, services: Services) -> Response:
    """With its spans, scores and captures, also those still in the queue."""
    async with services.changing(deletes_of=place.org_id) as transaction:
        job = await delete_run(transaction, holder.actor, place, run_id)
    return answer(job, 202)


@router.post(
    "/v1/orgs/{org_id}/deletions",
    summary="Delete a user's runs",
    status_code=202,
    responses=answers(Deletion, _REQUESTED, 202),
    openapi_extra=takes(UserDeletion),
)
async def end_user(request: Request, holder: Administrator, org: NamedOrg, services: Services) -> Response:
    """Deletes every run of the org that has a span with this user, in all projects, with all its spans."""
    asked = await body_of(request, UserDeletion)
    async with services.changing(deletes_of=org) as transaction:
        job = await delete_user(transaction, holder.actor, org, asked)
    return answer(job, 202)


@router.get(
    "/v1/admin/deletions/{job_id}",
    summary="One deletion",
    responses=answers(Deletion, "Its progress, and its certificate when it is done."),
)
async def get_deletion(holder: Administrator, job: NamedDeletion, services: Services) -> Response:
    """For operators, and admins of the org."""
    return answer(await read_deletion(services.control, job))


@router.get(
    "/v1/admin/orgs/{org_id}/deletions",
    summary="The deletions of an org",
    responses=answers(Page[Deletion], "A page of deletions, the newest first."),
)
async def list_deletions(holder: Administrator, org: NamedOrg, services: Services, asked: Asked) -> Response:
    """Also finished deletions, with their certificates."""
    page = await read_page(
        services.control,
        "read_deletions_of_org",
        org,
        asked=asked,
        owner=b"deletions" + org.bytes,
        shape=shape_deletion,
        order=NEWEST_REQUEST_FIRST,
    )
    return answer(page)
