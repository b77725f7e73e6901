"""OTLP trace requests: read into the protobuf message, whatever form they came in, and checked span by span."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from operator import attrgetter

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebility.wire import jsontext, limits
from tracebility.wire.inspection import Inspection
from tracebility.wire.otlp import json, json_structs, protobuf
from tracebility.wire.otlp.split import (
    Slice,
    check_repeated,
    in_parts,
    not_a_request,
    rejection,
    too_many_groups,
    too_many_spans,
)
from tracebility.wire.rejection import ItemWarning, Rejection

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
        return json.decode(body)
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
        PayloadTooLarge: when it holds too many spans, or resources and scopes are too large.
    """
    if len(body) <= limits.ENVELOPE_BYTES:
        found = _whole(body, content_type, limits.GROUPS)
        if found is not None:
            return found
    if content_type == JSON:
        slices = json.cut(json_structs.repair(body))
        found = in_parts(slices, _why_not_json, json.why_not_scope, json.join, json.read_scope)
        return _first_warned(found, JSON)
    slices = protobuf.cut(body)
    if not slices and len(body) <= limits.ENVELOPE_BYTES:
        decode(body, content_type)  # what could not be read is in none of its spans
    found = in_parts(slices, _why_not_protobuf, protobuf.why_not_scope, protobuf.join, protobuf.read_scope)
    return _first_warned(found, PROTOBUF)


def inspect_inline(body: bytes, content_type: str) -> Inspection | None:
    """What `inspect` says of a body of one envelope; None as soon as that turns out to take long.

    Raises:
        PayloadTooLarge: when it holds too many spans, or resources and scopes are too large.
    """
    return _whole(body, content_type, _FEW)


# Up to so many groups and refused spans, and attributes, events and links of one span, are looked at without haste.
_FEW = 128

# In so many bytes there are not more attributes, events, links and values than allowed: each takes two at least.
_FEW_BYTES = 2 * limits.ATTRIBUTES

_CROWDED = f"more than {limits.ATTRIBUTES} attributes, nested ones included"


def _whole(body: bytes, content_type: str, patience: int) -> Inspection | None:
    """What is found in a ``body`` that may travel as it came; None when it may not.

    None as well when more than ``patience`` groups are to be looked at one by one, or spans refused.
    """
    try:
        if content_type == JSON:
            sent = jsontext.decode(json_structs.repair(body), json_structs.read_request)
            groups, spans = _bounded(json_structs.groups_of(sent))
            if groups > patience:
                return None
            check_repeated(json.without_spans(sent), json_structs.spans_in_scopes(sent), len(body))
            found = _found(enumerate(map(_why_not_sent, count(), json_structs.spans_of(sent))), spans, patience)
            return _warned(found, [span.start_time_unix_nano for span in json_structs.spans_of(sent)])
        request = ExportTraceServiceRequest.FromString(body)
    except (DecodeError, msgspec.ValidationError, UnicodeDecodeError, json.Unfit):
        return None  # no reader says which span it is; cut along its spans, the body tells
    groups, spans = _bounded(_groups_of(request))
    if groups > patience:
        return None
    in_scopes = [len(scoped.spans) for group in request.resource_spans for scoped in group.scope_spans]
    check_repeated(request, in_scopes, len(body))
    return _warned(_found(_verdicts(body, request), spans, patience), [*map(_start, spans_of(request))])


def _found(verdicts: Iterable[tuple[int, str]], spans: int, patience: int) -> Inspection | None:
    """``verdicts`` say of a span why it is refused, or nothing; spans that are not among them are well."""
    refused: list[Rejection] = []
    for index, verdict in verdicts:
        if verdict:
            refused.append(rejection(index, verdict, len(refused)))
            if len(refused) > patience:
                return None
    return Inspection(spans - len(refused), refused)


# 1973 in nanoseconds since 1970. What begins before was counted in another unit.
_EARLIEST_NS = 10**17


def _warned(found: Inspection | None, starts: Sequence[int | float | str | None]) -> Inspection | None:
    """``found`` with a warning when spans began before 1973; ``starts`` are numbers, or text of digits."""
    if found is None:
        return None
    rejected = set(found.passed_over)
    early = sum(
        (len(start) < len(str(_EARLIEST_NS)) if isinstance(start, str) else (start or 0) < _EARLIEST_NS)
        and index not in rejected
        for index, start in enumerate(starts)
    )
    if not early:
        return found
    warning = (
        f"spans stored with a start before 1973: {early}; startTimeUnixNano counts nanoseconds since 1970, "
        "not milliseconds or seconds"
    )
    return replace(found, warnings=(ItemWarning(warning),))


def _first_warned(found: Inspection, content_type: str) -> Inspection:
    """As `_warned` for a request in parts. Clients that count in another unit do so in the first part too."""
    if not found.parts:
        return found
    first = replace(found, rejected=[], parts=())
    warned = _warned(first, [*map(_start, spans_of(decode(found.parts[0].body, content_type)))])
    return found if warned is None else replace(found, warnings=warned.warnings)


def _verdicts(body: bytes, request: ExportTraceServiceRequest) -> Iterator[tuple[int, str]]:
    index = 0
    long = protobuf.spans_above(body, request, _FEW_BYTES)
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            spans = list(scope.spans)
            places: Iterable[int] = range(index, index + len(spans))
            if not spans or _all_fit(spans):
                places = [place for place in long if place in places]
            for place in places:
                yield place, _why_not_read(place, spans[place - index], long.get(place, b""))
            index += len(spans)


def _why_not_read(index: int, span: Span, sent: bytes) -> str:
    """Why ``span`` cannot be stored; ``sent`` is what it came as, if that is long."""
    reason = why_not(span)
    # Each value that is nested in another has a tag that is a line feed, in an array as in a list of pairs.
    if (
        not reason
        and len(sent) > _FEW_BYTES
        and _at_the_top(span) + sent.count(b"\n") > limits.ATTRIBUTES
        and protobuf.has_too_many_attributes(sent)
    ):
        reason = _CROWDED
    return f"{named(index, span)}: {reason}" if reason else ""


def _groups_of(request: ExportTraceServiceRequest) -> Iterator[int]:
    for resource in request.resource_spans:
        yield 0
        for scope in resource.scope_spans:
            yield len(scope.spans)


def _bounded(groups: Iterable[int]) -> tuple[int, int]:
    """How many groups and spans there are; each group says how many spans it holds itself."""
    seen = spans = 0
    for of_group in groups:
        seen += 1
        spans += of_group
        if seen > limits.GROUPS:
            raise too_many_groups()
        if spans > limits.ITEMS:
            raise too_many_spans()
    return seen, spans


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


def _why_not_protobuf(index: int, one: Slice) -> str:
    if len(one.span) > limits.ITEM_BYTES:
        return f"span {index}: it is {len(one.span)} bytes, more than {limits.ITEM_BYTES >> 20} MiB"
    try:
        is_large = len(one.span) > limits.ENVELOPE_BYTES
        if is_large and protobuf.has_too_many_attributes(one.span):
            return f"span {index}: {_CROWDED}"
        [span] = spans_of(ExportTraceServiceRequest.FromString(protobuf.alone(one)))
    except (protobuf.Malformed, DecodeError) as error:
        return f"span {index}: it is no protobuf span, holds text that is not UTF-8, or is nested too deep: {error}"
    return _why_not_read(index, span, b"" if is_large else bytes(one.span))


def _why_not_json(index: int, one: Slice) -> str:
    text = bytes(one.span)
    if len(text) > limits.ITEM_BYTES:
        return f"span {index}: it is {len(text)} bytes, more than {limits.ITEM_BYTES >> 20} MiB"
    if len(text) > limits.ENVELOPE_BYTES and text.count(b'"key"') > limits.ATTRIBUTES:
        return f"span {index}: {_CROWDED}"
    try:
        return _why_not_sent(index, json_structs.read_span(text))
    except UnicodeDecodeError as error:
        return f"span {index}: a string is not UTF-8: {error.reason}"
    except msgspec.DecodeError as error:
        if jsontext.is_deeper(text, limits.JSON_DEPTH):
            return f"span {index}: values are nested more than {limits.JSON_DEPTH} arrays and objects deep"
        return f"span {index}: {jsontext.told(error)}"


def _why_not_sent(index: int, sent: json_structs.Span) -> str:
    span = Span()
    try:
        nested = json.check_span(span, sent)
        reason = _too_many(nested) if nested > limits.ATTRIBUTES else why_not(span)
    except json.Unfit as error:
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
    count = _at_the_top(span)
    return _too_many(count) if count > limits.ATTRIBUTES else ""


def _at_the_top(span: Span) -> int:
    """Attributes, events and links, without what is nested in their values."""
    return (
        len(span.attributes)
        + sum(1 + len(event.attributes) for event in span.events)
        + sum(1 + len(link.attributes) for link in span.links)
    )


def _too_many(count: int) -> str:
    return f"{count} attributes, events and links, more than {limits.ATTRIBUTES}"


def partial_success(rejected: int, message: str) -> ExportTraceServiceResponse:
    """The answer to a request of which ``rejected`` spans were not kept, or with a warning alone; else an empty one."""
    response = ExportTraceServiceResponse()
    if message:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = message
    return response
