"""Runs of a project: the list, newest first, and one run with its spans as a tree."""

import asyncio
import struct
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Annotated, Any

import msgspec
from fastapi import Query
from starlette.responses import Response

from tracebility.api import cursor, routing, tree
from tracebility.api.answers import answer
from tracebility.api.pagination import Asked, Page
from tracebility.api.run_reads import Row, Window, newest_runs, one_run
from tracebility.api.schemas import answers
from tracebility.api.scope import TenantRows
from tracebility.api.times import instant
from tracebility.errors import BadRequest, Unprocessable
from tracebility.stores.scoped import Columns, TenantScope
from tracebility.times import EARLIEST_NS, LATEST_NS, rfc3339
from tracebility.wire.jsontext import is_deeper
from tracebility.wire.span_columns import SPAN_COLUMNS, Shown

router = routing.router("runs")

# Stored text that is a JSON object or array is answered as JSON up to this depth. Deeper values stay text: inside of a
# deep tree of spans they would exceed the depth limit of JSON parsers.
DEEPEST_JSON = 128

_PLACE = struct.Struct(">qqq")


class Run(msgspec.Struct, kw_only=True):
    """A run as known so far. It is recomputed whenever spans of it arrive."""

    id: str
    trace_id: str
    name: str
    kind: str
    status: str  # running | ok | error
    error: str | None
    start_time: str
    end_time: str | None
    latency_ms: float | None
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: float | None  # USD
    span_count: int
    error_count: int
    models: list[str]
    input_preview: str
    output_preview: str
    session_id: str | None
    user_id: str | None
    tags: list[str]
    environment: str | None


class Span(msgspec.Struct, eq=False, gc=False):  # a tree has no cycles for the garbage collector
    """A span with all its stored fields. Values that are JSON objects or arrays are answered as JSON."""

    id: str
    trace_id: str
    parent_id: str | None
    depth: int
    name: str
    kind: str
    otel_kind: str | None
    status: str  # ok | error | unset
    error: str | None
    error_type: str | None
    start_time: str
    end_time: str | None
    latency_ms: float | None
    model: str | None
    request_model: str | None
    provider: str | None
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost: float | None  # USD
    cost_source: str | None  # reported | priced
    time_to_first_token_ms: float | None
    inputs: Any
    outputs: Any
    session_id: str | None
    user_id: str | None
    tags: list[str]
    metadata: dict[str, Any]
    attributes: dict[str, Any]
    resource: dict[str, Any]
    scope_name: str | None
    scope_version: str | None
    environment: str | None
    events: Any
    links: Any
    source: str
    accepted_at: str
    children: list["Span"]


class RunDetail(Run, kw_only=True):
    """A run and its root spans, each with its children, siblings in the order of their start.

    A span whose parent is not stored is a root. Spans deeper than 100 levels are children of their ancestor at that
    level; their `parent_id` and `depth` are the real ones. A run with more than 20,000 spans, or more than 256 MB of
    them, is answered with the earliest; `spans_left_out` is the number of the others.
    """

    spans_left_out: int
    spans: list[Span]


TimeText = Annotated[str | None, Query(description="RFC 3339.", examples=["2026-03-01T00:00:00Z"])]


@router.get(
    "/v1/projects/{project_id}/runs",
    summary="The runs of a project, newest first",
    responses=answers(Page[Run], "A page of runs, newest first."),
)
async def list_runs(
    rows: TenantRows,
    asked: Asked,
    from_text: Annotated[TimeText, Query(alias="from", description="Runs that started at this time or later.")] = None,
    to_text: Annotated[TimeText, Query(alias="to", description="Runs that started before this time.")] = None,
) -> Response:
    """New runs do not move the pages: a cursor names the last run of its page.

    Long texts are cut here: names, errors, sessions and users to 1,024 characters, models and tags to 64 of each and
    256 characters. The run itself has them whole.
    """
    window = window_of(asked.cursor, from_text, to_text, rows.scope)
    runs, more = await newest_runs(rows, window, asked.limit)
    return answer(
        Page(
            items=[run_from(row) for row in runs],
            next_cursor=seal_place(window, runs[-1], rows.scope) if more else None,
        )
    )


@router.get(
    "/v1/projects/{project_id}/runs/{run_id}",
    summary="One run with its spans as a tree",
    responses=answers(RunDetail, "The run."),
)
async def get_run(rows: TenantRows, run_id: str) -> Response:
    """The run, and all its stored spans."""
    run, spans = await one_run(rows, run_id)
    # Ten thousand spans take about 300 ms to encode: in a thread, so that other requests are answered meanwhile.
    return await asyncio.to_thread(lambda: answer(detail_from(run, spans)))


def run_from(row: Row) -> Run:
    """The answer for a row of ``read_runs_newest`` or ``read_run``."""
    return Run(**_run_fields(row))


def detail_from(run: Row, spans: Columns) -> RunDetail:
    """The answer for a run and the columns of ``read_run_spans``."""
    shown = spans_from(spans)
    return RunDetail(
        **_run_fields(run),
        spans_left_out=max(run["span_count"] - len(shown), 0),
        spans=tree.grow(shown),
    )


def spans_from(stored: Columns) -> list[Span]:
    """The spans in the columns of ``read_run_spans``. Working by column takes two thirds of the time by row."""
    if not stored:
        return []
    starts, ends = stored["start_ns"], stored["end_ns"]
    made: dict[str, Iterable[Any]] = {
        **{name: stored[name] for name in _AS_STORED},
        **{name: [text or None for text in stored[name]] for name in _NULL_WHEN_EMPTY},
        "id": stored["span_id"],
        "parent_id": [parent or None for parent in stored["parent_span_id"]],
        "depth": repeat(0, len(starts)),
        "error": [text or None for text in stored["status_message"]],
        "start_time": map(rfc3339, starts),
        "end_time": [None if end is None else rfc3339(end) for end in ends],
        "latency_ms": [None if end is None else (end - start) / 1e6 for start, end in zip(starts, ends, strict=True)],
        "cost": [None if cost is None else float(cost) for cost in stored["cost"]],
        "time_to_first_token_ms": [ns / 1e6 if ns else None for ns in stored["time_to_first_token_ns"]],
        "inputs": [value_of(text) or None for text in stored["inputs"]],
        "outputs": [value_of(text) or None for text in stored["outputs"]],
        "metadata": map(_values, stored["metadata"]),
        "attributes": map(_values, stored["attributes"]),
        "resource": map(_values, stored["resource"]),
        "events": map(_list_of, stored["events"]),
        "links": map(_list_of, stored["links"]),
        "accepted_at": [rfc3339(us * 1000) for us in stored["accepted_us"]],
        "children": [[] for _ in starts],
    }
    return [Span(*fields) for fields in zip(*(made[name] for name in _SPAN_FIELDS), strict=True)]


_SPAN_FIELDS = tuple(field.name for field in msgspec.structs.fields(Span))
_AS_STORED = tuple(column.name for column in SPAN_COLUMNS if column.shown is Shown.AS_STORED)
_NULL_WHEN_EMPTY = tuple(column.name for column in SPAN_COLUMNS if column.shown is Shown.NULL_WHEN_EMPTY)
_BRACKETS = frozenset("{[")
_EMPTY = ("", "[]")
_as_json = msgspec.json.Decoder(msgspec.Raw).decode


def value_of(text: str) -> str | msgspec.Raw:
    """Stored text as JSON: an object or array as such, anything else as a string (``42`` may have been either)."""
    if text[:1] in _BRACKETS:
        try:
            if len(text) <= DEEPEST_JSON or not is_deeper(text.encode(), DEEPEST_JSON):
                return _as_json(text)
        except (msgspec.DecodeError, RecursionError):
            pass  # it only begins like JSON
    return text


def _run_fields(row: Row) -> dict[str, Any]:
    start_ns, end_ns = row["start_ns"], row["end_ns"]
    return {
        "id": row["run_id"],
        "trace_id": row["run_id"],
        "name": row["name"],
        "kind": row["kind"],
        "status": row["status"],
        "error": row["error_message"] or None,
        "start_time": rfc3339(start_ns),
        "end_time": None if end_ns is None else rfc3339(end_ns),
        "latency_ms": None if end_ns is None else (end_ns - start_ns) / 1e6,
        "input_tokens": row["input_tokens"],
        "output_tokens": row["output_tokens"],
        "total_tokens": row["total_tokens"],
        "cost": None if row["cost"] is None else float(row["cost"]),
        "span_count": row["span_count"],
        "error_count": row["error_count"],
        "models": list(row["models"]),
        "input_preview": row["input_preview"],
        "output_preview": row["output_preview"],
        "session_id": row["session_id"] or None,
        "user_id": row["user_id"] or None,
        "tags": list(row["tags"]),
        "environment": row["environment"] or None,
    }


def _values(stored: Mapping[str, str]) -> dict[str, str | msgspec.Raw]:
    return {name: value_of(text) if text[:1] in _BRACKETS else text for name, text in stored.items()}


def _list_of(text: str) -> str | msgspec.Raw | list[Any]:
    return [] if text in _EMPTY else value_of(text)


def window_of(cursor_text: str | None, from_text: str | None, to_text: str | None, scope: TenantScope) -> Window:
    """The window that the parameters ask for. A cursor contains the times of its first page; they must not change."""
    from_ns = EARLIEST_NS if from_text is None else instant("from", from_text)
    last_ns = LATEST_NS if to_text is None else instant("to", to_text) - 1
    if cursor_text is None:
        if from_ns > last_ns + 1 and to_text is not None:
            raise Unprocessable("from: is after 'to'.", hint="Give a 'from' that is earlier than 'to'.")
        return Window(from_ns, last_ns, last_ns, "")
    place = cursor.unseal(cursor_text, _owner(scope))
    try:
        window = Window._make((*_PLACE.unpack_from(place), place[_PLACE.size :].decode()))
    except (struct.error, UnicodeDecodeError):  # a client sealed its own bytes
        raise cursor.unfit() from None
    if (from_text is not None and from_ns != window.from_ns) or (to_text is not None and last_ns != window.last_ns):
        raise BadRequest(
            "cursor: belongs to another 'from' or 'to'.",
            hint="Repeat the times of the first page, or omit them: the cursor contains them.",
        )
    return window


def seal_place(window: Window, last: Row, scope: TenantScope) -> str:
    place = _PLACE.pack(window.from_ns, window.last_ns, last["start_ns"]) + last["run_id"].encode()
    return cursor.seal(place, _owner(scope))


def _owner(scope: TenantScope) -> bytes:
    return b"runs" + scope.org_id.bytes + scope.project_id.bytes
