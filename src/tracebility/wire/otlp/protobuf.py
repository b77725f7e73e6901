"""Finds spans in the protobuf wire format of OTLP requests, and splits requests between spans, without decoding.

A request is split when it is too large for one envelope, or when a span cannot be parsed, so that the others are kept.
Each part repeats the resources and scopes of its spans unchanged.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tracebility.errors import PayloadTooLarge
from tracebility.wire import limits
from tracebility.wire.otlp.split import ResourceScope, Slice, not_a_request, too_many_spans

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Malformed(ValueError):
    """The bytes are not protobuf. ``str()`` names the offset."""


class Group(NamedTuple):
    """The spans of one scope: the encoded resource and scope, and start and end of each span."""

    resource: bytes
    scope: bytes
    spans: list[tuple[int, int]]


def groups(body: bytes) -> Iterator[Group]:
    """Find the spans of ``body``, in the order of the decoded request.

    Raises:
        Malformed: when it is not protobuf, or has fields that only a decoder can read, such as protobuf groups.
    """
    for _, start, end in _messages(body, 0, len(body), 1):
        resource: list[bytes] = []
        scopes: list[tuple[int, int]] = []
        for number, _, at, to in fields(body, start, end):
            if number in (1, 2) and to < at:
                raise Malformed(f"field {number} at byte {at} is not a message")
            if number == 1:
                resource.append(body[at:to])  # protobuf merges repeated messages: joined bytes do the same
            elif number == 2:
                scopes.append((at, to))
        for scope_at, scope_end in scopes:
            scope: list[bytes] = []
            spans: list[tuple[int, int]] = []
            for number, _, at, to in fields(body, scope_at, scope_end):
                if number in (1, 2) and to < at:
                    raise Malformed(f"field {number} at byte {at} is not a message")
                if number == 2:
                    spans.append((at, to))
                elif number == 1:
                    scope.append(body[at:to])
            yield Group(b"".join(resource), b"".join(scope), spans)


def spans_above(body: bytes, request: ExportTraceServiceRequest, size: int) -> dict[int, bytes]:
    """The bytes of all spans with more than ``size`` bytes, by position in ``request``, which is ``body`` decoded."""
    if len(body) <= size:
        return {}
    expected = sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
    try:
        places = _spans(body)
    except Malformed:
        places = []
    if len(places) == expected:
        return {at: body[start:end] for at, (start, end) in enumerate(places) if end - start > size}
    spans = (span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans)
    return {at: span.SerializeToString() for at, span in enumerate(spans) if span.ByteSize() > size}


def cut(body: bytes) -> list[Slice]:
    """Split a protobuf request into its spans.

    Raises:
        BadRequest: when its structure down to the spans is not valid protobuf.
        PayloadTooLarge: when it holds too many spans, or too many groups of them.
    """
    try:
        return list(_cut(body))
    except Malformed as error:
        raise not_a_request(str(error)) from error


def join(slices: Iterable[Slice]) -> bytes:
    """Join ``slices`` to a request."""
    request = bytearray()
    for owner, members in groupby(slices, lambda one: one.owner):
        scope = b"".join((owner.scope, *(_field(2, one.span) for one in members)))
        request += _field(1, owner.resource + _field(2, scope))
    return bytes(request)


def request_of(one: Slice) -> bytes:
    """A request with this span only. Parsing it applies the nesting limit at the same depth as in the whole request."""
    return join([Slice(_EMPTY, one.span)])


def has_too_many_attributes(span: bytes | memoryview) -> bool:
    """Whether a span has more than ``limits.ATTRIBUTES`` attributes, events, links and nested values.

    Counting in the wire format takes 50 times as long as parsing, so only suspicious spans are counted. Large spans are
    counted before parsing, because a parsed attribute takes up to 40 times its bytes in memory.

    Raises:
        Malformed: when the span is not protobuf.
    """
    return _count(span, _SPAN) > limits.ATTRIBUTES


def scope_problem(owner: ResourceScope) -> str:
    """Why all spans of this resource and scope are rejected; empty if they are valid."""
    size = len(owner.resource) + len(owner.scope)
    if size > limits.RESOURCE_SCOPE_BYTES:
        return f"its resource and scope are {size} bytes, more than {limits.RESOURCE_SCOPE_BYTES >> 10} KiB"
    try:
        if _count(owner.resource, _RESOURCE) + _count(owner.scope, _SCOPE) > limits.ATTRIBUTES:
            return f"its resource and scope have more than {limits.ATTRIBUTES} attributes"
        read_scope(owner)
    except (Malformed, DecodeError) as error:
        return f"its resource or scope cannot be read: {error}"
    return ""


def read_scope(owner: ResourceScope) -> ExportTraceServiceRequest:
    """Decode a resource and scope, as a request with one empty span.

    Raises:
        DecodeError: when they cannot be decoded.
    """
    return ExportTraceServiceRequest.FromString(join([Slice(owner, b"")]))


def _count(message: bytes | memoryview, children: "_Children") -> int:
    """Count attributes, events, links and nested values in ``message``; stops above ``limits.ATTRIBUTES``."""
    seen = visited = 0
    todo = [(0, len(message), children)]
    while todo:
        start, end, inside = todo.pop()
        for number, _, value_start, value_end in fields(message, start, end):
            counts, inner = inside.get(number, _NO_CHILD)
            if inner is not None and value_end >= value_start:
                seen += counts
                visited += 1
                if seen > limits.ATTRIBUTES or visited > _MAX_VISITED:
                    return limits.ATTRIBUTES + 1
                if value_end > value_start:
                    todo.append((value_start, value_end, inner))
    return seen


_EMPTY = ResourceScope(b"", b"")

# By field number: 1 if the message counts, and its own children. Values do not count: their pair or array item does.
_Children = dict[int, "tuple[int, _Children | None]"]
_NO_CHILD: tuple[int, _Children | None] = (0, None)
_VALUE: _Children = {}
_PAIR: _Children = {2: (0, _VALUE)}
_VALUE.update({5: (0, {1: (1, _VALUE)}), 6: (0, {1: (1, _PAIR)})})
_SPAN: _Children = {9: (1, _PAIR), 11: (1, {3: (1, _PAIR)}), 13: (1, {4: (1, _PAIR)})}
_RESOURCE: _Children = {1: (0, {1: (1, _PAIR)})}
_SCOPE: _Children = {1: (0, {3: (1, _PAIR)})}

# For each counted pair, at most a value and its array or list are visited too.
_MAX_VISITED = 3 * limits.ATTRIBUTES + 3


def _cut(body: bytes) -> Iterator[Slice]:
    view = memoryview(body)
    spans = groups = 0
    for _, start, end in _messages(body, 0, len(body), 1):
        scopes = list(_messages(body, start, end, 2))
        resource = _without(body, start, end, scopes)
        groups += 1 + len(scopes)
        if groups > limits.GROUPS:
            raise PayloadTooLarge(
                f"The body holds more than {limits.GROUPS} resources and scopes.", hint="Send fewer a request."
            )
        for _, scope_start, scope_end in scopes:
            members = list(_messages(body, scope_start, scope_end, 2))
            spans += len(members)
            if spans > limits.ITEMS:
                raise too_many_spans()
            owner = ResourceScope(resource, _without(body, scope_start, scope_end, members))
            for _, span_start, span_end in members:
                yield Slice(owner, view[span_start:span_end])


_Offsets = tuple[int, int, int]  # start of the tag, start and end of the message


def _messages(body: bytes, start: int, end: int, wanted: int) -> Iterator[_Offsets]:
    count = 0
    for number, tag, value_start, value_end in fields(body, start, end):
        if number == wanted:
            if value_end < value_start:
                raise Malformed(f"field {number} at byte {tag} is not a message")
            count += 1
            if count > limits.GROUPS:
                raise too_many_spans()
            yield tag, value_start, value_end


def _without(body: bytes, start: int, end: int, removed: list[_Offsets]) -> bytes:
    """The bytes from ``start`` to ``end`` without the ``removed`` fields."""
    kept = []
    for tag, _, after in removed:
        kept.append(body[start:tag])
        start = after
    kept.append(body[start:end])
    return b"".join(kept)


def fields(body: bytes | memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """For each field: its number, start of the tag, start and end of the value.

    For a field without a length (a number) the end is smaller than the start.

    Raises:
        Malformed: when the bytes are not a protobuf message.
    """
    while at < end:
        tag_at = at
        # Large messages mostly repeat one field of 128 bytes to 16 KiB. This case needs no function calls.
        if body[at] & 0x87 == _BYTES and at + 2 < end and body[at + 1] >= 0x80 > body[at + 2]:
            number = body[at] >> 3
            at, length = at + 3, body[at + 1] & 0x7F | body[at + 2] << 7
            if number and at + length <= end:
                yield number, tag_at, at, at + length
                at += length
                continue
            at = tag_at
        tag, at = _varint(body, at, end)
        number, form = tag >> 3, tag & 7
        if number == 0:
            raise Malformed(f"the field at byte {tag_at} has no number")
        if form == _BYTES:
            length, at = _varint(body, at, end)
            if at + length > end:
                raise Malformed(f"field {number} at byte {tag_at} ends {at + length - end} bytes too late")
            yield number, tag_at, at, at + length
            at += length
            continue
        if form == _VARINT:
            _, at = _varint(body, at, end)
        elif form == _FIXED64:
            at += 8
        elif form == _FIXED32:
            at += 4
        else:
            raise Malformed(f"field {number} at byte {tag_at} has the unknown wire type {form}")
        if at > end:
            raise Malformed(f"field {number} at byte {tag_at} is cut off")
        yield number, tag_at, at, at - 1


def _varint(body: bytes | memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for place in range(at, min(end, at + 10)):
        byte = body[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    raise Malformed(f"the number at byte {at} has no end")


def _field(number: int, value: bytes | memoryview) -> bytes:
    head = bytearray([number << 3 | _BYTES])
    length = len(value)
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return b"".join((head, value))


def _spans(body: bytes) -> list[tuple[int, int]]:
    """Start and end of each span, in the order of the decoded request."""
    return [place for group in groups(body) for place in group.spans]
