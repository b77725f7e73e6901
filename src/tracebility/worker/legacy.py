"""Envelopes from before the shards: one field, JSON, a project and no tenant. What they lack is found out here.

Form: ``{"v": 1, "source": "native" | "otlp", "project_id", "received_at", "payload"}``; the payload is a run object, or
an OTLP request in base64.
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
# Whose a project is does not change; that there is one now may.
UNKNOWN_FOR_S = 60.0
# An answer is waited for so long, and all orgs with it. One that comes later is used by a later try.
PATIENCE_S = 0.2
# After a question failed, or while one is late, nobody waits at all; it is asked again after so long.
ASK_AGAIN_S = 1.0

log = structlog.get_logger()


class Owners(Protocol):
    """Where it is known whose a project is."""

    async def owner_of(self, project_id: UUID) -> tuple[UUID, UUID] | None:
        """Org and workspace of the project; None when there is no such project.

        Raises:
            StoreUnavailable: when the store does not answer.
        """


class _Said(msgspec.Struct):
    v: int
    source: str
    project_id: Any
    payload: Any
    received_at: str | int | float | None = None


class Legacy:
    """Makes envelopes of what the stream from before the shards holds."""

    def __init__(self, owners: Owners, metrics: WorkerMetrics) -> None:
        self._owners = owners
        self._metrics = metrics
        self._known: dict[UUID, tuple[UUID, UUID]] = {}
        self._unknown_until: dict[UUID, float] = {}
        self._asking: dict[UUID, asyncio.Future[tuple[UUID, UUID] | None]] = {}
        self._away_until = 0.0

    async def envelope(self, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Envelope:
        """The envelope of an entry; the same whenever and however often it is delivered.

        Raises:
            MalformedEnvelope: when it is none.
            StoreUnavailable: when it cannot be found out whose it is. It must not become nobody's for that.
        """
        said = _read(fields)
        body, content_type = _body(said)
        try:
            found = native.inspect(body) if said.source == "native" else otlp.inspect(body, content_type)
        except Problem as problem:
            raise MalformedEnvelope(problem.detail) from problem
        if not found.items:
            raise MalformedEnvelope(f"nothing in it can be kept: {found.rejected[0].error if found.rejected else ''}")
        project_id = _uuid(said.project_id)
        org_id, workspace_id = await self._owner(project_id, said.project_id)
        accepted_us = _accepted_us(said.received_at, entry_id)
        header = Header(
            id=UUID(bytes=blake2b(fields[FIELD], digest_size=16).digest()),
            org_id=org_id,
            workspace_id=workspace_id,
            project_id=project_id,
            key_id=KEY_ID,
            accepted_at_us=accepted_us,
            period=datetime.fromtimestamp(accepted_us / 1e6, UTC).strftime("%Y-%m"),
            source=said.source,
            content_type=content_type,
            content_encoding="identity",
            items=found.items,
            bytes=len(body),
            rejected=() if found.parts else found.passed_over,
            degraded=True,
        )
        return Envelope(header, body)

    async def _owner(self, project_id: UUID, said: Any) -> tuple[UUID, UUID]:
        owner = self._known.get(project_id)
        if owner is None and self._unknown_until.get(project_id, 0.0) < time.monotonic():
            owner = await self._asked(project_id)
            if owner is not None:
                self._known[project_id] = owner
        if owner is not None:
            return owner
        if project_id not in self._unknown_until:
            log.warning(
                "legacy envelope of an unknown project; kept under the sentinel tenant", project_id=str(said)[:64]
            )
        self._unknown_until[project_id] = time.monotonic() + UNKNOWN_FOR_S
        self._metrics.legacy_unknown.inc()
        return SENTINEL_ORG, SENTINEL_WORKSPACE

    async def _asked(self, project_id: UUID) -> tuple[UUID, UUID] | None:
        now = time.monotonic()
        asking = self._asking.get(project_id)
        if asking is None:
            if now < self._away_until:
                raise StoreUnavailable("postgres", "did not answer a moment ago")
            asking = asyncio.ensure_future(self._owners.owner_of(project_id))
            self._asking[project_id] = asking
            await asyncio.wait([asking], timeout=PATIENCE_S)
        if not asking.done():
            self._away_until = now + ASK_AGAIN_S
            raise StoreUnavailable("postgres", "has not answered yet")
        del self._asking[project_id]
        try:
            return asking.result()
        except StoreUnavailable:
            self._away_until = now + ASK_AGAIN_S
            raise


def _read(fields: Mapping[bytes, bytes]) -> _Said:
    try:
        said = msgspec.json.decode(fields[FIELD], type=_Said)
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEnvelope(f"not an envelope from before the shards: {error}") from error
    if said.v != VERSION or said.source not in ("native", "otlp"):
        raise MalformedEnvelope(f"version {said.v}, source {said.source[:32]!r}: this program reads 1, native and otlp")
    return said


def _body(said: _Said) -> tuple[bytes, str]:
    if said.source == "native":
        return msgspec.json.encode({"runs": [said.payload]}), "json"
    try:
        return b64decode(said.payload, validate=True), "protobuf"
    except (ValueError, TypeError) as error:
        raise MalformedEnvelope(f"its payload is not base64: {error}") from error


def _uuid(said: Any) -> UUID:
    try:
        return UUID(str(said))
    except ValueError:
        return SENTINEL


def _accepted_us(received_at: str | int | float | None, entry_id: bytes) -> int:
    try:
        return times.from_client(received_at if received_at is not None else "") // 1000
    except times.InvalidTime:
        return int(entry_id.partition(b"-")[0]) * 1000
