"""Executes deletion jobs step by step, and certifies the result.

The steps of a job: ``drain`` waits until everything accepted before the request has left the queue; ``count`` counts
the rows; ``erase`` removes them; ``forget`` removes dead letters, Redis keys and PostgreSQL rows; ``certify`` counts
again and writes the certificate. Each step may be repeated, and its input is committed before it begins, so a new
leader continues where the last one stopped. The oldest job of each org takes a step in turn, so that no org waits for
another.
"""

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
from tracebility.deletion.certificate import certificate_hash, certificate_of
from tracebility.deletion.erase import Counts, Eraser, Selection
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
from tracebility.stores.redis_control import RedisControl
from tracebility.tenant.quota import METERED, SLOT_US, metered_member
from tracebility.tenant.redis_keys import patterns_of_org
from tracebility.tenant.resends import invalidate_marks
from tracebility.tenant.shard_router import ALL_STREAMS, DEAD_LETTER_STREAM, OVERFLOW_STREAMS, SHARD_STREAMS
from tracebility.times import LATEST_NS
from tracebility.wire.envelope import MalformedEnvelope, from_fields

PERIOD_S = 5.0
SWEEP_PERIOD_S = 3600.0
# Time from the request until all ingest processes refuse the keys (within 5 s) and earlier requests are in the queue.
REFUSED_S = 6.0
# How long to look for rows that arrive late, from disk buffers or replayed dead letters.
SWEEP_DAYS = 30
MAX_TRIES = 5
# How long a job is skipped after a store failed or another operator advanced it, because stores may be slow to fail.
SKIP_S = 60.0
USERS_PER_QUERY = 100  # of up to 1,024 characters each
DEAD_LETTERS_PER_PAGE = 20  # envelopes are up to 1 MiB
ERROR_CHARS = 500
LATEST_US = LATEST_NS // 1000
_OF_PROJECTS = ("api_keys_of_projects", "datasets", "evaluators", "projects")
_OF_ORG = ("api_keys_of_org", "workspace_members", "org_members", "workspaces")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """A row of ``deletion_job``."""

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
        """The time of the request. Of a run or a user, only rows that arrived by then are removed."""
        return int(self.requested_at.timestamp() * 1_000_000)

    @property
    def projects(self) -> list[ProjectId]:
        """The projects of the org when the job began; after ``forget``, those at the end of that step."""
        return [ProjectId(UUID(one)) for one in self.progress.get("projects", [])]

    def whole(self) -> Selection | None:
        """The selection of a project or org; None for a run or a user."""
        if self.kind == ORG:
            return erase.of_org(self.org_id, self.projects)
        if self.kind == PROJECT and self.project_id is not None:
            return erase.of_project(self.org_id, self.project_id)
        return None


class _Superseded(Exception):
    """The job was changed by another operator or a repeated request since it was read."""


class Deleter:
    """Executes deletion jobs. Two running at once repeat steps, but record each step only once."""

    def __init__(
        self,
        control: Postgres,
        engine: Engine,
        queue: Queue,
        hot: RedisControl,
        metrics: DeletionMetrics,
        now: Callable[[], float] = time.time,
        *,
        waits_for_legacy: bool = True,
    ) -> None:
        """``waits_for_legacy``: whether workers still read the legacy stream."""
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
        """Advance all jobs as far as possible now. Returns the number of steps.

        Raises:
            StoreUnavailable: when a store failed for one job, after the other jobs were advanced.
        """
        steps = 0
        not_before: dict[UUID, float] = {}
        failure: StoreUnavailable | None = None
        while True:
            advanced = 0
            for row in await self._control.fetch("next_deletions"):
                job = _job(row)
                if time.monotonic() < not_before.get(job.id, 0.0):
                    continue
                try:
                    advanced += await self._try_step(job)
                except StoreUnavailable as error:
                    failure, not_before[job.id] = error, time.monotonic() + SKIP_S
                    reason = redact(str(error))
                    log.warning("a deletion waits for a store", job_id=str(job.id), step=job.step, reason=reason)
                except _Superseded:
                    not_before[job.id] = time.monotonic() + SKIP_S
                    log.warning("another operator or request changed a deletion job", job_id=str(job.id), step=job.step)
            steps += advanced
            if not advanced:
                self._metrics.waiting.set(await self._control.fetchval("count_unfinished_deletions"))
                if failure is not None:
                    raise failure
                return steps

    async def sweep(self) -> int:
        """Remove rows that arrived after their deletion but were accepted before it. Returns their number.

        Raises:
            StoreUnavailable: when a store failed for one deletion, after the others were checked.
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
                log.warning(
                    "the check for late rows of a deletion failed", job_id=str(job.id), reason=redact(str(away))
                )
                continue
            if gone:
                log.warning("removed rows that arrived after their deletion", job_id=str(job.id), rows=gone)
            self._count("late", gone)
            late += sum(gone.values())
        if failure is not None:
            raise failure
        return late

    async def _users_there(self, jobs: Sequence[Job]) -> set[tuple[OrgId, str]]:
        """Return the users of ``jobs`` that still have rows. Most have none, and the full search is slow."""
        by_org: dict[OrgId, list[Job]] = {}
        for job in jobs:
            if job.kind == USER:
                by_org.setdefault(job.org_id, []).append(job)
        there: set[tuple[OrgId, str]] = set()
        for org_id, some in by_org.items():
            projects = [*dict.fromkeys(project for job in some for project in job.projects)]
            for start in range(0, len(some), USERS_PER_QUERY):
                users = [job.target for job in some[start : start + USERS_PER_QUERY]]
                there |= {(org_id, user) for user in await self._eraser.users_with_rows(org_id, projects, users)}
        return there

    async def _erase_late(self, job: Job) -> Counts:
        """Remove late rows. Rows of a run or a user that arrived after the request stay."""
        selection = job.whole()
        if selection is not None:
            return await self._eraser.erase(selection)
        gone: Counts = {}
        while (batch := await self._next_batch(job)) is not None:
            some = await self._eraser.erase(_of_batch(job, batch))
            gone = {table: gone.get(table, 0) + some.get(table, 0) for table in {*gone, *some}}
        return gone

    async def _try_step(self, job: Job) -> bool:
        """Take a step; False when the job did not advance. An error of one job must not stop the others."""
        try:
            return await self._step(job)
        except (StoreUnavailable, _Superseded):
            raise
        except Exception as failure:
            log.error("a step of a deletion failed", job_id=str(job.id), step=job.step, exc_info=True)
            reason = redact(f"{type(failure).__name__}: {failure}")[:ERROR_CHARS]
            async with self._control.transaction() as transaction:
                row = await transaction.fetchrow("record_deletion_failure", job.id, job.moves, reason, MAX_TRIES)
                if row is not None and row["state"] == "failed":
                    await self._record(transaction, EventType.DELETION_FAILED, job, {"step": job.step, "error": reason})
            return False

    async def _step(self, job: Job) -> bool:
        steps: Mapping[str, Callable[[Job], Any]] = {
            "drain": self._drain,
            "count": self._count_before,
            "erase": self._erase,
            "forget": self._forget,
            "certify": self._certify,
        }
        advanced: bool = await steps[job.step](job)
        return advanced

    async def _drain(self, job: Job) -> bool:
        """Wait until everything accepted before the request has left the queue and is stored."""
        if job.kind in (RUN, USER):  # a deleted project or org cannot resend
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
        selection = job.whole()
        if selection is not None:
            before = await self._eraser.count(selection)
        else:
            before = {}  # counted per batch of runs
        await self._note(job, "erase", {}, before)
        failpoint("deletion_after_count")
        return True

    async def _erase(self, job: Job) -> bool:
        selection = job.whole()
        if selection is None:
            return await self._erase_runs(job)
        self._count("deletion", await self._eraser.erase(selection))
        failpoint("deletion_after_erase")
        await self._note(job, "forget", {})
        return True

    async def _erase_runs(self, job: Job) -> bool:
        """Remove one batch of runs. The batch is recorded first, because it cannot be found again without its rows."""
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
        return {"project": str(job.project_id), "runs": [job.target]} if await self._remaining_rows(job) else None

    async def _remaining_rows(self, job: Job) -> Counts:
        """Return the remaining rows by table, without tables that have none."""
        selection = job.whole()
        if selection is not None:
            counts = await self._eraser.count(selection)
        elif job.kind == USER:
            counts = await self._eraser.known_of_user(job.org_id, job.projects, job.target, job.until_us)
        else:
            assert job.project_id is not None  # a run's job always has one
            counts = await self._eraser.known_of_run(job.org_id, job.project_id, job.target, job.until_us)
        return {table: found for table, found in counts.items() if found}

    async def _forget(self, job: Job) -> bool:
        """Remove the dead letters, Redis keys and PostgreSQL rows of a project or an org."""
        done: dict[str, Any] = {}
        if job.kind in (ORG, PROJECT):
            done["dead_letters"] = job.progress.get("dead_letters", 0) + await self._drop_dead_letters(job)
            if job.kind == ORG:
                done["books"] = await self._ledger_counts(job.org_id)
                await self._settle_usage(job)
                done["redis_keys"] = job.progress.get("redis_keys", 0) + await self._forget_keys(job.org_id)
            failpoint("deletion_after_forget")
            async with self._control.transaction() as transaction:
                projects: list[ProjectId | None] = [job.project_id]
                if job.kind == ORG:
                    # Read again: a project created since the job began would prevent the removal of its workspace.
                    named = await _projects(transaction, job.org_id)
                    done["projects"] = [*dict.fromkeys([*map(str, job.projects), *named])]
                    projects = [ProjectId(UUID(one)) for one in done["projects"]]
                removed = await _remove_rows(transaction, job, projects)
                await self._note(job, "certify", done | {"control_rows": removed}, transaction=transaction)
        else:
            await self._note(job, "certify", {})
        failpoint("deletion_after_forget_commit")
        return True

    async def _drop_dead_letters(self, job: Job) -> int:
        dropped = 0
        async for letter in self._dead_letters(job):
            dropped += await self._queue.remove_dead_letters([letter])
        return dropped

    async def _dead_letters(self, job: Job) -> AsyncIterator[Entry]:
        start = b"-"
        while True:
            page = await self._queue.range(DEAD_LETTER_STREAM, start=start, count=DEAD_LETTERS_PER_PAGE)
            for entry in page:
                try:
                    header = from_fields(entry.fields).header
                except MalformedEnvelope:
                    continue  # its org is unreadable
                if header.org_id == job.org_id and job.project_id in (None, header.project_id):
                    yield entry
            if len(page) < DEAD_LETTERS_PER_PAGE:
                return
            start = b"(" + page[-1].id

    async def _ledger_counts(self, org_id: OrgId) -> dict[str, int]:
        books = await ledger(OrgQueue(self._queue, org_id), RawRows(self._engine, org_id))
        numbers = {name: getattr(books, name) for name in ("accepted", "stored", "dead", "in_flight", "distinct")}
        return numbers | {"dropped": sum(one.count for one in books.dropped)}

    async def _forget_keys(self, org_id: OrgId) -> int:
        """Delete the org's keys in Redis and return their number. The ledger's keys stay: without `accepted` the ledger
        would never balance again, and `in_flight` must still be emptied. They hold counts and envelope ids, no content.
        """
        gone = 0
        for pattern in patterns_of_org(org_id):
            gone += await self._hot.forget(pattern)
        members = await self._hot.command("ZRANGE", METERED, 0, -1)
        if mine := [member for member in members if member.startswith(metered_member(org_id, "").encode())]:
            await self._hot.command("ZREM", METERED, *mine)
        return gone

    async def _settle_usage(self, job: Job) -> None:
        """Settle the usage of the month of the deletion and the month before. The reconciler ignores a deleted org, but
        the queue may have held usage of it.
        """
        slot = int(self._now() * 1_000_000) // SLOT_US - 1
        month = job.requested_at.astimezone(UTC).replace(day=1)
        for period in (f"{month - timedelta(days=1):%Y-%m}", f"{month:%Y-%m}"):
            asked = {"orgs": [str(job.org_id)], "period": period, "end_us": (slot + 1) * SLOT_US}
            for _, meter, used, metered, at_us in (await self._engine.query(query("metered_usage"), asked)).rows:
                await self._control.execute("settle_usage", job.org_id, period, meter, int(used), slot)
                await self._control.execute("record_metered", job.org_id, period, meter, int(metered), int(at_us))

    async def _certify(self, job: Job) -> bool:
        left = await self._remaining_rows(job)
        if left:
            log.warning("rows arrived during their removal; removing again", job_id=str(job.id), rows=left)
            # Include tables that had no rows at the first count.
            await self._note(job, "erase", {}, dict.fromkeys(left, 0) | job.before)
            return True
        failpoint("deletion_before_certificate")
        finished_at = datetime.fromtimestamp(self._now(), UTC)
        after = dict.fromkeys(job.before, 0)
        certificate = certificate_of(job.row, after, finished_at)
        digest = certificate_hash(certificate)
        async with self._control.transaction() as transaction:
            tag = await transaction.execute(
                "finish_deletion", job.id, job.moves, finished_at, after, certificate, digest
            )
            if tag.endswith(" 0"):
                raise _Superseded
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
        """Record the next step and its input.

        Raises:
            _Superseded: when the job was changed since it was read; it then stays unchanged.
        """
        counts = job.before if before is None else before
        known = {name: value for name, value in (job.progress | dict(progress)).items() if value is not None}
        on = self._control if transaction is None else transaction
        if (await on.execute("advance_deletion", job.id, job.moves, step, known, counts)).endswith(" 0"):
            raise _Superseded

    async def _record(self, transaction: Transaction, kind: EventType, job: Job, details: Mapping[str, Any]) -> None:
        event_details = {"job_id": str(job.id), "project_id": job.project_id and str(job.project_id), **details}
        await self._audit.record(transaction, Event(kind, job.org_id, SYSTEM, job.kind, job.target, event_details))

    def _count(self, why: str, gone: Counts) -> None:
        self._metrics.erased.labels(why).inc(sum(gone.values()))


async def _projects(control: Statements, org_id: OrgId) -> list[str]:
    return [str(row["id"]) for row in await control.fetch("projects_of_org", org_id)]


async def _remove_rows(transaction: Transaction, job: Job, projects: Sequence[ProjectId | None]) -> dict[str, int]:
    removed: dict[str, int] = {}
    for what in _OF_PROJECTS:
        removed[what] = _rows(await transaction.execute(f"remove_{what}", projects))
    if job.kind == ORG:
        await transaction.execute("detach_sessions", job.org_id)
        for what in _OF_ORG:
            removed[what] = _rows(await transaction.execute(f"remove_{what}", job.org_id))
    return removed


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


def _of_batch(job: Job, batch: Mapping[str, Any]) -> Selection:
    """What the runs of a batch have from before the deletion was asked for; what came later was not asked for."""
    return erase.of_runs(job.org_id, ProjectId(UUID(batch["project"])), batch["runs"], job.until_us)


def _rows(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
