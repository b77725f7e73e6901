"""Where a page ended, as an opaque text that only fits the list and the tenant it was made for.

A cursor names a place in the order, not a count of rows, so rows that arrive later do not move it. Its check value is
keyed by the list and its owner: that catches a cursor that was damaged, edited, or carried to another project. It
guards no secret (who forges one reaches only rows that the key may read anyway), so it needs none.
"""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from tracebility.errors import BadRequest

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_CHECK_BYTES = 10
_LONGEST = 4096  # a run id is at most some hundred bytes; nothing longer is worth decoding


def seal(place: bytes, owner: bytes) -> str:
    """``place`` as clients carry it. ``owner`` is the list's kind and its tenant, at most 64 bytes."""
    return urlsafe_b64encode(place + _check(place, owner)).rstrip(b"=").decode()


def unseal(text: str, owner: bytes) -> bytes:
    """The place that ``text`` was sealed for.

    Raises:
        BadRequest: when it was not made by `seal` for this owner.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError("too long")
        whole = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        place = whole[:-_CHECK_BYTES]
        if seal(place, owner) != text:  # compared as text: base64 leaves bits unused that would else be free to change
            raise ValueError("the check does not fit")
    except ValueError:
        raise unfit() from None
    return place


def seal_made(created_at: datetime, id_: bytes, owner: bytes) -> str:
    """The place, in a list in the order of creation, of what was made then and has this id."""
    return seal(_MOMENT.pack(microseconds(created_at)) + id_, owner)


def unseal_made(text: str, owner: bytes) -> tuple[datetime, bytes]:
    """What `seal_made` sealed.

    Raises:
        BadRequest: when it did not, for this owner.
    """
    place = unseal(text, owner)
    try:
        (created_us,) = _MOMENT.unpack_from(place)
        return EPOCH + timedelta(microseconds=created_us), place[_MOMENT.size :]
    except (struct.error, OverflowError):  # sealed by someone who read how, around no place
        raise unfit() from None


def microseconds(moment: datetime) -> int:
    """``moment`` as microseconds since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def unfit() -> BadRequest:
    """What a cursor of another list, or of none, is answered with."""
    return BadRequest(
        "cursor: not a cursor of this list.",
        hint="Pass next_cursor of the page before as it came, or leave cursor out to start at the first page.",
    )


_MOMENT = struct.Struct(">q")


def _check(place: bytes, owner: bytes) -> bytes:
    return blake2b(place, digest_size=_CHECK_BYTES, key=owner).digest()
