"""Times in query parameters."""

from tracebility import times
from tracebility.errors import Unprocessable


def instant(name: str, text: str) -> int:
    """The time that the parameter ``name`` holds, in nanoseconds since 1970.

    Raises:
        Unprocessable: when it is not RFC 3339.
    """
    try:
        return times.bounded(text)
    except times.InvalidTime:
        raise Unprocessable(
            f"{name}: not an RFC 3339 time.",
            hint=f"Write {name} as 2026-03-01T12:00:00Z or 2026-03-01T12:00:00%2B01:00.",
        ) from None
