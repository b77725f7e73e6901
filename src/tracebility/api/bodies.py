"""Reading of request bodies. A route reads its body itself, after the ids in the address are checked.

The framework would read and validate the body first, and the answer would tell whether another tenant's id exists.
"""

from typing import TypeVar

import msgspec
import structlog
from fastapi import Request
from starlette.requests import ClientDisconnect

from tracebility.errors import BadRequest, PayloadTooLarge, UnsupportedMedia
from tracebility.validation import read

LARGEST_BYTES = 64 << 10  # the largest of these documents, a plan, has about 300

Body = TypeVar("Body", bound=msgspec.Struct)

_log = structlog.get_logger()


async def body_of(request: Request, kind: type[Body], *, if_none: Body | None = None) -> Body:
    """The ``kind`` in the body of ``request``; ``if_none`` when the body is empty and may be.

    Raises:
        UnsupportedMedia: when the content type is not JSON, or the body is compressed.
        PayloadTooLarge: when the body is larger than `LARGEST_BYTES`.
        BadRequest: when the body is not JSON.
        Unprocessable: when a value is not acceptable; the error names its field.
    """
    text = await bounded_body(request, LARGEST_BYTES, hint="Send only the fields of this route.")
    if not text and if_none is not None:
        return if_none
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise UnsupportedMedia(
            f"The content type '{media[:100]}' is not supported here.", hint="Send 'content-type: application/json'."
        )
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMedia("Compressed bodies are not supported here.", hint="Send the JSON uncompressed.")
    return read(text, kind)


async def bounded_body(request: Request, largest_bytes: int, *, hint: str) -> bytes:
    """The whole body of ``request``.

    Raises:
        PayloadTooLarge: when it is larger than ``largest_bytes``, with ``hint``.
        BadRequest: when the client goes away before it has sent the whole body.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > largest_bytes:
                raise PayloadTooLarge(f"The body is larger than {largest_bytes >> 10} KiB.", hint=hint)
            pieces.append(piece)
    except ClientDisconnect:
        _log.info("client_disconnected", path=request.url.path, received_bytes=size)
        raise BadRequest("The connection ended before the body was complete.") from None
    return b"".join(pieces)
