"""JSON text from anyone: half surrogates repaired, depth measured and cut, without ever recursing into it.

A decoder recurses once a bracket, so text of a thousand brackets stops it. What is too deep is cut out before it is
decoded, and the item it was in is then refused for its depth: the others are kept.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from tracebility.errors import BadRequest, PayloadTooLarge

T = TypeVar("T")

# Deeper than any bound on depth, so that what was cut is still seen as too deep; shallow enough for every decoder.
_CUT_DEPTH = 256
_WINDOW_BYTES = 1 << 20
_COMMA, _OPENING, _CLOSING, _QUOTE = 1, 2, 3, 4
_KINDS = np.zeros(256, np.uint8)
for _characters, _kind in ((b",", _COMMA), (b"{[", _OPENING), (b"}]", _CLOSING), (b'"', _QUOTE)):
    _KINDS[list(_characters)] = _kind
_STEPS = np.array([0, 0, 1, -1, 0], np.int8)

# So many values may be decoded without being counted first: some 100 MB of objects.
_UNCOUNTED = 1_000_000

_SURROGATES = re.compile(
    rb"\\\\"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def decode(body: bytes, decoder: Callable[[bytes], T]) -> T:
    """``decoder(body)``, with what is too deep to decode cut out.

    Raises:
        BadRequest: when ``body`` is not JSON, with the byte where it stops being that.
        msgspec.ValidationError: when it is JSON of another shape.
        UnicodeDecodeError: when a string that is read is not UTF-8.
    """
    try:
        try:
            return decoder(body)
        except RecursionError:
            return decoder(cut(body))
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, RecursionError) as error:
        detail = "The body is empty." if not body.strip() else f"The body is not JSON: {error}."
        raise BadRequest(detail, hint=_hint(body)) from error


def repair(body: bytes) -> bytes:
    """``body`` with each escaped half of a surrogate pair made U+FFFD: no text can hold one, and decoders refuse it."""
    if b"\\ud" not in body and b"\\uD" not in body:
        return body
    return _SURROGATES.sub(lambda found: b"\\ufffd" if found[1] else found[0], body)


def told(error: Exception) -> str:
    """What a decoder found, in the words of a client: ``name: expected str, got int``."""
    what, _, where = str(error).partition(" - at `$")
    what = (what[:1].lower() + what[1:]).replace("`", "")
    where = where.rstrip("`").lstrip(".")
    return f"{where}: {what}" if where else what


def check_values(text: bytes, most: int, what: str) -> None:
    """Refuse the list ``text`` when it has more than ``most`` values, before any is decoded.

    Raises:
        PayloadTooLarge: naming ``what`` there is too much of.
    """
    if text.count(b",") < _UNCOUNTED:
        return
    commas = 0
    for window in _scan(text):
        commas += int(np.count_nonzero((window.kinds == _COMMA) & (window.depths == 1)))
        if commas >= most:
            raise PayloadTooLarge(f"The body holds more than {most} {what}.", hint="Send fewer a request.")


def is_deeper(text: bytes, bound: int) -> bool:
    """Whether arrays and objects are nested more than ``bound`` deep in ``text``."""
    if text.count(b"[") + text.count(b"{") <= bound:
        return False
    return any(int(window.depths.max(initial=0)) > bound for window in _scan(text))


def cut(text: bytes) -> bytes:
    """``text`` with each value that begins more than 256 brackets deep replaced by 0; well formed if ``text`` was."""
    kept = bytearray()
    inside = 0
    for window in _scan(text):
        begins = window.places[(window.kinds == _OPENING) & (window.depths == _CUT_DEPTH + 1)]
        ends = window.places[(window.kinds == _CLOSING) & (window.depths == _CUT_DEPTH)]
        changes = np.zeros(len(window.text) + 1, np.int8)
        changes[begins] += 1
        changes[ends + 1] -= 1
        depths = np.cumsum(changes[:-1], dtype=np.int8) + np.int8(inside)
        characters = window.text.copy()
        characters[begins] = ord("0")
        keep = depths <= 0
        keep[begins] = True
        kept += characters[keep].tobytes()
        inside = int(depths[-1]) + int(changes[-1])
    return bytes(kept)


class _Window(NamedTuple):
    """A stretch of the text, and the commas and brackets in it that stand outside of strings."""

    text: NDArray[np.uint8]
    places: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    depths: NDArray[np.int64]  # after each


def _scan(text: bytes) -> Iterator[_Window]:
    """Nine in ten bytes are none of those: they are looked at once, and only the others counted."""
    plain = text.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in text else text
    characters = np.frombuffer(text, np.uint8)
    unescaped = np.frombuffer(plain, np.uint8)
    depth = quotes = 0
    for start in range(0, len(text), _WINDOW_BYTES):
        kinds = _KINDS[unescaped[start : start + _WINDOW_BYTES]]
        places = np.flatnonzero(kinds)
        kinds = kinds[places]
        parities = np.cumsum(kinds == _QUOTE) + quotes
        outside = (parities & 1 == 0) & (kinds != _QUOTE)
        quotes = int(parities[-1]) & 1 if len(parities) else quotes
        places, kinds = places[outside], kinds[outside]
        depths = np.cumsum(_STEPS[kinds], dtype=np.int64) + depth
        depth = int(depths[-1]) if len(depths) else depth
        yield _Window(characters[start : start + _WINDOW_BYTES], places, kinds, depths)


def _hint(body: bytes) -> str:
    if b"NaN" in body or b"Infinity" in body:
        return "JSON has no NaN and no Infinity: send null or a string (json.dumps(..., allow_nan=False) finds them)."
    return "Send one JSON document, UTF-8, nothing before or after it."
