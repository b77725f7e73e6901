"""Parses OTLP trace requests, protobuf or JSON, into the protobuf message, and checks each span."""

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
    """Decode a request; ``content_type`` is ``protobuf`` or ``json``.

    A JSON span that does not fit into a protobuf message becomes an empty span, so that the positions of the others
    stay the same. The edge has listed it in the header's ``rejected``.

    Raises:
        BadRequest: when ``body`` is not a trace request.
    """
    if content_type == JSON:
        return json.decode(body)
    try:
        return ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise not_a_request(str(error)) from error


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """All spans in order. Positions in a header's ``rejected`` count in this order."""
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            yield from scope.spans


def inspect(body: bytes, content_type: str) -> Inspection:
    """Decide which spans of ``body`` are accepted; ``content_type`` is ``protobuf`` or ``json``.

    A small body whose spans can all be read is enqueued unchanged. A large one, or one with an unreadable span, is
    split between its spans into parts.

    Raises:
        BadRequest: when ``body`` is not a trace request.
        PayloadTooLarge: when it holds too many spans, or resources and scopes are too large.
    """
    if len(body) <= limits.ENVELOPE_BYTES:
        found = _inspect_whole(body, content_type, limits.GROUPS)
        if found is not None:
            return found
    if content_type == JSON:
        slices = json.cut(json_structs.repair(body))
        found = in_parts(slices, _json_slice_problem, json.scope_problem, json.join, json.read_scope)
        return _with_warning_of_first_part(found, JSON)
    slices = protobuf.cut(body)
    if not slices and len(body) <= limits.ENVELOPE_BYTES:
        decode(body, content_type)  # raises: the unreadable bytes are in no span
    found = in_parts(slices, _protobuf_slice_problem, protobuf.scope_problem, protobuf.join, protobuf.read_scope)
    return _with_warning_of_first_part(found, PROTOBUF)


def inspect_inline(body: bytes, content_type: str) -> Inspection | None:
    """As `inspect`, for a body of one envelope; None as soon as it proves too slow for the event loop.

    Raises:
        PayloadTooLarge: when it holds too many spans, or resources and scopes are too large.
    """
    return _inspect_whole(body, content_type, _MAX_INLINE)


# Groups and rejected spans of a request that is inspected on the event loop; attributes of a span that needs no count
# of its events, links and nested values.
_MAX_INLINE = 128

# A span of this size holds no more attributes, events, links and values than allowed: each takes at least two bytes.
_UNCOUNTED_BYTES = 2 * limits.ATTRIBUTES

_TOO_MANY_ATTRIBUTES = f"more than {limits.ATTRIBUTES} attributes, nested ones included"


def _inspect_whole(body: bytes, content_type: str, bound: int) -> Inspection | None:
    """Inspect a ``body`` that is enqueued unchanged. None when it has to be split.

    None also when it has more than ``bound`` groups or rejected spans.
    """
    try:
        if content_type == JSON:
            sent = jsontext.decode(json_structs.repair(body), json_structs.read_request)
            groups, spans = _count_groups(json_structs.groups_of(sent))
            if groups > bound:
                return None
            check_repeated(json.without_spans(sent), json_structs.spans_in_scopes(sent), len(body))
            reasons = enumerate(map(_json_span_problem, count(), json_structs.spans_of(sent)))
            return _with_warning(
                _inspection(reasons, spans, bound), [span.start_time_unix_nano for span in json_structs.spans_of(sent)]
            )
        request = ExportTraceServiceRequest.FromString(body)
    except (DecodeError, msgspec.ValidationError, UnicodeDecodeError, json.Unfit):
        return None  # the error does not name the span: inspect the spans one by one
    groups, spans = _count_groups(_groups_of(request))
    if groups > bound:
        return None
    in_scopes = [len(scoped.spans) for group in request.resource_spans for scoped in group.scope_spans]
    check_repeated(request, in_scopes, len(body))
    return _with_warning(_inspection(_problems(body, request), spans, bound), [*map(_start, spans_of(request))])


def _inspection(problems: Iterable[tuple[int, str]], spans: int, bound: int) -> Inspection | None:
    """An inspection of ``problems``: position and reason. Spans without a problem, or with an empty one, are valid."""
    refused: list[Rejection] = []
    for index, reason in problems:
        if reason:
            refused.append(rejection(index, reason, len(refused)))
            if len(refused) > bound:
                return None
    return Inspection(spans - len(refused), refused)


# 1973 in nanoseconds since 1970. An earlier start is a time in another unit.
_EARLIEST_NS = 10**17


def _with_warning(found: Inspection | None, starts: Sequence[int | float | str | None]) -> Inspection | None:
    """Add a warning to ``found`` if accepted spans started before 1973. ``starts`` are numbers or text of digits."""
    if found is None:
        return None
    rejected = set(found.skipped)
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


def _with_warning_of_first_part(found: Inspection, content_type: str) -> Inspection:
    """As `_with_warning`, for a request in parts. A client that uses another unit does so in the first part too."""
    if not found.parts:
        return found
    first = replace(found, rejected=[], parts=())
    warned = _with_warning(first, [*map(_start, spans_of(decode(found.parts[0].body, content_type)))])
    return found if warned is None else replace(found, warnings=warned.warnings)


def _problems(body: bytes, request: ExportTraceServiceRequest) -> Iterator[tuple[int, str]]:
    """Check the spans of ``request``: position, and why the span is rejected, or an empty text."""
    index = 0
    long = protobuf.spans_above(body, request, _UNCOUNTED_BYTES)
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            spans = list(scope.spans)
            positions: Iterable[int] = range(index, index + len(spans))
            if not spans or _are_all_valid(spans):
                positions = [position for position in long if position in positions]
            for position in positions:
                yield position, _span_problem(position, spans[position - index], long.get(position, b""))
            index += len(spans)


def _span_problem(index: int, span: Span, sent: bytes) -> str:
    """Why ``span`` is rejected; empty if it is valid. ``sent``: its bytes, needed for long spans only."""
    reason = _head_problem(span)
    # In arrays and lists of pairs, each nested value begins with the byte 0x0A, so its count is an upper bound.
    if (
        not reason
        and len(sent) > _UNCOUNTED_BYTES
        and _count_top_level(span) + sent.count(b"\n") > limits.ATTRIBUTES
        and protobuf.has_too_many_attributes(sent)
    ):
        reason = _TOO_MANY_ATTRIBUTES
    return f"{_span_name(index, span)}: {reason}" if reason else ""


def _groups_of(request: ExportTraceServiceRequest) -> Iterator[int]:
    for resource in request.resource_spans:
        yield 0
        for scope in resource.scope_spans:
            yield len(scope.spans)


def _count_groups(groups: Iterable[int]) -> tuple[int, int]:
    """The number of groups (resources and scopes) and of spans. ``groups``: the spans directly in each group.

    Raises:
        PayloadTooLarge: when there are too many groups or spans.
    """
    seen = spans = 0
    for of_group in groups:
        seen += 1
        spans += of_group
        if seen > limits.GROUPS:
            raise too_many_groups()
        if spans > limits.ITEMS:
            raise too_many_spans()
    return seen, spans


def _are_all_valid(spans: list[Span]) -> bool:
    """Check each field of all spans together, which takes half as long as checking each span."""
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
        and max(map(len, map(_attributes, spans))) <= _MAX_INLINE
    )


_trace_id, _span_id, _parent_span_id = attrgetter("trace_id"), attrgetter("span_id"), attrgetter("parent_span_id")
_start, _end = attrgetter("start_time_unix_nano"), attrgetter("end_time_unix_nano")
_name, _attributes = attrgetter("name"), attrgetter("attributes")


def _protobuf_slice_problem(index: int, one: Slice) -> str:
    if len(one.span) > limits.ITEM_BYTES:
        return f"span {index}: it is {len(one.span)} bytes, more than {limits.ITEM_BYTES >> 20} MiB"
    try:
        is_large = len(one.span) > limits.ENVELOPE_BYTES
        if is_large and protobuf.has_too_many_attributes(one.span):
            return f"span {index}: {_TOO_MANY_ATTRIBUTES}"
        [span] = spans_of(ExportTraceServiceRequest.FromString(protobuf.request_of(one)))
    except (protobuf.Malformed, DecodeError) as error:
        return f"span {index}: it is no protobuf span, holds text that is not UTF-8, or is nested too deep: {error}"
    return _span_problem(index, span, b"" if is_large else bytes(one.span))


def _json_slice_problem(index: int, one: Slice) -> str:
    text = bytes(one.span)
    if len(text) > limits.ITEM_BYTES:
        return f"span {index}: it is {len(text)} bytes, more than {limits.ITEM_BYTES >> 20} MiB"
    if len(text) > limits.ENVELOPE_BYTES and text.count(b'"key"') > limits.ATTRIBUTES:
        return f"span {index}: {_TOO_MANY_ATTRIBUTES}"
    try:
        return _json_span_problem(index, json_structs.read_span(text))
    except UnicodeDecodeError as error:
        return f"span {index}: a string is not UTF-8: {error.reason}"
    except msgspec.DecodeError as error:
        if jsontext.is_deeper(text, limits.JSON_DEPTH):
            return f"span {index}: values are nested more than {limits.JSON_DEPTH} arrays and objects deep"
        return f"span {index}: {jsontext.error_text(error)}"


def _json_span_problem(index: int, sent: json_structs.Span) -> str:
    span = Span()
    try:
        nested = json.check_span(span, sent)
        reason = _too_many(nested) if nested > limits.ATTRIBUTES else _head_problem(span)
    except json.Unfit as error:
        reason = str(error)
    return f"{_span_name(index, span)}: {reason}" if reason else ""


def _span_name(index: int, span: Span) -> str:
    """A span's position and name, for answers."""
    return f"span {index} ({span.name[:60]!r})" if span.name else f"span {index}"


def _head_problem(span: Span) -> str:
    """Why ``span`` is rejected for its ids, times, name or number of attributes; empty if these are valid."""
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
    count = _count_top_level(span)
    return _too_many(count) if count > limits.ATTRIBUTES else ""


def _count_top_level(span: Span) -> int:
    """The number of attributes, events and links, without values nested in attributes."""
    return (
        len(span.attributes)
        + sum(1 + len(event.attributes) for event in span.events)
        + sum(1 + len(link.attributes) for link in span.links)
    )


def _too_many(count: int) -> str:
    return f"{count} attributes, events and links, more than {limits.ATTRIBUTES}"


def partial_success(rejected: int, message: str) -> ExportTraceServiceResponse:
    """The answer to a request: ``message`` names rejected spans or warns; an empty response if there is none."""
    response = ExportTraceServiceResponse()
    if message:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = message
    return response
