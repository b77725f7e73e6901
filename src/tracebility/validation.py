"""Strict parsing of request bodies and command options. Errors name the unknown or invalid field."""

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from tracebility.errors import BadRequest, Unprocessable

# Names are shown in lists and in mails.
NAME_CHARS = 200
# The most of a client's text that an answer repeats.
_SHOWN_CHARS = 300

Document = TypeVar("Document")


def read(text: bytes, kind: type[Document]) -> Document:
    """Parse JSON ``text`` as ``kind``.

    Raises:
        BadRequest: when the text is not JSON.
        Unprocessable: when a value is invalid, naming its field.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise _unacceptable(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not JSON: {error}.", hint="Send one JSON object, in UTF-8.") from None


def checked(kind: type[Document], options: Mapping[str, object]) -> Document:
    """Build ``kind`` from the options of a command, with the same checks as `read`.

    Raises:
        Unprocessable: as `read`.
    """
    try:
        return msgspec.convert(options, kind)
    except msgspec.ValidationError as error:
        raise _unacceptable(str(error)) from None


def unacceptable(field: str, takes: str) -> Unprocessable:
    """Return the error for an invalid value of ``field``. ``takes`` says which values are valid."""
    return Unprocessable(f"{field}: {takes}.", hint=f"Correct {field} in the body.")


def must_be_name(text: str, field: str = "name") -> None:
    """Refuse names that people cannot read or tell apart; for ``__post_init__``.

    Raises:
        ValueError: with the rules for names.
    """
    if not text.strip() or len(text) > NAME_CHARS or any(unicodedata.category(char) in _UNSEEN for char in text):
        raise ValueError(f"{field}: must have 1 to {NAME_CHARS} characters, no control characters, and not only spaces")


def stamp(moment: datetime | None) -> str | None:
    """Format a time as in all answers: RFC 3339 in UTC with six fractional digits."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})

# Parts of msgspec's messages, and of errors raised in ``__post_init__``, to which msgspec appends the path.
_AT = re.compile(r"(?P<words>.*?)(?: - at `\$\.?(?P<place>.*)`)?", re.DOTALL)
_OWN = re.compile(r"(?P<field>\w+): (?P<words>.*)", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")


def _unacceptable(message: str) -> Unprocessable:
    found = _AT.fullmatch(message)
    words, place = (found["words"], found["place"] or "") if found else (message, "")
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
