"""Reading runs: the newest runs of a project without reading every version of each, and one run with its spans."""

import asyncio
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from tracebility.api.provisional_run import run_of_spans
from tracebility.errors import NotFound
from tracebility.stores.scoped import Columns, ScopedClickHouse

# Rows to read beyond a page: a run that still grows has rows of replaced versions.
SPARE_ROWS = 8

# The earliest spans of a run that one answer has. A program may use one trace id for years, which must not exhaust
# this process; ScopedClickHouse also bounds the bytes.
MOST_SPANS = 20_000

Row = Mapping[str, Any]


class Window(NamedTuple):
    """The requested part of the list: the first and last start time, both inclusive, and the run after which it begins.

    With an empty ``before_id`` it begins with the runs that start at ``before_ns``.
    """

    from_ns: int
    last_ns: int
    before_ns: int
    before_id: str


async def newest_runs(rows: ScopedClickHouse, window: Window, limit: int) -> tuple[list[Row], bool]:
    """At most ``limit`` runs of the window, newest first, and whether there are more."""
    found = [run async for run in _latest(rows, window, limit + 1)]
    return found[:limit], len(found) > limit


async def one_run(rows: ScopedClickHouse, run_id: str) -> tuple[Row, Columns]:
    """A run and its spans in the order of their start. Ids are stored in lower case; ``run_id`` may have any case.

    The worker stores spans before it writes the row of their run; until then the row is computed here.

    Raises:
        NotFound: when the project has no such run.
    """
    run_id = run_id.lower()
    run, spans = await asyncio.gather(
        rows.rows("read_run", run_id=run_id), rows.columns("read_run_spans", run_id=run_id, limit=MOST_SPANS)
    )
    if run:
        return run[0], spans
    if not spans or not spans["span_id"]:
        raise NotFound
    return await asyncio.to_thread(run_of_spans, spans), spans


async def _latest(rows: ScopedClickHouse, window: Window, limit: int) -> AsyncIterator[Row]:
    """At most ``limit`` runs of the window, newest first.

    Candidates are rows of any version. The rows that are the latest version of their run are the runs in order; the
    other rows are skipped. A run that got a new version after the candidates were read keeps the position of its
    newest row and is answered as it was read, so that a busy run does not disappear from the list.
    """
    seen: set[str] = set()
    while window.from_ns <= window.last_ns:
        missing = limit - len(seen)
        ask = missing + SPARE_ROWS + limit // 8
        candidates: Sequence[Row] = await rows.rows("read_runs_newest", **_bounds(window), limit=ask)
        if not candidates:
            return
        newest = {row["run_id"]: row["version"] for row in sorted(candidates, key=_version)}
        more = len(candidates) == ask
        asked = set(list(dict.fromkeys(row["run_id"] for row in candidates))[:missing])
        if len(asked) < len(newest):  # unneeded spare rows: looking up the position of a run costs a read
            candidates = _beginning(candidates, asked)
            more = True
        least = min(_version(row) for row in candidates)
        places = {
            row["run_id"]: (row["start_ns"], row["run_id"])
            for row in await rows.rows("read_runs_versions", ids=list(asked), least=least)
        }
        begin = (window.before_ns, window.before_id) if window.before_id else (window.before_ns + 1, "")
        end = _place(candidates[-1]) if more else (window.from_ns, "")
        for row in candidates:
            run_id = row["run_id"]
            if row["version"] != newest[run_id] or run_id in seen or not end <= places.get(run_id, end) < begin:
                continue  # replaced, or its latest version belongs to a later or an earlier page
            seen.add(run_id)
            yield row
            if len(seen) == limit:
                return
        if not more:
            return
        window = window._replace(before_ns=end[0], before_id=end[1])


def _beginning(candidates: Sequence[Row], asked: Container[str]) -> Sequence[Row]:
    """The rows before the first row whose run is not in ``asked``."""
    return list(takewhile(lambda row: row["run_id"] in asked, candidates))


def _bounds(window: Window) -> dict[str, object]:
    return {
        "from": window.from_ns,
        "last": window.last_ns,
        "before": window.before_ns,
        "before_id": window.before_id,
    }


def _version(row: Row) -> int:
    version: int = row["version"]
    return version


def _place(row: Row) -> tuple[int, str]:
    return row["start_ns"], row["run_id"]
