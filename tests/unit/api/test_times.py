"""Times are read as RFC 3339 has them, and written so that they sort as text."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebility.api.times import EARLIEST_NS, LATEST_NS, nanoseconds, rfc3339


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00.5z", 500_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01 01:00:00 01:00", 0),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("2026-03-01T12:00:00.123456789123Z", 1_772_366_400_123_456_789),
        ("0001-01-01T00:00:00Z", EARLIEST_NS),
        ("9999-12-31T23:59:59Z", LATEST_NS + 1),
    ],
)
def test_rfc_3339_is_read(text: str, ns: int) -> None:
    assert nanoseconds(text) == ns


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-03-01", "2026-03-01T12:00:00", "2026-13-01T12:00:00Z", "2026-03-01T25:00:00Z", "1772366400"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        nanoseconds(text)


@given(st.lists(st.integers(EARLIEST_NS, LATEST_NS), min_size=2))
def test_written_times_sort_as_the_times_do(times: list[int]) -> None:
    micros = [ns // 1000 * 1000 for ns in times]
    assert sorted(map(rfc3339, micros)) == [rfc3339(ns) for ns in sorted(micros)]
    assert [nanoseconds(rfc3339(ns)) for ns in micros] == micros


def test_written_times_are_what_python_reads() -> None:
    assert datetime.fromisoformat(rfc3339(1_500_000_000_123_456_789)) == datetime(2017, 7, 14, 2, 40, 0, 123456, UTC)
