"""How answers are written: one encoder, one set of headers, and the bounds that every list shares."""

from typing import Annotated, Any

import msgspec
from fastapi import Query
from starlette.responses import Response

LIMIT_DEFAULT = 50
LIMIT_MOST = 200  # what a page shows at once, and what one answer costs at most

Limit = Annotated[int, Query(ge=1, le=LIMIT_MOST, description="Most items to answer.")]
CursorText = Annotated[str | None, Query(alias="cursor", description="`next_cursor` of the page before, as it came.")]

_encoder = msgspec.json.Encoder()


def answer(content: Any, status: int = 200) -> Response:
    """``content``, a struct of an answer, as JSON."""
    return Response(_encoder.encode(content), status, media_type="application/json")


def schema_of(kind: type[msgspec.Struct], description: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers a ``kind``; `openapi` adds the schemas that it refers to."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {status: {"description": description, "content": {"application/json": {"schema": schema}}}}
