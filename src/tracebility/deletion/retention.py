"""Retention: removes data that is older than the retention time of its project, in whole days.

The retention times are read at every tick, so a change of plan, org or project also applies to stored data. The limit
moves at midnight UTC; a second tick on the same day removes only data that arrived late.
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
# Projects per statement. Projects with the same retention share statements, because each statement rewrites parts.
PROJECTS_PER_STATEMENT = 5_000

log = structlog.get_logger()


@dataclass(slots=True)
class Aged:
    """The result of a tick: projects checked, and rows removed by table."""

    projects: int = 0
    rows: Counts = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return asdict(self)


class Retention:
    """Applies retention. Two running at once remove the same rows, selection is harmless."""

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
        """Remove data older than its retention.

        Raises:
            StoreUnavailable: when a store is unavailable; a later tick removes the rest.
        """
        midnight = int(self._now()) // DAY_S * DAY_S
        done = Aged()
        for days, group in groupby(await self._control.fetch("retentions"), lambda row: int(row["days"])):
            before = midnight - days * DAY_S
            if before <= 0:
                continue
            while rows := list(islice(group, PROJECTS_PER_STATEMENT)):
                selection = aged([row["org_id"] for row in rows], [row["project_id"] for row in rows], before)
                orgs = await self._eraser.orgs_of_aged(selection)
                # Before the removal, so that resends are stored; again after it, for data that arrived meanwhile.
                await invalidate_marks(self._hot, orgs)
                gone = await self._eraser.erase(selection)
                await invalidate_marks(self._hot, orgs)
                self._metrics.erased.labels("retention").inc(sum(gone.values()))
                done.projects += len(rows)
                for table, count in gone.items():
                    done.rows[table] = done.rows.get(table, 0) + count
        if done.rows:
            log.info("old rows removed", **done.document())
        return done
