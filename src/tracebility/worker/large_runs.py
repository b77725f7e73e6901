"""Which runs are too large to be computed with others', which of them are behind their spans, and whose turn is next.

What a worker knows of this is in its memory only. Where it ends, or forgets a run, before a row was computed, the row
stays behind until the next span of the run: its spans and what is metered of them are stored either way.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# Some 40 us a span, so that 100 MB of such a run's spans take seconds: others' batches take a quarter of one.
LARGE_SPANS = 10_000
# Of runs that are not so large a statement may compute this many spans at once; those below the least are never apart.
TOGETHER_SPANS = 50_000
LEAST_SPANS = 1_000
# A run is forgotten by those that had spans since, and found again by its next one.
MOST_LARGE_RUNS = 1_000

# While spans keep coming, a run is computed for a twentieth of the time at most.
PACE = 20
LEAST_PACE_S = 10.0
# Once none has come for so long, its row is to be right soon: for a third of the time at most.
QUIET_S = 2.0
QUIET_PACE = 2
# One that cannot be computed is tried half as often each time.
LONGEST_PACE_S = 3600.0
# One that takes no longer alone can be computed with others again.
SMALL_AGAIN_S = 0.5


class RunKey(NamedTuple):
    """A trace of an org. Of all its projects: an id that several of them use is computed for each in one go."""

    org: str
    trace: str


@dataclass(slots=True)
class LargeRun:
    """A run that is computed alone."""

    key: RunKey
    touched_at: float | None = None  # when the newest spans came that its row does not show
    ended_at: float | None = None
    took_s: float = 0.0
    failures: int = 0

    def due_at(self) -> float:
        """When a run that is behind is to be computed."""
        touched_at = self.touched_at or 0.0
        if self.ended_at is None:
            return touched_at
        pace_s = max(LEAST_PACE_S, PACE * self.took_s)
        if self.failures:
            return self.ended_at + min(pace_s * 2.0 ** min(self.failures - 1, 20), LONGEST_PACE_S)
        quiet = max(touched_at + QUIET_S, self.ended_at + QUIET_PACE * self.took_s)
        return min(self.ended_at + pace_s, quiet)


class LargeRuns:
    """The large runs that a worker knows of."""

    def __init__(self) -> None:
        self._runs: OrderedDict[RunKey, LargeRun] = OrderedDict()  # the one that had no spans for longest first

    def __contains__(self, key: RunKey) -> bool:
        return key in self._runs

    def add(self, key: RunKey, ended_at: float | None = None, took_s: float = 0.0) -> LargeRun | None:
        """Know a run as large, and how it was computed with others if it was; the run that is forgotten for it."""
        if key not in self._runs:
            self._runs[key] = LargeRun(key, None, ended_at, took_s)
            if len(self._runs) > MOST_LARGE_RUNS:
                return self._runs.popitem(last=False)[1]
        return None

    def among(self, traces: Collection[str], orgs: Collection[str]) -> set[RunKey]:
        """The large runs of ``traces`` in ``orgs``."""
        if not self._runs:
            return set()
        some, whose = set(traces), set(orgs)
        return {key for key in self._runs if key.trace in some and key.org in whose}

    def touch(self, keys: Iterable[RunKey], now: float) -> None:
        """Spans came of these, so that they are behind now."""
        for key in keys:
            self._runs[key].touched_at = now
            self._runs.move_to_end(key)

    def behind(self) -> list[LargeRun]:
        """The runs whose rows do not show all of their spans."""
        return [run for run in self._runs.values() if run.touched_at is not None]

    def next(self, now: float) -> LargeRun | None:
        """Of those that are behind the one to compute first: what is due, and of the org that waits for longest."""
        served: dict[str, float] = {}
        for run in self._runs.values():
            served[run.key.org] = max(served.get(run.key.org, 0.0), run.ended_at or 0.0)
        return min(
            self.behind(),
            key=lambda run: (max(run.due_at() - now, 0.0), served[run.key.org], run.due_at()),
            default=None,
        )

    def computed(self, run: LargeRun, seen: float | None, now: float, took_s: float) -> None:
        """``run`` was computed, from all spans that it had by ``seen``, its `touched_at` of before."""
        run.ended_at, run.took_s, run.failures = now, took_s, 0
        if run.touched_at == seen:
            run.touched_at = None
            if took_s <= SMALL_AGAIN_S:
                self._runs.pop(run.key, None)

    def failed(self, run: LargeRun, now: float, took_s: float) -> None:
        """``run`` could not be computed; it stays behind."""
        run.ended_at, run.took_s, run.failures = now, took_s, run.failures + 1


def too_large(sizes: Iterable[tuple[RunKey, int]]) -> Sequence[RunKey]:
    """Of runs and their spans those to compute alone: the largest, until what is left of them can be done together."""
    largest_first = sorted(sizes, key=lambda one: one[1], reverse=True)
    left = sum(spans for _, spans in largest_first)
    found: list[RunKey] = []
    for key, spans in largest_first:
        if spans <= LARGE_SPANS and (left <= TOGETHER_SPANS or spans <= LEAST_SPANS):
            break
        found.append(key)
        left -= spans
    return found
