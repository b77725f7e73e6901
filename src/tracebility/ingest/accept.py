"""From a body to what is kept of it and what the client is told: decompress, inspect, stamp, enqueue, answer."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from tracebility.errors import PayloadTooLarge
from tracebility.ids import uuid7
from tracebility.ingest.enqueue import Enqueuer
from tracebility.ingest.metrics import IngestMetrics
from tracebility.tenant.context import TenantContext
from tracebility.wire import limits, native, otlp
from tracebility.wire.encoding import decompress
from tracebility.wire.envelope import Envelope, Header
from tracebility.wire.inspection import Inspection
from tracebility.wire.rejection import Rejection

# Bodies that take long are read beside the event loop, so many of each size at once: reading one takes about three
# times its inflated size in memory.
LANES = ((limits.ENVELOPE_BYTES, 4), (8 << 20, 4), (limits.INFLATED_BYTES, 1))

# What is read on the event loop, for a thread costs as much as reading 50 spans: a body of up to so many bytes, of not
# more than so many times what was sent (real ones grow 5 to 40 times), and of which a glance tells all.
GLANCE_BYTES = 256 << 10
GLANCE_GROWTH = 64

Inspect = Callable[[bytes, str], Inspection]


@dataclass(frozen=True, slots=True)
class Sent:
    """A request's body and what its headers say of it."""

    source: str  # "otlp" | "native"
    content_type: str  # "protobuf" | "json"
    content_encoding: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client gets."""

    status: int
    content_type: bytes
    body: bytes


class Intake:
    """Keeps what requests bring."""

    def __init__(self, enqueuer: Enqueuer, metrics: IngestMetrics) -> None:
        self._enqueuer = enqueuer
        self._metrics = metrics
        self._lanes = [(most_bytes, asyncio.Semaphore(at_once)) for most_bytes, at_once in LANES]

    async def accept(self, tenant: TenantContext, sent: Sent) -> Answer:
        """Keep the items of ``sent`` for ``tenant``.

        Raises:
            BadRequest: when the body cannot be read.
            PayloadTooLarge: when it is beyond a bound.
            Overloaded: when nothing was kept.
        """
        self._metrics.received_bytes.inc(len(sent.body))
        size, found = _glance(sent)
        if found is None:
            inspection = await self._accept_beside(tenant, sent)
        else:
            inspection = found
            await self._keep(tenant, sent, size, inspection)
        self._metrics.accepted[sent.source].inc(inspection.items)
        if inspection.rejected:
            self._metrics.rejected[sent.source].inc(len(inspection.rejected))
        return _ANSWER[sent.source](sent, inspection)

    async def _accept_beside(self, tenant: TenantContext, sent: Sent) -> Inspection:
        for most_bytes, lane in self._lanes:
            async with lane:
                try:
                    size, inspection = await asyncio.to_thread(_read, sent, most_bytes)
                except PayloadTooLarge:
                    if most_bytes == limits.INFLATED_BYTES:
                        raise
                else:
                    await self._keep(tenant, sent, size, inspection)
                    return inspection
        raise AssertionError("the last lane takes every size")

    async def _keep(self, tenant: TenantContext, sent: Sent, size: int, inspection: Inspection) -> None:
        if inspection.items:
            await self._enqueuer.keep(tenant.org_id, _envelopes(tenant, sent, size, inspection))


def _glance(sent: Sent) -> tuple[int, Inspection | None]:
    """How large the body is and what is in it; None when that takes longer than others should wait."""
    if len(sent.body) > GLANCE_BYTES:
        return 0, None
    try:
        body = decompress(sent.body, sent.content_encoding, GLANCE_BYTES)
    except PayloadTooLarge:
        return 0, None
    if len(body) > GLANCE_GROWTH * len(sent.body):
        return len(body), None
    return len(body), _GLANCE[sent.source](body, sent.content_type)


def _read(sent: Sent, most_bytes: int) -> tuple[int, Inspection]:
    body = decompress(sent.body, sent.content_encoding, most_bytes)
    return len(body), _INSPECT[sent.source](body, sent.content_type)


def _envelopes(tenant: TenantContext, sent: Sent, size: int, inspection: Inspection) -> list[Envelope]:
    now_ns = time.time_ns()
    common = Header(
        id=uuid7(),
        org_id=tenant.org_id,
        workspace_id=tenant.workspace_id,
        project_id=tenant.project_id,
        key_id=tenant.key_id,
        accepted_at_us=now_ns // 1000,
        period=_month_of_day(now_ns // _DAY_NS),
        source=sent.source,
        content_type=sent.content_type,
        content_encoding=sent.content_encoding,
        items=inspection.items,
        bytes=size,
        rejected=inspection.passed_over,
    )
    if not inspection.parts:
        return [Envelope(common, sent.body)]
    return [
        Envelope(
            msgspec.structs.replace(
                common,
                id=uuid7(),
                content_encoding="identity",
                items=part.items,
                bytes=len(part.body),
                rejected=part.rejected,
            ),
            part.body,
        )
        for part in inspection.parts
    ]


_DAY_NS = 86_400 * 10**9


@lru_cache(maxsize=2)
def _month_of_day(day: int) -> str:
    """The month of a day counted from 1970, ``YYYY-MM``."""
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m")


def _otlp_answer(sent: Sent, inspection: Inspection) -> Answer:
    rejected = len(inspection.rejected)
    message = ""
    if rejected:
        shown = inspection.rejected[: limits.REJECTIONS_NAMED]
        message = f"{rejected} of {rejected + inspection.items} spans were rejected: "
        message += "; ".join(one.error[: limits.REJECTION_CHARS] for one in shown)
        if len(shown) < rejected:
            message += f"; and {rejected - len(shown)} more"
    if sent.content_type == otlp.JSON:
        partial = {"partialSuccess": {"rejectedSpans": str(rejected), "errorMessage": message}} if rejected else {}
        return Answer(200, b"application/json", msgspec.json.encode(partial))
    return Answer(200, b"application/x-protobuf", otlp.partial_success(rejected, message).SerializeToString())


def _native_answer(_: Sent, inspection: Inspection) -> Answer:
    rejected = [Rejection(one.index, one.error[: limits.REJECTION_CHARS]) for one in inspection.rejected]
    body = msgspec.json.encode({"accepted": inspection.items, "rejected": rejected})
    return Answer(202, b"application/json", body)


_INSPECT: dict[str, Inspect] = {"otlp": otlp.inspect, "native": native.inspect}
_GLANCE: dict[str, Callable[[bytes, str], Inspection | None]] = {"otlp": otlp.glance, "native": native.glance}
_ANSWER: dict[str, Callable[[Sent, Inspection], Answer]] = {"otlp": _otlp_answer, "native": _native_answer}
