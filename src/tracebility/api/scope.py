"""What a request may see: the one place where the ids of an address are looked at, before the rest of the request is.

An id that is malformed, of nobody, or another org's is answered in the same words. The last of the three leaves a line
in the trail of whoever asked, never in that of the org it is of.
"""

import asyncio
from typing import Annotated, Literal
from uuid import UUID

import structlog
from fastapi import Depends, Request

from tracebility.api.auth import Administrator, Operator, Reader, Services, require
from tracebility.api.service import ApiServices
from tracebility.audit.events import Actor, actor_of
from tracebility.errors import NotFound
from tracebility.ids import OrgId, ProjectId, PublicKeyId, WorkspaceId
from tracebility.orgs.projects import ProjectPlace, WorkspacePlace
from tracebility.stores.ledger import OrgQueue
from tracebility.stores.postgres import Row
from tracebility.stores.scoped import (
    AllShards,
    OrgClickHouse,
    ScopedClickHouse,
    TenantScope,
    sealed_installation_scope,
    sealed_org_scope,
    sealed_scope,
)
from tracebility.tenant.context import Scope, TenantContext
from tracebility.tenant.keys import is_public_id

Kind = Literal["org", "workspace", "project", "api_key", "deletion"]

# A refusal waits no longer to find out whether the id is another org's.
DENIAL_WAIT_S = 2.0

TRAIL_ROUTES = frozenset({"/v1/admin/orgs/{org_id}/audit", "/v1/admin/orgs/{org_id}/audit/gaps"})

_log = structlog.get_logger()


async def resolve_project_scope(context: TenantContext, project: str, services: ApiServices) -> TenantScope:
    """The scope of ``project`` for this key: its own project, or with `admin` any project of its org.

    Raises:
        NotFound: for every other text, in the same words whether it is malformed, missing, or another tenant's.
    """
    project_id = ProjectId(_id_of(project))
    if project_id == context.project_id:
        return sealed_scope(context, context.workspace_id, project_id)
    if Scope.ADMIN in context.scopes:
        row = await services.control.fetchrow("read_project_of_org", context.org_id, project_id)
        if row is not None:
            return sealed_scope(context, WorkspaceId(row["workspace_id"]), project_id)
    raise await _missing(services, actor_of(context.key_id, context.scopes), context.org_id, "project", project_id)


async def rows_of(project: str, context: TenantContext, request: Request, services: ApiServices) -> ScopedClickHouse:
    """The engine seen through ``project``: the one way to what a tenant has stored. That it was taken is in the trail.

    With the trail away a tenant still sees its own; the line is written when it is back.

    Raises:
        NotFound: as `resolve_project_scope`.
    """
    scope = await resolve_project_scope(context, project, services)
    actor = actor_of(context.key_id, context.scopes)
    target = ("project", str(scope.project_id))
    await services.access.read(context.org_id, actor, target, route_of(request), must=False)
    return services.engine.within(scope)


async def tenant_rows(project_id: str, context: Reader, request: Request, services: Services) -> ScopedClickHouse:
    """The engine seen through the project that the address names. Parameters are validated after this, never before."""
    return await rows_of(project_id, context, request, services)


class Naming:
    """Looks up the ids that an address names, for whoever asks."""

    def __init__(self, request: Request, holder: Administrator, services: Services) -> None:
        self._request = request
        self._holder = holder
        self._services = services

    async def row(self, kind: Kind, text: str, statement: str = "") -> Row:
        """What the id names. That an operator looks at what an org has is in that org's trail before it is answered;
        but for the trail itself, which is to read the same for whoever reads it.

        Raises:
            NotFound: for every text that is not the id of something that the holder may see.
            StoreUnavailable: when the control plane is away.
        """
        found, holder, services = _id_of(text), self._holder, self._services
        row = await services.control.fetchrow(statement or f"named_{kind}", found, holder.org_id)
        if row is None:
            raise await _missing(services, holder.actor, holder.org_id, kind, found)
        route = route_of(self._request)
        if holder.org_id is None and self._request.method == "GET" and route not in TRAIL_ROUTES:
            org_id = OrgId(row["org_id"])
            await services.access.read(org_id, holder.actor, (kind, str(found)), route, must=True)
        return row


Names = Annotated[Naming, Depends()]


async def named_org(org_id: str, names: Names) -> OrgId:
    """The org that the address names."""
    return OrgId((await names.row("org", org_id))["org_id"])


async def named_workspace(workspace_id: str, names: Names) -> WorkspacePlace:
    """The workspace that the address names."""
    row = await names.row("workspace", workspace_id)
    return WorkspacePlace(OrgId(row["org_id"]), WorkspaceId(row["workspace_id"]))


async def named_project(project_id: str, names: Names) -> ProjectPlace:
    """The project that the address names."""
    row = await names.row("project", project_id)
    return ProjectPlace(OrgId(row["org_id"]), WorkspaceId(row["workspace_id"]), ProjectId(row["project_id"]))


async def named_project_or_deleted(project_id: str, names: Names) -> ProjectPlace:
    """The project that the address names, also while it is being deleted."""
    row = await names.row("project", project_id, "named_project_or_deleted")
    return ProjectPlace(OrgId(row["org_id"]), WorkspaceId(row["workspace_id"]), ProjectId(row["project_id"]))


async def named_deletion(job_id: str, names: Names) -> UUID:
    """The deletion that the address names."""
    job: UUID = (await names.row("deletion", job_id))["job_id"]
    return job


TenantRows = Annotated[ScopedClickHouse, Depends(tenant_rows)]
NamedOrg = Annotated[OrgId, Depends(named_org)]


async def operated_org(org: NamedOrg, holder: Administrator) -> OrgId:
    """The org that the address names, for an operator alone; another's id is none before that is looked at."""
    require(holder, Scope.OPERATOR)
    return org


OperatedOrg = Annotated[OrgId, Depends(operated_org)]
NamedWorkspace = Annotated[WorkspacePlace, Depends(named_workspace)]
NamedProject = Annotated[ProjectPlace, Depends(named_project)]
NamedProjectOrDeleted = Annotated[ProjectPlace, Depends(named_project_or_deleted)]
NamedDeletion = Annotated[UUID, Depends(named_deletion)]


async def named_key(public_id: str, place: NamedProject, holder: Administrator, services: Services) -> PublicKeyId:
    """The key of the project that the address names."""
    if not is_public_id(public_id):
        raise NotFound
    if not await services.control.fetchval("key_is_of_project", public_id, place.project_id):
        raise await _missing(services, holder.actor, holder.org_id, "api_key", PublicKeyId(public_id))
    return PublicKeyId(public_id)


async def org_rows(org: NamedOrg, services: Services) -> OrgClickHouse:
    """The engine seen through the org that the address names."""
    return services.engine.within_org(sealed_org_scope(org))


async def org_queue(org: NamedOrg, services: Services) -> OrgQueue:
    """The queue's side of the books of the org that the address names."""
    return services.queue.within_org(sealed_org_scope(org))


async def all_shards(holder: Operator, services: Services) -> AllShards:
    """Every shard, for who runs the installation."""
    return services.queue.within_installation(sealed_installation_scope())


OrgRows = Annotated[OrgClickHouse, Depends(org_rows)]
OrgBooks = Annotated[OrgQueue, Depends(org_queue)]
Shards = Annotated[AllShards, Depends(all_shards)]
NamedKey = Annotated[PublicKeyId, Depends(named_key)]


def route_of(request: Request) -> str:
    """The route of a request as the trail names it: its address without the ids."""
    path: str = request.scope["route"].path
    return path


def _id_of(text: str) -> UUID:
    try:
        found = UUID(text)
    except ValueError:
        raise NotFound from None
    if str(found) != text.lower():  # UUID() also reads braces, urn: and missing hyphens; an address has one spelling
        raise NotFound
    return found


async def _missing(
    services: ApiServices, actor: Actor, org_id: OrgId | None, kind: Kind, named: UUID | PublicKeyId
) -> NotFound:
    """What ``named`` is answered with. If it is another org's, the trail of ``org_id`` keeps that it was asked for."""
    try:
        async with asyncio.timeout(DENIAL_WAIT_S):
            owner = await services.control.fetchval(f"owner_of_{kind}", named)
    except Exception as error:  # noqa: BLE001 - the answer must not tell whether there was something to write
        _log.warning("denial_not_recorded", kind=kind, reason=str(error) or type(error).__name__)
    else:
        if None not in (owner, org_id) and owner != org_id:
            services.access.denied_later(org_id, actor, (kind, str(named)))
    return NotFound()
