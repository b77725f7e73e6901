"""Moments are read exactly, in every form that names one."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebility.wire.moments import NotAMoment, unix_nano

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
    assert unix_nano(sent) == nanos


@pytest.mark.parametrize(
    "sent",
    [
        *("", "now", "2026-01-31", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "1969-12-31T23:59:59Z"),
        *("2263-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "٢٠٢٦-01-31T12:00:00Z"),
        *("2026-01-31T24:01:00Z", "2026-01-31T12:00:60Z", "2026-01-31T12:00:00Zjunk", "1769860800"),
        *(0, -1, 5, 1.5, 1e300, float("inf"), float("nan"), 2**63, 10**30, 10**4000),
    ],
)
def test_what_names_no_moment_is_refused(sent: str | int | float) -> None:
    with pytest.raises(NotAMoment):
        unix_nano(sent)


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2262, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_zones_agree(naive: datetime, offset_minutes: int) -> None:
    moment = naive.replace(tzinfo=UTC)
    elsewhere = moment.astimezone(timezone(timedelta(minutes=offset_minutes)))
    exact = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    assert unix_nano(moment.isoformat()) == unix_nano(elsewhere.isoformat()) == exact
