"""Converts OTLP/JSON to the protobuf message, so that all other code handles one form.

Ids are hex in either case; 64-bit numbers are text or numbers; enums are numbers or names. The edge only checks a span
(`check_span`), which costs a fraction of converting it (`fill_span`) and finds the same errors. The worker converts.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import msgspec
from msgspec import Raw
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from tracebility.errors import BadRequest
from tracebility.wire import jsontext, limits
from tracebility.wire.otlp.json_structs import AnyValue, Attributes, Request, ResourceSpans, Span, read_request, repair
from tracebility.wire.otlp.split import ResourceScope, Slice, not_a_request, too_many_groups, too_many_spans


class Unfit(ValueError):
    """A JSON value of the right type that does not fit into the protobuf message."""


def decode(body: bytes) -> ExportTraceServiceRequest:
    """Convert a request. A span that does not fit into the message becomes an empty span.

    Raises:
        BadRequest: when ``body`` is not a trace request.
    """
    try:
        request = jsontext.decode(repair(body), read_request)
        message = ExportTraceServiceRequest()
        for sent in request.resource_spans or ():
            fill_group(message, sent)
    except (msgspec.ValidationError, UnicodeDecodeError, Unfit) as error:
        raise not_a_request(jsontext.error_text(error)) from error
    return message


def without_spans(request: Request) -> ExportTraceServiceRequest:
    """Convert all resources and scopes of ``request``, without spans.

    Raises:
        Unfit: when a value of them does not fit.
    """
    message = ExportTraceServiceRequest()
    for group in request.resource_spans or ():
        scopes = [msgspec.structs.replace(scoped, spans=None) for scoped in group.scope_spans or ()]
        fill_group(message, msgspec.structs.replace(group, scope_spans=scopes))
    return message


def fill_group(message: ExportTraceServiceRequest, sent: ResourceSpans) -> None:
    """Convert ``sent`` and add it to ``message``. A span that does not fit becomes an empty span.

    Raises:
        Unfit: when a value of its resource or a scope does not fit.
    """
    group = message.resource_spans.add(schema_url=sent.schema_url or "")
    if sent.resource is not None:
        _fill_attributes(group.resource.attributes, sent.resource.attributes)
        group.resource.dropped_attributes_count = _uint32(sent.resource.dropped_attributes_count)
    for scoped in sent.scope_spans or ():
        scope_spans = group.scope_spans.add(schema_url=scoped.schema_url or "")
        if scoped.scope is not None:
            scope_spans.scope.name = scoped.scope.name or ""
            scope_spans.scope.version = scoped.scope.version or ""
            _fill_attributes(scope_spans.scope.attributes, scoped.scope.attributes)
            scope_spans.scope.dropped_attributes_count = _uint32(scoped.scope.dropped_attributes_count)
        for span in scoped.spans or ():
            target = scope_spans.spans.add()
            try:
                fill_span(target, span)
            except Unfit:
                target.Clear()


def check_span(target: trace_pb2.Span, sent: Span) -> int:
    """Convert the head of ``sent``, check the rest, and return the number of attributes, events, links and values.

    Raises:
        Unfit: when a value does not fit; the text names the field.
    """
    _fill_head(target, sent)
    count = _check_attributes(sent.attributes)
    for event in sent.events or ():
        _unix_nano("events.timeUnixNano", event.time_unix_nano)
        count += 1 + _check_attributes(event.attributes)
    for link in sent.links or ():
        _hex("links.traceId", link.trace_id)
        _hex("links.spanId", link.span_id)
        count += 1 + _check_attributes(link.attributes)
    return count


def fill_span(target: trace_pb2.Span, sent: Span) -> None:
    """Convert ``sent`` into ``target``.

    Raises:
        Unfit: when a value does not fit; the text names the field.
    """
    _fill_head(target, sent)
    _fill_attributes(target.attributes, sent.attributes)
    target.dropped_attributes_count = _uint32(sent.dropped_attributes_count)
    target.dropped_events_count = _uint32(sent.dropped_events_count)
    target.dropped_links_count = _uint32(sent.dropped_links_count)
    for event in sent.events or ():
        into = target.events.add(
            name=event.name or "",
            time_unix_nano=_unix_nano("events.timeUnixNano", event.time_unix_nano),
            dropped_attributes_count=_uint32(event.dropped_attributes_count),
        )
        _fill_attributes(into.attributes, event.attributes)
    for link in sent.links or ():
        link_into = target.links.add(
            trace_id=_hex("links.traceId", link.trace_id),
            span_id=_hex("links.spanId", link.span_id),
            trace_state=link.trace_state or "",
            flags=_uint32(link.flags),
            dropped_attributes_count=_uint32(link.dropped_attributes_count),
        )
        _fill_attributes(link_into.attributes, link.attributes)


# Nesting depth in JSON of an attribute's value: the value, the pair, the list of attributes, the span. An array adds
# three levels, a list of pairs four.
_VALUE_DEPTH = 4
_ARRAY_DEPTH = 3
_KVLIST_DEPTH = 4
_TOO_DEEP = f"values are nested more than {limits.JSON_DEPTH} arrays and objects deep"
_NUMBER = re.compile(r"-?[0-9]+")
_INT64 = -(1 << 63), (1 << 63) - 1


def _fill_head(target: trace_pb2.Span, sent: Span) -> None:
    target.trace_id = _hex("traceId", sent.trace_id)
    target.span_id = _hex("spanId", sent.span_id)
    target.parent_span_id = _hex("parentSpanId", sent.parent_span_id)
    target.name = sent.name or ""
    target.kind = _enum("kind", trace_pb2.Span.SpanKind, sent.kind)
    target.start_time_unix_nano = _unix_nano("startTimeUnixNano", sent.start_time_unix_nano)
    target.end_time_unix_nano = _unix_nano("endTimeUnixNano", sent.end_time_unix_nano)
    if sent.trace_state:
        target.trace_state = sent.trace_state
    if sent.flags:
        target.flags = _uint32(sent.flags)
    if sent.status is not None:
        target.status.message = sent.status.message or ""
        target.status.code = _enum("status.code", trace_pb2.Status.StatusCode, sent.status.code)


def _check_attributes(sent: Attributes, depth: int = _VALUE_DEPTH) -> int:
    if not sent:
        return 0
    count = len(sent)
    for pair in sent:
        value = pair.value
        if value is not None and value.string_value is None:
            count += _check_value(value, depth)
    return count


def _check_value(value: AnyValue, depth: int) -> int:
    """Check a value, and return the number of pairs and items nested in it."""
    if depth > limits.JSON_DEPTH:
        raise Unfit(_TOO_DEEP)
    if value.string_value is not None:
        return 0
    if value.int_value is not None:
        _long("intValue", value.int_value, *_INT64)
    elif value.bool_value is not None:
        return 0
    elif value.double_value is not None:
        _double(value.double_value)
    elif value.bytes_value is not None:
        _base64(value.bytes_value)
    elif value.array_value is not None:
        items = value.array_value.values or ()
        return len(items) + sum(_check_value(item, depth + _ARRAY_DEPTH) for item in items if item is not None)
    elif value.kvlist_value is not None:
        return _check_attributes(value.kvlist_value.values, depth + _KVLIST_DEPTH)
    return 0


def _fill_attributes(target: Any, sent: Attributes, depth: int = _VALUE_DEPTH) -> None:
    for pair in sent or ():
        into = target.add(key=pair.key or "")
        value = pair.value
        if value is None:
            continue
        if value.string_value is not None:
            into.value.string_value = value.string_value
        else:
            _fill_value(into.value, value, depth)


def _fill_value(into: common_pb2.AnyValue, value: AnyValue, depth: int) -> None:
    if depth > limits.JSON_DEPTH:
        raise Unfit(_TOO_DEEP)
    if value.string_value is not None:
        into.string_value = value.string_value
    elif value.int_value is not None:
        into.int_value = _long("intValue", value.int_value, *_INT64)
    elif value.bool_value is not None:
        into.bool_value = value.bool_value
    elif value.double_value is not None:
        into.double_value = _double(value.double_value)
    elif value.bytes_value is not None:
        into.bytes_value = _base64(value.bytes_value)
    elif value.array_value is not None:
        into.array_value.SetInParent()
        for item in value.array_value.values or ():
            inner = into.array_value.values.add()
            if item is not None:
                _fill_value(inner, item, depth + _ARRAY_DEPTH)
    elif value.kvlist_value is not None:
        into.kvlist_value.SetInParent()
        _fill_attributes(into.kvlist_value.values, value.kvlist_value.values, depth + _KVLIST_DEPTH)


def _hex(field: str, text: str | None) -> bytes:
    if not text:
        return b""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) * 2 != len(text):  # `fromhex` ignores spaces
        raise Unfit(f"{field} must be hex digits, it is {text[:40]!r}")
    return data


def _unix_nano(field: str, value: int | float | str | None) -> int:
    return _long(field, value, 0, limits.MAX_UNIX_NANO) if value else 0


def _long(field: str, value: int | float | str | None, smallest: int, largest: int) -> int:
    try:
        number = int(value or 0)
    except (ValueError, OverflowError):
        raise Unfit(f"{field} must be a whole number, it is {str(value)[:40]!r}") from None
    if isinstance(value, float) and number != value:
        raise Unfit(f"{field} must be a whole number, it is {value}")
    if not smallest <= number <= largest:
        raise Unfit(f"{field} must be from {smallest} to {largest}, it is {str(value)[:40]}")
    return number


def _double(value: int | float | str | None) -> float:
    try:
        return float(value or 0)  # proto3 JSON spells these numbers "NaN" and "Infinity"
    except (ValueError, OverflowError):
        raise Unfit(f"doubleValue must be a number, it is {str(value)[:40]!r}") from None


def _base64(text: str) -> bytes:
    try:
        return b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Unfit("bytesValue must be base64") from None


def _uint32(value: int | float | str | None) -> int:
    """A count or flags. They are informative only, so an unreadable value becomes 0 and does not reject the span."""
    try:
        return min(max(int(value or 0), 0), (1 << 32) - 1)
    except (ValueError, OverflowError):
        return 0


def _enum(field: str, enum: Any, value: int | str | None) -> Any:
    if value is None:
        return 0
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value[:12])
    if isinstance(value, int):
        return value if 0 <= value < 1 << 31 else 0
    try:
        return enum.Value(value)
    except ValueError:
        raise Unfit(f"{field} is not a name of the specification: {value[:40]!r}") from None


def cut(body: bytes) -> list[Slice]:
    """Split a JSON request, already repaired by `jsontext.repair`, into its spans.

    Raises:
        BadRequest: when it is not JSON, or its structure down to the spans is not a trace request.
        PayloadTooLarge: when it holds too many spans, or too many groups of them.
    """
    try:
        request = jsontext.decode(body, _decode_request)
        slices: list[Slice] = []
        groups = _list(request.resource_spans)
        seen = len(groups)
        for group in map(_decode_group, groups):
            scopes = _list(group.scope_spans)
            seen += len(scopes)
            if seen > limits.GROUPS:
                raise too_many_groups()
            for scope in map(_decode_scope, scopes):
                owner = ResourceScope(
                    _members(resource=group.resource, schemaUrl=group.schema_url),
                    _members(scope=scope.scope, schemaUrl=scope.schema_url),
                )
                slices += [Slice(owner, memoryview(span)) for span in _list(scope.spans)]
                if len(slices) > limits.ITEMS:
                    raise too_many_spans()
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise not_a_request(jsontext.error_text(error)) from error
    return slices


def join(slices: Iterable[Slice]) -> bytes:
    """Join ``slices`` to a request."""
    groups = [
        b'{%b"scopeSpans":[{%b"spans":[%b]}]}' % (owner.resource, owner.scope, b",".join(one.span for one in members))
        for owner, members in groupby(slices, lambda one: one.owner)
    ]
    return b'{"resourceSpans":[%b]}' % b",".join(groups)


def scope_problem(owner: ResourceScope) -> str:
    """Why all spans of this resource and scope are rejected; empty if they are valid."""
    size = len(owner.resource) + len(owner.scope)
    if size > limits.RESOURCE_SCOPE_BYTES:
        return f"its resource and scope are {size} bytes, more than {limits.RESOURCE_SCOPE_BYTES >> 10} KiB"
    try:
        read_scope(owner)
    except BadRequest as error:
        return f"its resource or scope cannot be read: {error.detail}"
    return ""


def read_scope(owner: ResourceScope) -> ExportTraceServiceRequest:
    """Decode a resource and scope, as a request with one empty span.

    Raises:
        BadRequest: when they cannot be decoded.
    """
    return decode(join([Slice(owner, b"{}")]))


class _RawRequest(msgspec.Struct, frozen=True, rename="camel"):
    resource_spans: Raw = Raw()


class _RawGroup(msgspec.Struct, frozen=True, rename="camel"):
    resource: Raw = Raw()
    scope_spans: Raw = Raw()
    schema_url: Raw = Raw()


class _RawScope(msgspec.Struct, frozen=True, rename="camel"):
    scope: Raw = Raw()
    spans: Raw = Raw()
    schema_url: Raw = Raw()


_decode_request = msgspec.json.Decoder(_RawRequest).decode
_decode_group: Callable[[Raw], _RawGroup] = msgspec.json.Decoder(_RawGroup).decode
_decode_scope: Callable[[Raw], _RawScope] = msgspec.json.Decoder(_RawScope).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode


def _list(raw: Raw) -> list[Raw]:
    text = bytes(raw)
    if not text or text == b"null":
        return []
    jsontext.check_values(text, limits.GROUPS, "spans in one list")
    return _decode_list(text)


def _members(**values: Raw) -> bytes:
    """The given members as JSON text, each followed by a comma; members that were not sent are left out."""
    return b"".join(b'"%b":%b,' % (name.encode(), bytes(raw)) for name, raw in values.items() if bytes(raw))
