"""Who a request is: made once by the resolver, handed on whole. Nothing below the gate takes a bare id."""

from dataclasses import dataclass, field
from enum import StrEnum

from tracebility.ids import OrgId, ProjectId, PublicKeyId, WorkspaceId


class Scope(StrEnum):
    """What a key may do."""

    INGEST_WRITE = "ingest:write"
    READ = "read"
    ADMIN = "admin"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class TenantContext:
    """The tenant tuple of a request and the key that proved it."""

    org_id: OrgId
    workspace_id: WorkspaceId
    project_id: ProjectId
    plan: str
    scopes: frozenset[Scope]
    key_id: PublicKeyId = field(repr=False)
