"""How answers are written: one encoder for all of them."""

from typing import Any

import msgspec
from starlette.responses import Response

_encoder = msgspec.json.Encoder()


def answer(content: Any, status: int = 200) -> Response:
    """``content``, a struct of an answer, as JSON."""
    return Response(_encoder.encode(content), status, media_type="application/json")
