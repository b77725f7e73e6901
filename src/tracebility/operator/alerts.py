"""What an operator should know of: looked at every minute, told once when it begins and once when it is over.

An alert is a line of the log, a metric, and a notification; notifications go to the webhook, signed, until it has taken
them. What this process has told is in its memory: a new leader tells what stands once more.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from tracebility.ids import uuid7
from tracebility.operator.metrics import OperatorMetrics
from tracebility.stores.clickhouse import Engine
from tracebility.stores.hot import Hot
from tracebility.stores.postgres import Postgres
from tracebility.stores.queries import query
from tracebility.stores.redis import Depth, Queue, is_durable
from tracebility.tenant.quota import EDGES, SPOOLS
from tracebility.tenant.shards import ALL_STREAMS, DEAD_LETTER_STREAM, SHARD_STREAMS, SHARDS

PERIOD_S = 60.0

# An entry that waits for so long: the worker is away, or cannot keep up.
LAG_S = 60.0
# The longest shard beside the mean, from so many entries on: below, no order is to be expected.
SKEW, SKEW_FROM_ENTRIES = 4.0, 1_000
CLOCKS_APART_MS = 2_000
# Of what is missing so many are named.
NAMED = 20

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is not as it should be."""

    kind: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


class Alerts:
    """One operator's look at the installation."""

    def __init__(self, control: Postgres, engine: Engine, queue: Queue, hot: Hot, metrics: OperatorMetrics) -> None:
        self._control = control
        self._engine = engine
        self._queue = queue
        self._hot = hot
        self._metrics = metrics
        self._standing: dict[str, Alert] = {}
        self._dead_before: int | None = None

    async def tick(self) -> list[Alert]:
        """Look at everything; what stands now. What cannot be looked at, because a store is away, stands as before.

        Raises:
            StoreUnavailable: when a store is away.
        """
        depths = await self._queue.depths((*ALL_STREAMS, DEAD_LETTER_STREAM))
        looks: Mapping[str, Callable[[], Awaitable[Alert | None]]] = {
            "queue_lag": lambda: self._lag(depths),
            "shard_skew": lambda: self._skew(depths),
            "dead_letters": lambda: self._dead(depths[DEAD_LETTER_STREAM].length),
            "disk_buffer": self._spilled,
            "queue_durability": self._durability,
            "books": self._missing,
            "audit_gaps": self._gaps,
            "clock_skew": self._clocks,
        }
        for kind, look in looks.items():
            await self._tell(kind, await look())
        return list(self._standing.values())

    async def _tell(self, kind: str, found: Alert | None) -> None:
        self._metrics.alerts.labels(kind).set(found is not None)
        before = self._standing.pop(kind, None)
        if found is not None:
            self._standing[kind] = found
        if (found is None) == (before is None):
            return
        told = found or Alert(kind, f"{kind} is over")
        (log.error if found else log.info)("alert", kind=kind, text=told.text, **told.details)
        body = {"text": told.text, "state": "firing" if found else "over", **told.details}
        await self._control.execute("insert_notification", uuid7(), kind, None, body)

    async def _lag(self, depths: Mapping[str, Depth]) -> Alert | None:
        now_ms = time.time() * 1000
        late = {stream: depth.oldest_ms for stream, depth in depths.items() if depth.oldest_ms is not None}
        late.pop(DEAD_LETTER_STREAM, None)
        waits = {stream: round((now_ms - oldest) / 1000) for stream, oldest in late.items()}
        longest = max(waits.values(), default=0)
        if longest < LAG_S:
            return None
        return Alert("queue_lag", f"Envelopes wait for {longest} s", {"seconds": longest, "streams": waits})

    async def _skew(self, depths: Mapping[str, Depth]) -> Alert | None:
        lengths = {stream: depths[stream].length for stream in SHARD_STREAMS}
        hottest = max(lengths, key=lambda stream: lengths[stream])
        mean = sum(lengths.values()) / SHARDS
        if lengths[hottest] < max(SKEW * mean, SKEW_FROM_ENTRIES):
            return None
        text = f"{hottest} has {lengths[hottest]} entries, {mean:.0f} is the mean"
        return Alert("shard_skew", text, {"stream": hottest, "entries": lengths[hottest], "mean": round(mean)})

    async def _dead(self, letters: int) -> Alert | None:
        """More than there were: an operator who leaves them lying knows of them."""
        before, self._dead_before = self._dead_before, letters
        if before is None or letters <= before:
            return None
        return Alert("dead_letters", f"{letters - before} more dead letters", {"dead_letters": letters})

    async def _spilled(self) -> Alert | None:
        names = {bytes(name).decode() for name in await self._hot.command("ZRANGE", EDGES, 0, -1)}
        said = await self._hot.command("HGETALL", SPOOLS)
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

    async def _missing(self) -> Alert | None:
        """Envelopes that are in flight by the books, and in no stream any more."""
        missing = await self._queue.missing(ALL_STREAMS)
        self._metrics.missing.set(len(missing))
        if not missing:
            return None
        named = [f"{org_id}/{envelope_id}" for org_id, envelope_id in missing[:NAMED]]
        return Alert("books", f"{len(missing)} envelopes are missing", {"missing": len(missing), "envelopes": named})

    async def _gaps(self) -> Alert | None:
        [row] = (await self._engine.query(query("unrepaired_gaps"))).dicts()
        gaps = int(row["gaps"])
        return Alert("audit_gaps", f"{gaps} gaps of the audit trail are not repaired", {"gaps": gaps}) if gaps else None

    async def _clocks(self) -> Alert | None:
        mine = time.time() * 1000
        seconds, micros = await self._hot.command("TIME")
        said = {
            "redis": int(seconds) * 1000 + int(micros) // 1000,
            "postgres": await self._control.fetchval("control_plane_clock"),
            "clickhouse": (await self._engine.query(query("check_engine"))).rows[0][0],
        }
        apart = {store: round(at - mine) for store, at in said.items() if abs(at - mine) > CLOCKS_APART_MS}
        return Alert("clock_skew", "Clocks are apart", {"milliseconds": apart}) if apart else None
