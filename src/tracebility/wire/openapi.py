"""Building blocks of the protocols' OpenAPI 3.1 descriptions."""

from typing import Any

from tracebility.wire import limits
from tracebility.wire.encoding import ENCODINGS

ENCODING_HEADER: dict[str, Any] = {
    "name": "content-encoding",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": list(ENCODINGS), "default": "identity"},
}
BOUNDS = (
    f"At most {limits.BODY_BYTES >> 20} MiB as sent, {limits.INFLATED_BYTES >> 20} MiB inflated, "
    f"{limits.ITEMS} items; an item at most {limits.ITEM_BYTES >> 20} MiB, {limits.ATTRIBUTES} attributes, "
    f"JSON {limits.JSON_DEPTH} deep."
)


def json_of(schema: str) -> dict[str, Any]:
    """A JSON body with the schema of this name."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def object_of(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with these properties."""
    return {"type": "object", "required": required, "properties": properties}


def text_of(max_chars: int | None = None, **more: Any) -> dict[str, Any]:
    """A string of at most ``max_chars`` characters."""
    return {"type": "string", **({"maxLength": max_chars} if max_chars else {}), **more}
