"""``tracebility status``: what runs, what waits, what is stored, and what is wrong, on one screen."""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
from rich.live import Live
from rich.text import Text

from tracebility.commands.options import AsJson, DataDir, new_app, tell
from tracebility.commands.stores import LOOK_WAIT_S, Reached, quiet_libraries, reaching
from tracebility.embedded.installation import Located, locate
from tracebility.errors import TracebilityError
from tracebility.stores.queries import query
from tracebility.stores.queue.worker_names import consumers
from tracebility.tenant.quota import EDGES
from tracebility.tenant.shard_router import (
    ALL_STREAMS,
    DEAD_LETTER_STREAM,
    LEGACY_STREAM,
    OVERFLOW_STREAMS,
    SHARD_STREAMS,
)

WATCH_S = 2.0
RATE_WINDOW_S = 1.0
HTTP_WAIT_S = 1.5
# Services write to the stores every second or two; a worker that waits for entries asks for them as often.
SILENT_S = 30.0
_UNITS = ("B", "KB", "MB", "GB", "TB")
_METRIC = re.compile(r"^(tracebility_\w+?)(?:\{(.*?)\})? (\S+)$", re.MULTILINE)


@dataclass(slots=True)
class Service:
    """A process of ``tracebility up``."""

    name: str
    pid: int
    alive: bool
    memory_bytes: int | None


@dataclass(slots=True)
class Shard:
    """One stream of the queue: its entries, those that a worker has, and how long the first has waited."""

    shard: int
    length: int
    pending: int
    oldest_s: float | None


@dataclass(slots=True)
class LoopSeen:
    """One of the operator's loops: how long ago it last succeeded, and why it failed since."""

    name: str
    last_success: str | None
    age_s: float | None
    last_duration_s: float
    last_error: str
    fence: int


@dataclass(slots=True)
class AlertSeen:
    """An alert that stands."""

    kind: str
    text: str
    since: str


@dataclass(slots=True)
class Status:
    """Everything on the screen. None means not known: its source does not answer, or is not on this machine."""

    url: str
    ok: bool = True
    faults: list[str] = field(default_factory=list)  # one line each, with what to do
    alerts: list[AlertSeen] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    stores: dict[str, str] = field(default_factory=dict)  # "ok", or the reason why it does not answer
    seen_s_ago: dict[str, float | None] = field(default_factory=dict)  # by service, as the stores know it
    shards: list[Shard] = field(default_factory=list)
    dead_letters: int | None = None
    legacy: int | None = None  # entries of the stream from before the shards
    queue_bytes: int | None = None
    queue_max_bytes: int | None = None
    spool_bytes: int | None = None
    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    disk_free_bytes: int | None = None
    disk_total_bytes: int | None = None
    accepted_spans: int | None = None
    spans_per_s: float | None = None
    loops: list[LoopSeen] = field(default_factory=list)


app = new_app()


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it live until Ctrl-C.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what is wrong, standing alerts, services, stores, queue, disk buffer, dead letters, rows and rates.

    Exit code 1 when something does not work. A store that does not answer is named within 5 s.

    Examples:

      tracebility status

      tracebility status --watch

      tracebility status --json
    """
    found = locate(data_dir)
    quiet_libraries()
    if watch:
        asyncio.run(_watched(found, as_json=as_json))
        return
    seen = asyncio.run(_look_twice(found))
    tell(render(seen), asdict(seen), as_json=as_json)
    if not seen.ok:
        raise typer.Exit(1)


async def look(found: Located, reached: Reached) -> Status:
    """The status now, without the rate."""
    seen = Status(str(found.ready.get("url", "")))
    seen.services = [look_at_service(name, pid) for name, pid in dict(found.ready.get("pids", {})).items()]
    seen.stores = {store: reached.away.get(store, "ok") for store in reached.names}
    await asyncio.gather(
        _ask(reached, reached.queue_store, _look_at_queue(reached, seen), seen),
        _ask(reached, "redis", _look_at_edges(reached, seen), seen),
        _ask(reached, "clickhouse", _look_at_rows(reached, seen), seen),
        _ask(reached, "postgres", _look_at_operator(reached, seen), seen),
        _look_at_metrics(seen),
    )
    seen.faults = [*_faults(found, seen)]
    seen.ok = not seen.faults
    return seen


def _faults(found: Located, seen: Status) -> Iterator[str]:
    dead = [service.name for service in seen.services if not service.alive]
    for name in dead:
        yield f"{name} does not run. 'tracebility up' starts it again within 5 s, unless it was stopped itself."
    for store, reason in seen.stores.items():
        if reason != "ok":
            yield f"{store}: {reason}"
    yield from silent_services(found, seen)


def silent_services(found: Located, seen: Status) -> Iterator[str]:
    """One line for each service that the stores have not heard of for `SILENT_S`, unless its process is known dead."""
    dead = {service.name for service in seen.services if not service.alive}
    runs_here = {service.name for service in seen.services}
    only_stores = found.data_dir is not None and "operator" not in runs_here
    for name, age_s in seen.seen_s_ago.items():
        # Without ClickHouse a worker keeps what it has and reads nothing.
        holds = name == "ingest-worker" and seen.stores["clickhouse"] != "ok"
        if only_stores or holds or name in dead or (age_s is not None and age_s <= SILENT_S):
            continue
        said = "has never been heard of" if age_s is None else f"was last heard of {age_s:,.0f} s ago"
        yield f"{name} {said}. Start it: tracebility serve --target {name}"


async def _ask(reached: Reached, store: str, asking: Awaitable[None], seen: Status) -> None:
    _, reason = await reached.tried(asking)
    if reason and seen.stores.get(store) == "ok":
        seen.stores[store] = reason


async def _look_twice(found: Located) -> Status:
    """The status, with the rate over a second when all is well."""
    async with reaching(found) as reached:
        before, began = await look(found, reached), time.monotonic()
        if before.faults or before.accepted_spans is None:
            return before
        await asyncio.sleep(RATE_WINDOW_S)
        reached.deadline = asyncio.get_running_loop().time() + LOOK_WAIT_S
        seen = await look(found, reached)
        seen.spans_per_s = _rate(before, seen, time.monotonic() - began)
        return seen


async def _watched(found: Located, *, as_json: bool) -> None:
    """Look again and again. Stores are reached anew each time: they may come and go."""
    before: Status | None = None
    looked_at = 0.0
    with Live(auto_refresh=False, screen=not as_json) as live:
        while True:
            async with reaching(found) as reached:
                seen = await look(found, reached)
            now = time.monotonic()
            if before is not None:
                seen.spans_per_s = _rate(before, seen, now - looked_at)
            before, looked_at = seen, now
            if as_json:
                tell("", asdict(seen), as_json=True)
            else:
                live.update(Text(render(seen) + "\n\nCtrl-C ends this."), refresh=True)
            await asyncio.sleep(WATCH_S)
            if found.data_dir is not None:
                found = locate(found.data_dir)


def render(seen: Status) -> str:
    """The screen."""
    lines = [f"tracebility  {'ok' if seen.ok else 'NOT OK'}  {seen.url}".rstrip()]
    lines += [f"FAULT  {fault}" for fault in seen.faults]
    lines += [f"ALERT  {alert.kind}: {alert.text} (since {alert.since})" for alert in seen.alerts]
    lines.append("")
    for service in seen.services:
        memory = "" if service.memory_bytes is None else f"{size(service.memory_bytes):>9}"
        lines.append(f"  {service.name:<15} {'up' if service.alive else 'DOWN':<5} pid {service.pid:<8}{memory}")
    if not seen.services:
        lines += [f"  {store:<15} {'ok' if said == 'ok' else 'AWAY'}" for store, said in seen.stores.items()]
        lines += [
            f"  {name:<15} {'not seen' if age_s is None else f'seen {age_s:,.0f} s ago'}"
            for name, age_s in seen.seen_s_ago.items()
        ]
    lines.append("")
    waiting = [shard for shard in seen.shards if shard.length]
    length, pending = sum(shard.length for shard in waiting), sum(shard.pending for shard in waiting)
    oldest = max((shard.oldest_s or 0 for shard in waiting), default=0.0)
    if seen.shards:
        lines.append(f"Queue          {length:,} envelopes, {pending:,} with the worker, oldest {oldest:.1f} s")
        lines += [
            f"  shard {shard.shard:<2} {shard.length:>12,} {shard.pending:>8,} pending {shard.oldest_s or 0:>8.1f} s"
            for shard in sorted(waiting, key=lambda shard: -shard.length)
        ]
    if seen.queue_bytes is not None:
        bound = f" of {size(seen.queue_max_bytes)}" if seen.queue_max_bytes else ", without a bound"
        lines.append(f"Queue memory   {size(seen.queue_bytes)}{bound}")
    if seen.spool_bytes is not None:
        lines.append(f"Disk buffer    {size(seen.spool_bytes) if seen.spool_bytes else 'empty'}")
    if seen.legacy:
        lines.append(f"Legacy stream  {seen.legacy:,} envelopes from before the shards")
    if seen.dead_letters is not None:
        advice = "  (tracebility dlq list)" if seen.dead_letters else ""
        lines.append(f"Dead letters   {seen.dead_letters:,}{advice}")
    if seen.spans_per_s is not None:
        lines.append(f"Ingest         {seen.spans_per_s:,.0f} spans/s")
    lines += [
        f"{'Stored' if table == 'span' else '':<14} {found['rows']:,} rows of {table}, {size(found['bytes'])}"
        for table, found in seen.tables.items()
    ]
    for index, loop in enumerate(seen.loops):
        since = "never" if loop.age_s is None else f"{loop.age_s:,.0f} s ago"
        error = f"  FAILED: {loop.last_error}" if loop.last_error else ""
        took = f"took {loop.last_duration_s:,.3f} s"
        lines.append(f"{'' if index else 'Loops':<14} {loop.name:<16} {since:>12}  {took:>14}{error}")
    if seen.disk_total_bytes:
        lines.append(f"Disk           {size(seen.disk_free_bytes or 0)} free of {size(seen.disk_total_bytes)}")
    return "\n".join(lines)


def size(count: int) -> str:
    """Bytes as people read them."""
    power = next((power for power in range(4) if count < 1000 ** (power + 1)), 4)
    amount = count / 1000**power
    return f"{amount:.0f} {_UNITS[power]}" if power == 0 or amount >= 100 else f"{amount:.1f} {_UNITS[power]}"


def look_at_service(name: str, pid: int) -> Service:
    """Whether the process lives, and what memory it holds."""
    try:
        status_lines = Path(f"/proc/{pid}/status").read_text()
        memory = re.search(r"^VmRSS:\s+(\d+) kB", status_lines, re.MULTILINE)
        alive = "\nState:\tZ" not in status_lines
        return Service(name, pid, alive, int(memory[1]) * 1024 if memory else None)
    except FileNotFoundError:
        pass
    except OSError:  # another user's process, or no /proc
        return Service(name, pid, _exists(pid), None)
    return Service(name, pid, _exists(pid) if not Path("/proc").exists() else False, None)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def _look_at_queue(reached: Reached, seen: Status) -> None:
    if reached.queue is None:
        return
    depths = await reached.queue.depths([*ALL_STREAMS, DEAD_LETTER_STREAM])
    memory = await reached.queue.info_memory()
    now_ms = time.time() * 1000
    for shard, streams in enumerate(zip(SHARD_STREAMS, OVERFLOW_STREAMS, strict=True)):
        both = depths[streams[0]] + depths[streams[1]]
        oldest_s = None if both.oldest_ms is None else max(round((now_ms - both.oldest_ms) / 1000, 3), 0.0)
        seen.shards.append(Shard(shard, both.length, both.pending, oldest_s))
    seen.dead_letters = depths[DEAD_LETTER_STREAM].length
    seen.legacy = depths[LEGACY_STREAM].length
    seen.queue_bytes, seen.queue_max_bytes = memory.used, memory.maximum
    try:
        readers = await consumers(reached.queue, SHARD_STREAMS)
    except TracebilityError:  # no worker has made the consumer groups yet
        readers = {}
    idle_ms = [reader.idle_ms for stream in readers.values() for reader in stream]
    seen.seen_s_ago["ingest-worker"] = min(idle_ms) / 1000 if idle_ms else None


async def _look_at_edges(reached: Reached, seen: Status) -> None:
    """Each ingest process writes its name and the time every other second (`ingest.heartbeat`)."""
    if reached.redis_control is None:
        return
    newest = await reached.redis_control.command("ZRANGE", EDGES, -1, -1, "WITHSCORES")
    seen.seen_s_ago["ingest-api"] = max(time.time() - float(newest[1]) / 1000, 0.0) if newest else None


async def _look_at_rows(reached: Reached, seen: Status) -> None:
    if reached.engine is None:
        return
    tables = ["span", "run", "billing_meter"]
    rows = await reached.engine.query(query("check_tables"), {"tables": tables})
    disk = await reached.engine.query(query("check_disk"))
    found = {row["table"]: row for row in rows.dicts()}
    for table in tables:
        row = found.get(table, {"rows": 0, "bytes": 0, "parts": 0})
        seen.tables[table] = {name: int(row[name]) for name in ("rows", "bytes", "parts")}
    if disk.rows:
        seen.disk_free_bytes, seen.disk_total_bytes = (int(number) for number in disk.rows[0])


async def _look_at_operator(reached: Reached, seen: Status) -> None:
    """Its loops, whose newest success tells that it lives, and the alerts that it has told."""
    if reached.control is None:
        return
    if await reached.control.fetchval("operator_is_known"):
        for row in await reached.control.fetch("loops"):
            at, age_s = row["last_success"], row["age_s"]
            seen.loops.append(
                LoopSeen(
                    row["name"],
                    None if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}",
                    None if age_s is None else round(age_s, 1),
                    round(row["last_duration_s"], 3),
                    row["last_error"],
                    row["fence"],
                )
            )
    seen.seen_s_ago["operator"] = min((loop.age_s for loop in seen.loops if loop.age_s is not None), default=None)
    if await reached.control.fetchval("alerts_are_known"):
        seen.alerts = [
            AlertSeen(row["kind"], row["text"], f"{row['since']:%Y-%m-%dT%H:%M:%SZ}")
            for row in await reached.control.fetch("standing_alerts")
        ]


async def _look_at_metrics(seen: Status) -> None:
    """The metrics of ingest-api; nothing when the command does not know its address."""

    if not seen.url:
        return
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HTTP_WAIT_S)) as session,
            session.get(f"{seen.url}/metrics") as answer,
        ):
            text = await answer.text()
    except (aiohttp.ClientError, TimeoutError):
        return
    accepted = 0.0
    for name, labels, value in _METRIC.findall(text):
        if name == "tracebility_ingest_items_total" and 'outcome="accepted"' in labels:
            accepted += float(value)
        elif name == "tracebility_spool_bytes":
            seen.spool_bytes = int(float(value))
    seen.accepted_spans = int(accepted)


def _rate(before: Status, after: Status, seconds: float) -> float | None:
    if before.accepted_spans is None or after.accepted_spans is None:
        return None
    return round(max(after.accepted_spans - before.accepted_spans, 0) / seconds, 1)
