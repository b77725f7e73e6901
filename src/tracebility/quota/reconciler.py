"""The quota reconciler settles usage: it sums the metered rows in ClickHouse and corrects PostgreSQL and Redis.

A tick determines the watermark (the last time slot without envelopes in flight), sums what was accepted up to it,
writes the sum to PostgreSQL, and replaces the slots up to it in the Redis counter. Both only accept newer watermarks,
so a late or repeated tick, or one of a deposed leader, changes nothing. If a store is unavailable, the tick ends before
it writes: an unknown sum is never treated as zero.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from tracebility.audit.events import SYSTEM, AuditWriter, Event, EventType
from tracebility.errors import AuditLogTampered
from tracebility.failpoints import failpoint
from tracebility.ids import OrgId
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres
from tracebility.stores.queries import query
from tracebility.stores.queue import Queue
from tracebility.stores.redis_control import RedisControl
from tracebility.tenant.context import MeterLimit
from tracebility.tenant.quota import METERED, METERS, OLDEST_BUFFERED, SLOT_US, QuotaMeter, Usage, usage_key
from tracebility.tenant.redis_keys import over_flag
from tracebility.tenant.scripts import SET_FLAG
from tracebility.tenant.shard_router import OVERFLOW_STREAMS, SHARD_STREAMS

PERIOD_S = 60.0
# The longest time from an envelope's stamp to its queue entry, or to the heartbeat that reports it in the disk buffer:
# more than the deadlines of ingest plus one heartbeat.
SKEW_US = 8_000_000
# How long settlement waits for the disk buffer of a process that has ended. An alert reports it much earlier.
ENDED_BUFFER_WAIT_US = 3600 * 10**6
# Orgs summed in one statement.
ORGS_PER_SUM = 500
OVER_FLAG_LIFE_MS = 180_000


log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tick:
    """The result of a tick. Usage accepted before ``watermark`` (RFC 3339) is settled."""

    watermark: str
    orgs: int
    advanced: int
    corrected: int

    def document(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Limits:
    by_org: dict[OrgId, dict[str, MeterLimit]]

    def hard(self, org_id: OrgId, meter: str) -> int | None:
        limit = self.by_org[org_id].get(meter)
        return None if limit is None else limit.hard

    def soft(self, org_id: OrgId, meter: str) -> int | None:
        limit = self.by_org[org_id].get(meter)
        return None if limit is None else limit.soft


class QuotaReconciler:
    """Settles usage. Several may run at once."""

    def __init__(
        self,
        control: Postgres,
        engine: Engine,
        queue: Queue,
        hot: RedisControl,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._control = control
        self._engine = engine
        self._queue = queue
        self._hot = hot
        self._meter = QuotaMeter(hot)
        self._audit = AuditWriter()
        self._now_us = now_us
        # All metered usage, including after the watermark, and the time of the sum: for display.
        self._metered: dict[tuple[OrgId, str], tuple[int, int]] = {}
        self.settled_orgs: set[UUID] = set()  # orgs settled since; the ledger check removes those it has checked

    async def tick(self) -> Tick:
        """Settle all orgs whose usage has changed.

        Raises:
            StoreUnavailable: when a store is unavailable. Orgs settled so far are correct; the others are unchanged.
        """
        watermark = await self.watermark()
        end_us = (watermark + 1) * SLOT_US
        changed = await self._changed()
        self.settled_orgs |= {org for org, _ in changed}
        advanced = corrected = 0
        for period in sorted({period for _, period in changed}):
            orgs = sorted(org for org, changed_period in changed if changed_period == period)
            for start in range(0, len(orgs), ORGS_PER_SUM):
                some = orgs[start : start + ORGS_PER_SUM]
                for org_id, usage in (await self._sums(some, period, watermark)).items():
                    failpoint("quota_after_sum_before_settle")
                    advanced += await self._settle(org_id, period, usage)
                    await self._report_soft_limits(org_id, period, usage)
                    corrected += await self._meter.settle(org_id, period, usage)
                    await self._set_over_flag(org_id, period)
        await self._control.execute("advance_watermark", watermark)
        # Changes before the watermark are settled; orgs with later changes stay in the set for the next tick.
        await self._hot.command("ZREMRANGEBYSCORE", METERED, "-inf", f"({end_us // 1000}")
        return Tick(_rfc3339(end_us), len({org for org, _ in changed}), advanced, corrected)

    async def watermark(self) -> int:
        """Return the last slot (since 1970) of which no envelope is in a disk buffer or in the queue.

        They are read in the order in which envelopes pass them, so that none is missed in between. An envelope that is
        stored after its slot was settled marks its org as changed, and the org is summed again.
        """
        now_us = self._now_us()
        buffered = await self._buffered_slots(now_us)
        # Legacy envelopes are not waited for: they reserved no usage, and may never be read.
        depths = await self._queue.depths((*SHARD_STREAMS, *OVERFLOW_STREAMS))
        oldest = [depth.oldest_ms for depth in depths.values() if depth.oldest_ms is not None]
        oldest_ms = min((*oldest, now_us // 1000))
        late = await self._queue.late_slots(oldest_ms)
        held = [slot * SLOT_US for slot in (*buffered, *late)]
        return (min((oldest_ms * 1000, *held)) - SKEW_US) // SLOT_US - 1

    async def _buffered_slots(self, now_us: int) -> list[int]:
        """Return the oldest slot of each disk buffer."""
        values = await self._hot.command("HVALS", OLDEST_BUFFERED)
        reports = [tuple(map(int, value.split(b"|"))) for value in values]
        return [slot for slot, at_ms in reports if now_us - at_ms * 1000 <= ENDED_BUFFER_WAIT_US]

    async def _changed(self) -> list[tuple[UUID, str]]:
        members = await self._hot.command("ZRANGE", METERED, 0, -1)
        pairs = (member.decode().partition("|") for member in members)
        return [(UUID(org), period) for org, _, period in pairs]

    async def _sums(self, orgs: list[UUID], period: str, watermark: int) -> dict[OrgId, Usage]:
        """Return the usage of each existing org; zero where nothing is metered."""
        self._limits = _limits(await self._control.fetch("limits_of_orgs", orgs))
        known = list(self._limits.by_org)
        end_us = (watermark + 1) * SLOT_US
        result = await self._engine.query(
            query("metered_usage"), {"orgs": list(map(str, known)), "period": period, "end_us": end_us}
        )
        used: dict[OrgId, dict[str, int]] = {org_id: dict.fromkeys(METERS, 0) for org_id in known}
        self._metered = {}
        for org, meter, quantity, metered, at_us in result.rows:
            org_id = OrgId(UUID(str(org)))
            used[org_id][meter] = int(quantity)
            self._metered[org_id, meter] = int(metered), int(at_us)
        return {org_id: Usage(watermark, meters) for org_id, meters in used.items()}

    async def _settle(self, org_id: OrgId, period: str, usage: Usage) -> bool:
        """Write usage to PostgreSQL; False when it already has this or a later watermark."""
        moved = False
        async with self._control.transaction() as transaction:
            for meter in METERS:
                used = usage.used[meter]
                tag = await transaction.execute("settle_usage", org_id, period, meter, used, usage.watermark)
                moved |= tag.endswith(" 1")
                metered = self._metered.get((org_id, meter))
                if metered is not None:
                    await transaction.execute("record_metered", org_id, period, meter, *metered)
        return moved

    async def _report_soft_limits(self, org_id: OrgId, period: str, usage: Usage) -> None:
        """Report each soft limit that usage has reached, once. Not for an org whose audit log refuses new events."""
        for meter in METERS:
            used, soft = usage.used[meter], self._limits.soft(org_id, meter)
            if soft is None or used < soft:
                continue
            try:
                async with self._control.transaction() as transaction:
                    if await transaction.fetchrow("mark_soft_limit_reported", org_id, period, meter) is None:
                        continue
                    details = {"period": period, "used": used, "soft_limit": soft}
                    log.warning("soft limit reached", org_id=str(org_id), meter=meter, **details)
                    event = Event(EventType.QUOTA_SOFT_LIMIT_REACHED, org_id, SYSTEM, "meter", meter, details)
                    await self._audit.record(transaction, event)
                    body = {"meter": meter, **details}
                    await transaction.execute("insert_notification", event.id, event.type, org_id, body)
            except AuditLogTampered as error:
                log.error("trail_tampered", event_type=event.type, org_id=str(org_id), reason=error.reason)

    async def _set_over_flag(self, org_id: OrgId, period: str) -> None:
        """Set or clear the over-quota flag, by the counter that includes unsettled usage."""
        counted = await self._hot.command("HMGET", usage_key(org_id, period), *METERS)
        over = [
            meter
            for meter, used in zip(METERS, counted, strict=True)
            if (hard := self._limits.hard(org_id, meter)) is not None and int(used or 0) >= hard
        ]
        at = over_flag(org_id, period)
        if over:
            await self._hot.run(SET_FLAG, [at], [over[0], OVER_FLAG_LIFE_MS])
        else:
            await self._hot.command("DEL", at)


def _limits(rows: Iterable[Any]) -> _Limits:
    by_org: dict[OrgId, dict[str, MeterLimit]] = {}
    for row in rows:
        meters = by_org.setdefault(OrgId(row["org_id"]), {})
        if row["meter"] is not None:
            meters[row["meter"]] = MeterLimit(row["hard_limit"], row["soft_limit"])
    return _Limits(by_org)


def _rfc3339(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
