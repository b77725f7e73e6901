"""The audit log of an org, and the gaps that reconciliation found in its ClickHouse copy."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import Query
from starlette.responses import Response

from tracebility.api import cursor, routing
from tracebility.api.answers import answer
from tracebility.api.auth import Services
from tracebility.api.pagination import Asked, Page
from tracebility.api.schemas import answers
from tracebility.api.scope import OrgRows
from tracebility.api.times import instant
from tracebility.audit import audit_log
from tracebility.errors import Unprocessable
from tracebility.ids import OrgId

router = routing.router("admin")

_MICROSECOND = timedelta(microseconds=1)


class AuditEvent(msgspec.Struct, kw_only=True):
    """An event: who did what to what."""

    event_id: str
    event_time: str
    event_type: str
    org_id: str
    actor_type: str
    actor_id: str
    target_type: str
    target_id: str
    details: Any


class AuditGap(msgspec.Struct, kw_only=True):
    """An event that reconciliation found missing or changed in the copy, and when it was repaired."""

    detection_run_id: str
    detected_at: str
    org_id: str
    event_id: str | None
    event_time: str
    event_type: str
    target_type: str
    target_id: str
    kind: str
    found: Any
    repaired_at: str | None


def _rows_of(rows: OrgRows) -> audit_log.EngineRows:
    async def found(name: audit_log.AuditQuery, parameters: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        return await rows.rows(name, **parameters)

    return found


@router.get(
    "/v1/admin/orgs/{org_id}/audit",
    summary="The audit log of an org",
    responses=answers(Page[AuditEvent], "A page of events, the newest first."),
)
async def list_events(
    rows: OrgRows,
    services: Services,
    asked: Asked,
    actor: Annotated[str, Query(max_length=200, description="Only events of this actor.")] = "",
    target: Annotated[str, Query(max_length=200, description="Only events with this target.")] = "",
    type_: Annotated[str, Query(alias="type", max_length=200, description="Only events of this type.")] = "",
    since: Annotated[str | None, Query(alias="from", description="Events at this time or later (RFC 3339).")] = None,
    until: Annotated[str | None, Query(alias="to", description="Events before this time (RFC 3339).")] = None,
) -> Response:
    """Events of both stores, each once, newest first."""
    for name, text in (("actor", actor), ("target", target), ("type", type_)):
        if "\0" in text:  # PostgreSQL has no null characters in texts and refuses them in parameters
            raise Unprocessable(
                f"{name}: must not contain null characters.", hint=f"Correct the query parameter {name}."
            )
    filters = audit_log.Filters(actor, target, type_, _moment("from", since), _moment("to", until))
    org_id = rows.scope.org_id
    before = _before(asked.cursor, b"audit", org_id)
    if before is not None and not _is_id(before.id):  # a client sealed its own bytes
        raise cursor.unfit()
    page = await audit_log.events(services.control, _rows_of(rows), org_id, filters, before, asked.limit)
    return answer({"items": page.items, "next_cursor": _next(page, b"audit", org_id)})


@router.get(
    "/v1/admin/orgs/{org_id}/audit/gaps",
    summary="The gaps in the audit log of an org",
    responses=answers(Page[AuditGap], "A page of gaps, the newest first."),
)
async def list_gaps(rows: OrgRows, asked: Asked) -> Response:
    """Each with the reconciliation run that found it, the row found instead, and when it was repaired."""
    org_id = rows.scope.org_id
    page = await audit_log.gaps(_rows_of(rows), org_id, _before(asked.cursor, b"gaps", org_id), asked.limit)
    return answer({"items": page.items, "next_cursor": _next(page, b"gaps", org_id)})


def _moment(name: str, text: str | None) -> datetime | None:
    return None if text is None else datetime.fromtimestamp(instant(name, text) / 1e9, UTC)


def _before(text: str | None, of_list: bytes, org_id: OrgId) -> audit_log.Position | None:
    if text is None:
        return None
    at, place = cursor.unseal_made(text, of_list + org_id.bytes)
    return audit_log.Position(cursor.microseconds(at), place.decode(errors="replace"))


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _next(page: audit_log.Page, of_list: bytes, org_id: OrgId) -> str | None:
    if page.next is None:
        return None
    at = cursor.EPOCH + page.next.at_us * _MICROSECOND
    return cursor.seal_made(at, page.next.id.encode(), of_list + org_id.bytes)
