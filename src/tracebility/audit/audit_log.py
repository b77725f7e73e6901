"""An org's audit trail for who may read it: both stores united, newest first, a page at a time.

The control plane has an event first; the data plane may hold more, once the control plane's old ones are removed. What
both have, or the data plane has twice, is one item.
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

TrailQuery = Literal["read_trail", "read_trail_gaps"]
# How the data plane is asked: a query of stores/sql by name, its parameters (``org`` among them), rows by column. The
# request code of an org gives its scoped engine's; `raw` is for commands.
EngineRows = Callable[[TrailQuery, Mapping[str, Any]], Awaitable[Sequence[Mapping[str, Any]]]]

MOST_ITEMS = 200

# The ends of what the data plane's times can say.
_FIRST_US = -2_208_988_800 * 10**6
_LAST_US = 10_413_792_000 * 10**6 - 1
_AFTER_ALL_IDS = "~"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which events. Empty or None: all. ``since`` is included, ``until`` is not."""

    actor: str = ""
    target: str = ""
    type: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: the item's time in microseconds since 1970, and what orders items of one time."""

    at_us: int
    id: str


@dataclass(frozen=True, slots=True)
class Page:
    """Items as JSON has them. ``next`` is None on the last page."""

    items: list[dict[str, Any]]
    next: Position | None


def raw(engine: Engine) -> EngineRows:
    """Rows of the raw client, for commands."""

    async def rows(name: TrailQuery, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return (await engine.query(query(name), parameters)).dicts()

    return rows


async def events(
    control: Postgres,
    engine_rows: EngineRows,
    org_id: OrgId,
    filters: Filters = Filters(),
    before: Position | None = None,
    limit: int = MOST_ITEMS,
) -> Page:
    """A page of the events of ``org_id`` behind ``before``; the sentinel's are those that concern no org.

    Raises:
        StoreUnavailable: when either store is away: half a trail would look like a whole one.
    """
    rows = await control.fetch(
        "trail_of_control_plane",
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
        "read_trail",
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


async def gaps(engine_rows: EngineRows, org_id: OrgId, before: Position | None = None, limit: int = MOST_ITEMS) -> Page:
    """A page of what reconciliations found wrong with the trail of ``org_id``, newest first.

    Raises:
        StoreUnavailable: when the data plane is away.
    """
    rows = await engine_rows(
        "read_trail_gaps",
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
    """What a text says; the text itself where somebody put something else there."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _us(at: datetime) -> int:
    return min(max(microseconds(at), _FIRST_US), _LAST_US)


def rfc3339(us: int) -> str:
    """Microseconds since 1970 as RFC 3339."""
    return moment(us).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
