"""The shard balancer reports the load skew of the shards in metrics and proposes moves, in the log or by applying them.

It ignores a skew at low load and a short one, because orgs send in bursts.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from tracebility.audit.events import SYSTEM
from tracebility.shards import shard_map
from tracebility.shards.metrics import ShardMetrics
from tracebility.stores.changes import notify
from tracebility.stores.postgres import Postgres
from tracebility.stores.queue import Queue
from tracebility.stores.redis_control import RedisControl

PERIOD_S = 60.0
# Load of the hottest shard over the mean, and its duration, from which moves are proposed.
UNEVEN = 2.0
LASTING_S = 300.0
# With fewer items than this on the hottest shard in the load window, a worker keeps up whatever the skew.
WORTH_ITEMS = 1_000_000

log = structlog.get_logger()


class ShardBalance:
    """Watches the load of the shards."""

    def __init__(
        self,
        control: Postgres,
        queue: Queue,
        hot: RedisControl,
        metrics: ShardMetrics,
        *,
        auto: bool,
        worth_items: int = WORTH_ITEMS,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._control = control
        self._queue = queue
        self._hot = hot
        self._metrics = metrics
        self._auto = auto
        self._worth_items = worth_items
        self._clock = clock
        self._now = now
        self._uneven_since: float | None = None

    async def tick(self) -> shard_map.ShardPlan | None:
        """Measure the shards. Returns the proposed plan, if any.

        Raises:
            StoreUnavailable: when a store is unavailable.
        """
        now = self._now()
        status = await shard_map.look(self._control, self._queue, now)
        self._metrics.skew.set(status.skew)
        self._metrics.epoch.set(status.epoch)
        self._metrics.placed.set(len(status.placed))
        for shard in status.shards:
            self._metrics.items.labels(str(shard.shard)).set(shard.items)
        if status.skew <= UNEVEN or max(shard.items for shard in status.shards) < self._worth_items:
            self._uneven_since = None
            return None
        if self._uneven_since is None:
            self._uneven_since = self._clock()
        if self._clock() - self._uneven_since < LASTING_S:
            return None
        return await self._propose(now)

    async def _propose(self, now: datetime) -> shard_map.ShardPlan:
        plan = await shard_map.plan(self._control, self._queue, now)
        moves = [{"org_id": str(move.org_id), "shards": move.after} for move in plan.moves]
        log.warning(
            "shards are uneven", skew=plan.skew_before, skew_after=plan.skew_after, moves=moves, applied=self._auto
        )
        if self._auto and plan.moves:
            async with self._control.transaction() as transaction:
                done = await shard_map.carry_out(transaction, SYSTEM, plan.moves, now, "automatic")
            await notify(self._hot)
            self._metrics.moves.inc(len(done))
            self._uneven_since = None
        return plan
