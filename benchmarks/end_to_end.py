"""Measures (a) durable and queryable spans per second, (c) time to queryable, (d) bytes on disk per span.

Stores, targets and load all run on this machine's cores. The reference is the raw insert of the same columns into the
same engine, with the worker's batch size, while nothing else runs.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import clickhouse_connect
import numpy as np
from clickhouse_connect.driver.client import Client
from tests.harness.auditor import Auditor
from tests.harness.installation import Installation
from tests.harness.load import Load, Sending
from tests.harness.payload import SPANS_A_REQUEST, Request

from . import report
from .meters import CpuMeter, memory_mb, worker_metrics

CONNECTIONS = 12
WARM_UP_S = 3.0
SETTLED_S = 15.0  # after the start, until its memory is released
RAW_ROWS = 100_000
LATENCY_SAMPLES_PER_S = 30  # at most; all requests if fewer are sent
LATENCY_POLL_S = 0.02
MERGES_DEADLINE_S = 120.0


@dataclass
class Figures:
    """Figures (a) and (c) of one load, and the raw insert of the columns that it stored."""

    fast: "Sustained"
    raw_per_s: float
    half_per_s: float
    soon: dict[str, float]

    @property
    def of_raw(self) -> float:
        """Queryable spans per second, as a fraction of the raw insert of the same columns."""
        return self.fast.queryable_per_s / self.raw_per_s


@dataclass
class Sustained:
    """Figure (a): rates at full load, CPU per span, and latency of the answers."""

    acknowledged_per_s: float
    queryable_per_s: float
    spans: int
    cpu_us_per_span: dict[str, float]
    cores_busy: float
    batch_rows: int  # of the worker, on average
    worker_us_per_span: dict[str, float]  # by stage, wall time
    p50_ms: float
    p99_ms: float

    @property
    def worker_us(self) -> float:
        """CPU microseconds per span of all workers together."""
        return sum(us for name, us in self.cpu_us_per_span.items() if name.startswith("ingest-worker"))

    def by_cost(self) -> list[tuple[str, float]]:
        """CPU microseconds per span by process, highest first."""
        return sorted(self.cpu_us_per_span.items(), key=lambda item: -item[1])


async def sustained(installation: Installation, pool: list[Request], seconds: float) -> Sustained:
    """Send as fast as the edge accepts for ``seconds``, then wait until the last span is queryable."""
    auditor, org = Auditor(installation.ready, installation.data_dir / "spool"), installation.ready["org_id"]
    load = Load(installation.ready["url"], installation.headers(), pool, connections=CONNECTIONS, retry=True)
    await load.run(seconds=WARM_UP_S)
    await auditor.settle(load.ledger, org_id=org)
    warm, first = load.acknowledged, len(load.ledger.sendings)
    with auditor.engine() as engine:
        before = _count(engine, org)
        worker = worker_metrics(installation)
        meter = CpuMeter(installation.pids())
        await load.run(seconds=seconds)
        sent, acknowledged_s = load.acknowledged - warm, meter.elapsed_s()
        while await asyncio.to_thread(auditor.in_flight):  # cheaper than asking the engine, which is busy
            await asyncio.sleep(0.02)
            assert meter.elapsed_s() < 10 * seconds + 60, f"{sent:,} acknowledged and still in flight: {load.ledger}"
        while (found := await asyncio.to_thread(_count, engine, org) - before) < sent:
            assert meter.elapsed_s() < 10 * seconds + 60, f"{sent:,} acknowledged, {found:,} found: {load.ledger}"
        queryable_s = meter.elapsed_s()
        cpu = meter.seconds()
        batch_rows, by_stage = stages(worker, worker_metrics(installation))
    answers = [s.seconds * 1000 for s in load.ledger.sendings[first:]]
    return Sustained(
        acknowledged_per_s=sent / acknowledged_s,
        queryable_per_s=sent / queryable_s,
        spans=sent,
        cpu_us_per_span={name: 1e6 * value / sent for name, value in cpu.items()},
        cores_busy=sum(cpu.values()) / queryable_s,
        batch_rows=round(batch_rows),
        worker_us_per_span=by_stage,
        p50_ms=float(np.percentile(answers, 50)),
        p99_ms=float(np.percentile(answers, 99)),
    )


def raw_insert_per_s(ready: Mapping[str, Any], batch_rows: int) -> float:
    """Rows per second when the stored spans are inserted into a table of the same schema, as encoded Native blocks."""
    with clickhouse_connect.get_client(dsn=ready["clickhouse_url"]) as engine:
        blocks = [
            engine.raw_query(
                "SELECT * FROM span LIMIT {rows:UInt64} OFFSET {skip:UInt64}",
                parameters={"rows": batch_rows, "skip": number * batch_rows},
                fmt="Native",
            )
            for number in range(max(1, RAW_ROWS // batch_rows))
        ]
        names = [row[0] for row in engine.query("DESCRIBE TABLE span").result_rows if row[2] != "MATERIALIZED"]
        engine.command("DROP TABLE IF EXISTS raw_insert_reference")
        engine.command("CREATE TABLE raw_insert_reference AS span")
        try:
            began = time.perf_counter()
            for block in blocks:
                engine.raw_insert("raw_insert_reference", names, block, fmt="Native")
            return len(blocks) * batch_rows / (time.perf_counter() - began)
        finally:
            engine.command("DROP TABLE raw_insert_reference SYNC")


async def time_to_queryable(
    ready: Mapping[str, Any], key: str, pool: list[Request], requests_per_s: float, seconds: float
) -> dict[str, float]:
    """Percentiles of the milliseconds from the answer until a query finds the spans of the request.

    ``ready`` names the org and the project that ``key`` writes to.
    """
    waiting: dict[str, float] = {}
    found: list[float] = []

    def watch(sending: Sending) -> None:
        if len(load.ledger.sendings) % every == 0:
            waiting[sending.stamp.traces[-16:].hex()] = time.perf_counter()

    every = max(1, round(requests_per_s / LATENCY_SAMPLES_PER_S))
    headers = {"authorization": f"Bearer {key}"}
    load = Load(ready["url"], headers, pool, connections=CONNECTIONS, requests_per_s=requests_per_s, retry=True)
    load.on_acknowledged = watch
    with clickhouse_connect.get_client(dsn=ready["clickhouse_url"]) as engine:
        sending = asyncio.create_task(load.run(seconds=seconds))
        while not sending.done() or waiting:
            await asyncio.sleep(LATENCY_POLL_S)
            seen = await asyncio.to_thread(_found, engine, ready, list(waiting))
            now = time.perf_counter()
            found += [1000 * (now - waiting.pop(trace)) for trace in seen]
            assert not waiting or time.perf_counter() - min(waiting.values()) < 120, (
                "an acknowledged trace is not found"
            )
        await sending
    return {f"p{p}": float(np.percentile(found, p)) for p in (50, 95, 99)} | {"requests": len(found)}


async def disk_bytes_per_span(ready: Mapping[str, Any]) -> dict[str, tuple[float, int]]:
    """By table: bytes on disk per stored span and number of parts, after the engine has finished its merges."""
    with clickhouse_connect.get_client(dsn=ready["clickhouse_url"]) as engine:
        end = time.monotonic() + MERGES_DEADLINE_S
        quiet = 0
        while quiet < 10 and time.monotonic() < end:
            quiet = quiet + 1 if engine.command("SELECT count() FROM system.merges") == 0 else 0
            await asyncio.sleep(0.2)
        spans = _value(engine, "SELECT count() FROM span FINAL", {})
        rows = engine.query(
            "SELECT table, sum(bytes_on_disk), count() FROM system.parts "
            "WHERE database = currentDatabase() AND active GROUP BY table ORDER BY 2 DESC"
        ).result_rows
    return {table: (size / spans, parts) for table, size, parts in rows}


def _count(engine: Client, org: str) -> int:
    return int(_value(engine, "SELECT count() FROM span FINAL WHERE org_id = {org:UUID}", {"org": org}))


def _value(engine: Client, sql: str, parameters: dict[str, Any]) -> Any:
    row = engine.query(sql, parameters=parameters).first_row
    assert row is not None
    return row[0]


def _found(engine: Client, ready: Mapping[str, Any], traces: list[str]) -> list[str]:
    if not traces:
        return []
    return [
        row[0]
        for row in engine.query(
            "SELECT DISTINCT trace_id FROM span WHERE org_id = {org:UUID} AND project_id = {project:UUID} "
            "AND trace_id IN {traces:Array(String)}",
            parameters={"org": ready["org_id"], "project": ready["project_id"], "traces": traces},
        ).result_rows
    ]


def stages(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """Rows per batch, and microseconds of wall time per span and stage, between two readings of worker metrics."""
    gone = {name: after[name] - before.get(name, 0.0) for name in after}
    spans = gone["tracebility_worker_spans_total"]
    prefix, suffix = 'tracebility_worker_stage_seconds_sum{stage="', '"}'
    took = {
        name.removeprefix(prefix).removesuffix(suffix): 1e6 * seconds / spans
        for name, seconds in gone.items()
        if name.startswith(prefix)
    }
    return spans / gone["tracebility_worker_batches_total"], took


async def figures(installation: Installation, pool: list[Request], seconds: float) -> Figures:
    """Measure (a), the reference, and (c) at half the rate of (a)."""
    fast = await sustained(installation, pool, seconds)
    print(f"sustained {fast}", flush=True)
    raw = await asyncio.to_thread(raw_insert_per_s, installation.ready, fast.batch_rows)
    print(f"raw insert, {fast.batch_rows:,} rows a batch: {raw:,.0f}/s", flush=True)
    half, ready = fast.queryable_per_s / 2, installation.ready
    soon = await time_to_queryable(ready, ready["api_key"], pool, half / SPANS_A_REQUEST, seconds)
    print(f"time to queryable at {half:,.0f}/s: {soon}", flush=True)
    return Figures(fast, raw, half, soon)


async def run(installation: Installation, load: str, pool: list[Request], seconds: float) -> None:
    """Measure (a), (c) and (d), then print and publish."""
    await asyncio.sleep(SETTLED_S)
    idle = memory_mb(installation.pids())
    print(
        f"idle memory {sum(idle.values()):,.0f} MB: " + ", ".join(f"{n} {v:,.0f}" for n, v in idle.items()), flush=True
    )
    measured = await figures(installation, pool, seconds)
    disk = await disk_bytes_per_span(installation.ready)
    print(f"disk {disk}", flush=True)
    title = "End to end, on the cores that also make the load"
    report.publish("end-to-end", title, _text(load, span_bytes(pool), measured, disk, idle))


def span_bytes(pool: list[Request]) -> float:
    """Average bytes of a span of ``pool``, as sent."""
    return sum(len(request.view) for request in pool) / sum(request.size for request in pool)


def _text(load: str, size: float, measured: Figures, disk: dict[str, tuple[float, int]], idle: dict[str, float]) -> str:
    fast, raw, soon = measured.fast, measured.raw_per_s, measured.soon
    rates = report.table(
        ("what", "spans/s", "of the raw insert"),
        [
            ("acknowledged (fsynced before the answer)", fast.acknowledged_per_s, fast.acknowledged_per_s / raw),
            ("queryable, until the last span was found", fast.queryable_per_s, fast.queryable_per_s / raw),
            (f"raw insert of the same columns, {fast.batch_rows:,} rows a batch, nothing else running", raw, 1.0),
        ],
    )
    cpu = report.table(("process", "CPU µs a span", "idle memory MB"), [
        *((name, value, idle.get(name)) for name, value in fast.by_cost()),
        ("all", sum(fast.cpu_us_per_span.values()), sum(idle.values())),
    ])  # fmt: skip
    stages_table = report.table(("stage of the worker", "µs a span"), list(fast.worker_us_per_span.items()))
    stored = report.table(("table", "bytes a span", "parts"), [
        *((name, stored, parts) for name, (stored, parts) in disk.items()),
        ("all", sum(stored for stored, _ in disk.values()), sum(parts for _, parts in disk.values())),
    ])  # fmt: skip
    return (
        f"Load `{load}`: {fast.spans:,} spans of {size:,.0f} bytes, {SPANS_A_REQUEST} a request, "
        f"{CONNECTIONS} connections, {fast.cores_busy:.2f} cores busy. "
        f"Answers: p50 {fast.p50_ms:.0f} ms, p99 {fast.p99_ms:.0f} ms.\n\n"
        f"{rates}\n\n{cpu}\n\n{stages_table}\n\n"
        f"At half of that rate ({measured.half_per_s:,.0f} spans/s) a request's spans are found p50 {soon['p50']:.0f}, "
        f"p95 {soon['p95']:.0f}, p99 {soon['p99']:.0f} ms after its answer ({soon['requests']:.0f} requests).\n\n"
        f"Disk, after merges:\n\n{stored}"
    )
