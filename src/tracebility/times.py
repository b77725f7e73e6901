"""Read and write times, as nanoseconds since 1970: RFC 3339, or a number whose size tells its unit."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache

# What the engine's DateTime64(9) holds: from 1900 to 2262.
EARLIEST_NS = -2_208_988_800_000_000_000
LATEST_NS = (1 << 63) - 1

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d+))?(?:\s?([Zz])|\s?([+ -]\d\d):?(\d\d))?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
# Seconds, milliseconds, microseconds or nanoseconds: from 1973 to 2262 no number can be two of them.
_EARLIEST_S = 100_000_000
_LATEST_S = LATEST_NS // 10**9
_SCALES = (10**9, 10**6, 10**3, 1)


class InvalidTime(ValueError):
    """The value names no time, or one that cannot be stored."""


def parse(text: str, *, needs_zone: bool = True) -> int:
    """The time that ``text`` names, exactly, however far away. Without a zone it is UTC, where that is allowed.

    A ``+`` that arrived as a space is read as a ``+``: addresses that are not percent-encoded turn it into one.

    Raises:
        InvalidTime: when it is not RFC 3339.
    """
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise InvalidTime(f"{text[:40]!r} is not an RFC 3339 time: write it as 2026-01-31T12:00:00.123Z")
    date, clock, fraction, utc, hours, minutes = found.groups()
    if needs_zone and not (utc or hours):
        raise InvalidTime(f"{text[:40]!r} is not an RFC 3339 time: it has no zone, write Z or +01:00 behind it")
    zone = f"{hours.replace(' ', '+')}:{minutes}" if hours else "+00:00"
    try:
        seconds = (datetime.fromisoformat(f"{date}T{clock}{zone}") - _EPOCH) // _SECOND
    except ValueError as error:  # a month 13, an hour 25
        raise InvalidTime(f"{text[:40]!r} is not an RFC 3339 time: {error}") from None
    return seconds * 10**9 + int((fraction or "0")[:9].ljust(9, "0"))


def bounded(text: str) -> int:
    """As `parse`, cut to what the engine can hold; a time after `LATEST_NS` is the nanosecond after it.

    For bounds of queries. Raises: InvalidTime, as `parse`.
    """
    return min(max(parse(text), EARLIEST_NS), LATEST_NS + 1)


def from_client(value: str | int | float) -> int:
    """The time of a span or run as clients send it, from 1970 on.

    Raises:
        InvalidTime: when it is none, or before 1970 or after 2262.
    """
    if not isinstance(value, str):
        return _from_number(value)
    ns = parse(value, needs_zone=False)
    if not 0 <= ns <= LATEST_NS:
        raise InvalidTime(f"{value[:40]!r} is not between the years 1970 and 2262")
    return ns


def rfc3339(ns: int) -> str:
    """Microseconds, always six digits and ``Z``, so that the texts sort as the times do."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=4096)  # spans of a run share their seconds, and this is a third of the cost of showing one
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]  # strftime takes 1.7 times as long


def _from_number(value: int | float) -> int:
    if _EARLIEST_S <= value <= LATEST_NS:
        exact = Decimal(repr(value))  # the digits that were sent, not the nearest double's
        for scale in _SCALES:
            unit = 10**9 // scale
            if _EARLIEST_S * unit <= exact <= _LATEST_S * unit:
                return int(exact * scale)
    raise InvalidTime("the number is not a time: send RFC 3339 text, or seconds to nanoseconds since 1970")
