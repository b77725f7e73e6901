"""Requests for deletion. The operator executes them and issues a certificate.

A project or org is inaccessible from the transaction of the request on; its data is removed within minutes. A repeated
request returns the unfinished job. For a run or a user, which may still receive data, this is so only until the job has
waited for the queue; its request time is then set to the repeated request.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from tracebility.audit.events import Actor, AuditWriter, Event, EventType
from tracebility.errors import NotFound
from tracebility.ids import OrgId, ProjectId, PublicKeyId, is_run_id, uuid7
from tracebility.orgs.keys import revoke_key
from tracebility.orgs.projects import ProjectPlace
from tracebility.stores.postgres import Row, Statements, Transaction
from tracebility.validation import stamp

RUN, PROJECT, USER, ORG = "run", "project", "user", "org"
# The maximum length of a span's user id.
USER_ID_CHARS = 1024


class UserDeletion(msgspec.Struct, forbid_unknown_fields=True):
    """Request to delete the runs of a user, by the user id in the spans."""

    user_id: Annotated[str, Meta(min_length=1, max_length=USER_ID_CHARS)]

    def __post_init__(self) -> None:
        if "\0" in self.user_id:
            raise ValueError("user_id: must not contain a NUL character")


class Requester(msgspec.Struct, kw_only=True):
    """The actor that requested a deletion."""

    type: str
    id: str


class Deletion(msgspec.Struct, kw_only=True):
    """A deletion job with its progress and, once finished, its certificate."""

    id: UUID
    job_id: UUID
    kind: str  # "run" | "project" | "user" | "org"
    org_id: UUID
    project_id: UUID | None
    target: str
    state: str  # "queued" | "running" | "done" | "failed"
    step: str  # the next step
    requested_by: Requester
    requested_at: str | None
    started_at: str | None
    finished_at: str | None
    counts_before: dict[str, int]
    counts_after: dict[str, int] | None
    certificate: dict[str, Any] | None
    certificate_hash: str | None
    error: str  # of the last attempt; empty if it succeeded


async def delete_org(transaction: Transaction, actor: Actor, org_id: OrgId, now: datetime) -> Deletion:
    """Mark an org as deleted and queue the removal of its data. For a deleted org, return its job.

    Raises:
        NotFound: when there is no such org.
    """
    org = await transaction.fetchrow("lock_org", org_id)
    if org is None:
        raise NotFound
    if org["deleted_at"] is not None:
        last = await transaction.fetchrow("last_deletion_of_org", org_id)
        if last is not None and last["state"] != "failed":
            return shape_deletion(last)
    await transaction.execute("mark_org_deleted", org_id, now)
    if org["suspended_at"] is None:
        await AuditWriter().record(transaction, Event(EventType.ORG_SUSPENDED, org_id, actor, "org", str(org_id)))
    return await _request(transaction, actor, ORG, org_id, None, str(org_id), {})


async def delete_project(transaction: Transaction, actor: Actor, place: ProjectPlace, now: datetime) -> Deletion:
    """Mark a project as deleted, revoke its keys, and queue the removal of its data.

    The key that made the request is only detached from the project, so that its holder can follow the job.

    Raises:
        NotFound: when the project's deletion is already complete.
    """
    await transaction.fetchrow("lock_org", place.org_id)
    ended: list[str] = []
    if (await transaction.execute("mark_project_deleted", place.project_id, now)).endswith(" 1"):
        for row in await transaction.fetch("lock_live_keys_of_project", place.project_id):
            public_id = PublicKeyId(row["public_id"])
            if actor.type == "api_key" and public_id == actor.id:
                await transaction.execute("detach_key_from_project", public_id)
            else:
                await revoke_key(transaction, actor, public_id)
                ended.append(public_id)
    elif not await transaction.fetchval("named_project_or_deleted", place.project_id, place.org_id):
        raise NotFound
    target = str(place.project_id)
    return await _request(transaction, actor, PROJECT, place.org_id, place.project_id, target, {"revoked_keys": ended})


async def delete_run(transaction: Transaction, actor: Actor, place: ProjectPlace, run_id: str) -> Deletion:
    """Queue the removal of a run with all its spans, scores and captures.

    The run may still be in the queue, so an unknown id is accepted; the certificate tells whether there were any rows.

    Raises:
        NotFound: when ``run_id`` is not a valid run id.
    """
    if not is_run_id(run_id):
        raise NotFound
    await transaction.fetchrow("lock_org", place.org_id)
    return await _request(transaction, actor, RUN, place.org_id, place.project_id, run_id.lower(), {})


async def delete_user(transaction: Transaction, actor: Actor, org_id: OrgId, asked: UserDeletion) -> Deletion:
    """Queue the removal of every run of an org that names this user, in the run or in one of its spans."""
    await transaction.fetchrow("lock_org", org_id)
    return await _request(transaction, actor, USER, org_id, None, asked.user_id, {})


async def read_deletion(control: Statements, job_id: UUID) -> Deletion:
    """Read a job.

    Raises:
        NotFound: when there is no such job.
    """
    row = await control.fetchrow("read_deletion", job_id)
    if row is None:
        raise NotFound
    return shape_deletion(row)


def shape_deletion(row: Row) -> Deletion:
    """Convert a row of ``deletion_job``."""
    return Deletion(
        id=row["id"],
        job_id=row["id"],
        kind=row["kind"],
        org_id=row["org_id"],
        project_id=row["project_id"],
        target=row["target"],
        state=row["state"],
        step=row["step"],
        requested_by=Requester(type=row["requested_by_type"], id=row["requested_by"]),
        requested_at=stamp(row["requested_at"]),
        started_at=stamp(row["started_at"]),
        finished_at=stamp(row["finished_at"]),
        counts_before=row["counts_before"],
        counts_after=row["counts_after"],
        certificate=row["certificate"],
        certificate_hash=row["certificate_hash"],
        error=row["error"],
    )


async def _request(
    transaction: Transaction,
    actor: Actor,
    kind: str,
    org_id: OrgId,
    project_id: ProjectId | None,
    target: str,
    details: Mapping[str, Any],
) -> Deletion:
    """Create a job or return the unfinished one. The org must be locked, so that no second job is created."""
    if kind in (PROJECT, ORG):  # these receive no new data
        unfinished = await transaction.fetchrow("unfinished_deletion", org_id, kind, target, project_id)
        if unfinished is not None:
            return shape_deletion(unfinished)
        again = None
    else:
        again = await transaction.fetchrow("ask_deletion_again", org_id, kind, target, project_id)
    job_id: UUID = uuid7() if again is None else again["id"]
    if again is None:
        await transaction.execute("insert_deletion", job_id, kind, org_id, project_id, target, actor.type, actor.id)
    event_details = {"job_id": str(job_id), "project_id": project_id and str(project_id), **details}
    event = Event(EventType.DELETION_REQUESTED, org_id, actor, kind, target, event_details)
    await AuditWriter().record(transaction, event)
    return await read_deletion(transaction, job_id)
