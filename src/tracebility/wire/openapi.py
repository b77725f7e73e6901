"""The ingest routes as OpenAPI 3.1 describes them: data, which the api puts beside its own routes."""

from typing import Any

from tracebility.wire import limits
from tracebility.wire.encoding import ENCODINGS
from tracebility.wire.native import KINDS

_ENCODING_HEADER: dict[str, Any] = {
    "name": "content-encoding",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": list(ENCODINGS), "default": "identity"},
}
_BOUNDS = (
    f"At most {limits.BODY_BYTES >> 20} MiB as sent, {limits.INFLATED_BYTES >> 20} MiB inflated, "
    f"{limits.ITEMS} items; an item at most {limits.ITEM_BYTES >> 20} MiB, {limits.ATTRIBUTES} attributes, "
    f"JSON {limits.JSON_DEPTH} deep."
)


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


PATHS: dict[str, Any] = {
    "/v1/traces": {
        "post": {
            "operationId": "ingest_traces",
            "tags": ["ingest"],
            "summary": "Send spans as OTLP",
            "description": (
                "An OTLP trace request, protobuf or JSON, answered in the same form. 200 means that the spans are "
                "kept where no crash loses them; those that cannot be stored are named in `partialSuccess`. " + _BOUNDS
            ),
            "parameters": [_ENCODING_HEADER],
            "requestBody": {
                "required": True,
                "content": {
                    "application/x-protobuf": {"schema": {"type": "string", "format": "binary"}},
                    **_json("OtlpTraceRequest"),
                },
            },
            "responses": {
                "200": {
                    "description": "Kept.",
                    "content": {
                        "application/x-protobuf": {"schema": {"type": "string", "format": "binary"}},
                        **_json("OtlpTraceResponse"),
                    },
                }
            },
        }
    },
    "/v1/runs": {
        "post": {
            "operationId": "ingest_runs",
            "tags": ["ingest"],
            "summary": "Send runs as JSON",
            "description": (
                "One run, or a list of them. 202 means that the accepted ones are kept where no crash loses them; "
                "those that cannot be stored are named by their place in the list. Unknown fields are passed over. "
                + _BOUNDS
            ),
            "parameters": [_ENCODING_HEADER],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "oneOf": [
                                {"$ref": "#/components/schemas/RunToSend"},
                                {"$ref": "#/components/schemas/RunsToSend"},
                            ]
                        }
                    }
                },
            },
            "responses": {"202": {"description": "Kept.", "content": _json("RunsAccepted")}},
        }
    },
}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _text(most: int | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "string", **({"maxLength": most} if most else {}), **more}


_ID = _text(description="A UUID, kept as it is sent, or 16 or 32 hex digits.")
_MOMENT = {
    "type": ["string", "number"],
    "description": "RFC 3339, UTC if it names no zone; or seconds (or ms, us, ns: the size tells) since 1970.",
}
_TOKENS = {"type": "integer", "minimum": 0, "exclusiveMaximum": 1 << 63}
_ANYTHING = {"description": "Any JSON. A string is kept as plain text."}
_LABEL = _text(limits.LABEL_CHARS)

SCHEMAS: dict[str, Any] = {
    "RunToSend": _object(
        ["id", "name", "kind", "start_time"],
        id=_ID,
        trace_id={**_ID, "description": "The run's trace; its own id, or its topmost ancestor's, if absent."},
        parent_id=_ID,
        name=_text(limits.NAME_CHARS),
        kind={"type": "string", "enum": sorted(KINDS)},
        start_time=_MOMENT,
        end_time=_MOMENT,
        status={"type": "string", "enum": ["ok", "error", "running"]},
        inputs=_ANYTHING,
        outputs=_ANYTHING,
        error={"description": "What went wrong: text, or an object with `message` and `type`."},
        model=_LABEL,
        provider=_LABEL,
        usage=_object(
            [],
            input_tokens={**_TOKENS, "description": "All input tokens, those read from and written to a cache too."},
            output_tokens=_TOKENS,
            cache_read_tokens=_TOKENS,
            cache_write_tokens=_TOKENS,
            reasoning_tokens=_TOKENS,
        ),
        cost={"type": "number", "minimum": 0, "description": "US dollars, if known better than by the price table."},
        session_id=_LABEL,
        user_id=_LABEL,
        tags={"type": "array", "items": _LABEL, "maxItems": limits.TAGS},
        metadata={"type": "object", "maxProperties": limits.ATTRIBUTES},
    ),
    "RunsToSend": _object(["runs"], runs={"type": "array", "items": {"$ref": "#/components/schemas/RunToSend"}}),
    "RunsAccepted": _object(
        ["accepted", "rejected"],
        accepted={"type": "integer"},
        rejected={
            "type": "array",
            "items": _object(["index", "error"], index={"type": "integer"}, error={"type": "string"}),
        },
    ),
    "OtlpTraceRequest": _object([], resourceSpans={"type": "array", "items": {"type": "object"}}),
    "OtlpTraceResponse": _object(
        [], partialSuccess=_object([], rejectedSpans={"type": "string"}, errorMessage={"type": "string"})
    ),
}
