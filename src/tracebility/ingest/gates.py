"""What every ingest request passes before its body is read: a valid key, with the right to write."""

from tracebility.errors import Forbidden
from tracebility.tenant.context import Scope, TenantContext
from tracebility.tenant.resolver import Resolver


async def admit(resolver: Resolver, authorization: str, x_api_key: str) -> TenantContext:
    """The tenant that may ingest with the key in these headers.

    Raises:
        Unauthenticated: when there is no valid key.
        Forbidden: when it may not ingest.
        Overloaded: when that cannot be found out right now.
    """
    tenant = await resolver.resolve(authorization, x_api_key)
    if Scope.INGEST_WRITE not in tenant.scopes:
        raise Forbidden(
            f"This key has not the scope {Scope.INGEST_WRITE}.", hint="Use a key that was made with this scope."
        )
    return tenant
