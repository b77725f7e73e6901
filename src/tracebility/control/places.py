"""Workspaces, and the projects in them. A name is there once in what holds it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from uuid import UUID

import msgspec

from tracebility.control.documents import must_be_name
from tracebility.errors import Taken
from tracebility.ids import OrgId, ProjectId, WorkspaceId, uuid7
from tracebility.stores.postgres import Conflict, Transaction
from tracebility.tenant.audit import Actor, AuditWriter, Event, EventType


class WorkspacePlace(NamedTuple):
    """A workspace and the org that it is in."""

    org_id: OrgId
    workspace_id: WorkspaceId


class ProjectPlace(NamedTuple):
    """A project and what it is in: the tenant tuple."""

    org_id: OrgId
    workspace_id: WorkspaceId
    project_id: ProjectId


class NewPlace(msgspec.Struct, forbid_unknown_fields=True):
    """A workspace or a project to be made."""

    name: str

    def __post_init__(self) -> None:
        must_be_name(self.name)


class MadeWorkspace(msgspec.Struct, kw_only=True):
    """A workspace just made."""

    id: UUID
    workspace_id: UUID
    org_id: UUID
    name: str


class MadeProject(msgspec.Struct, kw_only=True):
    """A project just made."""

    id: UUID
    project_id: UUID
    workspace_id: UUID
    org_id: UUID
    name: str


async def create_workspace(transaction: Transaction, actor: Actor, org_id: OrgId, new: NewPlace) -> WorkspacePlace:
    """A workspace of ``org_id``.

    Raises:
        Taken: when the org has one of this name.
    """
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
    """A project in ``workspace``.

    Raises:
        Taken: when the workspace has one of this name.
    """
    place = ProjectPlace(*workspace, ProjectId(uuid7()))
    with _taken("project_workspace_id_name_key", "This workspace has a project of this name."):
        await transaction.execute("insert_project", place.project_id, workspace.workspace_id, new.name)
    details = {"name": new.name, "workspace_id": str(workspace.workspace_id)}
    await AuditWriter().record(
        transaction,
        Event(EventType.PROJECT_CREATED, workspace.org_id, actor, "project", str(place.project_id), details),
    )
    return place


@contextmanager
def _taken(constraint: str, words: str) -> Iterator[None]:
    try:
        yield
    except Conflict as conflict:
        if conflict.constraint != constraint:
            raise
        raise Taken(words, hint="Choose another name, or use the one that is there.") from None
