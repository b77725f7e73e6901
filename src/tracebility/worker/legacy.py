"""Reads legacy envelopes, from before sharding: one JSON field with a project and no org.

Format: ``{"v": 1, "source": "native" | "otlp", "project_id", "received_at", "payload"}``. The payload is a run object,
or an OTLP request in base64.
"""

import asyncio
import time
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Protocol
from uuid import UUID

import msgspec
import structlog

from tracebility import times
from tracebility.errors import Problem, StoreUnavailable
from tracebility.ids import SENTINEL, SENTINEL_ORG, SENTINEL_WORKSPACE
from tracebility.wire import native, otlp
from tracebility.wire.envelope import Envelope, Header, MalformedEnvelope
from tracebility.worker.metrics import WorkerMetrics

FIELD = b"d"
VERSION = 1
KEY_ID = "legacy"
# The org of a project never changes, but an unknown project may be created later.
UNKNOWN_FOR_S = 60.0
# The wait for a look-up blocks the worker for all orgs, so it is short. A later answer is used by the next attempt.
LOOKUP_WAIT_S = 0.2
# After a failed or slow look-up, attempts fail at once for this long.
LOOKUP_RETRY_S = 1.0

log = structlog.get_logger()


class Owners(Protocol):
    """Looks up the org of a project."""

    async def owner_of(self, project_id: UUID) -> tuple[UUID, UUID] | None:
        """Return the project's org and workspace; None when the project does not exist.

        Raises:
            StoreUnavailable: when the store does not answer.
        """


class _LegacyEntry(msgspec.Struct):
    v: int
    source: str
    project_id: Any
    payload: Any
    received_at: str | int | float | None = None


class Legacy:
    """Converts legacy entries to envelopes."""

    def __init__(self, owners: Owners, metrics: WorkerMetrics) -> None:
        self._owners = owners
        self._metrics = metrics
        self._known: dict[UUID, tuple[UUID, UUID]] = {}
        self._unknown_until: dict[UUID, float] = {}
        self._lookups: dict[UUID, asyncio.Future[tuple[UUID, UUID] | None]] = {}
        self._down_until = 0.0

    async def envelope(self, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Envelope:
        """Convert an entry. The result is the same for every delivery.

        Raises:
            MalformedEnvelope: when the entry is not a legacy envelope.
            StoreUnavailable: when the org cannot be looked up; the entry must not go to the sentinel tenant then.
        """
        legacy = _read(fields)
        body, content_type = _body(legacy)
        try:
            found = native.inspect(body) if legacy.source == "native" else otlp.inspect(body, content_type)
        except Problem as problem:
            raise MalformedEnvelope(problem.detail) from problem
        if not found.items:
            raise MalformedEnvelope(f"nothing in it can be kept: {found.rejected[0].error if found.rejected else ''}")
        project_id = _uuid(legacy.project_id)
        org_id, workspace_id = await self._owner(project_id, legacy.project_id)
        accepted_us = _accepted_us(legacy.received_at, entry_id)
        header = Header(
            id=UUID(bytes=blake2b(fields[FIELD], digest_size=16).digest()),
            org_id=org_id,
            workspace_id=workspace_id,
            project_id=project_id,
            key_id=KEY_ID,
            accepted_at_us=accepted_us,
            period=datetime.fromtimestamp(accepted_us / 1e6, UTC).strftime("%Y-%m"),
            source=legacy.source,
            content_type=content_type,
            content_encoding="identity",
            items=found.items,
            bytes=len(body),
            rejected=() if found.parts else found.skipped,
            degraded=True,
        )
        return Envelope(header, body)

    async def _owner(self, project_id: UUID, legacy: Any) -> tuple[UUID, UUID]:
        owner = self._known.get(project_id)
        if owner is None and self._unknown_until.get(project_id, 0.0) < time.monotonic():
            owner = await self._look_up(project_id)
            if owner is not None:
                self._known[project_id] = owner
        if owner is not None:
            return owner
        if project_id not in self._unknown_until:
            log.warning(
                "legacy envelope of an unknown project, stored under the sentinel tenant", project_id=str(legacy)[:64]
            )
        self._unknown_until[project_id] = time.monotonic() + UNKNOWN_FOR_S
        self._metrics.legacy_unknown.inc()
        return SENTINEL_ORG, SENTINEL_WORKSPACE

    async def _look_up(self, project_id: UUID) -> tuple[UUID, UUID] | None:
        now = time.monotonic()
        lookup = self._lookups.get(project_id)
        if lookup is None:
            if now < self._down_until:
                raise StoreUnavailable("postgres", "did not answer the last look-up")
            lookup = asyncio.ensure_future(self._owners.owner_of(project_id))
            self._lookups[project_id] = lookup
            await asyncio.wait([lookup], timeout=LOOKUP_WAIT_S)
        if not lookup.done():
            self._down_until = now + LOOKUP_RETRY_S
            raise StoreUnavailable("postgres", "has not answered yet")
        del self._lookups[project_id]
        try:
            return lookup.result()
        except StoreUnavailable:
            self._down_until = now + LOOKUP_RETRY_S
            raise


def _read(fields: Mapping[bytes, bytes]) -> _LegacyEntry:
    try:
        legacy = msgspec.json.decode(fields[FIELD], type=_LegacyEntry)
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEnvelope(f"not a legacy envelope: {error}") from error
    if legacy.v != VERSION or legacy.source not in ("native", "otlp"):
        raise MalformedEnvelope(
            f"version {legacy.v}, source {legacy.source[:32]!r}: this program reads 1, native and otlp"
        )
    return legacy


def _body(legacy: _LegacyEntry) -> tuple[bytes, str]:
    if legacy.source == "native":
        return msgspec.json.encode({"runs": [legacy.payload]}), "json"
    try:
        return b64decode(legacy.payload, validate=True), "protobuf"
    except (ValueError, TypeError) as error:
        raise MalformedEnvelope(f"the payload is not base64: {error}") from error


def _uuid(legacy: Any) -> UUID:
    try:
        return UUID(str(legacy))
    except ValueError:
        return SENTINEL


def _accepted_us(received_at: str | int | float | None, entry_id: bytes) -> int:
    try:
        return times.from_client(received_at if received_at is not None else "") // 1000
    except times.InvalidTime:
        return int(entry_id.partition(b"-")[0]) * 1000
