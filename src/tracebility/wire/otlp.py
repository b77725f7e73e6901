"""OTLP trace requests: read into the protobuf message, whatever form they came in, and checked span by span."""

from collections.abc import Iterator

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebility.errors import BadRequest
from tracebility.wire import limits, otlp_json
from tracebility.wire.rejection import Rejection

PROTOBUF = "protobuf"
JSON = "json"

_NO_TRACE = bytes(16)
_NO_SPAN = bytes(8)


def decode(body: bytes, content_type: str) -> ExportTraceServiceRequest:
    """The request that ``body`` is, as its protobuf message; ``content_type`` is ``protobuf`` or ``json``.

    In a JSON body, a span that no protobuf message can hold becomes an empty one, so that positions stay as they are:
    the edge has listed it in the header's ``rejected``.

    Raises:
        BadRequest: when it is not one.
    """
    if content_type == JSON:
        return otlp_json.decode(body)
    try:
        return ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise BadRequest(f"The body is not an OTLP trace request: {error}.") from error


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """Each span of ``request`` in its order, which is what the positions in a header's ``rejected`` count."""
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            yield from scope.spans


def refusals(request: ExportTraceServiceRequest, first: int = 0) -> tuple[int, list[Rejection]]:
    """How many spans ``request`` holds, and which of them cannot be stored and why, counted from ``first``."""
    refused: list[Rejection] = []
    index = first
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                trace_id, span_id = span.trace_id, span.span_id
                if (
                    len(trace_id) != 16
                    or len(span_id) != 8
                    or trace_id == _NO_TRACE
                    or span_id == _NO_SPAN
                    or span.start_time_unix_nano > limits.MAX_UNIX_NANO
                    or span.end_time_unix_nano > limits.MAX_UNIX_NANO
                    or len(span.parent_span_id) not in (0, 8)
                    or len(span.name) > limits.NAME_CHARS
                    or len(span.attributes) + len(span.events) + len(span.links) > _FEW
                ):
                    reason = why_not(span)
                    if reason:
                        refused.append(Rejection(index, f"{named(index, span)}: {reason}"))
                index += 1
    return index - first, refused


# Up to here a span's attributes are not counted one by one: each of its events could hold a few hundred.
_FEW = 128


def named(index: int, span: Span) -> str:
    """A span as an answer names it."""
    return f"span {index} ({span.name[:60]!r})" if span.name else f"span {index}"


def why_not(span: Span) -> str:
    """Why ``span`` cannot be stored; empty when it can."""
    if len(span.trace_id) != 16 or span.trace_id == _NO_TRACE:
        return f"trace_id must be 16 bytes that are not all zero, it is {span.trace_id[:32].hex() or 'empty'}"
    if len(span.span_id) != 8 or span.span_id == _NO_SPAN:
        return f"span_id must be 8 bytes that are not all zero, it is {span.span_id[:32].hex() or 'empty'}"
    if len(span.parent_span_id) not in (0, 8):
        return f"parent_span_id must be empty or 8 bytes, it is {span.parent_span_id[:32].hex()}"
    for field in ("start_time_unix_nano", "end_time_unix_nano"):
        if getattr(span, field) > limits.MAX_UNIX_NANO:
            return f"{field} must be below 2^63, it is {getattr(span, field)}"
    if len(span.name) > limits.NAME_CHARS:
        return f"name must be at most {limits.NAME_CHARS} characters, it has {len(span.name)}"
    count = (
        len(span.attributes)
        + sum(1 + len(event.attributes) for event in span.events)
        + sum(1 + len(link.attributes) for link in span.links)
    )
    if count > limits.ATTRIBUTES:
        return f"{count} attributes, events and links, more than {limits.ATTRIBUTES}"
    return ""


def partial_success(rejected: int, message: str) -> ExportTraceServiceResponse:
    """The answer to a request of which ``rejected`` spans were not kept; an empty one when all were."""
    response = ExportTraceServiceResponse()
    if rejected:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = message
    return response
