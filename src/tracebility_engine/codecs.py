"""Content codings of requests and answers. A client sends one frame per block, so every decoder goes on after a frame.

A decoder that stops behind the first frame stores the first block and answers 200: the rows behind it are lost.
"""

import zlib
from collections.abc import Callable
from typing import Any, Protocol

import lz4.frame
import zstandard
from isal import isal_zlib

from tracebility_engine.engine import EngineError

CANNOT_DECOMPRESS = 271
NOT_IMPLEMENTED = 48
# gzip level of answers: the clients that take an answer compressed are on this machine.
_GZIP_LEVEL = 1
_WBITS_GZIP = 31
_WBITS_ZLIB = 15


class Decoder(Protocol):
    """Decodes a request's body."""

    def feed(self, data: bytes) -> bytes:
        """The decoded bytes that ``data`` completes."""

    def finish(self) -> None:
        """The body is over. Raises EngineError when it ended inside a frame."""


class Encoder(Protocol):
    """Encodes an answer as one frame, since clients read only the first."""

    def feed(self, data: bytes) -> bytes:
        """The encoded bytes that can be sent now."""

    def finish(self) -> bytes:
        """The remaining bytes and the end of the frame."""


def decoder(encoding: str) -> Decoder | None:
    """The decoder of a ``Content-Encoding``; None for identity.

    Raises:
        EngineError: a coding that is not known.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return None
    if name not in _DECODERS:
        raise _error(NOT_IMPLEMENTED, f"Content-Encoding {name!r} is not known; send lz4, zstd, gzip or deflate")
    return _Frames(*_DECODERS[name])


def encoder(accepted: str) -> tuple[str, Encoder] | None:
    """The first coding of ``Accept-Encoding`` that is known, and its encoder; None when there is none."""
    for offer in accepted.split(","):
        name, _, weight = offer.strip().lower().partition(";")
        if name in _ENCODERS and weight.replace(" ", "") not in {"q=0", "q=0.0"}:
            return name, _ENCODERS[name]()
    return None


class _Frames:
    """Decodes frame after frame, whatever way the body was cut into pieces."""

    def __init__(self, make: Callable[[], Any], errors: tuple[type[Exception], ...]) -> None:
        self._make = make
        self._errors = errors
        self._frame: Any = None

    def feed(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        while data:
            if self._frame is None:
                self._frame = self._make()
            try:
                parts.append(self._frame.decompress(data))
            except self._errors as error:
                raise _error(CANNOT_DECOMPRESS, f"Cannot decompress the body: {error}") from None
            if not self._frame.eof:
                break
            data = self._frame.unused_data or b""
            self._frame = None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def finish(self) -> None:
        if self._frame is not None:
            raise _error(CANNOT_DECOMPRESS, "The compressed body ends in the middle of a frame")


def _new_lz4() -> Any:
    return lz4.frame.LZ4FrameDecompressor()


def _new_zstd() -> Any:
    return zstandard.ZstdDecompressor().decompressobj()


def _new_gzip() -> Any:
    return isal_zlib.decompressobj(wbits=_WBITS_GZIP)


def _new_zlib() -> Any:
    return isal_zlib.decompressobj(wbits=_WBITS_ZLIB)


_INFLATE_ERRORS: tuple[type[Exception], ...] = (isal_zlib.error, zlib.error)  # type: ignore[assignment]
_DECODERS: dict[str, tuple[Callable[[], Any], tuple[type[Exception], ...]]] = {
    "lz4": (_new_lz4, (RuntimeError,)),
    "zstd": (_new_zstd, (zstandard.ZstdError,)),
    "gzip": (_new_gzip, _INFLATE_ERRORS),
    "x-gzip": (_new_gzip, _INFLATE_ERRORS),
    "deflate": (_new_zlib, _INFLATE_ERRORS),
}


class _Lz4Encoder:
    def __init__(self) -> None:
        self._frame = lz4.frame.LZ4FrameCompressor()
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        head = b"" if self._begun else self._frame.begin()
        self._begun = True
        return bytes(head + self._frame.compress(data))

    def finish(self) -> bytes:
        head = b"" if self._begun else self._frame.begin()
        return bytes(head + self._frame.flush())


class _CompressObject:
    def __init__(self, make: Callable[[], Any]) -> None:
        self._frame = make()

    def feed(self, data: bytes) -> bytes:
        return bytes(self._frame.compress(data))

    def finish(self) -> bytes:
        return bytes(self._frame.flush())


_ENCODERS: dict[str, Callable[[], Encoder]] = {
    "lz4": _Lz4Encoder,
    "zstd": lambda: _CompressObject(lambda: zstandard.ZstdCompressor(level=1).compressobj()),
    "gzip": lambda: _CompressObject(lambda: isal_zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _WBITS_GZIP)),
    "deflate": lambda: _CompressObject(lambda: isal_zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _WBITS_ZLIB)),
}


def _error(code: int, text: str) -> EngineError:
    return EngineError(code, f"Code: {code}. DB::Exception: {text}.")
