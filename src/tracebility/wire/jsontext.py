"""Prepares untrusted JSON for decoders: repairs lone surrogates, measures nesting, and cuts values that are too deep.

A decoder recurses once for each bracket, so a thousand nested brackets make it fail for the whole body. A value that is
too deep is therefore cut out before decoding. Its item is then rejected for its depth, and the others are kept.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from tracebility.errors import BadRequest, PayloadTooLarge

T = TypeVar("T")

# Deeper than every limit, so that a cut item is still rejected as too deep; shallow enough for every decoder.
_CUT_DEPTH = 256
_WINDOW_BYTES = 1 << 20
_COMMA, _OPENING, _CLOSING, _QUOTE = 1, 2, 3, 4
_KINDS = np.zeros(256, np.uint8)
for _characters, _kind in ((b",", _COMMA), (b"{[", _OPENING), (b"}]", _CLOSING), (b'"', _QUOTE)):
    _KINDS[list(_characters)] = _kind
_STEPS = np.array([0, 0, 1, -1, 0], np.int8)

# Values that may be decoded without being counted first: about 100 MB of objects.
_UNCOUNTED = 1_000_000

_SURROGATES = re.compile(
    rb"\\\\"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def decode(body: bytes, decoder: Callable[[bytes], T]) -> T:
    """Decode ``body``, after cutting out values that are too deep for the decoder.

    Raises:
        BadRequest: when ``body`` is not JSON; the text names the byte.
        msgspec.ValidationError: when the JSON does not have the decoder's type.
        UnicodeDecodeError: when a decoded string is not UTF-8.
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
    """Replace each escaped lone surrogate by U+FFFD. Decoders reject them, because no UTF-8 text can hold them."""
    if b"\\ud" not in body and b"\\uD" not in body:
        return body
    return _SURROGATES.sub(lambda found: b"\\ufffd" if found[1] else found[0], body)


def error_text(error: Exception) -> str:
    """A decoder's error as text for clients: ``name: expected str, got int``."""
    detail, _, path = str(error).partition(" - at `$")
    detail = (detail[:1].lower() + detail[1:]).replace("`", "")
    path = path.rstrip("`").lstrip(".")
    return f"{path}: {detail}" if path else detail


def check_values(text: bytes, limit: int, noun: str) -> None:
    """Check that the list ``text`` has at most ``limit`` values, without decoding them.

    Raises:
        PayloadTooLarge: when it has more; the text names the values by ``noun``.
    """
    if text.count(b",") < _UNCOUNTED:
        return
    commas = 0
    for window in _scan(text):
        commas += int(np.count_nonzero((window.kinds == _COMMA) & (window.depths == 1)))
        if commas >= limit:
            raise PayloadTooLarge(f"The body holds more than {limit} {noun}.", hint="Send fewer a request.")


def is_deeper(text: bytes, bound: int) -> bool:
    """Whether ``text`` nests arrays and objects more than ``bound`` deep."""
    if text.count(b"[") + text.count(b"{") <= bound:
        return False
    return any(int(window.depths.max(initial=0)) > bound for window in _scan(text))


def cut(text: bytes) -> bytes:
    """Replace each value that begins more than 256 brackets deep by 0. The result is valid JSON if ``text`` was."""
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
    """A part of the text, with the commas and brackets in it that are outside of strings."""

    text: NDArray[np.uint8]
    places: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    depths: NDArray[np.int64]  # nesting after each of them


def _scan(text: bytes) -> Iterator[_Window]:
    """Find commas and brackets outside of strings. Other bytes, nine in ten, are filtered out first."""
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
