"""Retention: what began longer ago than its project keeps it is removed, whole days at once.

How long that is, is asked anew each time, so a change of plan, org or project holds for what is stored already. The
moment moves at midnight of UTC: within a day a second tick finds nothing to remove but what came late.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from typing import Any

import structlog

from tracebility.deletion.erase import Counts, Eraser, aged
from tracebility.deletion.metrics import DeletionMetrics
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres
from tracebility.stores.redis_control import RedisControl
from tracebility.tenant.resends import invalidate_marks

PERIOD_S = 3600.0
DAY_S = 86_400
# Named in one statement. Those with the same time go together, because each statement rewrites its parts.
PROJECTS_A_STATEMENT = 5_000

log = structlog.get_logger()


@dataclass(slots=True)
class Aged:
    """What a tick removed."""

    projects: int = 0
    rows: Counts = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


class Retention:
    """One operator's; two at once remove the same."""

    def __init__(
        self,
        control: Postgres,
        engine: Engine,
        hot: RedisControl,
        metrics: DeletionMetrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._control = control
        self._hot = hot
        self._eraser = Eraser(engine)
        self._metrics = metrics
        self._now = now

    async def tick(self) -> Aged:
        """Remove what is old now.

        Raises:
            StoreUnavailable: when a store is away; the rest is removed by a later tick.
        """
        midnight = int(self._now()) // DAY_S * DAY_S
        done = Aged()
        for days, group in groupby(await self._control.fetch("retentions"), lambda row: int(row["days"])):
            before = midnight - days * DAY_S
            if before <= 0:
                continue
            while rows := list(islice(group, PROJECTS_A_STATEMENT)):
                which = aged([row["org_id"] for row in rows], [row["project_id"] for row in rows], before)
                orgs = await self._eraser.orgs_of_aged(which)
                # Before, so that what is sent again meanwhile is stored; after, for what came and went meanwhile.
                await invalidate_marks(self._hot, orgs)
                gone = await self._eraser.erase(which)
                await invalidate_marks(self._hot, orgs)
                self._metrics.erased.labels("retention").inc(sum(gone.values()))
                done.projects += len(rows)
                for table, count in gone.items():
                    done.rows[table] = done.rows.get(table, 0) + count
        if done.rows:
            log.info("old rows removed", **done.document())
        return done
