"""API keys in the control plane: what the resolver looks up."""

from tracebility.ids import OrgId, ProjectId, PublicKeyId, WorkspaceId
from tracebility.stores.postgres import Postgres
from tracebility.tenant.context import Scope
from tracebility.tenant.resolver import KeyRecord


class PostgresKeys:
    """The resolver's `KeyStore`."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def key_by_public_id(self, public_id: PublicKeyId) -> KeyRecord | None:
        """The record of ``public_id``, revoked and expired ones included."""
        row = await self._postgres.fetchrow("key_by_public_id", public_id)
        if row is None:
            return None
        return KeyRecord(
            public_id=PublicKeyId(row["public_id"]),
            org_id=OrgId(row["org_id"]) if row["org_id"] else None,
            workspace_id=WorkspaceId(row["workspace_id"]) if row["workspace_id"] else None,
            project_id=ProjectId(row["project_id"]) if row["project_id"] else None,
            plan=row["plan"],
            scopes=frozenset(Scope(scope) for scope in row["scopes"]),
            expires_at=row["expires_at"],
            revoked_at=row["revoked_at"],
            secret_hash=row["secret_hash"],
        )
