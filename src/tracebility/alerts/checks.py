"""The alert checks: they run concurrently every few seconds, each with its own timeout.

A store that does not answer fails only the checks that need it. An alert whose check failed stays unchanged; the
unavailable store has its own alert, ``store_away``.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from tracebility.alerts.standing import Alert, StandingAlerts
from tracebility.audit.verify import Problem
from tracebility.errors import StoreUnavailable
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres
from tracebility.stores.queries import query
from tracebility.stores.queue import Queue
from tracebility.stores.queue.inspection import is_durable
from tracebility.stores.redis_control import RedisControl
from tracebility.tenant.dead_letters import refuse_if_over
from tracebility.tenant.quota import DISK_BUFFERS, EDGES
from tracebility.tenant.shard_router import (
    ALL_STREAMS,
    DEAD_LETTER_STREAM,
    OVERFLOW_STREAMS,
    SHARD_STREAMS,
    SHARDS,
)

PERIOD_S = 5.0
CHECK_WAIT_S = 3.0
# A restarted store is back within 5 s (`embedded.service`); only a longer outage is an alert.
MISSED_CHECKS = 2

# A span is queryable within 3 s. If an entry waits this long, no worker runs or the workers cannot keep up.
LAG_S = 20.0
# Longest shard over the mean. Ignored below this number of entries, where skew is normal.
SKEW, SKEW_FROM_ENTRIES = 4.0, 1_000
CLOCKS_APART_MS = 2_000
# The most that one alert names.
NAMED = 20

log = structlog.get_logger()


class Alerts:
    """Checks the installation."""

    def __init__(
        self,
        standing: StandingAlerts,
        control: Postgres,
        engine: Engine,
        queue: Queue,
        hot: RedisControl,
        missing_stores: Callable[[], Awaitable[Mapping[str, str]]],
        tampered: Callable[[], Sequence[Problem]] = tuple,
    ) -> None:
        """``missing_stores``: the stores that do not answer now. ``tampered``: what the last verification of the audit
        log found.
        """
        self._standing = standing
        self._control = control
        self._engine = engine
        self._queue = queue
        self._hot = hot
        self._missing_stores = missing_stores
        self._tampered = tampered
        self._missed: dict[str, int] = {}

    async def tick(self) -> list[Alert]:
        """Run all checks and return the current alerts.

        Raises:
            StoreUnavailable: when a check failed because a store is unavailable, after the other checks have run.
        """
        checks: Mapping[str, Callable[[], Awaitable[Alert | None]]] = {
            "store_away": self._stores,
            "queue_lag": self._lag,
            "shard_skew": self._skew,
            "dead_letters": self._dead,
            "disk_buffer": self._disk_buffers,
            "queue_durability": self._durability,
            "audit_gaps": self._gaps,
            "audit_tampered": self._tampering,
            "clock_skew": self._clocks,
        }
        failures = await asyncio.gather(*(self._checked(kind, check) for kind, check in checks.items()))
        for failure in failures:
            if failure is not None:
                raise failure
        return await self._standing.all()

    async def _checked(self, kind: str, check: Callable[[], Awaitable[Alert | None]]) -> StoreUnavailable | None:
        try:
            async with asyncio.timeout(CHECK_WAIT_S):
                found = await check()
        except StoreUnavailable as away:
            return away
        except TimeoutError:
            return StoreUnavailable("a store", f"no answer to the check {kind} within {CHECK_WAIT_S:.0f} s")
        try:
            await self._standing.tell(kind, found)
        except StoreUnavailable as away:
            return away
        return None

    async def _stores(self) -> Alert | None:
        """Stores that missed `MISSED_CHECKS` checks. Without PostgreSQL there is no leader: see `without_postgres`."""
        missing = await self._missing_stores()
        self._missed = {store: self._missed.get(store, 0) + 1 for store in missing}
        away = {store: missing[store] for store, times in self._missed.items() if times >= MISSED_CHECKS}
        return store_away(away) if away else None

    async def _lag(self) -> Alert | None:
        now_ms = time.time() * 1000
        depths = await self._queue.depths(ALL_STREAMS)
        late = {stream: depth.oldest_ms for stream, depth in depths.items() if depth.oldest_ms is not None}
        waits = {stream: round((now_ms - oldest) / 1000) for stream, oldest in late.items()}
        longest = max(waits.values(), default=0)
        if longest < LAG_S:
            return None
        return Alert("queue_lag", f"Envelopes wait for {longest} s", {"seconds": longest, "streams": waits})

    async def _skew(self) -> Alert | None:
        """Compare the shards with their overflow streams, which hold most entries of an org that sends too much."""
        depths = await self._queue.depths((*SHARD_STREAMS, *OVERFLOW_STREAMS))
        lengths = {
            stream: depths[stream].length + depths[beside].length
            for stream, beside in zip(SHARD_STREAMS, OVERFLOW_STREAMS, strict=True)
        }
        hottest = max(lengths, key=lambda stream: lengths[stream])
        mean = sum(lengths.values()) / SHARDS
        if lengths[hottest] < max(SKEW * mean, SKEW_FROM_ENTRIES):
            return None
        text = f"{hottest} has {lengths[hottest]} entries; the mean over all shards is {mean:.0f}"
        return Alert("shard_skew", text, {"stream": hottest, "entries": lengths[hottest], "mean": round(mean)})

    async def _dead(self) -> Alert | None:
        """Fires while there are dead letters. Also renews the refusal of orgs whose dead letters exceed their limit."""
        letters = await self._queue.length(DEAD_LETTER_STREAM)
        held = await self._queue.dead_bytes()
        refused = [org_id for org_id, size in held.items() if await refuse_if_over(self._hot, org_id, size)]
        if not letters and not refused:
            return None
        text = f"{letters} dead letters: tracebility dlq list"
        details: dict[str, Any] = {"dead_letters": letters}
        if refused:
            text += f"; {len(refused)} orgs exceed their limit and are refused: tracebility dlq list --org ORG"
            details["refused"] = sorted(map(str, refused))[:NAMED]
        return Alert("dead_letters", text, details, size=letters)

    async def _disk_buffers(self) -> Alert | None:
        names = {bytes(name).decode() for name in await self._hot.command("ZRANGE", EDGES, 0, -1)}
        pairs = await self._hot.command("HGETALL", DISK_BUFFERS)
        held = {
            bytes(name).decode(): int(size) for name, size in zip(pairs[::2], pairs[1::2], strict=True) if int(size)
        }
        if not held:
            return None
        gone = sorted(name for name in held if name not in names)
        text = f"{sum(held.values()):,} bytes wait in disk buffers"
        if gone:
            text += f"; {len(gone)} of the ingest processes that own them are not running"
        return Alert("disk_buffer", text, {"bytes": sum(held.values()), "gone": gone})

    async def _durability(self) -> Alert | None:
        """Servers that acknowledge writes before they are on disk. Slow disks (``aof_delayed_fsync``) increase the
        loss.
        """
        names = ("aof_enabled", "appendfsync", "aof_last_write_status", "aof_delayed_fsync")
        weak = {
            place: {name: server[name] for name in names if name in server}
            for place, server in (await self._queue.info()).items()
            if not is_durable(server)
        }
        if not weak:
            return None
        text = "The queue may lose acknowledged writes in a crash: tracebility doctor names the settings to change"
        return Alert("queue_durability", text, {"servers": weak})

    async def _gaps(self) -> Alert | None:
        [row] = (await self._engine.query(query("unrepaired_gaps"))).dicts()
        gaps = int(row["gaps"])
        return Alert("audit_gaps", f"{gaps} gaps in the audit log are not repaired", {"gaps": gaps}) if gaps else None

    async def _tampering(self) -> Alert | None:
        found = self._tampered()
        if not found:
            return None
        details = {"problems": len(found), "named": [problem.document() for problem in found[:NAMED]]}
        return Alert("audit_tampered", "The audit log was tampered with: run tracebility audit verify", details)

    async def _clocks(self) -> Alert | None:
        async def of_redis() -> int:
            seconds, micros = await self._hot.command("TIME")
            return int(seconds) * 1000 + int(micros) // 1000

        async def of_postgres() -> int:
            return int(await self._control.fetchval("control_plane_clock"))

        async def of_clickhouse() -> int:
            return int((await self._engine.query(query("check_engine"))).rows[0][0])

        clocks = {"redis": of_redis, "postgres": of_postgres, "clickhouse": of_clickhouse}
        offsets = await asyncio.gather(*(clock_offset_ms(ask) for ask in clocks.values()))
        apart = {
            store: round(offset) for store, offset in zip(clocks, offsets, strict=True) if abs(offset) > CLOCKS_APART_MS
        }
        return Alert("clock_skew", "The clocks of the stores differ", {"milliseconds": apart}) if apart else None


def store_away(missing: Mapping[str, str]) -> Alert:
    """The alert for stores that do not answer, with the reason of each."""
    text = "; ".join(f"{store} is away: {reason}" for store, reason in sorted(missing.items()))
    return Alert("store_away", text, {"stores": dict(missing)})


async def clock_offset_ms(ask: Callable[[], Awaitable[int]]) -> float:
    """Return how far a clock is ahead of this machine's, minus half of the round trip, which may explain it."""
    asked = time.time() * 1000
    said = await ask()
    answered = time.time() * 1000
    offset = said - (asked + answered) / 2
    unexplained = max(abs(offset) - (answered - asked) / 2, 0.0)
    return unexplained if offset > 0 else -unexplained
