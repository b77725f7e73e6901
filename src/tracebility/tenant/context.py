"""Who a request is: made once by the resolver, handed on whole. Nothing below the gate takes a bare id."""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from tracebility.ids import OrgId, ProjectId, PublicKeyId, WorkspaceId


class Scope(StrEnum):
    """What a key may do."""

    INGEST_WRITE = "ingest:write"
    READ = "read"
    ADMIN = "admin"
    OPERATOR = "operator"


TENANT_SCOPES = (Scope.INGEST_WRITE, Scope.READ, Scope.ADMIN)


class Rate(NamedTuple):
    """A sustained rate, and how many requests may come at once after a pause."""

    requests_per_s: int
    burst: int


class MeterLimit(NamedTuple):
    """What a meter may come to in a period; None is no limit."""

    hard: int | None
    soft: int | None


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the plan, and the key itself, allow. None, or an absent meter, is unlimited."""

    rate: Rate | None = None
    key_rate: Rate | None = None
    meters: Mapping[str, MeterLimit] = field(default_factory=dict, hash=False)


UNLIMITED = Allowance()


@dataclass(frozen=True, slots=True)
class TenantContext:
    """The tenant tuple of a request, the key that proved it, and what it may use."""

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
            raise TypeError("a TenantContext is made by the resolver, from a key that it has checked")


def sealed_context(*fields: Any, **more: Any) -> TenantContext:
    """A context of these fields. In the product only the resolver calls this; a test sees to it."""
    return TenantContext(*fields, **{**more, "seal": _RESOLVED})


_RESOLVED: Final = object()
