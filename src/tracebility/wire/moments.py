"""Moments as clients write them, in nanoseconds since 1970: RFC 3339 text, or a number whose size tells its unit."""

import re
from datetime import UTC, datetime
from decimal import Decimal

from tracebility.wire import limits

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d+))?\s?(?:([Zz])|([+-]\d\d):?(\d\d))?", re.ASCII
)
# Seconds, milliseconds, microseconds or nanoseconds: from 1973 to 2262 no number can be two of them.
_EARLIEST_S = 100_000_000
_LATEST_S = limits.MAX_UNIX_NANO // 10**9
_SCALES = (10**9, 10**6, 10**3, 1)


class NotAMoment(ValueError):
    """The value does not name a moment between 1970 and 2262."""


def unix_nano(value: str | int | float) -> int:
    """Nanoseconds since 1970. Text without a zone is UTC.

    Raises:
        NotAMoment: saying what is expected.
    """
    return _from_text(value) if isinstance(value, str) else _from_number(value)


def _from_text(text: str) -> int:
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise NotAMoment(f"{text[:40]!r} is not a time: write RFC 3339, such as 2026-01-31T12:00:00.123Z")
    date, time, fraction, _, hours, minutes = found.groups()
    zone = f"{hours}:{minutes}" if hours else "+00:00"
    try:
        moment = datetime.fromisoformat(f"{date}T{time}{zone}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise NotAMoment(f"{text[:40]!r} is not a time: {error}") from error
    nanos = int(moment.timestamp()) * 10**9 + int((fraction or "0")[:9].ljust(9, "0"))
    if not 0 <= nanos <= limits.MAX_UNIX_NANO:
        raise NotAMoment(f"{text[:40]!r} is not between the years 1970 and 2262")
    return nanos


def _from_number(value: int | float) -> int:
    if _EARLIEST_S <= value <= limits.MAX_UNIX_NANO:
        exact = Decimal(repr(value))  # the digits that were sent, not the nearest double's
        for scale in _SCALES:
            unit = 10**9 // scale
            if _EARLIEST_S * unit <= exact <= _LATEST_S * unit:
                return int(exact * scale)
    raise NotAMoment("the number is not a time: send RFC 3339 text, or seconds to nanoseconds since 1970")
