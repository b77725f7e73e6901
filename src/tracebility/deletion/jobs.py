"""Deletions: asked for here, done by the operator, proven by a certificate.

From the transaction in which it is asked for there is no such project or org for anyone; what is stored of it goes in
the minutes after that. Whoever asks for the same again, while it is under way, is given the job that there is; of a run
or a user, whose data goes on coming, only while that job still waits for the queue, and it is of now then.
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
# As long as a span's may be.
USER_ID_CHARS = 1024


class UserDeletion(msgspec.Struct, forbid_unknown_fields=True):
    """Whose runs are to go, as spans name the user."""

    user_id: Annotated[str, Meta(min_length=1, max_length=USER_ID_CHARS)]

    def __post_init__(self) -> None:
        if "\0" in self.user_id:
            raise ValueError("user_id: takes no NUL")


class Requester(msgspec.Struct, kw_only=True):
    """Who asked."""

    type: str
    id: str


class Deletion(msgspec.Struct, kw_only=True):
    """A deletion, how far it is, and when it is done its certificate."""

    id: UUID
    job_id: UUID
    kind: str  # "run" | "project" | "user" | "org"
    org_id: UUID
    project_id: UUID | None
    target: str
    state: str  # "queued" | "running" | "done" | "failed"
    step: str  # what is to be done next
    requested_by: Requester
    requested_at: str | None
    started_at: str | None
    finished_at: str | None
    counts_before: dict[str, int]
    counts_after: dict[str, int] | None
    certificate: dict[str, Any] | None
    certificate_hash: str | None
    error: str  # of the last try, when it did not succeed


async def delete_org(transaction: Transaction, actor: Actor, org_id: OrgId, now: datetime) -> Deletion:
    """Suspend an org for good, and have all of it removed. Of one that is deleted already, the job that did it.

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
    return await _asked_for(transaction, actor, ORG, org_id, None, str(org_id), {})


async def delete_project(transaction: Transaction, actor: Actor, place: ProjectPlace, now: datetime) -> Deletion:
    """End a project and its keys, and have all of it removed.

    The key that asks stays, of no project any more: its holder has to be able to see what becomes of it.

    Raises:
        NotFound: when it is gone already.
    """
    await transaction.fetchrow("lock_org", place.org_id)
    ended: list[str] = []
    if (await transaction.execute("mark_project_deleted", place.project_id, now)).endswith(" 1"):
        for row in await transaction.fetch("lock_live_keys_of_project", place.project_id):
            public_id = PublicKeyId(row["public_id"])
            if actor.type == "api_key" and public_id == actor.id:
                await transaction.execute("take_key_from_project", public_id)
            else:
                await revoke_key(transaction, actor, public_id)
                ended.append(public_id)
    elif not await transaction.fetchval("named_project_or_deleted", place.project_id, place.org_id):
        raise NotFound
    target = str(place.project_id)
    return await _asked_for(
        transaction, actor, PROJECT, place.org_id, place.project_id, target, {"revoked_keys": ended}
    )


async def delete_run(transaction: Transaction, actor: Actor, place: ProjectPlace, run_id: str) -> Deletion:
    """Have a run removed with all its spans, scores and captures.

    A run that is still in the queue is removed too, so an id that is not stored yet is accepted; the certificate says
    whether anything was there.

    Raises:
        NotFound: when no run can have this id.
    """
    if not is_run_id(run_id):
        raise NotFound
    await transaction.fetchrow("lock_org", place.org_id)
    return await _asked_for(transaction, actor, RUN, place.org_id, place.project_id, run_id.lower(), {})


async def delete_user(transaction: Transaction, actor: Actor, org_id: OrgId, asked: UserDeletion) -> Deletion:
    """Have every run of an org removed of which a span, or the run itself, names this user."""
    await transaction.fetchrow("lock_org", org_id)
    return await _asked_for(transaction, actor, USER, org_id, None, asked.user_id, {})


async def read_deletion(control: Statements, job_id: UUID) -> Deletion:
    """The job as it is.

    Raises:
        NotFound: when there is none of this id.
    """
    row = await control.fetchrow("read_deletion", job_id)
    if row is None:
        raise NotFound
    return shape_deletion(row)


def shape_deletion(row: Row) -> Deletion:
    """A row of ``deletion_job``."""
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


async def _asked_for(
    transaction: Transaction,
    actor: Actor,
    kind: str,
    org_id: OrgId,
    project_id: ProjectId | None,
    target: str,
    details: Mapping[str, Any],
) -> Deletion:
    """The job that does this, of all that came until now. The org is locked, so nobody makes another meanwhile."""
    if kind in (PROJECT, ORG):  # of which nothing is let in any more
        there = await transaction.fetchrow("unfinished_deletion", org_id, kind, target, project_id)
        if there is not None:
            return shape_deletion(there)
        again = None
    else:
        again = await transaction.fetchrow("ask_deletion_again", org_id, kind, target, project_id)
    job_id: UUID = uuid7() if again is None else again["id"]
    if again is None:
        await transaction.execute("insert_deletion", job_id, kind, org_id, project_id, target, actor.type, actor.id)
    said = {"job_id": str(job_id), "project_id": project_id and str(project_id), **details}
    await AuditWriter().record(transaction, Event(EventType.DELETION_REQUESTED, org_id, actor, kind, target, said))
    return await read_deletion(transaction, job_id)
