"""OTLP over HTTP: its routes, its answers, and its OpenAPI description."""

from typing import Any

import msgspec

from tracebility.errors import Problem
from tracebility.wire import limits, otlp
from tracebility.wire.inspection import Inspection
from tracebility.wire.openapi import BOUNDS, ENCODING_HEADER, json_of, object_of
from tracebility.wire.protocol import Answer, Call, Protocol, Route, headers_of, problem_answer

_JSON, _PROTOBUF = b"application/json", b"application/x-protobuf"

_NO_SPANS = "The request holds no span, so nothing was stored: spans are in resourceSpans[].scopeSpans[].spans[]."


def answer(call: Call, inspection: Inspection) -> Answer:
    """An ExportTraceServiceResponse in the encoding of the request.

    The protocol sends a warning as ``partialSuccess`` with a message and 0 rejected spans.
    """
    rejected, message = len(inspection.rejected), _message(inspection)
    if call.content_type != otlp.JSON:
        return Answer(200, _PROTOBUF, otlp.partial_success(rejected, message).SerializeToString())
    partial = {"partialSuccess": {"rejectedSpans": str(rejected), "errorMessage": message}} if message else {}
    return Answer(200, _JSON, msgspec.json.encode(partial))


def _message(inspection: Inspection) -> str:
    rejected = len(inspection.rejected)
    if not rejected and not inspection.items:
        return _NO_SPANS
    sentences = [one.warning for one in inspection.warnings]
    if rejected:
        shown = inspection.rejected[: limits.REJECTIONS_NAMED]
        errors = [one.error[: limits.REJECTION_CHARS] for one in shown]
        if len(shown) < rejected:
            errors.append(f"and {rejected - len(shown)} more")
        sentences.append(f"{rejected} of {rejected + inspection.items} spans were rejected: {'; '.join(errors)}")
    return ". ".join(sentences)


def answer_problem(content_type: str | None, problem: Problem, instance: str) -> Answer:
    """A google.rpc.Status for a protobuf request, problem JSON for all others."""
    if content_type != otlp.PROTOBUF:
        return problem_answer(content_type, problem, instance)
    message = f"{problem.title}: {problem.detail} {problem.hint}".rstrip().encode()
    # message Status { int32 code = 1; string message = 2; }
    status = b"\x08" + _varint(_RPC_CODES.get(problem.status, _UNKNOWN)) + b"\x12" + _varint(len(message)) + message
    return Answer(problem.status, _PROTOBUF, status, headers_of(problem))


# HTTP status -> google.rpc.Code.
_RPC_CODES = {
    **dict.fromkeys((400, 413, 415, 422, 431), 3),  # INVALID_ARGUMENT
    401: 16,  # UNAUTHENTICATED
    **dict.fromkeys((402, 429), 8),  # RESOURCE_EXHAUSTED
    403: 7,  # PERMISSION_DENIED
    405: 12,  # UNIMPLEMENTED
    408: 4,  # DEADLINE_EXCEEDED
    500: 13,  # INTERNAL
    503: 14,  # UNAVAILABLE
}
_UNKNOWN = 2


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_BINARY: dict[str, Any] = {"application/x-protobuf": {"schema": {"type": "string", "format": "binary"}}}

OTLP = Protocol(
    source="otlp",
    # The second path is used by exporters that are configured with the full URL as their base URL.
    routes=(Route("POST", "/v1/traces"), Route("POST", "/v1/traces/v1/traces")),
    media_types={"application/x-protobuf": otlp.PROTOBUF, "application/json": otlp.JSON},
    inspect=lambda body, call: otlp.inspect(body, call.content_type),
    inspect_inline=lambda body, call: otlp.inspect_inline(body, call.content_type),
    answer=answer,
    answer_problem=answer_problem,
    openapi_paths={
        "/v1/traces": {
            "post": {
                "operationId": "ingest_traces",
                "tags": ["ingest"],
                "summary": "Send spans as OTLP",
                "description": (
                    "An OTLP trace request, protobuf or JSON, answered in the same encoding. 200 means that the spans "
                    "are stored durably; rejected ones are counted and named in `partialSuccess`, which without "
                    "rejected spans is a warning. Errors are a google.rpc.Status for protobuf, and problem JSON for "
                    "JSON. " + BOUNDS
                ),
                "parameters": [ENCODING_HEADER],
                "requestBody": {"required": True, "content": {**_BINARY, **json_of("OtlpTraceRequest")}},
                "responses": {
                    "200": {"description": "Accepted.", "content": {**_BINARY, **json_of("OtlpTraceResponse")}}
                },
            }
        }
    },
    openapi_schemas={
        "OtlpTraceRequest": object_of([], resourceSpans={"type": "array", "items": {"type": "object"}}),
        "OtlpTraceResponse": object_of(
            [], partialSuccess=object_of([], rejectedSpans={"type": "string"}, errorMessage={"type": "string"})
        ),
    },
)
