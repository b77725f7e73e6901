"""A batch is closed by the work that it means, so that one org's slow spans do not hold up another's."""

import pytest

from tracebility.worker.batch_bounds import MAX_BYTES, MAX_ROWS, MAX_WORK_S, MIN_ROWS, BatchBounds


@pytest.mark.parametrize(
    ("rows", "size", "mapping_s", "is_full"),
    [
        (MAX_ROWS - 1, MAX_BYTES - 1, MAX_WORK_S * 0.9, False),
        (MAX_ROWS, 0, 0.0, True),
        (1, MAX_BYTES, 0.0, True),
        (1, 1, MAX_WORK_S, True),
    ],
)
def test_a_batch_is_closed_by_whichever_bound_comes_first(
    rows: int, size: int, mapping_s: float, is_full: bool
) -> None:
    assert BatchBounds().is_full(rows, size, mapping_s) == is_full


def test_a_slow_engine_gets_batches_that_it_inserts_in_time() -> None:
    bounds = BatchBounds()
    for _ in range(20):
        bounds.inserted(bounds.max_rows, bounds.max_rows / 20_000)
    assert bounds.max_rows == pytest.approx(20_000 * MAX_WORK_S, rel=0.01)
    for _ in range(20):
        bounds.inserted(bounds.max_rows, bounds.max_rows / 1_000)
    assert bounds.max_rows == MIN_ROWS
    for _ in range(40):
        bounds.inserted(bounds.max_rows, bounds.max_rows / 1_000_000)
    assert bounds.max_rows == MAX_ROWS


def test_small_inserts_say_nothing_about_the_rate() -> None:
    bounds = BatchBounds()
    for _ in range(50):
        bounds.inserted(10, 0.02)
    assert bounds.max_rows == MAX_ROWS
