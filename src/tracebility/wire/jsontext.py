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
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("{"), ord("[")]] = 1
_STEPS[[ord("}"), ord("]")]] = -1

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


def check_values(body: bytes, depth: int, most: int, what: str) -> None:
    """Refuse ``body`` when more than ``most`` values stand within its first ``depth`` levels, before any is decoded.

    Raises:
        PayloadTooLarge: naming ``what`` there is too much of.
    """
    seen = 0
    for window in _scan(body):
        begins = (window.marks == ord(",")) | (_STEPS[window.marks] == 1)
        seen += int(np.count_nonzero(begins & (window.depths <= depth)))
        if seen > most:
            raise PayloadTooLarge(f"The body holds more than {most} {what}.", hint="Send fewer a request.")


def is_deeper(body: bytes, bound: int) -> bool:
    """Whether arrays and objects are nested more than ``bound`` deep in ``body``."""
    if body.count(b"[") + body.count(b"{") <= bound:
        return False
    return any(int(window.depths.max(initial=0)) > bound for window in _scan(body))


def cut(body: bytes) -> bytes:
    """``body`` with each value that begins more than 256 brackets deep replaced by 0; well formed if ``body`` was."""
    kept = bytearray()
    for window in _scan(body):
        steps = _STEPS[window.marks]
        inside = window.depths + (steps == -1)  # a closing bracket goes with its opening one
        begins = (inside == _CUT_DEPTH + 1) & (steps == 1)
        text = np.where(begins, ord("0"), window.text)
        kept += text[(inside <= _CUT_DEPTH) | begins].tobytes()
    return bytes(kept)


class _Window(NamedTuple):
    text: NDArray[np.uint8]
    marks: NDArray[np.uint8]  # text with what is in strings blanked
    depths: NDArray[np.int32]  # after each byte


def _scan(body: bytes) -> Iterator[_Window]:
    plain = body.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in body else body
    text = np.frombuffer(body, np.uint8)
    unescaped = np.frombuffer(plain, np.uint8)
    depth = quotes = 0
    for start in range(0, len(body), _WINDOW_BYTES):
        marks = unescaped[start : start + _WINDOW_BYTES]
        in_string = ((np.cumsum(marks == ord('"'), dtype=np.int32) + quotes) & 1).astype(bool)
        marks = np.where(in_string, np.uint8(ord(" ")), marks)
        depths = np.cumsum(_STEPS[marks], dtype=np.int32) + np.int32(depth)
        yield _Window(text[start : start + _WINDOW_BYTES], marks, depths)
        depth, quotes = int(depths[-1]), int(in_string[-1])


def _hint(body: bytes) -> str:
    if b"NaN" in body or b"Infinity" in body:
        return "JSON has no NaN and no Infinity: send null or a string (json.dumps(..., allow_nan=False) finds them)."
    return "Send one JSON document, UTF-8, nothing before or after it."
