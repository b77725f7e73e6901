"""How runs are read: the newest of a project without paying for every version of every run, and one with its spans."""

import asyncio
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from tracebility.api.provisional_run import run_of_spans
from tracebility.errors import NotFound
from tracebility.stores.scoped import Columns, ScopedClickHouse

# Rows asked for beyond a page's, because a run that still grows has rows of versions that were replaced.
SPARE_ROWS = 8

# Spans of a run that are answered at once, the earliest. A trace id that a program uses for years must not take this
# process down; ScopedClickHouse also bounds the bytes.
MOST_SPANS = 20_000

Row = Mapping[str, Any]


class Window(NamedTuple):
    """What part of the list is asked for: start times from first to last, both included, and after which run.

    Without a run (``before_id`` empty) it is everything that starts at ``before_ns`` or earlier.
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
    """A run and its spans in the order of their start. Ids are kept in small letters and asked for in any.

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

    Candidates are rows of any version. Those that are the latest of their run are exactly the runs in order, because
    every latest version is among the rows; the others are passed over. A run that was summed up anew since the
    candidates were read counts by the place of its newest row and is given as it was read: it must not vanish for
    having been busy.
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
        if len(asked) < len(newest):  # spares that were not needed: looking up a run's place costs the engine a read
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
                continue  # replaced; or its latest version belongs further down, or was given further up
            seen.add(run_id)
            yield row
            if len(seen) == limit:
                return
        if not more:
            return
        window = window._replace(before_ns=end[0], before_id=end[1])


def _beginning(candidates: Sequence[Row], asked: Container[str]) -> Sequence[Row]:
    """The rows before the first one of a run that is not among ``asked``."""
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
