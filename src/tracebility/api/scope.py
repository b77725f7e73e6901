"""Authorization: the only place that checks the ids in an address, before anything else of the request is validated.

A malformed id, an unknown id and another org's id get the same answer. Another org's id leaves an ``access.denied``
event in the audit log of the caller's org, never in the other org's.
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

# Longest wait for the look-up whether a refused id belongs to another org.
DENIAL_WAIT_S = 2.0

TRAIL_ROUTES = frozenset({"/v1/admin/orgs/{org_id}/audit", "/v1/admin/orgs/{org_id}/audit/gaps"})

_log = structlog.get_logger()


async def resolve_project_scope(context: TenantContext, project: str, services: ApiServices) -> TenantScope:
    """The scope of ``project`` for this key: the key's own project, or with `admin` any project of its org.

    Raises:
        NotFound: for every other text, malformed, unknown or another tenant's.
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
    """Rows of ``project``: the only way to a tenant's stored data. The access is recorded in the audit log.

    A tenant can read its own data while the audit log is unavailable; the event is written later.

    Raises:
        NotFound: as `resolve_project_scope`.
    """
    scope = await resolve_project_scope(context, project, services)
    actor = actor_of(context.key_id, context.scopes)
    target = ("project", str(scope.project_id))
    await services.access.read(context.org_id, actor, target, route_of(request), must=False)
    return services.engine.within(scope)


async def tenant_rows(project_id: str, context: Reader, request: Request, services: Services) -> ScopedClickHouse:
    """Rows of the project in the address. Query parameters are validated after this."""
    return await rows_of(project_id, context, request, services)


class Naming:
    """Looks up the ids in an address for the holder of the key."""

    def __init__(self, request: Request, holder: Administrator, services: Services) -> None:
        self._request = request
        self._holder = holder
        self._services = services

    async def row(self, kind: Kind, text: str, statement: str = "") -> Row:
        """The row that ``text`` identifies. An operator's read is recorded in the org's audit log before the answer,
        except for reads of the audit log itself, which must look the same to every reader.

        Raises:
            NotFound: for every text that is not an id of the holder's org, or for an operator, of any org.
            StoreUnavailable: when the control plane is unavailable.
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
    """The org in the address."""
    return OrgId((await names.row("org", org_id))["org_id"])


async def named_workspace(workspace_id: str, names: Names) -> WorkspacePlace:
    """The workspace in the address."""
    row = await names.row("workspace", workspace_id)
    return WorkspacePlace(OrgId(row["org_id"]), WorkspaceId(row["workspace_id"]))


async def named_project(project_id: str, names: Names) -> ProjectPlace:
    """The project in the address."""
    row = await names.row("project", project_id)
    return ProjectPlace(OrgId(row["org_id"]), WorkspaceId(row["workspace_id"]), ProjectId(row["project_id"]))


async def named_project_or_deleted(project_id: str, names: Names) -> ProjectPlace:
    """The project in the address, also while it is being deleted."""
    row = await names.row("project", project_id, "named_project_or_deleted")
    return ProjectPlace(OrgId(row["org_id"]), WorkspaceId(row["workspace_id"]), ProjectId(row["project_id"]))


async def named_deletion(job_id: str, names: Names) -> UUID:
    """The deletion job in the address."""
    job: UUID = (await names.row("deletion", job_id))["job_id"]
    return job


TenantRows = Annotated[ScopedClickHouse, Depends(tenant_rows)]
NamedOrg = Annotated[OrgId, Depends(named_org)]


async def operated_org(org: NamedOrg, holder: Administrator) -> OrgId:
    """The org in the address, for operators only. Another org's id is 404 before the scope is checked."""
    require(holder, Scope.OPERATOR)
    return org


OperatedOrg = Annotated[OrgId, Depends(operated_org)]
NamedWorkspace = Annotated[WorkspacePlace, Depends(named_workspace)]
NamedProject = Annotated[ProjectPlace, Depends(named_project)]
NamedProjectOrDeleted = Annotated[ProjectPlace, Depends(named_project_or_deleted)]
NamedDeletion = Annotated[UUID, Depends(named_deletion)]


async def named_key(public_id: str, place: NamedProject, holder: Administrator, services: Services) -> PublicKeyId:
    """The key in the address, if it belongs to the project in the address."""
    if not is_public_id(public_id):
        raise NotFound
    if not await services.control.fetchval("key_is_of_project", public_id, place.project_id):
        raise await _missing(services, holder.actor, holder.org_id, "api_key", PublicKeyId(public_id))
    return PublicKeyId(public_id)


async def org_rows(org: NamedOrg, services: Services) -> OrgClickHouse:
    """Rows of the org in the address."""
    return services.engine.within_org(sealed_org_scope(org))


async def org_queue(org: NamedOrg, services: Services) -> OrgQueue:
    """The queue's part of the ledger of the org in the address."""
    return services.queue.within_org(sealed_org_scope(org))


async def all_shards(holder: Operator, services: Services) -> AllShards:
    """Every shard, for operators."""
    return services.queue.within_installation(sealed_installation_scope())


OrgRows = Annotated[OrgClickHouse, Depends(org_rows)]
OrgBooks = Annotated[OrgQueue, Depends(org_queue)]
Shards = Annotated[AllShards, Depends(all_shards)]
NamedKey = Annotated[PublicKeyId, Depends(named_key)]


def route_of(request: Request) -> str:
    """The route of a request as the audit log records it: the address without ids."""
    path: str = request.scope["route"].path
    return path


def _id_of(text: str) -> UUID:
    try:
        found = UUID(text)
    except ValueError:
        raise NotFound from None
    if str(found) != text.lower():  # UUID() also accepts braces, urn: and missing hyphens
        raise NotFound
    return found


async def _missing(
    services: ApiServices, actor: Actor, org_id: OrgId | None, kind: Kind, named: UUID | PublicKeyId
) -> NotFound:
    """The answer for a refused id. If it belongs to another org, the audit log of ``org_id`` gets an event."""
    try:
        async with asyncio.timeout(DENIAL_WAIT_S):
            owner = await services.control.fetchval(f"owner_of_{kind}", named)
    except Exception as error:  # noqa: BLE001 - the answer must not depend on whether there was an event to write
        _log.warning("denial_not_recorded", kind=kind, reason=str(error) or type(error).__name__)
    else:
        if None not in (owner, org_id) and owner != org_id:
            services.access.denied_later(org_id, actor, (kind, str(named)))
    return NotFound()
