"""Which rows a request may see: the one place where a `TenantScope` is made, before the rest of the request is read."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends

from tracebility.api.auth import Reader, Services
from tracebility.api.service import ApiServices
from tracebility.errors import NotFound
from tracebility.ids import ProjectId, WorkspaceId
from tracebility.stores.scoped import ScopedClickHouse, TenantScope, sealed_scope
from tracebility.tenant.context import Scope, TenantContext


async def resolve_project_scope(context: TenantContext, project: str, services: ApiServices) -> TenantScope:
    """The scope of ``project`` for this key: its own project, or with `admin` any project of its org.

    Raises:
        NotFound: for every other text, in the same words whether it is malformed, missing, or another tenant's.
    """
    try:
        project_id = ProjectId(UUID(project))
    except ValueError:
        raise NotFound from None
    if (
        str(project_id) != project.lower()
    ):  # UUID() also reads braces, urn: and missing hyphens; an address has one spelling
        raise NotFound
    if project_id == context.project_id:
        return sealed_scope(context, context.workspace_id, project_id)
    if Scope.ADMIN not in context.scopes:
        raise NotFound
    row = await services.control.fetchrow("read_project_of_org", context.org_id, project_id)
    if row is None:
        raise NotFound
    return sealed_scope(context, WorkspaceId(row["workspace_id"]), project_id)


async def tenant_rows(project_id: str, context: Reader, services: Services) -> ScopedClickHouse:
    """The engine seen through the project that the address names. Parameters are validated after this, never before."""
    return services.engine.within(await resolve_project_scope(context, project_id, services))


TenantRows = Annotated[ScopedClickHouse, Depends(tenant_rows)]
