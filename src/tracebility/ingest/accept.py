"""Accept one request: decompress, inspect, stamp, admit, enqueue, answer."""

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from tracebility.errors import BadRequest, Overloaded, PayloadTooLarge, rate_policy
from tracebility.ids import uuid7
from tracebility.ingest.enqueue import Enqueuer
from tracebility.ingest.metrics import IngestMetrics
from tracebility.tenant import resends
from tracebility.tenant.admission import Admission, Admitted
from tracebility.tenant.context import TenantContext
from tracebility.tenant.quota import BYTES, SPANS, Claim
from tracebility.wire import limits
from tracebility.wire.encoding import decompress
from tracebility.wire.envelope import Envelope, Header
from tracebility.wire.inspection import Inspection
from tracebility.wire.protocol import Answer, Call, Protocol

# Expensive bodies are read in threads. Each lane is (largest inflated size, bodies at once): reading one takes about
# three times its inflated size in memory.
LANES = ((limits.ENVELOPE_BYTES, 4), (8 << 20, 4), (limits.INFLATED_BYTES, 1))

# Cheap bodies are read on the event loop, because a thread costs as much as reading 50 spans: up to so many bytes, and
# growing no more than so many times when inflated (real ones grow 5 to 40 times).
INLINE_BYTES = 256 << 10
INLINE_GROWTH = 64


@dataclass(frozen=True, slots=True)
class Sent:
    """A request: its protocol, what its head says, and its body."""

    protocol: Protocol
    call: Call
    content_encoding: str
    body: bytes


class Intake:
    """Accepts requests."""

    def __init__(self, admission: Admission, enqueuer: Enqueuer, metrics: IngestMetrics) -> None:
        self._admission = admission
        self._enqueuer = enqueuer
        self._metrics = metrics
        self._lanes = [(most_bytes, asyncio.Semaphore(at_once)) for most_bytes, at_once in LANES]

    async def accept(self, tenant: TenantContext, sent: Sent) -> Answer:
        """Store the items of ``sent`` durably for ``tenant``.

        Raises:
            BadRequest: when the body cannot be read.
            PayloadTooLarge: when it is beyond a bound.
            RateLimited: when the tenant sends too often.
            QuotaExceeded: when it has used up what its plan allows.
            Overloaded: when nothing was stored.
        """
        self._metrics.received_bytes.inc(len(sent.body))
        try:
            size, inspection = _read_inline(sent)
            if inspection is None:
                size, inspection = await self._read_in_thread(sent)
        except (BadRequest, PayloadTooLarge):
            await self._admission.count_request(tenant)
            raise
        if inspection.items:
            admitted = await self._keep(tenant, sent, size, inspection)
        else:
            admitted = None
            await self._admission.count_request(tenant)
        if inspection.rejected:
            self._metrics.rejected[sent.protocol.source].inc(len(inspection.rejected))
        answer = sent.protocol.answer(sent.call, inspection)
        return answer if admitted is None else _with_room(answer, admitted)

    async def _read_in_thread(self, sent: Sent) -> tuple[int, Inspection]:
        for most_bytes, lane in self._lanes:
            async with lane:
                try:
                    return await asyncio.to_thread(_read, sent, most_bytes)
                except PayloadTooLarge:
                    if most_bytes == limits.INFLATED_BYTES:
                        raise
        raise AssertionError("the last lane takes every size")

    async def _keep(self, tenant: TenantContext, sent: Sent, size: int, inspection: Inspection) -> Admitted:
        digest = await _digest(tenant, sent, inspection.items)
        now_us = time.time_ns() // 1000
        claim = Claim(now_us, _month_of_day(now_us // _DAY_US), digest, {SPANS: inspection.items, BYTES: size})
        admitted = await self._admission.admit(tenant, claim)
        if admitted.is_same:
            self._metrics.same.inc(inspection.items)
            return admitted
        if admitted.is_degraded:
            self._metrics.degraded.inc()
        try:
            await self._enqueuer.keep(tenant.org_id, _envelopes(admitted, sent, size, inspection))
        except Overloaded:
            await self._admission.give_back(admitted)
            raise
        self._admission.keep(admitted)
        self._metrics.accepted[sent.protocol.source].inc(inspection.items)
        return admitted


def _read_inline(sent: Sent) -> tuple[int, Inspection | None]:
    """The inflated size and the inspection of the body; None when that takes longer than other requests should wait."""
    if len(sent.body) > INLINE_BYTES:
        return 0, None
    try:
        body = decompress(sent.body, sent.content_encoding, INLINE_BYTES)
    except PayloadTooLarge:
        return 0, None
    if len(body) > INLINE_GROWTH * len(sent.body):
        return len(body), None
    return len(body), sent.protocol.inspect_inline(body, sent.call)


def _read(sent: Sent, most_bytes: int) -> tuple[int, Inspection]:
    body = decompress(sent.body, sent.content_encoding, most_bytes)
    return len(body), sent.protocol.inspect(body, sent.call)


async def _digest(tenant: TenantContext, sent: Sent, items: int) -> str:
    """The digest by which a resend of this request is recognised. A megabyte takes a millisecond."""
    call = sent.call
    context = (tenant.project_id, call.route, *call.parameters.items(), call.content_type, sent.content_encoding, items)
    if len(sent.body) <= INLINE_BYTES:
        return resends.digest(*context, body=sent.body)
    return await asyncio.to_thread(resends.digest, *context, body=sent.body)


def _envelopes(admitted: Admitted, sent: Sent, size: int, inspection: Inspection) -> list[Envelope]:
    tenant = admitted.tenant
    common = Header(
        id=uuid7(),
        org_id=tenant.org_id,
        workspace_id=tenant.workspace_id,
        project_id=tenant.project_id,
        key_id=tenant.key_id,
        accepted_at_us=admitted.claim.accepted_at_us,
        period=admitted.claim.period,
        source=sent.protocol.source,
        content_type=sent.call.content_type,
        content_encoding=sent.content_encoding,
        items=inspection.items,
        bytes=size,
        rejected=inspection.skipped,
        degraded=admitted.is_degraded,
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


_DAY_US = 86_400 * 10**6


@lru_cache(maxsize=2)
def _month_of_day(day: int) -> str:
    """The month of a day counted from 1970, ``YYYY-MM``."""
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m")


def _with_room(answer: Answer, admitted: Admitted) -> Answer:
    """``answer`` with headers on what its tenant may still send, where that is limited."""
    headers: list[tuple[bytes, bytes]] = []
    allowance = admitted.tenant.allowance
    if allowance.rate is not None and admitted.requests_left is not None:
        headers += (
            (b"ratelimit-policy", rate_policy("org", *allowance.rate).encode()),
            (b"ratelimit", b'"org";r=%d' % admitted.requests_left),
        )
    for meter, used in admitted.used.items():
        limit = allowance.meters.get(meter)
        if limit is not None and limit.hard is not None:
            name = f"x-quota-{meter}".encode()
            headers += (
                (name + b"-limit", b"%d" % limit.hard),
                (name + b"-remaining", b"%d" % max(limit.hard - used, 0)),
            )
    if admitted.is_degraded:
        headers.append((b"x-degraded", b"rate, quota"))
    return replace(answer, headers=tuple(headers)) if headers else answer
