"""Pages of an org's audit log, newest first, merged from PostgreSQL and ClickHouse.

PostgreSQL has each event first; ClickHouse may hold older events that PostgreSQL no longer has. Copies of one event are
shown as one item.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from tracebility.audit.chain_store import microseconds, moment
from tracebility.ids import SENTINEL, OrgId
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres
from tracebility.stores.queries import query

AuditQuery = Literal["read_audit_log", "read_audit_gaps"]
# Runs a named ClickHouse query with its parameters (including ``org``) and returns rows by column name. Request code
# passes its scoped engine's method; commands use `raw`.
EngineRows = Callable[[AuditQuery, Mapping[str, Any]], Awaitable[Sequence[Mapping[str, Any]]]]

MAX_ITEMS = 200

# The range of ClickHouse's DateTime64: 1900 to 2299.
_FIRST_US = -2_208_988_800 * 10**6
_LAST_US = 10_413_792_000 * 10**6 - 1
_AFTER_ALL_IDS = "~"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which events to show; an empty or None field does not filter. ``since`` is inclusive, ``until`` exclusive."""

    actor: str = ""
    target: str = ""
    type: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """The last item of a page: its time in microseconds since 1970, and its id, which orders items of equal time."""

    at_us: int
    id: str


@dataclass(frozen=True, slots=True)
class Page:
    """Items as JSON objects. ``next`` is None on the last page."""

    items: list[dict[str, Any]]
    next: Position | None


def raw(engine: Engine) -> EngineRows:
    """A query function without tenant scope, for commands."""

    async def rows(name: AuditQuery, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return (await engine.query(query(name), parameters)).dicts()

    return rows


async def events(
    control: Postgres,
    engine_rows: EngineRows,
    org_id: OrgId,
    filters: Filters = Filters(),
    before: Position | None = None,
    limit: int = MAX_ITEMS,
) -> Page:
    """Return the page of events of ``org_id`` that follows ``before``. The sentinel org has the installation's events.

    Raises:
        StoreUnavailable: when either store is unavailable, because a partial log would look complete.
    """
    rows = await control.fetch(
        "read_control_plane_audit_log",
        org_id,
        filters.actor or None,
        filters.target or None,
        filters.type or None,
        filters.since,
        filters.until,
        None if before is None else moment(before.at_us),
        None if before is None else before.id,
        limit + 1,
    )
    copies = await engine_rows(
        "read_audit_log",
        {
            "org": str(org_id),
            "actor": filters.actor,
            "target": filters.target,
            "type": filters.type,
            "from_us": _FIRST_US if filters.since is None else _us(filters.since),
            "to_us": _LAST_US if filters.until is None else _us(filters.until),
            "before_us": _LAST_US if before is None else before.at_us,
            "before_id": _AFTER_ALL_IDS if before is None else before.id,
            "limit": limit + 1,
        },
    )
    found = {str(row["event_id"]): row for row in copies} | {str(row["event_id"]): row for row in rows}
    ordered = sorted(found.items(), key=lambda item: (item[1]["event_time_us"], item[0]), reverse=True)
    shown = ordered[:limit]
    last = Position(shown[-1][1]["event_time_us"], shown[-1][0]) if len(ordered) > limit else None
    return Page([_item(org_id, row) for _, row in shown], last)


async def gaps(engine_rows: EngineRows, org_id: OrgId, before: Position | None = None, limit: int = MAX_ITEMS) -> Page:
    """Return a page of the gaps that reconciliations found in the audit log of ``org_id``, newest first.

    Raises:
        StoreUnavailable: when ClickHouse is unavailable.
    """
    rows = await engine_rows(
        "read_audit_gaps",
        {
            "org": str(org_id),
            "before_us": _LAST_US if before is None else before.at_us,
            "before_id": _AFTER_ALL_IDS if before is None else before.id,
            "limit": limit + 1,
        },
    )
    shown = rows[:limit]
    position = None
    if len(rows) > limit:
        last = shown[-1]
        position = Position(last["detected_us"], f"{last['event_id']}{last['target_id']}{last['kind']}")
    return Page([_gap(org_id, row) for row in shown], position)


def _item(org_id: OrgId, row: Any) -> dict[str, Any]:
    return {
        "event_id": str(row["event_id"]),
        "event_time": rfc3339(row["event_time_us"]),
        "event_type": row["event_type"],
        "org_id": None if org_id == SENTINEL else str(org_id),
        "actor_type": row["actor_type"],
        "actor_id": row["actor_id"],
        "target_type": row["target_type"],
        "target_id": row["target_id"],
        "details": _json(row["details"]),
    }


def _gap(org_id: OrgId, row: Mapping[str, Any]) -> dict[str, Any]:
    has_event = row["kind"] != "no_event"
    return {
        "detection_run_id": str(row["detection_run_id"]),
        "detected_at": rfc3339(row["detected_us"]),
        "org_id": str(org_id),
        "event_id": str(row["event_id"]) if has_event else None,
        "event_time": rfc3339(row["event_time_us"]),
        "event_type": row["event_type"],
        "target_type": row["target_type"],
        "target_id": row["target_id"],
        "kind": row["kind"],
        "found": _json(row["found"]) if row["found"] else None,
        "repaired_at": rfc3339(row["repaired_us"]) if row["repaired_us"] else None,
    }


def _json(text: str) -> Any:
    """Parse ``text`` as JSON; return it unchanged if it is not JSON, which only a tampered row is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _us(at: datetime) -> int:
    return min(max(microseconds(at), _FIRST_US), _LAST_US)


def rfc3339(us: int) -> str:
    """Microseconds since 1970 as RFC 3339."""
    return moment(us).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
