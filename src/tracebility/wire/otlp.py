"""OTLP trace requests: read into the protobuf message, whatever form they came in, and checked span by span."""

from collections.abc import Iterator
from operator import attrgetter

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebility.wire import jsontext, limits, otlp_fill, otlp_json, otlp_text, otlp_wire
from tracebility.wire.inspection import Inspection
from tracebility.wire.otlp_parts import Slice, in_parts, not_a_request
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
        return otlp_fill.decode(body)
    try:
        return ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise not_a_request(str(error)) from error


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
        except DecodeError as error:
            # The parser says neither where nor why; cut along its spans, the body tells which one.
            slices = otlp_wire.cut(body)
            if not slices:
                raise not_a_request(str(error)) from error
        else:
            count, refused = refusals(request)
            return Inspection(count - len(refused), refused)
    else:
        slices = otlp_wire.cut(body)
    return in_parts(slices, _why_not_protobuf, otlp_wire.why_not_around, otlp_wire.join)


def refusals(request: ExportTraceServiceRequest) -> tuple[int, list[Rejection]]:
    """How many spans ``request`` holds, and which of them cannot be stored and why."""
    refused: list[Rejection] = []
    index = 0
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            spans = list(scope.spans)
            if spans and not _all_fit(spans):
                reasons = ((index + at, span, why_not(span)) for at, span in enumerate(spans))
                refused += [Rejection(at, f"{named(at, span)}: {reason}") for at, span, reason in reasons if reason]
            index += len(spans)
    return index, refused


def _all_fit(spans: list[Span]) -> bool:
    """Whether a look at each field of all spans at once finds nothing: half the time of a look at each span."""
    trace_ids, span_ids = [*map(_trace_id, spans)], [*map(_span_id, spans)]
    return (
        {*map(len, trace_ids)} == {16}
        and {*map(len, span_ids)} == {8}
        and _NO_TRACE not in trace_ids
        and _NO_SPAN not in span_ids
        and {*map(len, map(_parent_span_id, spans))} <= {0, 8}
        and max(map(_start, spans)) <= limits.MAX_UNIX_NANO
        and max(map(_end, spans)) <= limits.MAX_UNIX_NANO
        and max(map(len, map(_name, spans))) <= limits.NAME_CHARS
        and max(map(len, map(_attributes, spans))) <= _FEW
    )


_trace_id, _span_id, _parent_span_id = attrgetter("trace_id"), attrgetter("span_id"), attrgetter("parent_span_id")
_start, _end = attrgetter("start_time_unix_nano"), attrgetter("end_time_unix_nano")
_name, _attributes = attrgetter("name"), attrgetter("attributes")

# Up to here a span's attributes, events and links are not counted one by one.
_FEW = 128


def _inspect_json(body: bytes) -> Inspection:
    text = jsontext.repair(body)
    if len(body) <= limits.ENVELOPE_BYTES:
        try:
            request = jsontext.decode(text, otlp_json.read_request)
            otlp_fill.check_around(request)
        except (msgspec.ValidationError, UnicodeDecodeError, otlp_fill.Unfit):
            pass  # cut along its spans, the body tells which one it is
        else:
            verdicts = [_why_not_sent(index, sent) for index, sent in enumerate(otlp_json.spans_of(request))]
            refused = [Rejection(index, reason) for index, reason in enumerate(verdicts) if reason]
            return Inspection(len(verdicts) - len(refused), refused)
    return in_parts(otlp_text.cut(text), _why_not_json, otlp_text.why_not_around, otlp_text.join)


def _why_not_protobuf(index: int, one: Slice) -> str:
    if len(one.span) > limits.ITEM_BYTES:
        return f"span {index}: it is {len(one.span)} bytes, more than {limits.ITEM_BYTES >> 20} MiB"
    try:
        if otlp_wire.has_too_many_attributes(one):
            return f"span {index}: more than {limits.ATTRIBUTES} attributes, nested ones included"
        [span] = spans_of(ExportTraceServiceRequest.FromString(otlp_wire.alone(one)))
    except (otlp_wire.Malformed, DecodeError) as error:
        return f"span {index}: it is no protobuf span, holds text that is not UTF-8, or is nested too deep: {error}"
    reason = why_not(span)
    return f"{named(index, span)}: {reason}" if reason else ""


def _why_not_json(index: int, one: Slice) -> str:
    text = bytes(one.span)
    if len(text) > limits.ITEM_BYTES:
        return f"span {index}: it is {len(text)} bytes, more than {limits.ITEM_BYTES >> 20} MiB"
    if len(text) > limits.ENVELOPE_BYTES and text.count(b'"key"') > limits.ATTRIBUTES:
        return f"span {index}: more than {limits.ATTRIBUTES} attributes, nested ones included"
    try:
        return _why_not_sent(index, otlp_json.read_span(text))
    except UnicodeDecodeError as error:
        return f"span {index}: a string is not UTF-8: {error.reason}"
    except msgspec.DecodeError as error:
        if jsontext.is_deeper(text, limits.JSON_DEPTH):
            return f"span {index}: values are nested more than {limits.JSON_DEPTH} arrays and objects deep"
        return f"span {index}: {jsontext.told(error)}"


def _why_not_sent(index: int, sent: otlp_json.Span) -> str:
    span = Span()
    try:
        count = otlp_fill.check_span(span, sent)
        reason = _too_many(count) if count > limits.ATTRIBUTES else why_not(span)
    except otlp_fill.Unfit as error:
        reason = str(error)
    return f"{named(index, span)}: {reason}" if reason else ""


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
        return _too_many(count)
    return ""


def _too_many(count: int) -> str:
    return f"{count} attributes, events and links, more than {limits.ATTRIBUTES}"


def partial_success(rejected: int, message: str) -> ExportTraceServiceResponse:
    """The answer to a request of which ``rejected`` spans were not kept; an empty one when all were."""
    response = ExportTraceServiceResponse()
    if rejected:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = message
    return response
