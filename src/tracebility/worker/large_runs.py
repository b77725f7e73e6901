"""Tracks runs that are too large to be recomputed together with others, and schedules their recomputation.

This state is only in the worker's memory. If the worker stops or forgets a run before it recomputed its row, the row
stays outdated until the run's next span. Its spans and metered usage are stored in any case.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# At 40 us per span a run of this size takes 0.4 s, more than the 0.25 s of a normal batch.
LARGE_SPANS = 10_000
# Spans of smaller runs that one statement may recompute together. Runs below LEAST_SPANS are never computed alone.
TOGETHER_SPANS = 50_000
LEAST_SPANS = 1_000
# Beyond this the run without spans for longest is forgotten; its next span finds it again.
MAX_LARGE_RUNS = 1_000

# While spans keep arriving, recomputing a run may take at most 1/20 of the time.
PACE = 20
LEAST_PACE_S = 10.0
# Once no span has arrived for this long, the row is recomputed soon: at most 1/3 of the time.
QUIET_S = 2.0
QUIET_PACE = 2
# After each failure the interval is doubled, up to this.
LONGEST_PACE_S = 3600.0
# A run that takes at most this long alone is computed with others again.
SMALL_AGAIN_S = 0.5


class RunKey(NamedTuple):
    """A trace of an org. If several projects use the same trace id, their runs are computed together."""

    org: str
    trace: str


@dataclass(slots=True)
class LargeRun:
    """A run that is computed alone."""

    key: RunKey
    touched_at: float | None = None  # arrival of the newest spans that the row does not include; None: up to date
    ended_at: float | None = None
    took_s: float = 0.0
    failures: int = 0

    def due_at(self) -> float:
        """Return when an outdated run is due for recomputation."""
        touched_at = self.touched_at or 0.0
        if self.ended_at is None:
            return touched_at
        pace_s = max(LEAST_PACE_S, PACE * self.took_s)
        if self.failures:
            return self.ended_at + min(pace_s * 2.0 ** min(self.failures - 1, 20), LONGEST_PACE_S)
        quiet = max(touched_at + QUIET_S, self.ended_at + QUIET_PACE * self.took_s)
        return min(self.ended_at + pace_s, quiet)


class LargeRuns:
    """The large runs known to a worker."""

    def __init__(self) -> None:
        self._runs: OrderedDict[RunKey, LargeRun] = OrderedDict()  # the run without spans for longest is first

    def __contains__(self, key: RunKey) -> bool:
        return key in self._runs

    def add(self, key: RunKey, ended_at: float | None = None, took_s: float = 0.0) -> LargeRun | None:
        """Add a large run, with its last computation if there was one. Returns the run that was forgotten for it."""
        if key not in self._runs:
            self._runs[key] = LargeRun(key, None, ended_at, took_s)
            if len(self._runs) > MAX_LARGE_RUNS:
                return self._runs.popitem(last=False)[1]
        return None

    def among(self, traces: Collection[str], orgs: Collection[str]) -> set[RunKey]:
        """Return the large runs of ``traces`` in ``orgs``."""
        if not self._runs:
            return set()
        wanted_traces, wanted_orgs = set(traces), set(orgs)
        return {key for key in self._runs if key.trace in wanted_traces and key.org in wanted_orgs}

    def touch(self, keys: Iterable[RunKey], now: float) -> None:
        """Mark runs as outdated, because new spans arrived."""
        for key in keys:
            self._runs[key].touched_at = now
            self._runs.move_to_end(key)

    def behind(self) -> list[LargeRun]:
        """Return the runs whose rows do not include all of their spans."""
        return [run for run in self._runs.values() if run.touched_at is not None]

    def next(self, now: float) -> LargeRun | None:
        """Return the outdated run to compute next: due runs first, and among them the org that has waited longest."""
        served: dict[str, float] = {}
        for run in self._runs.values():
            served[run.key.org] = max(served.get(run.key.org, 0.0), run.ended_at or 0.0)
        return min(
            self.behind(),
            key=lambda run: (max(run.due_at() - now, 0.0), served[run.key.org], run.due_at()),
            default=None,
        )

    def computed(self, run: LargeRun, seen: float | None, now: float, took_s: float) -> None:
        """Record that ``run`` was computed. ``seen``: its `touched_at` when the computation began."""
        run.ended_at, run.took_s, run.failures = now, took_s, 0
        if run.touched_at == seen:
            run.touched_at = None
            if took_s <= SMALL_AGAIN_S:
                self._runs.pop(run.key, None)

    def failed(self, run: LargeRun, now: float, took_s: float) -> None:
        """Record that ``run`` could not be computed; it stays outdated."""
        run.ended_at, run.took_s, run.failures = now, took_s, run.failures + 1


def too_large(sizes: Iterable[tuple[RunKey, int]]) -> Sequence[RunKey]:
    """Return the runs to compute alone: the largest, until the others can be computed together."""
    largest_first = sorted(sizes, key=lambda one: one[1], reverse=True)
    left = sum(spans for _, spans in largest_first)
    found: list[RunKey] = []
    for key, spans in largest_first:
        if spans <= LARGE_SPANS and (left <= TOGETHER_SPANS or spans <= LEAST_SPANS):
            break
        found.append(key)
        left -= spans
    return found
