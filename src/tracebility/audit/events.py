"""Audit events. Each event is written in the same transaction as the change it records.

The schema assigns the event's time, its seq in the org's chain and its hash, and puts it in the relay's outbox.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from tracebility.ids import OrgId, PublicKeyId, uuid7
from tracebility.tenant.context import Scope


class EventType(StrEnum):
    """All event types; docs/audit.md says when each is written."""

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
    """The user, key or process that caused an event."""

    type: str  # "user" | "api_key" | "operator" | "system"
    id: str


SYSTEM = Actor("system", "operator")


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the audit log. ``org_id`` None: the event belongs to the installation, not to an org."""

    type: EventType
    org_id: OrgId | None
    actor: Actor
    target_type: str
    target_id: str
    details: Mapping[str, Any] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid7)


class Statements(Protocol):
    """A PostgreSQL transaction."""

    async def execute(self, sql: str, *args: object) -> str:
        """Run the SQL statement named ``sql``."""


def actor_of(key_id: PublicKeyId, scopes: frozenset[Scope]) -> Actor:
    """Return the actor for a request made with this key."""
    return Actor("operator" if Scope.OPERATOR in scopes else "api_key", key_id)


class AuditWriter:
    """The only writer of audit events."""

    async def record(self, transaction: Statements, event: Event) -> None:
        """Write ``event`` in ``transaction``."""
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
