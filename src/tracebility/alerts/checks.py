"""What an operator should know of: looked at every minute, told once when it begins and once when it is over.

An alert is a line of the log, a metric, and a notification; notifications go to the webhook, signed, until it has taken
them. What this process has told is in its memory: a new leader tells what stands once more.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from tracebility.alerts.metrics import AlertMetrics
from tracebility.audit.verify import Problem
from tracebility.errors import StoreUnavailable
from tracebility.ids import OrgId, uuid7
from tracebility.stores.clickhouse import Engine
from tracebility.stores.ledger import OrgQueue, RawRows, ledger
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

PERIOD_S = 60.0

# An entry that waits for so long: the worker is away, or cannot keep up.
LAG_S = 60.0
# The longest shard beside the mean, from so many entries on: below, no order is to be expected.
SKEW, SKEW_FROM_ENTRIES = 4.0, 1_000
CLOCKS_APART_MS = 2_000
# Of what is missing so many are named.
NAMED = 20
# Orgs whose books are checked in one look, at some 40 ms each; the others have their turn in the next.
BOOKS = 250

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is not as it should be."""

    kind: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


class Alerts:
    """One operator's look at the installation."""

    def __init__(
        self,
        control: Postgres,
        engine: Engine,
        queue: Queue,
        hot: RedisControl,
        metrics: AlertMetrics,
        due: set[UUID],
        tampered: Callable[[], Sequence[Problem]] = tuple,
    ) -> None:
        """``due``: orgs whose books are to be checked, each of which is taken out for it. ``tampered``: what the last
        verification of the audit trail found.
        """
        self._due = due
        self._tampered = tampered
        self._control = control
        self._engine = engine
        self._queue = queue
        self._hot = hot
        self._metrics = metrics
        self._standing: dict[str, Alert] = {}
        self._dead_before: int | None = None
        self._unbalanced: set[UUID] = set()

    async def tick(self) -> list[Alert]:
        """Look at everything; what stands now. What cannot be looked at, because a store is away, stands as before.

        Raises:
            StoreUnavailable: when a store is away.
        """
        looks: Mapping[str, Callable[[], Awaitable[Alert | None]]] = {
            "queue_lag": self._lag,
            "shard_skew": self._skew,
            "dead_letters": self._dead,
            "disk_buffer": self._spilled,
            "queue_durability": self._durability,
            "books": self._books,
            "audit_gaps": self._gaps,
            "audit_tampered": self._tampering,
            "clock_skew": self._clocks,
        }
        away: StoreUnavailable | None = None
        for kind, look in looks.items():
            try:
                await self._tell(kind, await look())
            except StoreUnavailable as error:  # the other looks may be at other stores
                away = error
        if away is not None:
            raise away
        return list(self._standing.values())

    async def _tell(self, kind: str, found: Alert | None) -> None:
        self._metrics.standing.labels(kind).set(found is not None)
        before = self._standing.pop(kind, None)
        if found is not None:
            self._standing[kind] = found
        if (found is None) == (before is None):
            return
        told = found or Alert(kind, f"{kind} is over")
        (log.error if found else log.info)("alert", kind=kind, text=told.text, **told.details)
        body = {"text": told.text, "state": "firing" if found else "over", **told.details}
        await self._control.execute("insert_notification", uuid7(), kind, None, body)

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
        """More than there were: an operator who leaves them lying knows of them. And orgs that have more than their
        share, which are refused for as long.
        """
        letters = await self._queue.length(DEAD_LETTER_STREAM)
        before, self._dead_before = self._dead_before, letters
        held = await self._queue.dead_bytes()
        refused = [org_id for org_id, size in held.items() if await refuse_if_over(self._hot, org_id, size)]
        said = []
        details: dict[str, Any] = {"dead_letters": letters}
        if before is not None and letters > before:
            said.append(f"{letters - before} more dead letters")
        if refused:
            said.append(f"{len(refused)} orgs have too many and are refused: tracebility dlq list --org ORG")
            details["refused"] = sorted(map(str, refused))[:NAMED]
        return Alert("dead_letters", "; ".join(said), details) if said else None

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

    async def _books(self) -> Alert | None:
        """Envelopes in flight by the books and in no stream any more; orgs whose books did not balance twice."""
        missing = await self._queue.missing(ALL_STREAMS)
        self._metrics.missing.set(len(missing))
        due = [*self._due][:BOOKS]
        found = await self._out_of_balance({*due, *self._unbalanced})
        # Of what a process left half-done as it died the books are out by that, until another has done it.
        unbalanced, self._unbalanced = sorted(found & self._unbalanced), found
        self._due.difference_update(due)
        if not missing and not unbalanced:
            return None
        said = []
        details: dict[str, Any] = {}
        if missing:
            said.append(f"{len(missing)} envelopes are missing")
            named = [f"{org_id}/{envelope_id}" for org_id, envelope_id in missing[:NAMED]]
            details |= {"missing": len(missing), "envelopes": named}
        if unbalanced:
            said.append(f"the books of {len(unbalanced)} orgs do not balance: tracebility ledger ORG")
            details["orgs"] = [str(org_id) for org_id in unbalanced[:NAMED]]
        return Alert("books", "; ".join(said), details)

    async def _out_of_balance(self, orgs: Iterable[UUID]) -> set[UUID]:
        found: set[UUID] = set()
        for org_id in orgs:
            of_org = OrgId(org_id)
            books = await ledger(OrgQueue(self._queue, of_org), RawRows(self._engine, of_org))
            if not books.balanced:
                found.add(org_id)
        return found

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
        mine = time.time() * 1000
        seconds, micros = await self._hot.command("TIME")
        said = {
            "redis": int(seconds) * 1000 + int(micros) // 1000,
            "postgres": await self._control.fetchval("control_plane_clock"),
            "clickhouse": (await self._engine.query(query("check_engine"))).rows[0][0],
        }
        apart = {store: round(at - mine) for store, at in said.items() if abs(at - mine) > CLOCKS_APART_MS}
        return Alert("clock_skew", "Clocks are apart", {"milliseconds": apart}) if apart else None
