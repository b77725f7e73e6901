"""Authentication: the key of a request, resolved to a tenant or a principal, and checks of its scopes."""

from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from tracebility.api.service import ApiServices
from tracebility.audit.events import Actor, actor_of
from tracebility.errors import Forbidden, Suspended
from tracebility.ids import OrgId
from tracebility.tenant.context import Scope, TenantContext


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a key, for routes of the control plane. An operator has no org and may do what admins may."""

    actor: Actor
    scopes: frozenset[Scope]
    org_id: OrgId | None

    def givable(self) -> frozenset[Scope]:
        """The scopes that this principal may give to a key."""
        return frozenset(Scope) if Scope.OPERATOR in self.scopes else self.scopes


Holder = TypeVar("Holder", TenantContext, Principal)


def services_of(request: Request) -> ApiServices:
    """The services of this app."""
    services: ApiServices = request.app.state.services
    return services


async def tenant(request: Request) -> TenantContext:
    """The tenant of the request's key.

    Raises:
        Unauthenticated: without a valid key.
        Suspended: when the key's org is suspended.
    """
    authorization, api_key = credentials(request)
    return await services_of(request).resolver.resolve(authorization, api_key)


async def principal(request: Request) -> Principal:
    """The holder of the request's key, a tenant's or an operator's.

    Raises:
        Unauthenticated: without a valid key.
        Suspended: when the key's org is suspended.
    """
    authorization, api_key = credentials(request)
    record = await services_of(request).resolver.principal(authorization, api_key)
    if record.suspended:
        raise Suspended
    return Principal(actor_of(record.public_id, record.scopes), record.scopes, record.org_id)


def credentials(request: Request) -> tuple[str, str]:
    """Authorization and x-api-key. A header that is sent twice is joined with a comma, as ingest-api does."""
    return ", ".join(request.headers.getlist("authorization")), ", ".join(request.headers.getlist("x-api-key"))


def require(holder: Holder, scope: Scope) -> Holder:
    """Return ``holder`` if it has ``scope``.

    Raises:
        Forbidden: when it has not; the error names the scope.
    """
    if scope not in holder.scopes:
        raise Forbidden(f"This key lacks the scope '{scope}'.", hint=f"Use a key that has the scope '{scope}'.")
    return holder


async def reader(context: Annotated[TenantContext, Depends(tenant)]) -> TenantContext:
    """The tenant of a key that may read."""
    return require(context, Scope.READ)


async def operator(holder: Annotated[Principal, Depends(principal)]) -> Principal:
    """An operator of the installation."""
    return require(holder, Scope.OPERATOR)


async def administrator(holder: Annotated[Principal, Depends(principal)]) -> Principal:
    """An admin of an org, or an operator of all orgs. `api.scope` checks the ids in the address."""
    return holder if Scope.OPERATOR in holder.scopes else require(holder, Scope.ADMIN)


Services = Annotated[ApiServices, Depends(services_of)]
Reader = Annotated[TenantContext, Depends(reader)]
Operator = Annotated[Principal, Depends(operator)]
Administrator = Annotated[Principal, Depends(administrator)]
