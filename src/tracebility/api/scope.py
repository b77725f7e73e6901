"""What a request may see: the one place where the ids of an address are looked at, before the rest of the request is.

An id that is malformed, of nobody, or another org's is answered in the same words. The last of the three leaves a line
in the trail of whoever asked, never in that of the org it is of.
"""

import asyncio
from typing import Annotated, Literal
from uuid import UUID

import structlog
from fastapi import Depends

from tracebility.api.auth import Administrator, Operator, Principal, Reader, Services
from tracebility.api.service import ApiServices
from tracebility.control.places import ProjectPlace, WorkspacePlace
from tracebility.errors import NotFound
from tracebility.ids import OrgId, ProjectId, PublicKeyId, WorkspaceId
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
from tracebility.tenant.audit import Actor, Event, EventType, actor_of
from tracebility.tenant.context import Scope, TenantContext
from tracebility.tenant.keys import is_public_id

Kind = Literal["org", "workspace", "project", "api_key", "deletion"]

# A refusal waits no longer for its line in the trail.
DENIAL_WAIT_S = 2.0

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


async def tenant_rows(project_id: str, context: Reader, services: Services) -> ScopedClickHouse:
    """The engine seen through the project that the address names. Parameters are validated after this, never before."""
    return services.engine.within(await resolve_project_scope(context, project_id, services))


async def named_org(org_id: str, holder: Administrator, services: Services) -> OrgId:
    """The org that the address names."""
    return OrgId((await _named(services, holder, "org", org_id))["org_id"])


async def named_workspace(workspace_id: str, holder: Administrator, services: Services) -> WorkspacePlace:
    """The workspace that the address names."""
    row = await _named(services, holder, "workspace", workspace_id)
    return WorkspacePlace(OrgId(row["org_id"]), WorkspaceId(row["workspace_id"]))


async def named_project(project_id: str, holder: Administrator, services: Services) -> ProjectPlace:
    """The project that the address names."""
    row = await _named(services, holder, "project", project_id)
    return ProjectPlace(OrgId(row["org_id"]), WorkspaceId(row["workspace_id"]), ProjectId(row["project_id"]))


async def named_project_or_deleted(project_id: str, holder: Administrator, services: Services) -> ProjectPlace:
    """The project that the address names, also while it is being deleted."""
    row = await _named(services, holder, "project", project_id, "named_project_or_deleted")
    return ProjectPlace(OrgId(row["org_id"]), WorkspaceId(row["workspace_id"]), ProjectId(row["project_id"]))


async def named_deletion(job_id: str, holder: Administrator, services: Services) -> UUID:
    """The deletion that the address names."""
    job: UUID = (await _named(services, holder, "deletion", job_id))["job_id"]
    return job


TenantRows = Annotated[ScopedClickHouse, Depends(tenant_rows)]
NamedOrg = Annotated[OrgId, Depends(named_org)]
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


async def _named(services: ApiServices, holder: Principal, kind: Kind, text: str, statement: str = "") -> Row:
    found = _id_of(text)
    row = await services.control.fetchrow(statement or f"named_{kind}", found, holder.org_id)
    if row is None:
        raise await _missing(services, holder.actor, holder.org_id, kind, found)
    return row


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
            if None not in (owner, org_id) and owner != org_id:
                denied = Event(EventType.ACCESS_DENIED, org_id, actor, kind, str(named))
                async with services.control.transaction() as transaction:
                    await services.audit.record(transaction, denied)
    except Exception as error:  # noqa: BLE001 - the answer must not tell whether there was something to write
        _log.warning("denial_not_recorded", kind=kind, reason=str(error) or type(error).__name__)
    return NotFound()
