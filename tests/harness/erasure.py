"""Tenants to be deleted, who asks for it and who does it."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tracebility.audit.events import Actor
from tracebility.deletion import jobs
from tracebility.deletion.erase import CONTENT_TABLES
from tracebility.deletion.jobs import Deletion
from tracebility.deletion.runner import REFUSED_S, Deleter
from tracebility.ids import SENTINEL, OrgId, ProjectId, uuid7
from tracebility.orgs.projects import ProjectPlace
from tracebility.stores import clickhouse, postgres, redis_control
from tracebility.stores.queue import Queue
from tracebility.telemetry import Metrics
from tracebility.tenant.ledger import ledger_entry
from tracebility.tenant.shard_router import shard_of, stream_of
from tracebility.wire.envelope import Envelope, Header
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.service import WorkerServices

ASKER = Actor("operator", "cli:test")
# Ids that a run can have.
R1, R2, R3 = "1" * 32, "2" * 32, "3" * 32
WHEN = "2026-10-05 10:00:00"
KEPT = ("billing_meter", "envelope_outcome")
DRAINED_S = 60.0


@dataclass
class Filled:
    """A tenant with rows in every table, under run ids that others have too."""

    org_id: OrgId
    place: ProjectPlace
    second: ProjectId
    engine: clickhouse.Engine

    async def fill(self) -> None:
        rows: dict[str, list[dict[str, Any]]] = {}
        for project in (self.place.project_id, self.second):
            whose = {"org_id": self.org_id, "project_id": project, "version": 1}
            at = {"start_time": WHEN, "accepted_at": WHEN}
            for run, who in ((R1, "ann"), (R2, "bob"), (R3, "")):
                for span, user in (("a", who), ("b", "")):
                    row = whose | at | {"trace_id": run, "span_id": span, "user_id": user, "inputs": "x"}
                    rows.setdefault("span", []).append(row)
                # In the second project only a span names the user, as where a run has several.
                of_run = {"run_id": run, "user_id": who if project == self.place.project_id else ""}
                rows.setdefault("run", []).append(whose | at | of_run)
                for table, moment, extra in (
                    ("eval_score", "created_at", {"score_id": uuid4()}),
                    ("replay_capture", "captured_at", {"span_id": "a", "content_hash": "0" * 32}),
                    ("replay_run", "started_at", {"replay_id": uuid4()}),
                ):
                    rows.setdefault(table, []).append(whose | extra | {"run_id": run, moment: WHEN})
            for table, extra in (
                ("eval_aggregate", {"evaluator": "e", "name": "n", "hour": WHEN}),
                ("dataset_item", {"dataset_id": uuid4(), "item_id": uuid4(), "created_at": WHEN}),
                ("billing_meter", {"period": "2026-10", "meter": "spans", "event_id": uuid4(), "accepted_at": WHEN}),
            ):
                rows.setdefault(table, []).append(whose | extra)
        old = {"org_id": SENTINEL, "project_id": self.place.project_id, "trace_id": R1, "span_id": "old"}
        rows["span_v1"] = [old | {"start_time": WHEN, "accepted_at": WHEN, "version": 1}]
        for table, some in rows.items():
            await self.engine.insert_rows(table, list(some[0]), [list(row.values()) for row in some])

    async def add(self, table: str, row: dict[str, Any]) -> None:
        await self.engine.insert_rows(table, list(row), [list(row.values())])

    async def rows(self) -> dict[str, list[Any]]:
        """Everything that is stored of it, table by table."""
        found = {}
        there = {name for (name,) in (await self.engine.query("SHOW TABLES")).rows}
        for table in (*(one.name for one in CONTENT_TABLES), *KEPT):
            if table in there:
                result = await self.engine.query(
                    f"SELECT * FROM {table} WHERE org_id = {{org:UUID}} OR project_id IN {{projects:Array(UUID)}} "
                    "ORDER BY ALL",
                    {"org": str(self.org_id), "projects": [str(self.place.project_id), str(self.second)]},
                )
                found[table] = [tuple(row) for row in result.rows]
        return found

    async def content(self) -> dict[str, int]:
        """Rows of each table that has some, but for what is kept."""
        return {table: len(rows) for table, rows in (await self.rows()).items() if rows and table not in KEPT}


@dataclass
class Work:
    """Asks for deletions, and does them."""

    control: postgres.Postgres
    deleter: Deleter

    async def ask(self, asking: Any, *arguments: Any) -> Deletion:
        async with self.control.transaction() as transaction:
            job: Deletion = await asking(transaction, ASKER, *arguments)
        return job

    async def job(self, job: Deletion) -> Deletion:
        return await jobs.read_deletion(self.control, job.id)

    async def done(self, job: Deletion) -> Deletion:
        await self.deleter.tick()
        found = await self.job(job)
        assert (found.state, found.error) == ("done", "")
        return found


async def events(control: postgres.Postgres, org_id: OrgId) -> list[Any]:
    return list(
        await control.fetch(
            "SELECT event_type, details, actor_type FROM audit_log WHERE org_id = $1 AND event_type LIKE 'deletion.%' "
            "ORDER BY seq",
            org_id,
        )
    )


def later() -> float:
    return time.time() + 2 * REFUSED_S


def work_now() -> Any:
    return datetime.now(UTC)


def late_row(mine: Filled) -> dict[str, Any]:
    whose = {"org_id": mine.org_id, "project_id": mine.place.project_id, "trace_id": "late", "span_id": "s"}
    return whose | {"start_time": WHEN, "accepted_at": WHEN, "version": 1}


def envelope_of(org_id: OrgId, project_id: ProjectId, spans: int = 0) -> Envelope:
    """An envelope of so many spans; of none, it is one item that no worker can read."""
    of_spans = [
        Span(trace_id=bytes([1] * 16), span_id=number.to_bytes(8, "big"), start_time_unix_nano=time.time_ns())
        for number in range(1, spans + 1)
    ]
    request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=of_spans)])])
    body = request.SerializeToString() if spans else b"x"
    header = Header(
        id=uuid7(), org_id=org_id, workspace_id=uuid4(), project_id=project_id, key_id="k",
        accepted_at_us=time.time_ns() // 1000, period="2026-11", source="otlp", content_type="protobuf",
        content_encoding="identity", items=spans or 1, bytes=len(body),
    )  # fmt: skip
    return Envelope(header, body)


async def enter(queue: Queue, *envelopes: Envelope) -> None:
    """Put envelopes into the queue as an edge does."""
    for envelope in envelopes:
        stream = stream_of(shard_of(envelope.header.org_id))
        await queue.append_groups([[(stream, envelope.fields())]], [ledger_entry(stream, envelope.header)])


async def drain(queue: Queue, engine: clickhouse.Engine, store: redis_control.RedisControl, org_id: OrgId) -> None:
    """Have a worker settle what is in the queue of an org."""
    stop = asyncio.Event()
    services = WorkerServices(queue, engine, store, WorkerMetrics(Metrics()))
    async with asyncio.timeout(DRAINED_S), asyncio.TaskGroup() as both:
        both.create_task(services.consume(stop))
        while not stop.is_set():
            await asyncio.sleep(0.02)
            if await queue.length(stream_of(shard_of(org_id))) == 0:
                stop.set()
