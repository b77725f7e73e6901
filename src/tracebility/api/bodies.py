"""How bodies are read: by the route itself, once it is known that the key may name what the address names.

The framework would read and judge a body first, and tell by that whether another tenant's id is one.
"""

from typing import Any, TypeVar

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect

from tracebility.errors import BadRequest, PayloadTooLarge, UnsupportedMedia
from tracebility.validation import read

LARGEST_BYTES = 64 << 10  # a plan, the largest of these documents, has some 300

Body = TypeVar("Body", bound=msgspec.Struct)


async def body_of(request: Request, kind: type[Body], *, if_none: Body | None = None) -> Body:
    """The ``kind`` that ``request`` carries, or ``if_none`` where it may carry nothing.

    Raises:
        UnsupportedMedia: when it does not say that it is JSON, or is compressed.
        PayloadTooLarge: when it is larger than any of these documents.
        BadRequest: when it is not JSON.
        Unprocessable: when a value in it is not acceptable, naming its field.
    """
    text = await _bounded(request)
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


def takes(kind: type[msgspec.Struct], *, required: bool = True) -> dict[str, Any]:
    """The ``openapi_extra`` of a route whose body is a ``kind``; `openapi` adds the schemas that it refers to."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


async def _bounded(request: Request) -> bytes:
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > LARGEST_BYTES:
                raise PayloadTooLarge(
                    f"The body is larger than {LARGEST_BYTES >> 10} KiB.", hint="Send only the fields of this route."
                )
            pieces.append(piece)
    except ClientDisconnect:
        raise BadRequest("The connection ended before the body did.") from None
    return b"".join(pieces)
