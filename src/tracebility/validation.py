"""What an operator or an admin writes, read strictly: a field that is unknown or holds something else is named."""

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from tracebility.errors import BadRequest, Unprocessable

# A name is shown in lists and in mails.
NAME_CHARS = 200
# Of what a client wrote, repeated in an answer.
_SHOWN_CHARS = 300

Document = TypeVar("Document")


def read(text: bytes, kind: type[Document]) -> Document:
    """The ``kind`` that ``text`` is.

    Raises:
        BadRequest: when it is not JSON.
        Unprocessable: when a value in it is not acceptable, naming its field.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise _unacceptable(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not JSON: {error}.", hint="Send one JSON object, in UTF-8.") from None


def checked(kind: type[Document], options: Mapping[str, object]) -> Document:
    """The ``kind`` that the options of a command make, in the bounds that `read` keeps.

    Raises:
        Unprocessable: as `read`.
    """
    try:
        return msgspec.convert(options, kind)
    except msgspec.ValidationError as error:
        raise _unacceptable(str(error)) from None


def unacceptable(field: str, takes: str) -> Unprocessable:
    """What a value of ``field`` is answered with that is not one it takes."""
    return Unprocessable(f"{field}: {takes}.", hint=f"Correct {field} in the body.")


def must_be_name(text: str, field: str = "name") -> None:
    """Refuse what people could not read or tell apart; for ``__post_init__``.

    Raises:
        ValueError: saying what a name may be.
    """
    if not text.strip() or len(text) > NAME_CHARS or any(unicodedata.category(char) in _UNSEEN for char in text):
        raise ValueError(f"{field}: takes 1 to {NAME_CHARS} characters, no control characters, not only spaces")


def stamp(moment: datetime | None) -> str | None:
    """``moment`` as every answer has it: RFC 3339 in UTC, six digits."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})

# What msgspec says, and what is raised in ``__post_init__``, which it puts the place behind.
_AT = re.compile(r"(?P<words>.*?)(?: - at `\$\.?(?P<place>.*)`)?", re.DOTALL)
_OWN = re.compile(r"(?P<field>\w+): (?P<words>.*)", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")


def _unacceptable(said: str) -> Unprocessable:
    found = _AT.fullmatch(said)
    words, place = (found["words"], found["place"] or "") if found else (said, "")
    if own := _OWN.fullmatch(words):
        place, words = _below(place, own["field"]), own["words"]
    elif unknown := _UNKNOWN.fullmatch(words):
        place, words = _below(place, unknown["field"]), "there is no such field"
    elif missing := _MISSING.fullmatch(words):
        place, words = _below(place, missing["field"]), "is missing"
    else:
        words = words[:1].lower() + words[1:]
    return unacceptable(place[:_SHOWN_CHARS] or "the body", words[:_SHOWN_CHARS])


def _below(place: str, field: str) -> str:
    return f"{place}.{field}" if place else field
