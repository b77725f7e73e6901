"""``tracebility doctor``: what is wrong with an installation, and what to do about it."""

import asyncio
import shutil
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit
from uuid import uuid4

import typer

from tracebility.commands.options import AsJson, DataDir, new_app, tell
from tracebility.commands.status import look, look_at_service, silent_services, size
from tracebility.commands.stores import Reached, quiet_libraries, reaching
from tracebility.embedded.installation import Located, locate
from tracebility.stores import clickhouse, migrations
from tracebility.stores.queries import query
from tracebility.stores.queue import Queue
from tracebility.stores.queue.inspection import is_durable
from tracebility.stores.scoped import REQUEST_SETTINGS, TENANT_SETTING
from tracebility.tenant.shard_router import ALL_STREAMS, DEAD_LETTER_STREAM

OLDEST_POSTGRES = 14
OLDEST_REDIS = (7, 0)
OLDEST_CLICKHOUSE = (25, 3)

# Below the first, stores stop: the engine needs room to merge, the queue to rewrite its log. Below the second, soon.
LEAST_FREE_BYTES = 2 << 30
SCARCE_FREE_BYTES = 10 << 30

# Keys expire and versions are ordered by clocks. A second is noise of NTP after a pause, five a clock that nobody sets.
SKEW_NOTED_S = 1.0
SKEW_WRONG_S = 5.0

# Accepted spans are to be queryable within 3 s; a minute means that the worker does not keep up or does not run.
BACKLOG_NOTED_S = 60.0
FULL_QUEUE = 0.8


class Verdict(StrEnum):
    """How bad it is. Only `wrong` makes the command fail."""

    OK = "ok"
    NOTED = "noted"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was seen, and what to do, which is empty when nothing is."""

    check: str
    verdict: Verdict
    seen: str
    do: str = ""


app = new_app()


@app.command()
def doctor(
    data_dir: DataDir = None,
    as_json: AsJson = False,
    only_wrong: Annotated[bool, typer.Option("--only-wrong", help="Leave out what is in order.")] = False,
) -> None:
    """Check stores, versions, disk, clocks, migrations, tenant isolation, queue settings and file modes.

    Each finding says what to do. Exit code 1 when something is wrong.

    Examples:

      tracebility doctor

      tracebility doctor --json
    """
    quiet_libraries()
    findings = asyncio.run(examine(locate(data_dir)))
    wrong = [finding for finding in findings if finding.verdict is Verdict.WRONG]
    shown = [finding for finding in findings if finding.verdict is not Verdict.OK] if only_wrong else findings
    document = {"ok": not wrong, "findings": [asdict(finding) for finding in shown]}
    tell(render(shown, len(wrong)), document, as_json=as_json)
    if wrong:
        raise typer.Exit(1)


def render(findings: list[Finding], wrong: int) -> str:
    """One line a finding, and what to do under it."""
    marks = {Verdict.OK: "ok   ", Verdict.NOTED: "note ", Verdict.WRONG: "WRONG"}
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.verdict]}  {finding.check:<22} {finding.seen}")
        if finding.do:
            lines.append(f"{'':<30}-> {finding.do}")
    lines.append(f"{wrong} wrong." if wrong else "Nothing is wrong.")
    return "\n".join(lines)


async def examine(found: Located) -> list[Finding]:
    """Everything there is to find, each store asked for a few seconds at most."""
    findings = _processes(found) + _files(found) + _users(found)
    async with reaching(found) as reached:
        findings += [
            Finding(f"{store} answers", Verdict.WRONG, reason, "Start it, or correct its DSN.")
            for store, reason in reached.away.items()
        ]
        checks: list[tuple[str, Awaitable[list[Finding]]]] = [
            ("postgres", _control_plane(reached)),
            ("postgres", _alerts(reached)),
            ("services", _services(found, reached)),
            ("redis", _redis_server(reached)),
            (reached.queue_store, _queue(reached)),
            ("clickhouse", _engine(reached)),
            ("row policies", _policies(found, reached)),
            ("migrations", _migrations(found, reached)),
        ]
        for (name, _), (found_by_it, reason) in zip(
            checks, await asyncio.gather(*(reached.tried(check) for _, check in checks)), strict=True
        ):
            findings += found_by_it or []
            if reason and name in reached.names:
                findings.append(Finding(name, Verdict.WRONG, reason, "Look at the logs of this store."))
            elif reason:  # the store may answer; this check asks it more than its own do
                findings.append(Finding(name, Verdict.NOTED, f"not checked: {reason}", "Run it again."))
    return findings


def _users(found: Located) -> list[Finding]:
    """The user that each target of ``tracebility up`` signs in as; of services by DSN, those of these DSNs."""

    def user(dsn: str) -> str:
        return urlsplit(dsn).username or "default"

    owner = f"PostgreSQL {user(found.pg_dsn)}, ClickHouse {user(found.clickhouse_url)}"
    if not found.ready:
        return [Finding("users of these DSNs", Verdict.OK, owner)]
    reader = str(found.ready.get("clickhouse_reader_url") or found.clickhouse_url)
    api = f"PostgreSQL {user(found.pg_dsn)}, ClickHouse {user(reader)}"
    advice = "Let the api read as a ClickHouse user of its own that may only read."
    return [
        Finding("user of ingest-api", Verdict.OK, f"PostgreSQL {user(found.pg_dsn)}"),
        Finding("user of ingest-worker", Verdict.OK, owner),
        Finding("user of operator", Verdict.OK, owner),
        _judged("user of api", user(reader) == user(found.clickhouse_url), api, advice, verdict=Verdict.NOTED),
    ]


async def _services(found: Located, reached: Reached) -> list[Finding]:
    """Services that the stores have not heard of: all that is known of those on other machines."""
    silent = [*silent_services(found, await look(found, reached))]
    return [Finding("services", Verdict.WRONG, *line.split(". ", 1)) for line in silent]


async def _alerts(reached: Reached) -> list[Finding]:
    if reached.control is None or not await reached.control.fetchval("alerts_are_known"):
        return []
    return [
        Finding(f"alert {row['kind']}", Verdict.NOTED, row["text"], "See 'Alerts' in docs/operations.md.")
        for row in await reached.control.fetch("standing_alerts")
    ]


def _processes(found: Located) -> list[Finding]:

    services = [look_at_service(name, pid) for name, pid in dict(found.ready.get("pids", {})).items()]
    if not services:
        return []
    dead = [service.name for service in services if not service.alive]
    seen = f"not running: {', '.join(dead)}" if dead else f"{len(services)} run"
    return [_judged("processes", bool(dead), seen, f"Start them: tracebility up --data-dir {found.data_dir}")]


def _files(found: Located) -> list[Finding]:
    if found.data_dir is None:
        return []
    findings = [_disk("disk of the data", shutil.disk_usage(found.data_dir).free)]
    private = [found.data_dir, *(path for path in found.data_dir.glob("*.json"))]
    open_to_others = [path for path in private if stat.S_IMODE(path.stat().st_mode) & 0o077]
    names = " ".join(str(path) for path in open_to_others)
    seen = f"other users may read {names}" if names else "only their owner can read the data and its secrets"
    return [*findings, _judged("file modes", bool(names), seen, f"chmod go-rwx {names}")]


async def _control_plane(reached: Reached) -> list[Finding]:
    if reached.control is None:
        return []
    before = time.time()
    row = await reached.control.fetchrow("check_control_plane")
    assert row is not None
    major = row["version"] // 10_000
    version = _version("postgres", f"{major}", major >= OLDEST_POSTGRES, f"{OLDEST_POSTGRES}")
    return [version, _clock("postgres", row["now_ms"] / 1000, before)]


async def _redis_server(reached: Reached) -> list[Finding]:
    """The server of limits and counters, where the queue has another."""
    if reached.redis_server is None:
        return []
    advice = "Set 'maxmemory-policy noeviction': else the server drops counters that limits are kept by."
    return await _servers("redis", reached.redis_server, lambda server: [_eviction("redis eviction", server, advice)])


async def _servers(store: str, queue: Queue, settings: Callable[[Mapping[str, str]], list[Finding]]) -> list[Finding]:
    before = time.time()
    servers = await queue.info()
    findings: list[Finding] = []
    for place, server in servers.items():
        where = f" at {place}" if len(servers) > 1 else ""
        spoken = server.get("redis_version", "0")
        named = f"{server['server_name']} {server.get('valkey_version', spoken)}" if "server_name" in server else spoken
        oldest = ".".join(map(str, OLDEST_REDIS))
        findings += [
            replace(finding, check=finding.check + where)
            for finding in (
                _version(store, named, _numbers(spoken) >= OLDEST_REDIS, oldest),
                *(
                    [_clock(store, int(server["server_time_usec"]) / 1e6, before)]
                    if "server_time_usec" in server
                    else []
                ),
                *settings(server),
            )
        ]
    return findings


async def _queue(reached: Reached) -> list[Finding]:

    if reached.queue is None:
        return []
    findings = await _servers(reached.queue_store, reached.queue, _queue_settings)
    depths = await reached.queue.depths([*ALL_STREAMS, DEAD_LETTER_STREAM])
    dead = depths.pop(DEAD_LETTER_STREAM).length
    first_ms = min((depth.oldest_ms for depth in depths.values() if depth.oldest_ms is not None), default=None)
    waited_s = 0.0 if first_ms is None else max(time.time() - first_ms / 1000, 0.0)
    return [
        *findings,
        _judged("dead letters", dead > 0, f"{dead:,}", "tracebility dlq list", verdict=Verdict.NOTED),
        _judged(
            "queue backlog",
            waited_s > BACKLOG_NOTED_S,
            f"the first envelope has waited for {waited_s:,.1f} s",
            "See that ingest-worker runs and ClickHouse answers: tracebility status",
        ),
    ]


def _queue_settings(server: Mapping[str, str]) -> list[Finding]:
    """Whether what the queue acknowledged survives: it is on disk, and nothing drops it to make room."""

    fsync = server.get("appendfsync")
    appending = server.get("aof_enabled") == "1"
    if appending and fsync is None:
        durable = Finding("queue durability", Verdict.NOTED, "appendonly is on; its appendfsync is not readable")
    else:
        durable = _judged(
            "queue durability",
            not is_durable(server),
            f"appendonly {'yes' if appending else 'no'}, appendfsync {fsync}, "
            f"last write {server.get('aof_last_write_status', 'unknown')}",
            "Set 'appendonly yes' and 'appendfsync always': else acknowledged spans can be lost in the queue.",
        )
    used, maximum = int(server["used_memory"]), int(server.get("maxmemory", "0"))
    if maximum:
        memory = _judged(
            "queue memory",
            used > FULL_QUEUE * maximum,
            f"{used / maximum:.0%} used",
            "See that ingest-worker runs (tracebility status), or raise maxmemory.",
        )
    else:
        memory = Finding("queue memory", Verdict.NOTED, "without a bound", "Set maxmemory, to bound a backlog.")
    advice = "Set 'maxmemory-policy noeviction': else the server drops what is queued."
    return [durable, _eviction("queue eviction", server, advice), memory]


def _eviction(check: str, server: Mapping[str, str], advice: str) -> Finding:
    policy = server.get("maxmemory_policy", "")
    return _judged(check, policy != "noeviction", policy, advice)


async def _engine(reached: Reached) -> list[Finding]:

    if reached.engine is None:
        return []
    before = time.time()
    [engine] = (await reached.engine.query(query("check_engine"))).dicts()
    oldest = ".".join(map(str, OLDEST_CLICKHOUSE))
    findings = [
        _version("clickhouse", engine["version"], _numbers(engine["version"]) >= OLDEST_CLICKHOUSE, oldest),
        _clock("clickhouse", engine["now_ms"] / 1000, before),
    ]
    disks = (await reached.engine.query(query("check_disk"))).rows
    return findings + [_disk("disk of clickhouse", int(free)) for free, _ in disks]


async def _policies(found: Located, reached: Reached) -> list[Finding]:
    """Whether the engine itself keeps tenants apart: a reader without a tenant, or of one that is not, sees nothing."""

    if reached.engine is None:
        return []
    tables = [str(row[0]) for row in (await reached.engine.query(query("check_tenant_tables"))).rows]
    reader_url = str(found.ready.get("clickhouse_reader_url") or "")
    reader = await clickhouse.connect(reader_url, wait_s=0) if reader_url else reached.engine
    strangers = dict(REQUEST_SETTINGS) | {TENANT_SETTING: str(uuid4())}
    asked = [strangers, dict(REQUEST_SETTINGS)] if reader_url else [strangers]
    questions = ["check_visible_rows"] + ["check_visible_rows_before_tenancy"] * ("span_v1" in tables)
    leaking: set[str] = set()
    try:
        for settings in asked:
            for question in questions:
                leaking.update(row[0] for row in (await reader.query(query(question), settings=settings)).rows)
    finally:
        if reader is not reached.engine:
            await reader.close()
    seen = f"a stranger sees rows of {', '.join(sorted(leaking)) or f'none of {len(tables)} tables'}"
    advice = "Stop the api target, then run 'tracebility migrate', so that every table gets its policy."
    return [_judged("row policies", bool(leaking), seen, advice)]


async def _migrations(found: Located, reached: Reached) -> list[Finding]:

    if reached.control is None or reached.engine is None:
        return []
    pending = await migrations.pending(found.pg_dsn, found.clickhouse_url)
    if pending:
        names = ", ".join(f"{standing.store} {standing.name}" for standing in pending)
        return [Finding("migrations", Verdict.WRONG, f"not applied: {names}", "tracebility migrate")]
    return [Finding("migrations", Verdict.OK, "both stores are up to date")]


def _judged(check: str, bad: bool, seen: str, do: str, *, verdict: Verdict = Verdict.WRONG) -> Finding:
    return Finding(check, verdict, seen, do) if bad else Finding(check, Verdict.OK, seen)


def _version(store: str, version: str, good: bool, oldest: str) -> Finding:
    return _judged(f"{store} version", not good, version, f"Upgrade it to {oldest} or later.")


def _clock(store: str, now_s: float, before_s: float) -> Finding:
    """Compare with the middle of the question's way there and back."""
    after_s = time.time()
    skew_s = now_s - (before_s + after_s) / 2
    off_by = max(abs(skew_s) - (after_s - before_s) / 2, 0.0)  # what the way itself cannot explain
    seen = f"{abs(skew_s):.3f} s {'ahead of' if skew_s > 0 else 'behind'} this machine"
    check = f"{store} clock"
    if off_by > SKEW_WRONG_S:
        return Finding(check, Verdict.WRONG, seen, "Let both machines set their clocks by NTP.")
    if off_by > SKEW_NOTED_S:
        return Finding(check, Verdict.NOTED, seen, "See that both machines set their clocks by NTP.")
    return Finding(check, Verdict.OK, seen)


def _disk(check: str, free: int) -> Finding:

    if free < LEAST_FREE_BYTES:
        return Finding(check, Verdict.WRONG, f"{size(free)} free", "Free some space now: stores stop when it is full.")
    if free < SCARCE_FREE_BYTES:
        return Finding(check, Verdict.NOTED, f"{size(free)} free", "Free some space.")
    return Finding(check, Verdict.OK, f"{size(free)} free")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
