"""``tracebility status``: what runs, what waits, what is stored, on one screen."""

import asyncio
import os
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tracebility.commands.options import AsJson, DataDir, tell

if TYPE_CHECKING:
    from tracebility.commands.reach import Reached
    from tracebility.embedded.installation import Located

WATCH_S = 2.0
RATE_WINDOW_S = 1.0
HTTP_WAIT_S = 2.0
_UNITS = ("B", "KB", "MB", "GB", "TB")
_METRIC = re.compile(r"^(tracebility_\w+?)(?:\{(.*?)\})? (\S+)$", re.MULTILINE)


@dataclass(slots=True)
class Status:
    """Everything on the screen. None is "not known": its source does not answer, or is not on this machine."""

    url: str
    ok: bool = True
    services: list["Service"] = field(default_factory=list)
    stores: dict[str, str] = field(default_factory=dict)  # ok, or why not
    shards: list["Shard"] = field(default_factory=list)
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
    loops: list["LoopSeen"] = field(default_factory=list)


@dataclass(slots=True)
class Service:
    """A process of ``tracebility up``."""

    name: str
    pid: int
    alive: bool
    memory_bytes: int | None


@dataclass(slots=True)
class Shard:
    """One stream of the queue: entries, those that a worker has, and how long the first has waited."""

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


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it live until Ctrl-C.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show services, stores, queue, disk buffer, dead letters, rows and rates. Exit code 1 when something is down.

    Examples:

      tracebility status

      tracebility status --watch

      tracebility status --json
    """
    from tracebility.embedded.installation import locate

    found = locate(data_dir)
    if watch:
        asyncio.run(_watched(found, as_json=as_json))
        return
    seen = asyncio.run(_looked_at(found))
    tell(render(seen), asdict(seen), as_json=as_json)
    if not seen.ok:
        raise typer.Exit(1)


async def look(found: "Located", reached: "Reached") -> Status:
    """The status of this moment, without the rate."""
    seen = Status(str(found.ready.get("url", "")))
    seen.services = [look_at_service(name, pid) for name, pid in dict(found.ready.get("pids", {})).items()]
    seen.stores = {
        store: reached.away.get(store, "ok") for store in ("postgres", "redis", reached.queue_store, "clickhouse")
    }
    await asyncio.gather(
        _look_at_queue(reached, seen), _look_at_rows(reached, seen), _look_at_loops(reached, seen), _look_at_edge(seen)
    )
    seen.ok = all(service.alive for service in seen.services) and set(seen.stores.values()) == {"ok"}
    return seen


async def _looked_at(found: "Located") -> Status:
    """The status, with the rate of a moment."""
    from tracebility.commands.reach import reaching

    async with reaching(found) as reached:
        before, began = await look(found, reached), time.monotonic()
        if before.accepted_spans is None:
            return before
        await asyncio.sleep(RATE_WINDOW_S)
        seen = await look(found, reached)
        seen.spans_per_s = _rate(before, seen, time.monotonic() - began)
        return seen


async def _watched(found: "Located", *, as_json: bool) -> None:
    """Look again and again. Stores are reached anew each time: they may come and go."""
    from rich.live import Live
    from rich.text import Text

    from tracebility.commands.reach import reaching
    from tracebility.embedded.installation import locate

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
    lines = [f"tracebility  {'ok' if seen.ok else 'NOT OK'}  {seen.url}".rstrip(), ""]
    for service in seen.services:
        memory = "" if service.memory_bytes is None else f"{size(service.memory_bytes):>9}"
        lines.append(f"  {service.name:<15} {'up' if service.alive else 'DOWN':<5} pid {service.pid:<8}{memory}")
    lines += [f"  {store:<15} {said}" for store, said in seen.stores.items() if said != "ok" or not seen.services]
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


async def _look_at_queue(reached: "Reached", seen: Status) -> None:
    from tracebility.commands.reach import tried
    from tracebility.tenant.shard_router import (
        ALL_STREAMS,
        DEAD_LETTER_STREAM,
        LEGACY_STREAM,
        OVERFLOW_STREAMS,
        SHARD_STREAMS,
    )

    if reached.queue is None:
        return
    depths, why = await tried(reached.queue.depths([*ALL_STREAMS, DEAD_LETTER_STREAM]))
    memory, _ = await tried(reached.queue.info_memory())
    if depths is None or memory is None:
        seen.stores[reached.queue_store] = why or "no answer"
        return
    now_ms = time.time() * 1000
    for shard, streams in enumerate(zip(SHARD_STREAMS, OVERFLOW_STREAMS, strict=True)):
        both = depths[streams[0]] + depths[streams[1]]
        oldest_s = None if both.oldest_ms is None else max(round((now_ms - both.oldest_ms) / 1000, 3), 0.0)
        seen.shards.append(Shard(shard, both.length, both.pending, oldest_s))
    seen.dead_letters = depths[DEAD_LETTER_STREAM].length
    seen.legacy = depths[LEGACY_STREAM].length
    seen.queue_bytes, seen.queue_max_bytes = memory.used, memory.maximum


async def _look_at_rows(reached: "Reached", seen: Status) -> None:
    from tracebility.commands.reach import tried
    from tracebility.stores.queries import query

    if reached.engine is None:
        return
    tables = ["span", "run", "billing_meter"]
    rows, why = await tried(reached.engine.query(query("check_tables"), {"tables": tables}))
    disk, _ = await tried(reached.engine.query(query("check_disk")))
    if rows is None:
        seen.stores["clickhouse"] = why
        return
    found = {row["table"]: row for row in rows.dicts()}
    for table in tables:
        row = found.get(table, {"rows": 0, "bytes": 0, "parts": 0})
        seen.tables[table] = {name: int(row[name]) for name in ("rows", "bytes", "parts")}
    if disk is not None and disk.rows:
        seen.disk_free_bytes, seen.disk_total_bytes = (int(number) for number in disk.rows[0])


async def _look_at_loops(reached: "Reached", seen: Status) -> None:
    from tracebility.commands.reach import tried

    if reached.control is None:
        return
    known, why = await tried(reached.control.fetchval("operator_is_known"))
    rows, why = await tried(reached.control.fetch("loops")) if known else ((), why)
    if why:
        seen.stores["postgres"] = why
        return
    for row in rows or ():
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


async def _look_at_edge(seen: Status) -> None:
    """What the edge says of itself; nothing when the command does not know where it is."""
    import aiohttp

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
