"""Conversion between RFC 3339 texts and nanoseconds since 1970."""

import re
from datetime import UTC, datetime
from functools import lru_cache

from tracebility.errors import Unprocessable
from tracebility.wire.limits import MAX_UNIX_NANO

# What the engine's DateTime64(9) holds: 1900 to 2262. Times outside of it cannot be stored, so bounds are cut to just
# around it.
EARLIEST_NS = -2_208_988_800_000_000_000
LATEST_NS = MAX_UNIX_NANO

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+ -]\d\d:\d\d)")


def rfc3339(ns: int) -> str:
    """Microseconds, always six digits and ``Z``, so that the texts sort as the times do."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=4096)  # spans of a run share their seconds, and this is a third of the cost of showing one
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]  # strftime takes 1.7 times as long


def nanoseconds(text: str) -> int:
    """The time that ``text`` names; one after `LATEST_NS`, whichever, is the nanosecond after it.

    Raises:
        ValueError: when it is not RFC 3339 with ``Z`` or an offset. (A ``+`` that arrived as a space, as it does in an
            address that was not percent-encoded, is taken for a ``+``.)
    """
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError("not an RFC 3339 time")
    day, time, fraction, offset = found.groups()
    offset = "+00:00" if offset in "Zz" else offset.replace(" ", "+")
    try:
        seconds = int(datetime.fromisoformat(f"{day}T{time}{offset}").timestamp())
    except ValueError:  # a month 13, an hour 25
        raise ValueError("not an RFC 3339 time") from None
    ns = seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))
    return min(max(ns, EARLIEST_NS), LATEST_NS + 1)


def instant(name: str, text: str) -> int:
    """The time that the parameter ``name`` says.

    Raises:
        Unprocessable: when it is not RFC 3339.
    """
    try:
        return nanoseconds(text)
    except ValueError:
        raise Unprocessable(
            f"{name}: not an RFC 3339 time.",
            hint=f"Write {name} as 2026-03-01T12:00:00Z or 2026-03-01T12:00:00%2B01:00.",
        ) from None
