"""Which runs are computed alone, when, and in which order."""

import pytest

from tracebility.worker import large_runs
from tracebility.worker.large_runs import (
    LARGE_SPANS,
    LEAST_PACE_S,
    LEAST_SPANS,
    LONGEST_PACE_S,
    MAX_LARGE_RUNS,
    PACE,
    QUIET_S,
    TOGETHER_SPANS,
    LargeRun,
    LargeRuns,
    RunKey,
    too_large,
)

KEY = RunKey("org", "trace")


def known(runs: LargeRuns, key: RunKey, at: float) -> LargeRun:
    """A run that is large and behind since ``at``."""
    runs.add(key)
    runs.touch([key], at)
    return next(run for run in runs.behind() if run.key == key)


def test_only_what_is_large_is_computed_alone() -> None:
    sizes = [(RunKey("org", "small"), LARGE_SPANS), (RunKey("org", "large"), LARGE_SPANS + 1)]
    assert too_large(sizes) == [RunKey("org", "large")]


def test_of_many_middling_runs_the_largest_are_computed_alone_until_the_others_are_few() -> None:
    sizes = [(RunKey("org", str(spans)), spans) for spans in range(LEAST_SPANS + 1, LEAST_SPANS + 101)]
    alone = too_large(sizes)
    assert alone == [
        RunKey("org", str(spans)) for spans in range(LEAST_SPANS + 100, LEAST_SPANS + 100 - len(alone), -1)
    ]
    left = sum(spans for key, spans in sizes if key not in alone)
    assert TOGETHER_SPANS - LEAST_SPANS - 100 < left <= TOGETHER_SPANS


def test_small_runs_are_never_computed_alone_however_many() -> None:
    assert too_large([(RunKey("org", str(number)), LEAST_SPANS) for number in range(1_000)]) == []


def test_a_run_that_was_never_computed_is_due_at_once() -> None:
    assert known(LargeRuns(), KEY, 5.0).due_at() == 5.0


@pytest.mark.parametrize(("took_s", "pace_s"), [(0.1, LEAST_PACE_S), (3.0, PACE * 3.0)])
def test_while_spans_keep_coming_a_run_is_computed_at_its_pace(took_s: float, pace_s: float) -> None:
    run = LargeRun(KEY, touched_at=100.0 + pace_s, ended_at=100.0, took_s=took_s)
    assert run.due_at() == 100.0 + pace_s


def test_when_no_spans_come_any_more_a_run_is_soon_right() -> None:
    assert LargeRun(KEY, touched_at=101.0, ended_at=100.0, took_s=0.1).due_at() == 101.0 + QUIET_S


def test_a_run_that_fails_is_tried_ever_more_rarely() -> None:
    runs = LargeRuns()
    run = known(runs, KEY, 0.0)
    waits = []
    for _ in range(2_000):
        runs.failed(run, 100.0, 1.0)
        waits.append(run.due_at() - 100.0)
    assert waits[:3] == [PACE, 2 * PACE, 4 * PACE]
    assert waits[-1] == LONGEST_PACE_S
    assert runs.behind() == [run]


def test_spans_that_come_while_a_run_is_computed_leave_it_behind() -> None:
    runs = LargeRuns()
    run = known(runs, KEY, 1.0)
    runs.touch([KEY], 2.0)
    runs.computed(run, 1.0, 3.0, 1.0)
    assert runs.behind() == [run]
    runs.computed(run, 2.0, 4.0, 1.0)
    assert runs.behind() == []
    assert KEY in runs


def test_a_run_that_is_quick_alone_is_computed_with_others_again() -> None:
    runs = LargeRuns()
    runs.computed(known(runs, KEY, 1.0), 1.0, 2.0, large_runs.SMALL_AGAIN_S)
    assert KEY not in runs


def test_of_runs_that_are_due_that_of_the_org_that_waits_for_longest_comes_first() -> None:
    runs = LargeRuns()
    done = known(runs, RunKey("greedy", "0"), 1.0)
    runs.computed(done, 1.0, 5.0, 1.0)
    known(runs, RunKey("greedy", "1"), 2.0)
    modest = known(runs, RunKey("modest", "0"), 3.0)
    assert runs.next(10.0) is modest


def test_what_is_due_comes_before_what_is_not() -> None:
    runs = LargeRuns()
    later = known(runs, RunKey("modest", "0"), 1.0)
    runs.failed(later, 2.0, 1.0)
    due = known(runs, RunKey("greedy", "0"), 2.0)
    due.ended_at = -1000.0
    assert runs.next(3.0) is due


def test_the_run_that_had_no_spans_for_longest_is_forgotten_for_another() -> None:
    runs = LargeRuns()
    first, second = (known(runs, RunKey("org", str(number)), number) for number in range(2))
    for number in range(2, MAX_LARGE_RUNS):
        assert runs.add(RunKey("org", str(number))) is None
    runs.touch([first.key], 10.0)
    assert runs.add(RunKey("org", "another")) is second
    assert runs.among([second.key.trace, first.key.trace], ["org"]) == {first.key}
