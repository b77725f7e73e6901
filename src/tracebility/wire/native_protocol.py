"""The native JSON protocol, ``POST /v1/runs``: its answers and its OpenAPI description."""

from typing import Any
from urllib.parse import parse_qsl

import msgspec

from tracebility.errors import Unprocessable
from tracebility.wire import limits, native
from tracebility.wire.inspection import Inspection
from tracebility.wire.openapi import BOUNDS, ENCODING_HEADER, json_of, object_of, text_of
from tracebility.wire.protocol import Answer, Call, Protocol, Route
from tracebility.wire.rejection import ItemWarning, Rejection


def answer(call: Call, inspection: Inspection) -> Answer:
    """The number of accepted runs, the rejected runs with reasons, and warnings.

    A request whose runs were all rejected is answered 422.
    """
    rejected = [Rejection(one.index, one.error[: limits.REJECTION_CHARS]) for one in inspection.rejected]
    content: dict[str, Any] = {"accepted": inspection.items, "rejected": rejected}
    warnings = (*_ignored(call.query), *inspection.warnings)
    if warnings:
        content["warnings"] = warnings
    if inspection.items or not rejected:
        return Answer(202, b"application/json", msgspec.json.encode(content))
    runs = "The run was" if len(rejected) == 1 else f"All {len(rejected)} runs were"
    problem = Unprocessable(
        f"{runs} rejected, nothing was stored: {rejected[0].error}.", hint="Correct what 'rejected' names."
    )
    return Answer(
        problem.status, b"application/problem+json", msgspec.json.encode(problem.body(call.route.path) | content)
    )


def _ignored(query: str) -> list[ItemWarning]:
    """A warning for each query parameter. The route has none: the key determines the project."""
    names = dict.fromkeys(name for name, _ in parse_qsl(query[:_QUERY_CHARS], keep_blank_values=True))
    return [ItemWarning(f"query parameter '{name[:_SHOWN_CHARS]}' is ignored") for name in names]


_QUERY_CHARS = 1_000  # read of a query
_SHOWN_CHARS = 60  # of a parameter's name

_ID = text_of(description="A UUID, kept as it is sent, or 16 or 32 hex digits.")
_TIME = {
    "type": ["string", "number"],
    "description": "RFC 3339, UTC if it names no zone; or seconds (or ms, us, ns: the size tells) since 1970.",
}
_TOKENS = {"type": "integer", "minimum": 0, "exclusiveMaximum": 1 << 63}
_ANYTHING = {"description": "Any JSON. A string is kept as plain text."}
_LABEL = text_of(limits.LABEL_CHARS)
_INDEX = {"type": "integer", "description": "The place of the run in the request, from 0."}

NATIVE = Protocol(
    source="native",
    routes=(Route("POST", "/v1/runs"),),
    media_types={"application/json": "json"},
    inspect=lambda body, _: native.inspect(body),
    inspect_inline=lambda body, _: native.inspect_inline(body),
    answer=answer,
    openapi_paths={
        "/v1/runs": {
            "post": {
                "operationId": "ingest_runs",
                "tags": ["ingest"],
                "summary": "Send runs as JSON",
                "description": (
                    "One run, or a list of them. 202 means that the accepted ones are stored durably; rejected ones "
                    "are named by their place in the list. Unknown fields are not stored and query parameters are "
                    "ignored; `warnings` name both. When every run is rejected the answer is 422. " + BOUNDS
                ),
                "parameters": [ENCODING_HEADER],
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
                "responses": {"202": {"description": "Accepted.", "content": json_of("RunsAccepted")}},
            }
        }
    },
    openapi_schemas={
        "RunToSend": object_of(
            ["id", "name", "kind", "start_time"],
            id=_ID,
            trace_id={**_ID, "description": "The run's trace; its own id, or its topmost ancestor's, if absent."},
            parent_id=_ID,
            name=text_of(limits.NAME_CHARS),
            kind={"type": "string", "enum": sorted(native.KINDS)},
            start_time=_TIME,
            end_time=_TIME,
            status={"type": "string", "enum": ["ok", "error", "running"]},
            inputs=_ANYTHING,
            outputs=_ANYTHING,
            error={"description": "What went wrong: text, or an object with `message` and `type`."},
            model=_LABEL,
            provider=_LABEL,
            usage=object_of(
                [],
                input_tokens={
                    **_TOKENS,
                    "description": "All input tokens, cache reads and writes included.",
                },
                output_tokens=_TOKENS,
                cache_read_tokens=_TOKENS,
                cache_write_tokens=_TOKENS,
                reasoning_tokens=_TOKENS,
            ),
            cost={
                "type": "number",
                "minimum": 0,
                "description": "US dollars; without it, the price table decides.",
            },
            session_id=_LABEL,
            user_id=_LABEL,
            tags={"type": "array", "items": _LABEL, "maxItems": limits.TAGS},
            metadata={"type": "object", "maxProperties": limits.ATTRIBUTES},
        ),
        "RunsToSend": object_of(["runs"], runs={"type": "array", "items": {"$ref": "#/components/schemas/RunToSend"}}),
        "RunsAccepted": object_of(
            ["accepted", "rejected"],
            accepted={"type": "integer"},
            rejected={"type": "array", "items": object_of(["index", "error"], index=_INDEX, error=text_of())},
            warnings={"type": "array", "items": object_of(["warning"], index=_INDEX, warning=text_of())},
        ),
    },
)
