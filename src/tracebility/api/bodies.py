"""How bodies are read: by the route itself, once it is known that the key may name what the address names.

The framework would read and judge a body first, and tell by that whether another tenant's id is one.
"""

from typing import TypeVar

import msgspec
import structlog
from fastapi import Request
from starlette.requests import ClientDisconnect

from tracebility.errors import BadRequest, PayloadTooLarge, UnsupportedMedia
from tracebility.validation import read

LARGEST_BYTES = 64 << 10  # a plan, the largest of these documents, has some 300

Body = TypeVar("Body", bound=msgspec.Struct)

_log = structlog.get_logger()


async def body_of(request: Request, kind: type[Body], *, if_none: Body | None = None) -> Body:
    """The ``kind`` that ``request`` carries, or ``if_none`` where it may carry nothing.

    Raises:
        UnsupportedMedia: when it does not say that it is JSON, or is compressed.
        PayloadTooLarge: when it is larger than any of these documents.
        BadRequest: when it is not JSON.
        Unprocessable: when a value in it is not acceptable, naming its field.
    """
    text = await bounded_body(request, LARGEST_BYTES, hint="Send only the fields of this route.")
    if not text and if_none is not None:
        return if_none
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise UnsupportedMedia(
            f"The content type '{media[:100]}' is not taken here.", hint="Send 'content-type: application/json'."
        )
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMedia("Compressed bodies are not taken here.", hint="Send the JSON as it is.")
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
