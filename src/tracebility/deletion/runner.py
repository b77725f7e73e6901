"""Deletion: what was asked to be removed goes, step by step, and a certificate says what went.

A job's steps are: wait until what was accepted before it was asked for has left the queue (``drain``); count it
(``count``); remove its rows (``erase``); what else knows of it (``forget``); count again, and certify (``certify``).
Each may be done again, and what the next has to know is in the control plane before it begins, so whoever leads after a
death goes on there. Each org's oldest job takes a step in turn, so that nobody waits for another's.
"""

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from tracebility.audit.events import SYSTEM, AuditWriter, Event, EventType
from tracebility.config import redact
from tracebility.deletion import erase
from tracebility.deletion.erase import Counts, Eraser, Which
from tracebility.deletion.jobs import ORG, PROJECT, RUN, USER
from tracebility.deletion.metrics import DeletionMetrics
from tracebility.errors import StoreUnavailable
from tracebility.failpoints import failpoint
from tracebility.ids import OrgId, ProjectId
from tracebility.stores.clickhouse import Engine
from tracebility.stores.ledger import OrgQueue, RawRows, ledger
from tracebility.stores.postgres import Postgres, Row, Statements, Transaction
from tracebility.stores.queries import query
from tracebility.stores.queue import Queue
from tracebility.stores.queue.entries import Entry
from tracebility.stores.redis_control import Hot
from tracebility.tenant.quota import METERED, SLOT_US, metered_member
from tracebility.tenant.redis_keys import patterns_of_org
from tracebility.tenant.resends import invalidate_marks
from tracebility.tenant.shard_router import ALL_STREAMS, DEAD_LETTER_STREAM, OVERFLOW_STREAMS, SHARD_STREAMS
from tracebility.times import LATEST_NS
from tracebility.validation import stamp
from tracebility.wire.envelope import MalformedEnvelope, from_fields

PERIOD_S = 5.0
SWEEP_PERIOD_S = 3600.0
# From being asked for until no edge lets anything in any more, and what one let in before is in the queue: keys are
# refused everywhere within 5 s.
REFUSED_S = 6.0
# What comes late, from the disk buffer of an edge that was away or by replaying a dead letter, is looked for this long.
SWEEP_DAYS = 30
MOST_TRIES = 5
# A job for which a store was away, or with which another operator went on, is left alone: stores may take long to fail.
AWAY_S = 60.0
USERS_A_LOOK = 100  # of up to 1,024 characters each
LETTERS_A_PAGE = 20  # envelopes are up to 1 MiB
ERROR_CHARS = 500
LATEST_US = LATEST_NS // 1000
# What a certificate lists beside what went: tables, and what the books have in Redis.
KEPT = {
    ORG: (
        "accepted", "in_flight", "billing_meter", "envelope_outcome", "audit_log", "audit_reconciliation_gap",
        "quota_period", "org",
    ),
    PROJECT: ("billing_meter", "envelope_outcome", "audit_log", "audit_reconciliation_gap"),
    USER: ("billing_meter", "envelope_outcome", "audit_log", "eval_aggregate", "dataset_item"),
    RUN: ("billing_meter", "envelope_outcome", "audit_log", "eval_aggregate", "dataset_item"),
}  # fmt: skip
_OF_PROJECTS = ("api_keys_of_projects", "datasets", "evaluators", "projects")
_OF_ORG = ("api_keys_of_org", "workspace_members", "org_members", "workspaces")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """A row of ``deletion_job``, as far as the work needs it."""

    id: UUID
    kind: str
    org_id: OrgId
    project_id: ProjectId | None
    target: str
    step: str
    moves: int
    requested_at: datetime
    progress: dict[str, Any]
    before: Counts
    row: Row

    @property
    def until_us(self) -> int:
        """When it was asked for: of a run or a user, what came before goes."""
        return int(self.requested_at.timestamp() * 1_000_000)

    @property
    def projects(self) -> list[ProjectId]:
        """The projects of the org, as they were when the work began; from the end of ``forget``, as they were then."""
        return [ProjectId(UUID(one)) for one in self.progress.get("projects", [])]

    def whole(self) -> Which | None:
        """All that goes, where that is a whole project or org."""
        if self.kind == ORG:
            return erase.of_org(self.org_id, self.projects)
        if self.kind == PROJECT and self.project_id is not None:
            return erase.of_project(self.org_id, self.project_id)
        return None


class _Overtaken(Exception):
    """The job is not as it was when it was read."""


class Deleter:
    """One operator's deletions; two at once do the same steps twice, and write each down once."""

    def __init__(
        self,
        control: Postgres,
        engine: Engine,
        queue: Queue,
        hot: Hot,
        metrics: DeletionMetrics,
        now: Callable[[], float] = time.time,
        *,
        waits_for_legacy: bool = True,
    ) -> None:
        """``waits_for_legacy``: whether workers drain the stream from before the shards."""
        self._streams = ALL_STREAMS if waits_for_legacy else (*SHARD_STREAMS, *OVERFLOW_STREAMS)
        self._control = control
        self._engine = engine
        self._queue = queue
        self._hot = hot
        self._metrics = metrics
        self._now = now
        self._eraser = Eraser(engine)
        self._audit = AuditWriter()

    async def tick(self) -> int:
        """Do what can be done now of all jobs; how many steps that were.

        Raises:
            StoreUnavailable: when a store was away for one of them, after what there was to do for the others.
        """
        steps = 0
        not_before: dict[UUID, float] = {}
        failure: StoreUnavailable | None = None
        while True:
            moved = 0
            for row in await self._control.fetch("next_deletions"):
                job = _job(row)
                if time.monotonic() < not_before.get(job.id, 0.0):
                    continue
                try:
                    moved += await self._step_or_note(job)
                except StoreUnavailable as away:
                    failure, not_before[job.id] = away, time.monotonic() + AWAY_S
                    reason = redact(str(away))
                    log.warning("a deletion waits for a store", job_id=str(job.id), step=job.step, reason=reason)
                except _Overtaken:
                    not_before[job.id] = time.monotonic() + AWAY_S
                    log.warning("a deletion went on without this operator", job_id=str(job.id), step=job.step)
            steps += moved
            if not moved:
                self._metrics.waiting.set(await self._control.fetchval("count_unfinished_deletions"))
                if failure is not None:
                    raise failure
                return steps

    async def sweep(self) -> int:
        """Remove what came after its deletion was done, and was accepted before; how many rows.

        Raises:
            StoreUnavailable: when a store was away for one deletion, after the others were looked at.
        """
        late = 0
        failure: StoreUnavailable | None = None
        jobs = [_job(row) for row in await self._control.fetch("deletions_to_sweep", SWEEP_DAYS)]
        there = await self._users_there(jobs)
        for job in jobs:
            if job.kind == USER and (job.org_id, job.target) not in there:
                continue
            try:
                gone = await self._erase_late(job)
            except StoreUnavailable as away:
                failure = away
                log.warning("late rows cannot be looked for", job_id=str(job.id), reason=redact(str(away)))
                continue
            if gone:
                log.warning("rows came after their deletion", job_id=str(job.id), rows=gone)
            self._count("late", gone)
            late += sum(gone.values())
        if failure is not None:
            raise failure
        return late

    async def _users_there(self, jobs: Sequence[Job]) -> set[tuple[OrgId, str]]:
        """The users of ``jobs`` of whom there is something at all: of most there is nothing, and a look costs much."""
        by_org: dict[OrgId, list[Job]] = {}
        for job in jobs:
            if job.kind == USER:
                by_org.setdefault(job.org_id, []).append(job)
        there: set[tuple[OrgId, str]] = set()
        for org_id, some in by_org.items():
            projects = [*dict.fromkeys(project for job in some for project in job.projects)]
            for start in range(0, len(some), USERS_A_LOOK):
                users = [job.target for job in some[start : start + USERS_A_LOOK]]
                there |= {(org_id, user) for user in await self._eraser.users_there(org_id, projects, users)}
        return there

    async def _erase_late(self, job: Job) -> Counts:
        """Of a run or a user what is newer stays, also where it is of the same run: it was not asked for."""
        which = job.whole()
        if which is not None:
            return await self._eraser.erase(which)
        gone: Counts = {}
        while (batch := await self._next_batch(job)) is not None:
            some = await self._eraser.erase(_of_batch(job, batch))
            gone = {table: gone.get(table, 0) + some.get(table, 0) for table in {*gone, *some}}
        return gone

    async def _step_or_note(self, job: Job) -> bool:
        """Whether the job went on. What is wrong with one job must not keep the others waiting."""
        try:
            return await self._step(job)
        except (StoreUnavailable, _Overtaken):
            raise
        except Exception as failure:
            log.error("a deletion stumbled", job_id=str(job.id), step=job.step, exc_info=True)
            said = redact(f"{type(failure).__name__}: {failure}")[:ERROR_CHARS]
            async with self._control.transaction() as transaction:
                row = await transaction.fetchrow("deletion_stumbled", job.id, job.moves, said, MOST_TRIES)
                if row is not None and row["state"] == "failed":
                    await self._record(transaction, EventType.DELETION_FAILED, job, {"step": job.step, "error": said})
            return False

    async def _step(self, job: Job) -> bool:
        steps: Mapping[str, Callable[[Job], Any]] = {
            "drain": self._drain,
            "count": self._count_before,
            "erase": self._erase,
            "forget": self._forget,
            "certify": self._certify,
        }
        went_on: bool = await steps[job.step](job)
        return went_on

    async def _drain(self, job: Job) -> bool:
        """Wait for the queue: what was accepted before this was asked for is stored, and can be removed."""
        if job.kind in (RUN, USER):  # a project or an org that is deleted sends nothing again
            await invalidate_marks(self._hot, [job.org_id])
        asked_s = job.requested_at.timestamp() + REFUSED_S
        if self._now() < asked_s:
            return False
        depths = await self._queue.depths(self._streams)
        oldest = [depth.oldest_ms for depth in depths.values() if depth.oldest_ms is not None]
        if oldest and min(oldest) < asked_s * 1000:
            return False
        await self._note(job, "count", {"projects": await _projects(self._control, job.org_id)})
        failpoint("deletion_after_drain")
        return True

    async def _count_before(self, job: Job) -> bool:
        which = job.whole()
        if which is not None:
            before = await self._eraser.count(which)
        else:
            before = {}  # run by run, as they are found
        await self._note(job, "erase", {}, before)
        failpoint("deletion_after_count")
        return True

    async def _erase(self, job: Job) -> bool:
        which = job.whole()
        if which is None:
            return await self._erase_runs(job)
        self._count("deletion", await self._eraser.erase(which))
        failpoint("deletion_after_erase")
        await self._note(job, "forget", {})
        return True

    async def _erase_runs(self, job: Job) -> bool:
        """One batch of runs. It is written down before its first row goes: without its rows it is not found again."""
        batch = job.progress.get("batch")
        if batch is None:
            batch = await self._next_batch(job)
            if batch is None:
                await self._note(job, "forget", {})
                return True
            found = await self._eraser.count(_of_batch(job, batch))
            before = {table: job.before.get(table, 0) + found.get(table, 0) for table in {*job.before, *found}}
            runs = job.progress.get("runs", 0) + len(batch["runs"])
            await self._note(job, "erase", {"batch": batch, "runs": runs}, before)
            failpoint("deletion_after_batch")
            return True
        self._count("deletion", await self._eraser.erase(_of_batch(job, batch)))
        await self._recompute(job, batch)
        await invalidate_marks(self._hot, [job.org_id])
        failpoint("deletion_after_erase")
        await self._note(job, "erase", {"batch": None})
        return True

    async def _recompute(self, job: Job, batch: Mapping[str, Any]) -> None:
        """Write anew the rows of runs that were sent again meanwhile: theirs may sum up spans that are gone."""
        project = ProjectId(UUID(batch["project"]))
        left = await self._eraser.count(erase.of_runs(job.org_id, project, batch["runs"], LATEST_US))
        if left.get("span"):
            version = int((await self._engine.query(query("engine_clock"))).rows[0][0])
            asked = {"traces": batch["runs"], "orgs": [str(job.org_id)], "apart": [], "version": version}
            await self._engine.execute(query("recompute_runs"), asked)

    async def _next_batch(self, job: Job) -> dict[str, Any] | None:
        if job.kind == USER:
            found = await self._eraser.runs_of_user(job.org_id, job.projects, job.target, job.until_us)
            return None if found is None else {"project": str(found[0]), "runs": found[1]}
        return {"project": str(job.project_id), "runs": [job.target]} if await self._left(job) else None

    async def _left(self, job: Job) -> Counts:
        """Rows that are to go and are there, by table; tables without one are left out."""
        which = job.whole()
        if which is not None:
            counts = await self._eraser.count(which)
        elif job.kind == USER:
            counts = await self._eraser.known_of_user(job.org_id, job.projects, job.target, job.until_us)
        else:
            assert job.project_id is not None  # by its making
            counts = await self._eraser.known_of_run(job.org_id, job.project_id, job.target, job.until_us)
        return {table: found for table, found in counts.items() if found}

    async def _forget(self, job: Job) -> bool:
        """What else knows of a project or an org: dead letters, keys of Redis, rows of the control plane."""
        done: dict[str, Any] = {}
        if job.kind in (ORG, PROJECT):
            done["dead_letters"] = job.progress.get("dead_letters", 0) + await self._drop_letters(job)
            if job.kind == ORG:
                done["books"] = await self._books(job.org_id)
                await self._settle_usage(job)
                done["redis_keys"] = job.progress.get("redis_keys", 0) + await self._forget_keys(job.org_id)
            failpoint("deletion_after_forget")
            async with self._control.transaction() as transaction:
                projects: list[ProjectId | None] = [job.project_id]
                if job.kind == ORG:
                    # Again: a project that was made since the work began is in the way of its workspace.
                    named = await _projects(transaction, job.org_id)
                    done["projects"] = [*dict.fromkeys([*map(str, job.projects), *named])]
                    projects = [ProjectId(UUID(one)) for one in done["projects"]]
                removed = await _remove_rows(transaction, job, projects)
                await self._note(job, "certify", done | {"control_rows": removed}, transaction=transaction)
        else:
            await self._note(job, "certify", {})
        failpoint("deletion_after_forget_commit")
        return True

    async def _drop_letters(self, job: Job) -> int:
        dropped = 0
        async for letter in self._letters(job):
            dropped += await self._queue.remove_dead_letters([letter])
        return dropped

    async def _letters(self, job: Job) -> AsyncIterator[Entry]:
        start = b"-"
        while True:
            page = await self._queue.range(DEAD_LETTER_STREAM, start=start, count=LETTERS_A_PAGE)
            for entry in page:
                try:
                    header = from_fields(entry.fields).header
                except MalformedEnvelope:
                    continue  # whose it is cannot be told
                if header.org_id == job.org_id and job.project_id in (None, header.project_id):
                    yield entry
            if len(page) < LETTERS_A_PAGE:
                return
            start = b"(" + page[-1].id

    async def _books(self, org_id: OrgId) -> dict[str, int]:
        books = await ledger(OrgQueue(self._queue, org_id), RawRows(self._engine, org_id))
        numbers = {name: getattr(books, name) for name in ("accepted", "stored", "dead", "in_flight", "distinct")}
        return numbers | {"dropped": sum(one.count for one in books.dropped)}

    async def _forget_keys(self, org_id: OrgId) -> int:
        """The books stay, both halves: without what was accepted they would never balance again, and what is in flight
        has yet to leave them. They are counts and ids of envelopes, nothing of what was sent.
        """
        gone = 0
        for pattern in patterns_of_org(org_id):
            gone += await self._hot.forget(pattern)
        members = await self._hot.command("ZRANGE", METERED, 0, -1)
        if mine := [member for member in members if member.startswith(metered_member(org_id, "").encode())]:
            await self._hot.command("ZREM", METERED, *mine)
        return gone

    async def _settle_usage(self, job: Job) -> None:
        """The last sum of what an org has used, in the month of its end and the one before: the reconciler passes it
        over from the moment it is deleted, and the queue may have had something of it then.
        """
        slot = int(self._now() * 1_000_000) // SLOT_US - 1
        month = job.requested_at.astimezone(UTC).replace(day=1)
        for period in (f"{month - timedelta(days=1):%Y-%m}", f"{month:%Y-%m}"):
            asked = {"orgs": [str(job.org_id)], "period": period, "end_us": (slot + 1) * SLOT_US}
            for _, meter, used, metered, at_us in (await self._engine.query(query("metered_usage"), asked)).rows:
                await self._control.execute("settle_usage", job.org_id, period, meter, int(used), slot)
                await self._control.execute("note_metered", job.org_id, period, meter, int(metered), int(at_us))

    async def _certify(self, job: Job) -> bool:
        left = await self._left(job)
        if left:
            log.warning("rows came while they were removed; once more", job_id=str(job.id), rows=left)
            # A table that had none of them before has some now.
            await self._note(job, "erase", {}, dict.fromkeys(left, 0) | job.before)
            return True
        failpoint("deletion_before_certificate")
        finished_at = datetime.fromtimestamp(self._now(), UTC)
        after = dict.fromkeys(job.before, 0)
        certificate = _certificate(job, after, finished_at)
        digest = certificate_hash(certificate)
        async with self._control.transaction() as transaction:
            tag = await transaction.execute(
                "finish_deletion", job.id, job.moves, finished_at, after, certificate, digest
            )
            if tag.endswith(" 0"):
                raise _Overtaken
            await self._record(transaction, EventType.DELETION_COMPLETED, job, {"certificate_hash": digest})
        self._metrics.certified.labels(job.kind).inc()
        return True

    async def _note(
        self,
        job: Job,
        step: str,
        progress: Mapping[str, Any],
        before: Counts | None = None,
        transaction: Transaction | None = None,
    ) -> None:
        """Write down what is to be done next, and what it has to know.

        Raises:
            _Overtaken: when the job has changed since it was read; then it stays as it is.
        """
        counts = job.before if before is None else before
        known = {name: value for name, value in (job.progress | dict(progress)).items() if value is not None}
        on = self._control if transaction is None else transaction
        if (await on.execute("note_deletion", job.id, job.moves, step, known, counts)).endswith(" 0"):
            raise _Overtaken

    async def _record(self, transaction: Transaction, kind: EventType, job: Job, details: Mapping[str, Any]) -> None:
        said = {"job_id": str(job.id), "project_id": job.project_id and str(job.project_id), **details}
        await self._audit.record(transaction, Event(kind, job.org_id, SYSTEM, job.kind, job.target, said))

    def _count(self, why: str, gone: Counts) -> None:
        self._metrics.erased.labels(why).inc(sum(gone.values()))


def certificate_hash(certificate: Mapping[str, Any]) -> str:
    """SHA-256 of the certificate as JSON with sorted keys, without spaces, in UTF-8: what the audit trail holds."""
    canonical = json.dumps(certificate, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


async def _projects(control: Statements, org_id: OrgId) -> list[str]:
    return [str(row["id"]) for row in await control.fetch("projects_of_org", org_id)]


async def _remove_rows(transaction: Transaction, job: Job, projects: Sequence[ProjectId | None]) -> dict[str, int]:
    removed: dict[str, int] = {}
    for what in _OF_PROJECTS:
        removed[what] = _rows(await transaction.execute(f"remove_{what}", projects))
    if job.kind == ORG:
        await transaction.execute("leave_workspaces", job.org_id)
        for what in _OF_ORG:
            removed[what] = _rows(await transaction.execute(f"remove_{what}", job.org_id))
    return removed


def _certificate(job: Job, after: Counts, finished_at: datetime) -> dict[str, Any]:
    told = ("books", "dead_letters", "redis_keys", "control_rows", "runs")
    return {
        "job_id": str(job.id),
        "kind": job.kind,
        "org_id": str(job.org_id),
        "project_id": job.project_id and str(job.project_id),
        "target": job.target,
        "requested_by": {"type": job.row["requested_by_type"], "id": job.row["requested_by"]},
        "requested_at": stamp(job.requested_at),
        "started_at": stamp(job.row["started_at"]),
        "finished_at": stamp(finished_at),
        "rows": {table: {"before": found, "after": after[table]} for table, found in sorted(job.before.items())},
        **{name: job.progress[name] for name in told if name in job.progress},
        "kept": list(KEPT[job.kind]),
    }


def _job(row: Row) -> Job:
    return Job(
        row["id"],
        row["kind"],
        OrgId(row["org_id"]),
        None if row["project_id"] is None else ProjectId(row["project_id"]),
        row["target"],
        row["step"],
        row["moves"],
        row["requested_at"],
        row["progress"],
        row["counts_before"],
        row,
    )


def _of_batch(job: Job, batch: Mapping[str, Any]) -> Which:
    """What the runs of a batch have from before the deletion was asked for; what came later was not asked for."""
    return erase.of_runs(job.org_id, ProjectId(UUID(batch["project"])), batch["runs"], job.until_us)


def _rows(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
