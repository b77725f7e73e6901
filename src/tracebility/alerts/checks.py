"""Checks that find what an operator should know of, every few seconds, side by side and each within a time of its own.

A store that does not answer fails the checks that need it and holds up no other one. An alert whose check failed stays
as it was; the store itself is the alert ``store_away``.
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
from tracebility.stores.redis_control import Hot
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
# A store that is started again is back within 5 s (`embedded.service`); only a longer absence is an alert.
MISSED_CHECKS = 2

# A span is queryable within 3 s. An entry that waits this long has no worker, or one that cannot keep up.
LAG_S = 20.0
# The longest shard beside the mean, from so many entries on: below, no order is to be expected.
SKEW, SKEW_FROM_ENTRIES = 4.0, 1_000
CLOCKS_APART_MS = 2_000
# The most that one alert names.
NAMED = 20

log = structlog.get_logger()


class Alerts:
    """One operator's checks of the installation."""

    def __init__(
        self,
        standing: StandingAlerts,
        control: Postgres,
        engine: Engine,
        queue: Queue,
        hot: Hot,
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
        """Run every check; the alerts that stand now.

        Raises:
            StoreUnavailable: when a check failed because a store is away. The other checks have been made.
        """
        checks: Mapping[str, Callable[[], Awaitable[Alert | None]]] = {
            "store_away": self._stores,
            "queue_lag": self._lag,
            "shard_skew": self._skew,
            "dead_letters": self._dead,
            "disk_buffer": self._spilled,
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
        """Stores that missed `MISSED_CHECKS` checks. Without PostgreSQL nobody leads: see `without_postgres`."""
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
        """Of the shards, with what waits beside them: an org that sends too much is there for most of it."""
        depths = await self._queue.depths((*SHARD_STREAMS, *OVERFLOW_STREAMS))
        lengths = {
            stream: depths[stream].length + depths[beside].length
            for stream, beside in zip(SHARD_STREAMS, OVERFLOW_STREAMS, strict=True)
        }
        hottest = max(lengths, key=lambda stream: lengths[stream])
        mean = sum(lengths.values()) / SHARDS
        if lengths[hottest] < max(SKEW * mean, SKEW_FROM_ENTRIES):
            return None
        text = f"{hottest} has {lengths[hottest]} entries, {mean:.0f} is the mean"
        return Alert("shard_skew", text, {"stream": hottest, "entries": lengths[hottest], "mean": round(mean)})

    async def _dead(self) -> Alert | None:
        """Stands while there are dead letters. An org with more than its share is refused as long as it has them."""
        letters = await self._queue.length(DEAD_LETTER_STREAM)
        held = await self._queue.dead_bytes()
        refused = [org_id for org_id, size in held.items() if await refuse_if_over(self._hot, org_id, size)]
        if not letters and not refused:
            return None
        text = f"{letters} dead letters: tracebility dlq list"
        details: dict[str, Any] = {"dead_letters": letters}
        if refused:
            text += f"; {len(refused)} orgs have too many and are refused: tracebility dlq list --org ORG"
            details["refused"] = sorted(map(str, refused))[:NAMED]
        return Alert("dead_letters", text, details, size=letters)

    async def _spilled(self) -> Alert | None:
        names = {bytes(name).decode() for name in await self._hot.command("ZRANGE", EDGES, 0, -1)}
        said = await self._hot.command("HGETALL", DISK_BUFFERS)
        held = {bytes(name).decode(): int(size) for name, size in zip(said[::2], said[1::2], strict=True) if int(size)}
        if not held:
            return None
        gone = sorted(name for name in held if name not in names)
        text = f"{sum(held.values()):,} bytes are in disk buffers"
        if gone:
            text += f"; {len(gone)} of their processes are gone"
        return Alert("disk_buffer", text, {"bytes": sum(held.values()), "gone": gone})

    async def _durability(self) -> Alert | None:
        """A queue that answers before its disk has it: slow disks (``aof_delayed_fsync``) make the loss larger."""
        names = ("aof_enabled", "appendfsync", "aof_last_write_status", "aof_delayed_fsync")
        weak = {
            place: {name: server[name] for name in names if name in server}
            for place, server in (await self._queue.info()).items()
            if not is_durable(server)
        }
        if not weak:
            return None
        text = "What is acknowledged may not be on the queue's disk: tracebility doctor says what to set"
        return Alert("queue_durability", text, {"servers": weak})

    async def _gaps(self) -> Alert | None:
        [row] = (await self._engine.query(query("unrepaired_gaps"))).dicts()
        gaps = int(row["gaps"])
        return Alert("audit_gaps", f"{gaps} gaps of the audit trail are not repaired", {"gaps": gaps}) if gaps else None

    async def _tampering(self) -> Alert | None:
        found = self._tampered()
        if not found:
            return None
        details = {"problems": len(found), "named": [problem.document() for problem in found[:NAMED]]}
        return Alert("audit_tampered", "The audit trail is not as it was written: tracebility audit verify", details)

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
        return Alert("clock_skew", "Clocks are apart", {"milliseconds": apart}) if apart else None


def store_away(missing: Mapping[str, str]) -> Alert:
    """The alert for stores that do not answer, with the reason of each."""
    text = "; ".join(f"{store} is away: {reason}" for store, reason in sorted(missing.items()))
    return Alert("store_away", text, {"stores": dict(missing)})


async def clock_offset_ms(ask: Callable[[], Awaitable[int]]) -> float:
    """How far a clock is ahead of this machine's, less what a slow answer can explain: half of its round trip."""
    asked = time.time() * 1000
    said = await ask()
    answered = time.time() * 1000
    offset = said - (asked + answered) / 2
    unexplained = max(abs(offset) - (answered - asked) / 2, 0.0)
    return unexplained if offset > 0 else -unexplained
