"""OTLP trace requests: read into the protobuf message, whatever form they came in, and checked span by span."""

from collections.abc import Callable, Iterable, Iterator

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebility.errors import BadRequest
from tracebility.wire import jsontext, limits, otlp_json
from tracebility.wire.inspection import Inspection, Part
from tracebility.wire.otlp_slices import (
    Malformed,
    Slice,
    cut_json,
    cut_protobuf,
    has_too_many_attributes,
    join_json,
    join_protobuf,
)
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


def inspect(body: bytes, content_type: str) -> Inspection:
    """What of ``body`` can be kept; ``content_type`` is ``protobuf`` or ``json``.

    A body of which each span can be read travels as it came. One that is large, or of which a span cannot be read, is
    cut along its spans and travels in parts.

    Raises:
        BadRequest: when it is not an OTLP request down to its spans.
        PayloadTooLarge: when it holds too many spans.
    """
    if content_type == JSON:
        return _inspect_json(body)
    if len(body) <= limits.ENVELOPE_BYTES:
        try:
            request = ExportTraceServiceRequest.FromString(body)
        except DecodeError:
            pass  # the parser says neither where nor why; cut along its spans, the body tells which one
        else:
            count, refused = refusals(request)
            return Inspection(count - len(refused), refused)
    return _in_parts(cut_protobuf(body), _read_protobuf, join_protobuf)


def refusals(request: ExportTraceServiceRequest) -> tuple[int, list[Rejection]]:
    """How many spans ``request`` holds, and which of them cannot be stored and why."""
    refused: list[Rejection] = []
    index = 0
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
    return index, refused


# Up to here a span's attributes, events and links are not counted one by one.
_FEW = 128


def _inspect_json(body: bytes) -> Inspection:
    text = jsontext.repair(body)
    if len(body) <= limits.ENVELOPE_BYTES:
        try:
            request = jsontext.decode(text, otlp_json.read_request)
        except (msgspec.ValidationError, UnicodeDecodeError):
            pass  # cut along its spans, the body tells which one it is
        else:
            refused: list[Rejection] = []
            index = -1
            for index, sent in enumerate(otlp_json.spans_of(request)):
                _, reason = _fit(index, sent)
                if reason:
                    refused.append(Rejection(index, reason))
            return Inspection(index + 1 - len(refused), refused)
    return _in_parts(cut_json(text), _read_json, join_json)


def _fit(index: int, sent: otlp_json.Span) -> tuple[Span, str]:
    span = Span()
    try:
        otlp_json.fill_span(span, sent)
    except otlp_json.Unfit as error:
        return span, f"{named(index, span)}: {error}"
    reason = why_not(span)
    return span, f"{named(index, span)}: {reason}" if reason else ""


def _in_parts(
    slices: list[Slice], read: Callable[[int, bytes], str], join: Callable[[Iterable[Slice]], bytes]
) -> Inspection:
    refused: list[Rejection] = []
    parts: list[Part] = []
    members: list[Slice] = []
    size = 0
    for index, one in enumerate(slices):
        reason = read(index, one.span)
        if reason:
            refused.append(Rejection(index, reason))
            continue
        if members and size + len(one.span) > limits.ENVELOPE_BYTES:
            parts.append(Part(join(members), len(members)))
            members, size = [], 0
        if not members or members[-1].around is not one.around:
            size += len(one.around.resource) + len(one.around.scope)
        size += len(one.span)
        members.append(one)
    if members:
        parts.append(Part(join(members), len(members)))
    return Inspection(len(slices) - len(refused), refused, tuple(parts))


def _read_protobuf(index: int, data: bytes) -> str:
    """Why the span cannot be kept; empty when it can."""
    if len(data) > limits.ITEM_BYTES:
        return f"span {index}: it is {len(data)} bytes, more than {limits.ITEM_BYTES >> 20} MiB"
    try:
        if len(data) > limits.ATTRIBUTES and has_too_many_attributes(data):
            return f"span {index}: more than {limits.ATTRIBUTES} attributes, nested ones included"
        span = Span.FromString(data)
    except Malformed as error:
        return f"span {index}: it is not protobuf: {error}"
    except DecodeError as error:
        return f"span {index}: it cannot be read, a string is not UTF-8 or values are nested too deep: {error}"
    reason = why_not(span)
    return f"{named(index, span)}: {reason}" if reason else ""


def _read_json(index: int, text: bytes) -> str:
    """Why the span cannot be kept; empty when it can."""
    if len(text) > limits.ITEM_BYTES:
        return f"span {index}: it is {len(text)} bytes, more than {limits.ITEM_BYTES >> 20} MiB"
    if len(text) > limits.ENVELOPE_BYTES and text.count(b'"key"') > limits.ATTRIBUTES:
        return f"span {index}: more than {limits.ATTRIBUTES} attributes, nested ones included"
    try:
        sent = otlp_json.read_span(text)
    except msgspec.DecodeError as error:
        return f"span {index}: {error}"
    except UnicodeDecodeError as error:
        return f"span {index}: a string is not UTF-8: {error.reason}"
    return _fit(index, sent)[1]


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
