"""Times are read exactly, in every form that names one, and written so that they sort as text."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebility.times import EARLIEST_NS, LATEST_NS, InvalidTime, bounded, from_client, parse, rfc3339

NOON = 1_769_860_800 * 10**9


@pytest.mark.parametrize(
    ("sent", "nanos"),
    [
        ("2026-01-31T12:00:00Z", NOON),
        ("2026-01-31T12:00:00", NOON),
        ("2026-01-31 12:00:00z", NOON),
        ("2026-01-31T13:00:00.5+01:00", NOON + 500_000_000),
        ("2026-01-31T07:00:00-0500", NOON),
        ("2026-01-31T12:00:00.123456789Z", NOON + 123_456_789),
        ("2026-01-31T12:00:00.1234567891234Z", NOON + 123_456_789),
        ("1970-01-01T00:00:00Z", 0),
        (1_769_860_800, NOON),
        (1_769_860_800.25, NOON + 250_000_000),
        (1_769_860_800_000, NOON),
        (1_769_860_800_000_000, NOON),
        (NOON, NOON),
        (1769860800.123, NOON + 123_000_000),
    ],
)
def test_every_usual_form_is_read(sent: str | int | float, nanos: int) -> None:
    assert from_client(sent) == nanos


@pytest.mark.parametrize(
    "sent",
    [
        *("", "now", "2026-01-31", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "1969-12-31T23:59:59Z"),
        *("2263-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "٢٠٢٦-01-31T12:00:00Z"),
        *("2026-01-31T24:01:00Z", "2026-01-31T12:00:60Z", "2026-01-31T12:00:00Zjunk", "1769860800"),
        *(0, -1, 5, 1.5, 1e300, float("inf"), float("nan"), 2**63, 10**30, 10**4000),
    ],
)
def test_what_names_no_time_of_a_span_is_refused(sent: str | int | float) -> None:
    with pytest.raises(InvalidTime):
        from_client(sent)


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2262, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_zones_agree(naive: datetime, offset_minutes: int) -> None:
    moment = naive.replace(tzinfo=UTC)
    elsewhere = moment.astimezone(timezone(timedelta(minutes=offset_minutes)))
    exact = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    assert from_client(moment.isoformat()) == from_client(elsewhere.isoformat()) == exact


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
def test_a_bound_of_a_query_is_read(text: str, ns: int) -> None:
    assert bounded(text) == ns


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-03-01", "2026-03-01T12:00:00", "2026-13-01T12:00:00Z", "2026-03-01T25:00:00Z", "1772366400"],
)
def test_a_bound_of_a_query_needs_a_zone(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        bounded(text)


@given(st.lists(st.integers(EARLIEST_NS, LATEST_NS), min_size=2))
def test_written_times_sort_as_the_times_do(times: list[int]) -> None:
    micros = [ns // 1000 * 1000 for ns in times]
    assert sorted(map(rfc3339, micros)) == [rfc3339(ns) for ns in sorted(micros)]
    assert [bounded(rfc3339(ns)) for ns in micros] == micros


def test_written_times_are_what_python_reads() -> None:
    assert datetime.fromisoformat(rfc3339(1_500_000_000_123_456_789)) == datetime(2017, 7, 14, 2, 40, 0, 123456, UTC)


def test_a_time_is_read_exactly_however_far_away_it_is() -> None:
    assert parse("0001-01-01T00:00:00+14:00") == -62_135_647_200 * 10**9
    assert parse("9999-12-31T23:59:59.5-14:00") == 253_402_351_199 * 10**9 + 5 * 10**8
