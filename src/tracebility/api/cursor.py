"""Cursors: the position at which a page ended, as an opaque text that is valid for one list of one tenant.

A cursor holds a position in the order, not a count of rows, so rows that arrive later do not move it. Its check value
is keyed by the list and its owner, so a damaged or edited cursor, or one of another project, is refused. The key is no
secret: a forged cursor reaches only rows that the API key may read anyway.
"""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from tracebility.errors import BadRequest

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_CHECK_BYTES = 10
_LONGEST = 4096  # a position is at most some hundred bytes


def seal(place: bytes, owner: bytes) -> str:
    """``place`` as an opaque text. ``owner`` is the list's kind and its tenant, at most 64 bytes."""
    return urlsafe_b64encode(place + _check(place, owner)).rstrip(b"=").decode()


def unseal(text: str, owner: bytes) -> bytes:
    """The place that was sealed into ``text``.

    Raises:
        BadRequest: when `seal` did not make it for this owner.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError("too long")
        whole = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        place = whole[:-_CHECK_BYTES]
        if seal(place, owner) != text:  # compare the text: base64 has unused bits, which could be changed
            raise ValueError("the check value is wrong")
    except ValueError:
        raise unfit() from None
    return place


def seal_made(created_at: datetime, id_: bytes, owner: bytes) -> str:
    """The cursor of a list in order of creation, after the item with this time and id."""
    return seal(_MOMENT.pack(microseconds(created_at)) + id_, owner)


def unseal_made(text: str, owner: bytes) -> tuple[datetime, bytes]:
    """The time and id that `seal_made` sealed.

    Raises:
        BadRequest: when `seal_made` did not make it for this owner.
    """
    place = unseal(text, owner)
    try:
        (created_us,) = _MOMENT.unpack_from(place)
        return EPOCH + timedelta(microseconds=created_us), place[_MOMENT.size :]
    except (struct.error, OverflowError):  # a client sealed its own bytes
        raise unfit() from None


def microseconds(moment: datetime) -> int:
    """``moment`` as microseconds since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def unfit() -> BadRequest:
    """The error for a cursor that is not one of this list."""
    return BadRequest(
        "cursor: not a cursor of this list.",
        hint="Send next_cursor of the previous page unchanged, or omit cursor to start at the first page.",
    )


_MOMENT = struct.Struct(">q")


def _check(place: bytes, owner: bytes) -> bytes:
    return blake2b(place, digest_size=_CHECK_BYTES, key=owner).digest()
