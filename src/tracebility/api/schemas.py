"""What routes take and answer, for the OpenAPI description: a route's declaration adds its own types here."""

from typing import Any

import msgspec

_TEMPLATE = "#/components/schemas/{name}"

_described: dict[Any, None] = {}


def answers(kind: Any, description: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers a ``kind``, a struct or a `Page` of them."""
    return {status: {"description": description, "content": {"application/json": {"schema": _reference(kind)}}}}


def takes(kind: type[msgspec.Struct], *, required: bool = True) -> dict[str, Any]:
    """The ``openapi_extra`` of a route whose body is a ``kind``."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": _reference(kind)}}}}


def components() -> dict[str, Any]:
    """The schemas of every type that a route declares, and of all that they refer to."""
    return msgspec.json.schema_components(tuple(_described), ref_template=_TEMPLATE)[1]


def _reference(kind: Any) -> dict[str, Any]:
    _described[kind] = None
    (reference,), _ = msgspec.json.schema_components((kind,), ref_template=_TEMPLATE)
    return reference
