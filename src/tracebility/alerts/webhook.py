"""Sends notifications to the webhook: signed, in order, and repeatedly until it answers 2xx.

The header ``X-Tracebility-Signature`` is ``t=<unix seconds>,v1=<HMAC-SHA256 of "t.body", hex>``. The receiver uses it
to verify the sender and to reject replays. Without a secret there is no signature. Without a webhook, notifications
stay in PostgreSQL.
"""

import hmac
import json
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import aiohttp
import structlog

from tracebility.audit.events import SYSTEM, AuditWriter, Event, EventType
from tracebility.errors import AuditLogTampered
from tracebility.ids import OrgId
from tracebility.stores.postgres import Postgres, Row

PERIOD_S = 5.0
MAX_PER_TICK = 100
DEADLINE_S = 5.0

log = structlog.get_logger()


def signature(secret: str, at_s: int, body: bytes) -> str:
    """Return the value of ``X-Tracebility-Signature``."""
    digest = hmac.new(secret.encode(), b"%d." % at_s + body, sha256).hexdigest()
    return f"t={at_s},v1={digest}"


class Notifier:
    """Sends unsent notifications."""

    def __init__(self, control: Postgres, url: str, secret: str) -> None:
        self._control = control
        self._url = url
        self._secret = secret

    @property
    def is_on(self) -> bool:
        """Whether a webhook is configured."""
        return bool(self._url)

    async def send(self, document: Mapping[str, Any]) -> bool:
        """Send one notification that is not stored in PostgreSQL; True when the webhook accepted it."""
        async with _session() as session:
            return await self._send(session, json.dumps(document).encode())

    async def tick(self) -> int:
        """Send unsent notifications and return how many were accepted.

        Raises:
            StoreUnavailable: when PostgreSQL is unavailable.
        """
        if not self._url:
            return 0
        rows = await self._control.fetch("unsent_notifications", MAX_PER_TICK)
        taken = 0
        async with _session() as session:
            for row in rows:
                document = {
                    "id": str(row["id"]),
                    "kind": row["kind"],
                    "org_id": str(row["org_id"]) if row["org_id"] else None,
                    "created_at": row["created_at"].isoformat(),
                    **row["body"],
                }
                is_taken = await self._send(session, json.dumps(document).encode())
                await self._record_attempt(row, is_taken)
                taken += is_taken
        await self._control.execute("prune_notifications")
        return taken

    async def _record_attempt(self, row: Row, is_taken: bool) -> None:
        """Record the attempt, and an egress event in the org's audit log.

        If that audit log refuses new events, the attempt is recorded anyway. Otherwise the notification would be sent
        again and again and block those behind it.
        """
        try:
            async with self._control.transaction() as transaction:
                await transaction.execute("tried_notification", row["id"], is_taken)
                if is_taken and row["org_id"] is not None:
                    await AuditWriter().record(transaction, _egress_event(row))
        except AuditLogTampered as error:
            log.error("trail_tampered", org_id=str(row["org_id"]), reason=error.reason)
            await self._control.execute("tried_notification", row["id"], is_taken)

    async def _send(self, session: aiohttp.ClientSession, body: bytes) -> bool:
        headers = {"content-type": "application/json"}
        if self._secret:
            headers["x-tracebility-signature"] = signature(self._secret, int(time.time()), body)
        try:
            async with session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                if answer.status < 300:
                    return True
                log.warning("the webhook refused a notification", status=answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("the webhook does not answer", reason=str(error) or type(error).__name__)
        return False


def _session() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    return aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())


def _egress_event(row: Row) -> Event:
    """Return the audit event for data of an org that was sent to the webhook."""
    details = {"route": "webhook", "kind": row["kind"]}
    return Event(EventType.EGRESS_EXPORTED, OrgId(row["org_id"]), SYSTEM, "notification", str(row["id"]), details)
