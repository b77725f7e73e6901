"""Who asks: the key of a request, resolved, and what it may do."""

from typing import Annotated

from fastapi import Depends, Request

from tracebility.api.service import ApiServices
from tracebility.errors import Forbidden
from tracebility.tenant.context import Scope, TenantContext


def services_of(request: Request) -> ApiServices:
    """The services that this app was made with."""
    services: ApiServices = request.app.state.services
    return services


async def principal(request: Request) -> TenantContext:
    """The tenant of the request's key.

    Raises:
        Unauthenticated: without a valid key.
    """
    authorization, api_key = credentials(request)
    return await services_of(request).resolver.resolve(authorization, api_key)


def credentials(request: Request) -> tuple[str, str]:
    """Authorization and x-api-key. One that is sent twice reads as both, joined, as it does where spans are sent."""
    return ", ".join(request.headers.getlist("authorization")), ", ".join(request.headers.getlist("x-api-key"))


def require(context: TenantContext, scope: Scope) -> TenantContext:
    """``context``, which has ``scope``.

    Raises:
        Forbidden: when it has not, naming the scope.
    """
    if scope not in context.scopes:
        raise Forbidden(f"This key lacks the scope '{scope}'.", hint=f"Use a key that has the scope '{scope}'.")
    return context


async def reader(context: Annotated[TenantContext, Depends(principal)]) -> TenantContext:
    """The tenant of a key that may read."""
    return require(context, Scope.READ)


Services = Annotated[ApiServices, Depends(services_of)]
Reader = Annotated[TenantContext, Depends(reader)]
