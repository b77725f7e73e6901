"""The quota reconciler: what the data plane has metered becomes the truth of quotas, and corrects the hot counters.

A tick takes the watermark, the last slot of which nothing is under way any more; sums what was accepted up to it;
writes that to the control plane and, in place of the slots up to it, to the hot counter. Both only move forward, so a
tick that comes late, twice, or from an operator that no longer leads changes nothing. A store that is away ends the
tick before anything is written: a sum that is not known is never a zero.
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
# From a stamp at the edge to its entry in the queue, or to the beat that says that it is on disk: above the edge's
# deadlines and a beat.
SKEW_US = 8_000_000
# What a disk buffer held whose process is gone: in an hour it is started again, or somebody has been told for long that
# it was not. Everyone's settlement waits no longer for it.
GONE_HOLDS_US = 3600 * 10**6
# Orgs summed in one statement.
ORGS_A_SUM = 500
OVER_FLAG_LIFE_MS = 180_000


log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tick:
    """What a tick did. ``watermark`` is RFC 3339: what was accepted before it is settled."""

    watermark: str
    orgs: int
    advanced: int
    corrected: int

    def document(self) -> dict[str, Any]:
        """For programs."""
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
    """One operator's reconciler; any number of them do no harm."""

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
        # All that is metered, and when that was so: for who looks at quotas, and does not wait for the watermark.
        self._metered: dict[tuple[OrgId, str], tuple[int, int]] = {}
        self.looked_at: set[UUID] = set()  # whose usage was settled; whoever checks their books takes them out

    async def tick(self) -> Tick:
        """Settle everyone whose usage has changed.

        Raises:
            StoreUnavailable: when a store is away. What is settled by then is right; the rest is as it was.
        """
        watermark = await self.watermark()
        end_us = (watermark + 1) * SLOT_US
        changed = await self._changed()
        self.looked_at |= {org for org, _ in changed}
        advanced = corrected = 0
        for period in sorted({period for _, period in changed}):
            orgs = sorted(org for org, said in changed if said == period)
            for start in range(0, len(orgs), ORGS_A_SUM):
                some = orgs[start : start + ORGS_A_SUM]
                for org_id, usage in (await self._sums(some, period, watermark)).items():
                    failpoint("quota_after_sum_before_settle")
                    advanced += await self._settle(org_id, period, usage)
                    await self._tell(org_id, period, usage)
                    corrected += await self._meter.settle(org_id, period, usage)
                    await self._keep_flag(org_id, period)
        await self._control.execute("settle_everyone", watermark)
        # What was said before the watermark is settled; who said something since is looked at again.
        await self._hot.command("ZREMRANGEBYSCORE", METERED, "-inf", f"({end_us // 1000}")
        return Tick(_rfc3339(end_us), len({org for org, _ in changed}), advanced, corrected)

    async def watermark(self) -> int:
        """The last slot, since 1970, of which nothing is in a disk buffer or in the queue any more.

        They are asked in the order in which an envelope passes them, so that none is between two answers. One that was
        not waited for is late: its org is marked again when it is stored, and summed again.
        """
        now_us = self._now_us()
        spooled = await self._spooled(now_us)
        # What comes from before the shards reserved nothing, and may lie undrained: nobody waits for it.
        depths = await self._queue.depths((*SHARD_STREAMS, *OVERFLOW_STREAMS))
        oldest = [depth.oldest_ms for depth in depths.values() if depth.oldest_ms is not None]
        oldest_ms = min((*oldest, now_us // 1000))
        late = await self._queue.late_slots(oldest_ms)
        held = [slot * SLOT_US for slot in (*spooled, *late)]
        return (min((oldest_ms * 1000, *held)) - SKEW_US) // SLOT_US - 1

    async def _spooled(self, now_us: int) -> list[int]:
        """The oldest slot in each disk buffer."""
        said = await self._hot.command("HVALS", OLDEST_BUFFERED)
        figures = [tuple(map(int, one.split(b"|"))) for one in said]
        return [slot for slot, at_ms in figures if now_us - at_ms * 1000 <= GONE_HOLDS_US]

    async def _changed(self) -> list[tuple[UUID, str]]:
        members = await self._hot.command("ZRANGE", METERED, 0, -1)
        pairs = (member.decode().partition("|") for member in members)
        return [(UUID(org), period) for org, _, period in pairs]

    async def _sums(self, orgs: list[UUID], period: str, watermark: int) -> dict[OrgId, Usage]:
        """What each org that there is has used; nothing, where nothing of it is metered."""
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
        """Write usage to the control plane; False when somebody was further already."""
        moved = False
        async with self._control.transaction() as transaction:
            for meter in METERS:
                used = usage.used[meter]
                tag = await transaction.execute("settle_usage", org_id, period, meter, used, usage.watermark)
                moved |= tag.endswith(" 1")
                metered = self._metered.get((org_id, meter))
                if metered is not None:
                    await transaction.execute("note_metered", org_id, period, meter, *metered)
        return moved

    async def _tell(self, org_id: OrgId, period: str, usage: Usage) -> None:
        """Tell of the soft limits that usage has reached, each once; of an org whose trail takes no more, nobody."""
        for meter in METERS:
            used, soft = usage.used[meter], self._limits.soft(org_id, meter)
            if soft is None or used < soft:
                continue
            try:
                async with self._control.transaction() as transaction:
                    if await transaction.fetchrow("tell_soft_limit", org_id, period, meter) is None:
                        continue
                    details = {"period": period, "used": used, "soft_limit": soft}
                    log.warning("soft limit reached", org_id=str(org_id), meter=meter, **details)
                    event = Event(EventType.QUOTA_SOFT_LIMIT_REACHED, org_id, SYSTEM, "meter", meter, details)
                    await self._audit.record(transaction, event)
                    body = {"meter": meter, **details}
                    await transaction.execute("insert_notification", event.id, event.type, org_id, body)
            except AuditLogTampered as error:
                log.error("trail_tampered", event_type=event.type, org_id=str(org_id), reason=error.reason)

    async def _keep_flag(self, org_id: OrgId, period: str) -> None:
        """By what the edges count, with what is under way: a limit may be reached long before that is settled."""
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
