"""The firing alerts, stored in PostgreSQL so that a new leader neither repeats nor forgets notifications.

A notification is written when an alert begins, when it grows, and when it is over.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from tracebility.alerts.metrics import AlertMetrics
from tracebility.ids import uuid7
from tracebility.stores.postgres import Postgres

# An alert that keeps growing is notified at most this often.
RENOTIFY_S = 60.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Alert:
    """A problem found by a check. ``size``: its extent, for alerts that are notified again when they grow."""

    kind: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0


class StandingAlerts:
    """The firing alerts, loaded from PostgreSQL on first use."""

    def __init__(self, control: Postgres, metrics: AlertMetrics) -> None:
        self._control = control
        self._metrics = metrics
        self._standing: dict[str, Alert] | None = None
        self._notified_at: dict[str, float] = {}
        self._turn = asyncio.Lock()

    async def all(self) -> list[Alert]:
        """Return all firing alerts.

        Raises:
            StoreUnavailable: when PostgreSQL is unavailable.
        """
        async with self._turn:
            return list((await self._loaded()).values())

    async def tell(self, kind: str, found: Alert | None) -> None:
        """Record that the alert ``kind`` fires with ``found``, or does not fire, and write a notification on a change.

        Raises:
            StoreUnavailable: when PostgreSQL is unavailable; the next call repeats it.
        """
        async with self._turn:
            standing = await self._loaded()
            before = standing.get(kind)
            self._metrics.standing.labels(kind).set(found is not None)
            if found is None:
                if before is not None:
                    await self._over(kind)
                    del standing[kind]
                return
            now = time.monotonic()
            grown = before is not None and found.size > before.size
            if before is None or (grown and now - self._notified_at.get(kind, float("-inf")) >= RENOTIFY_S):
                await self._firing(found)
                self._notified_at[kind] = now
                standing[kind] = found
            elif found != before:
                told = Alert(kind, found.text, found.details, min(found.size, before.size))
                await self._control.execute("raise_alert", kind, told.text, dict(told.details), told.size)
                standing[kind] = told

    async def _loaded(self) -> dict[str, Alert]:
        if self._standing is None:
            rows = await self._control.fetch("standing_alerts")
            self._standing = {row["kind"]: Alert(row["kind"], row["text"], row["details"], row["size"]) for row in rows}
        return self._standing

    async def _firing(self, alert: Alert) -> None:
        body = {"text": alert.text, "state": "firing", **alert.details}
        async with self._control.transaction() as transaction:
            await transaction.execute("raise_alert", alert.kind, alert.text, dict(alert.details), alert.size)
            await transaction.execute("insert_notification", uuid7(), alert.kind, None, body)
        log.error("alert", kind=alert.kind, text=alert.text, **alert.details)

    async def _over(self, kind: str) -> None:
        text = f"{kind} is over"
        async with self._control.transaction() as transaction:
            await transaction.execute("end_alert", kind)
            await transaction.execute("insert_notification", uuid7(), kind, None, {"text": text, "state": "over"})
        log.info("alert", kind=kind, text=text)
