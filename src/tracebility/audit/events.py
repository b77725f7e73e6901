"""What was done, by whom, to what: an event is written in the transaction of the change it tells of, or neither is.

The schema gives each event its time, its number in its org's chain and its hash, and queues it for the data plane.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from tracebility.ids import OrgId, PublicKeyId, uuid7
from tracebility.tenant.context import Scope


class EventType(StrEnum):
    """Every event there is; docs/audit.md says when each is written."""

    API_KEY_CREATED = "api_key.created"
    API_KEY_ROTATED = "api_key.rotated"
    API_KEY_REVOKED = "api_key.revoked"
    ORG_CREATED = "org.created"
    ORG_PLAN_CHANGED = "org.plan_changed"
    ORG_RETENTION_CHANGED = "org.retention_changed"
    ORG_SUSPENDED = "org.suspended"
    ORG_RESUMED = "org.resumed"
    WORKSPACE_CREATED = "workspace.created"
    PROJECT_CREATED = "project.created"
    PROJECT_RETENTION_CHANGED = "project.retention_changed"
    DELETION_REQUESTED = "deletion.requested"
    DELETION_COMPLETED = "deletion.completed"
    DELETION_FAILED = "deletion.failed"
    PLAN_CHANGED = "plan.changed"
    ACCESS_DENIED = "access.denied"
    EGRESS_READ = "egress.read"
    EGRESS_EXPORTED = "egress.exported"
    SHARD_MOVED = "shard.moved"
    SHARD_SPLIT = "shard.split"
    SHARD_UNDONE = "shard.undone"
    DEAD_LETTERS_REPLAYED = "dead_letters.replayed"
    DEAD_LETTERS_DROPPED = "dead_letters.dropped"
    QUOTA_SOFT_LIMIT_REACHED = "quota.soft_limit_reached"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something."""

    type: str  # "user" | "api_key" | "operator" | "system"
    id: str


SYSTEM = Actor("system", "operator")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the trail. ``org_id`` is whose trail it is in; None is the installation's own."""

    type: EventType
    org_id: OrgId | None
    actor: Actor
    target_type: str
    target_id: str
    details: Mapping[str, Any] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid7)


class Statements(Protocol):
    """A transaction of the control plane."""

    async def execute(self, sql: str, *args: object) -> str:
        """Run the statement of this name."""


def actor_of(key_id: PublicKeyId, scopes: frozenset[Scope]) -> Actor:
    """Whoever holds a key."""
    return Actor("operator" if Scope.OPERATOR in scopes else "api_key", key_id)


class AuditWriter:
    """The only way into the trail."""

    async def record(self, transaction: Statements, event: Event) -> None:
        """Write ``event`` with whatever else ``transaction`` changes."""
        await transaction.execute(
            "insert_audit_event",
            event.id,
            event.type,
            event.org_id,
            event.actor.type,
            event.actor.id,
            event.target_type,
            event.target_id,
            dict(event.details),
        )
