"""Creates orgs with a first workspace, project and key, and changes their plan, retention and suspension."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from tracebility.audit.events import Actor, AuditWriter, Event, EventType
from tracebility.errors import BeingDeleted, NotFound
from tracebility.ids import OrgId, uuid7
from tracebility.orgs import keys, projects
from tracebility.orgs.plans import NAME
from tracebility.stores.postgres import Row, Statements, Transaction
from tracebility.tenant.context import TENANT_SCOPES
from tracebility.tenant.limits import RetentionDays
from tracebility.validation import must_be_name, stamp, unacceptable

FIRST_NAME = "default"  # name of an org's first workspace and project
DEFAULT_PLAN = "free"
ORGS_AT_ONCE = 1_000


class NewOrg(msgspec.Struct, forbid_unknown_fields=True):
    """Request to create an org."""

    name: str
    plan: str = DEFAULT_PLAN

    def __post_init__(self) -> None:
        must_be_name(self.name)


class MadeOrg(msgspec.Struct, kw_only=True):
    """A new org, its first workspace and project, and its key, which is shown only here."""

    org_id: UUID
    workspace_id: UUID
    project_id: UUID
    api_key: str

    def __repr__(self) -> str:
        return f"MadeOrg({self.org_id})"  # never the key


class OrgChanges(msgspec.Struct, forbid_unknown_fields=True):
    """Changes of an org; absent fields stay unchanged. Retention null means the plan's."""

    plan: str | UnsetType = UNSET
    suspended: bool | UnsetType = UNSET
    retention_days: RetentionDays | UnsetType | None = UNSET


class Org(msgspec.Struct, kw_only=True):
    """An org as shown to operators and its admins."""

    id: UUID
    org_id: UUID
    name: str
    plan: str
    suspended: bool
    suspended_at: str | None
    retention_days: int | None  # null: the plan's
    created_at: str | None
    deleted_at: str | None  # the row of a deleted org stays, because usage and audit log refer to it


async def create_org(transaction: Transaction, actor: Actor, new: NewOrg, now: datetime) -> MadeOrg:
    """Create an org with its first workspace and project, and a key with all tenant scopes.

    Raises:
        Unprocessable: when the plan does not exist.
    """
    await _must_be_plan(transaction, new.plan)
    org_id = OrgId(uuid7())
    await transaction.execute("insert_org", org_id, new.name, new.plan)
    details = {"name": new.name, "plan": new.plan}
    await AuditWriter().record(transaction, Event(EventType.ORG_CREATED, org_id, actor, "org", str(org_id), details))
    workspace = await projects.create_workspace(transaction, actor, org_id, projects.NewPlace(FIRST_NAME))
    project = await projects.create_project(transaction, actor, workspace, projects.NewPlace(FIRST_NAME))
    made = await keys.create_key(transaction, actor, project, keys.NewKey("first key", list(TENANT_SCOPES)), now)
    return MadeOrg(org_id=org_id, workspace_id=project.workspace_id, project_id=project.project_id, api_key=made.key)


async def change_org(transaction: Transaction, actor: Actor, org_id: OrgId, changes: OrgChanges, now: datetime) -> Org:
    """Apply ``changes``. Values that are already set write no event.

    Raises:
        NotFound: when there is no such org.
        BeingDeleted: when the org is deleted.
        Unprocessable: when the plan does not exist.
    """
    before = await transaction.fetchrow("lock_org", org_id)
    if before is None:
        raise NotFound
    if before["deleted_at"] is not None:
        raise BeingDeleted
    plan, suspended_at, retention_days = before["plan"], before["suspended_at"], before["retention_days"]
    events: list[tuple[EventType, dict[str, object]]] = []
    if changes.plan is not UNSET and changes.plan != plan:
        await _must_be_plan(transaction, changes.plan)
        events.append((EventType.ORG_PLAN_CHANGED, {"old": plan, "new": changes.plan}))
        plan = changes.plan
    if changes.suspended is not UNSET and changes.suspended != (suspended_at is not None):
        events.append((EventType.ORG_SUSPENDED, {}) if changes.suspended else (EventType.ORG_RESUMED, {}))
        suspended_at = now if changes.suspended else None
    if changes.retention_days is not UNSET and changes.retention_days != retention_days:
        events.append((EventType.ORG_RETENTION_CHANGED, {"old": retention_days, "new": changes.retention_days}))
        retention_days = changes.retention_days
    if events:
        await transaction.execute("update_org", org_id, plan, suspended_at, retention_days)
    for kind, details in events:
        await AuditWriter().record(transaction, Event(kind, org_id, actor, "org", str(org_id), details))
    return await read_org(transaction, org_id)


async def read_org(control: Statements, org_id: OrgId) -> Org:
    """Read an org.

    Raises:
        NotFound: when there is no such org.
    """
    row = await control.fetchrow("read_org", org_id)
    if row is None:
        raise NotFound
    return shape_org(row)


async def every_org(control: Statements) -> AsyncIterator[OrgId]:
    """Yield every org that is not deleted, oldest first."""
    created_at, last = datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0)
    while rows := await control.fetch("read_orgs", created_at, last, ORGS_AT_ONCE):
        for row in rows:
            if row["deleted_at"] is None:
                yield OrgId(row["id"])
        created_at, last = rows[-1]["created_at"], rows[-1]["id"]


def shape_org(row: Row) -> Org:
    """Convert a row of ``read_org`` or ``read_orgs``."""
    return Org(
        id=row["id"],
        org_id=row["id"],
        name=row["name"],
        plan=row["plan"],
        suspended=row["suspended_at"] is not None,
        suspended_at=stamp(row["suspended_at"]),
        retention_days=row["retention_days"],
        created_at=stamp(row["created_at"]),
        deleted_at=stamp(row["deleted_at"]),
    )


async def _must_be_plan(transaction: Transaction, name: str) -> None:
    # Invalid names are not looked up, because PostgreSQL refuses some, such as those with a NUL.
    if not NAME.fullmatch(name) or not await transaction.fetchval("plan_exists", name):
        raise unacceptable("plan", "there is no such plan; GET /v1/admin/plans lists all plans")
