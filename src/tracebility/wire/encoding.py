"""Decompresses bodies within a size limit, so that a decompression bomb is stopped early."""

import sys
from collections.abc import Sequence
from typing import Protocol

from isal import isal_zlib
from isal.igzip_lib import IsalError

from tracebility.errors import BadRequest, PayloadTooLarge, UnsupportedMedia

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENCODINGS = ("identity", "gzip", "deflate", "zstd")

_ALIASES = {"": "identity", "x-gzip": "gzip"}
_STEP_BYTES = 1 << 20
# Each new gzip member or zstd frame copies the bytes that follow it. The window and the bound on members keep the cost
# of a body with many empty ones linear.
_WINDOW_BYTES = 128 << 10
_MAX_MEMBERS = 10_000
_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15

# RFC 9659: a zstd content encoding needs no window above 8 MiB. A few bytes could demand a larger one, and its memory.
_ZSTD_OPTIONS = {int(zstd.DecompressionParameter.window_log_max): 23}
_CORRUPT: tuple[type[Exception], ...] = (IsalError, zstd.ZstdError)  # type: ignore[assignment]  # isal's stub has an instance


def encoding_of(header: str, accepted: Sequence[str] = ENCODINGS) -> str:
    """The canonical name of the encoding in a ``content-encoding`` header.

    Raises:
        UnsupportedMedia: when it is not in ``accepted``, or the header names several.
    """
    name = header.strip().lower()
    name = _ALIASES.get(name, name)
    if name not in accepted:
        raise UnsupportedMedia(
            f"The content encoding {header[:64]!r} is not understood.", hint=f"Send one of {', '.join(accepted)}."
        )
    return name


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompress ``body``: gzip with any number of members, zstd with any number of frames, deflate of zlib or raw.

    Raises:
        BadRequest: when the bytes are not in that encoding, or are truncated.
        PayloadTooLarge: as soon as the output exceeds ``limit`` bytes.
    """
    if encoding == "identity":
        if len(body) > limit:
            raise _too_large(limit)
        return body
    try:
        return _inflate(body, encoding, limit)
    except _CORRUPT as error:
        raise BadRequest(
            f"The body is not {encoding}, or is damaged: {error}.",
            hint="Compress the body as content-encoding says, or leave that header out.",
        ) from error


def _inflate(body: bytes, encoding: str, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = offset = members = 0
    inflater = _inflater(encoding, body)
    rest = b""
    while True:
        if not rest and offset < len(body):
            rest = body[offset : offset + _WINDOW_BYTES]
            offset += len(rest)
        if inflater.eof:
            if not rest:
                break
            if encoding == "gzip" and not rest.strip(b"\0") and not body[offset:].strip(b"\0"):
                break  # gzip files may be padded with zeros
            members += 1
            if encoding == "deflate" or members >= _MAX_MEMBERS:
                raise BadRequest(
                    f"Bytes follow the end of the {encoding} body, which ends before byte {offset}.",
                    hint="Send the compressed body and nothing behind it.",
                )
            inflater = _inflater(encoding, rest)
        chunk = inflater.decompress(rest, min(_STEP_BYTES, limit + 1 - size))
        rest = inflater.unused_data if inflater.eof else _unread(inflater)
        if chunk:
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
        elif not inflater.eof and not rest and offset == len(body):
            raise BadRequest(
                f"The {encoding} body ends too early, after {len(body)} bytes.", hint="Send the whole body."
            )
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class _Inflater(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _inflater(encoding: str, data: bytes) -> _Inflater:
    if encoding == "gzip":
        return isal_zlib.decompressobj(_GZIP)
    if encoding == "zstd":
        return zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
    # RFC 9110's deflate is the zlib format, but many senders omit the two header bytes.
    has_zlib_header = len(data) > 1 and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
    return isal_zlib.decompressobj(_ZLIB if has_zlib_header else _RAW_DEFLATE)


def _unread(inflater: _Inflater) -> bytes:
    """The input for the next call: zlib returns unread bytes, zstd keeps them."""
    tail: bytes = getattr(inflater, "unconsumed_tail", b"")
    return tail


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The body is larger than {limit >> 20} MiB after decompression.", hint="Send fewer spans or runs a request."
    )
