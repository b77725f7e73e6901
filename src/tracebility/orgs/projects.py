"""Creates workspaces and their projects. Names are unique within an org and within a workspace."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from uuid import UUID

import msgspec

from tracebility.audit.events import Actor, AuditWriter, Event, EventType
from tracebility.errors import BeingDeleted, NotFound, Taken
from tracebility.ids import OrgId, ProjectId, WorkspaceId, uuid7
from tracebility.stores.postgres import Conflict, Transaction
from tracebility.tenant.limits import RetentionDays
from tracebility.validation import must_be_name


class WorkspacePlace(NamedTuple):
    """The ids of a workspace and its org."""

    org_id: OrgId
    workspace_id: WorkspaceId


class ProjectPlace(NamedTuple):
    """The ids of a project, its workspace and its org: the tenant tuple."""

    org_id: OrgId
    workspace_id: WorkspaceId
    project_id: ProjectId


class NewPlace(msgspec.Struct, forbid_unknown_fields=True):
    """Request to create a workspace or a project."""

    name: str

    def __post_init__(self) -> None:
        must_be_name(self.name)


class MadeWorkspace(msgspec.Struct, kw_only=True):
    """A new workspace."""

    id: UUID
    workspace_id: UUID
    org_id: UUID
    name: str


class MadeProject(msgspec.Struct, kw_only=True):
    """A new project."""

    id: UUID
    project_id: UUID
    workspace_id: UUID
    org_id: UUID
    name: str


class ProjectChanges(msgspec.Struct, forbid_unknown_fields=True):
    """Changes of a project; absent fields stay unchanged. Retention null means the org's."""

    retention_days: RetentionDays | msgspec.UnsetType | None = msgspec.UNSET


class ChangedProject(msgspec.Struct, kw_only=True):
    """A project after the change."""

    id: UUID
    project_id: UUID
    workspace_id: UUID
    org_id: UUID
    name: str
    retention_days: int | None  # null: the org's
    kept_days: int | None  # effective retention: the shorter of its own and its org's; null: unlimited


async def create_workspace(transaction: Transaction, actor: Actor, org_id: OrgId, new: NewPlace) -> WorkspacePlace:
    """Create a workspace in ``org_id``.

    Raises:
        BeingDeleted: when the org is deleted.
        Taken: when the org has a workspace of this name.
    """
    await _must_stay(transaction, org_id)
    place = WorkspacePlace(org_id, WorkspaceId(uuid7()))
    with _taken("workspace_org_id_name_key", "This organisation has a workspace of this name."):
        await transaction.execute("insert_workspace", place.workspace_id, org_id, new.name)
    await AuditWriter().record(
        transaction,
        Event(EventType.WORKSPACE_CREATED, org_id, actor, "workspace", str(place.workspace_id), {"name": new.name}),
    )
    return place


async def create_project(
    transaction: Transaction, actor: Actor, workspace: WorkspacePlace, new: NewPlace
) -> ProjectPlace:
    """Create a project in ``workspace``.

    Raises:
        BeingDeleted: when the org is deleted.
        Taken: when the workspace has a project of this name.
    """
    await _must_stay(transaction, workspace.org_id)
    place = ProjectPlace(*workspace, ProjectId(uuid7()))
    with _taken("project_workspace_id_name_key", "This workspace has a project of this name."):
        await transaction.execute("insert_project", place.project_id, workspace.workspace_id, new.name)
    details = {"name": new.name, "workspace_id": str(workspace.workspace_id)}
    await AuditWriter().record(
        transaction,
        Event(EventType.PROJECT_CREATED, workspace.org_id, actor, "project", str(place.project_id), details),
    )
    return place


async def change_project(
    transaction: Transaction, actor: Actor, place: ProjectPlace, changes: ProjectChanges
) -> ChangedProject:
    """Apply ``changes``. Values that are already set write no event.

    Raises:
        NotFound: when the project was deleted meanwhile.
    """
    before = await transaction.fetchrow("lock_project", place.project_id)
    if before is None:
        raise NotFound
    days: int | None = before["retention_days"]
    if changes.retention_days is not msgspec.UNSET and changes.retention_days != days:
        details = {"old": days, "new": changes.retention_days}
        days = changes.retention_days
        await transaction.execute("set_project_retention", place.project_id, days)
        changed = EventType.PROJECT_RETENTION_CHANGED
        await AuditWriter().record(
            transaction, Event(changed, place.org_id, actor, "project", str(place.project_id), details)
        )
    return ChangedProject(
        id=place.project_id,
        project_id=place.project_id,
        workspace_id=place.workspace_id,
        org_id=place.org_id,
        name=before["name"],
        retention_days=days,
        kept_days=await transaction.fetchval("kept_days_of_project", place.project_id),
    )


async def hold_place(transaction: Transaction, org_id: OrgId | None, project_id: ProjectId | None) -> None:
    """Lock an org and its project until the transaction ends, so that nothing is created in one that is being deleted.

    Lock order everywhere: org, project, key. None, as for an operator key, locks nothing.

    Raises:
        NotFound: when one of them is deleted or does not exist.
    """
    if org_id is not None:
        org = await transaction.fetchrow("lock_org", org_id)
        if org is None or org["deleted_at"] is not None:
            raise NotFound
    if project_id is not None and await transaction.fetchrow("lock_project", project_id) is None:
        raise NotFound


async def _must_stay(transaction: Transaction, org_id: OrgId) -> None:
    """Lock an org until the transaction ends, and refuse a deleted one."""
    org = await transaction.fetchrow("lock_org", org_id)
    if org is not None and org["deleted_at"] is not None:
        raise BeingDeleted


@contextmanager
def _taken(constraint: str, words: str) -> Iterator[None]:
    try:
        yield
    except Conflict as conflict:
        if conflict.constraint != constraint:
            raise
        raise Taken(words, hint="Choose another name, or use the existing one.") from None
