"""The tenant of a request. The resolver creates it once; code below authentication takes it instead of bare ids."""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from tracebility.ids import OrgId, ProjectId, PublicKeyId, WorkspaceId


class Scope(StrEnum):
    """A permission of a key."""

    INGEST_WRITE = "ingest:write"
    READ = "read"
    ADMIN = "admin"
    OPERATOR = "operator"


TENANT_SCOPES = (Scope.INGEST_WRITE, Scope.READ, Scope.ADMIN)


class Rate(NamedTuple):
    """A sustained request rate, and the largest burst."""

    requests_per_s: int
    burst: int


class MeterLimit(NamedTuple):
    """Limits of a meter per period; None is unlimited."""

    hard: int | None
    soft: int | None


@dataclass(frozen=True, slots=True)
class Allowance:
    """The limits of the org's plan and of the key. None, or an absent meter, is unlimited."""

    rate: Rate | None = None
    key_rate: Rate | None = None
    meters: Mapping[str, MeterLimit] = field(default_factory=dict, hash=False)


UNLIMITED = Allowance()


@dataclass(frozen=True, slots=True)
class TenantContext:
    """The tenant of a request (org, workspace, project), its key, and its limits."""

    org_id: OrgId
    workspace_id: WorkspaceId
    project_id: ProjectId
    plan: str
    scopes: frozenset[Scope]
    key_id: PublicKeyId = field(repr=False)
    allowance: Allowance = UNLIMITED
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        if seal is not _RESOLVED:
            raise TypeError("only the resolver may create a TenantContext, from a key that it has verified")


def sealed_context(*fields: Any, **more: Any) -> TenantContext:
    """Create a context. In production code only the resolver may call this; a test enforces it."""
    return TenantContext(*fields, **{**more, "seal": _RESOLVED})


_RESOLVED: Final = object()
