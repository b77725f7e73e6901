"""The alert ``store_away`` while PostgreSQL is unavailable. There is no leader then, so every operator sends it.

It is sent directly to the webhook and kept in memory until accepted, because it cannot be stored in PostgreSQL.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from tracebility.alerts.checks import MISSED_CHECKS, store_away
from tracebility.alerts.metrics import AlertMetrics
from tracebility.alerts.webhook import Notifier
from tracebility.ids import uuid7

PERIOD_S = 5.0

log = structlog.get_logger()


class WithoutPostgres:
    """Watches PostgreSQL for one operator process, whether it leads or not."""

    def __init__(
        self,
        missing_stores: Callable[[], Awaitable[Mapping[str, str]]],
        notifier: Notifier,
        metrics: AlertMetrics,
    ) -> None:
        self._missing_stores = missing_stores
        self._notifier = notifier
        self._metrics = metrics
        self._missed = 0
        self._told = False
        self._unsent: list[dict[str, Any]] = []  # at most one "firing" and one "over" for each outage of PostgreSQL

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self.tick()
            await asyncio.sleep(PERIOD_S)

    async def tick(self) -> None:
        """Check every store once, and send a notification on a change."""
        missing = await self._missing_stores()
        self._missed = self._missed + 1 if "postgres" in missing else 0
        if self._missed >= MISSED_CHECKS and not self._told:
            alert = store_away(missing)
            log.error("alert", kind=alert.kind, text=alert.text, **alert.details)
            self._report({"text": alert.text, "state": "firing", **alert.details}, standing=True)
        elif self._missed == 0 and self._told:
            log.info("alert", kind="store_away", text="store_away is over")
            self._report({"text": "store_away is over", "state": "over"}, standing=False)
        while self._unsent and await self._notifier.send(self._unsent[0]):
            self._unsent.pop(0)

    def _report(self, body: dict[str, Any], *, standing: bool) -> None:
        self._told = standing
        self._metrics.standing.labels("store_away").set(standing)
        if self._notifier.is_on:
            head = {
                "id": str(uuid7()),
                "kind": "store_away",
                "org_id": None,
                "created_at": datetime.now(UTC).isoformat(),
            }
            self._unsent.append(head | body)
