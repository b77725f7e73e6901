"""The protobuf wire format of OTLP requests: where spans lie, and requests split by span, without decoding them.

Requests are split when they are too large for one envelope or one parse, or when a span cannot be parsed, so that the
others are kept. A span's resource and scope are kept as they came, and repeated where spans that shared them part.
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
    """The bytes are not protobuf. ``str()`` says where."""


class Group(NamedTuple):
    """Spans of one resource and scope: the encoded resource and scope, and start and end of each span."""

    resource: bytes
    scope: bytes
    spans: list[tuple[int, int]]


def groups(body: bytes) -> Iterator[Group]:
    """The spans of ``body``, in the order of the decoded request.

    Raises:
        Malformed: when it is not protobuf, or holds what only a decoder follows, such as protobuf's own groups.
    """
    for _, start, end in _messages(body, 0, len(body), 1):
        resource: list[bytes] = []
        scopes: list[tuple[int, int]] = []
        for number, _, at, to in fields(body, start, end):
            if number in (1, 2) and to < at:
                raise Malformed(f"field {number} at byte {at} is not a message")
            if number == 1:
                resource.append(body[at:to])  # a message in pieces is its pieces joined
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


def spans_above(body: bytes, request: ExportTraceServiceRequest, most: int) -> dict[int, bytes]:
    """The spans of ``body`` that are larger than ``most`` bytes, as they came, by their position in ``request``."""
    if len(body) <= most:
        return {}
    expected = sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
    try:
        places = _spans(body)
    except Malformed:
        places = []
    if len(places) == expected:
        return {at: body[start:end] for at, (start, end) in enumerate(places) if end - start > most}
    spans = (span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans)
    return {at: span.SerializeToString() for at, span in enumerate(spans) if span.ByteSize() > most}


def cut(body: bytes) -> list[Slice]:
    """The spans of a protobuf request.

    Raises:
        BadRequest: when it is not protobuf down to its spans.
        PayloadTooLarge: when it holds too many spans, or too many groups of them.
    """
    try:
        return list(_cut(body))
    except Malformed as error:
        raise not_a_request(str(error)) from error


def join(slices: Iterable[Slice]) -> bytes:
    """A request of ``slices``."""
    request = bytearray()
    for owner, members in groupby(slices, lambda one: one.owner):
        scope = b"".join((owner.scope, *(_field(2, one.span) for one in members)))
        request += _field(1, owner.resource + _field(2, scope))
    return bytes(request)


def alone(one: Slice) -> bytes:
    """A request of the span only, as deep in it as it was: how deep values may be is counted from the outermost."""
    return join([Slice(_NOTHING, one.span)])


def has_too_many_attributes(span: bytes | memoryview) -> bool:
    """Whether a span has more than ``limits.ATTRIBUTES``, in events, links and nested values too.

    Counted on the wire, which takes 50 times as long as parsing it: for spans that may have so many. A large one is
    counted before it is parsed, for a parsed attribute takes up to 40 times its bytes.

    Raises:
        Malformed: when the span is not protobuf.
    """
    return _count(span, _SPAN) > limits.ATTRIBUTES


def why_not_scope(owner: ResourceScope) -> str:
    """Why no span can be kept that has this resource and scope; empty when they are well."""
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
    """A resource and scope, with a span that says nothing.

    Raises:
        DecodeError: when they cannot be read.
    """
    return ExportTraceServiceRequest.FromString(join([Slice(owner, b"")]))


def _count(message: bytes | memoryview, children: "_Children") -> int:
    """Attributes, events, links and nested values in ``message``; stops above ``limits.ATTRIBUTES``."""
    seen = visited = 0
    todo = [(0, len(message), children)]
    while todo:
        start, end, inside = todo.pop()
        for number, _, value_start, value_end in fields(message, start, end):
            counts, inner = inside.get(number, _NO_CHILD)
            if inner is not None and value_end >= value_start:
                seen += counts
                visited += 1
                if seen > limits.ATTRIBUTES or visited > _MOST_VISITED:
                    return limits.ATTRIBUTES + 1
                if value_end > value_start:
                    todo.append((value_start, value_end, inner))
    return seen


_NOTHING = ResourceScope(b"", b"")

# By number of the field: whether a message there counts, and what may be in it. A value does not: its pair does, or its
# place in an array.
_Children = dict[int, "tuple[int, _Children | None]"]
_NO_CHILD: tuple[int, _Children | None] = (0, None)
_VALUE: _Children = {}
_PAIR: _Children = {2: (0, _VALUE)}
_VALUE.update({5: (0, {1: (1, _VALUE)}), 6: (0, {1: (1, _PAIR)})})
_SPAN: _Children = {9: (1, _PAIR), 11: (1, {3: (1, _PAIR)}), 13: (1, {4: (1, _PAIR)})}
_RESOURCE: _Children = {1: (0, {1: (1, _PAIR)})}
_SCOPE: _Children = {1: (0, {3: (1, _PAIR)})}

# What counts is at most a pair around a value around an array or a list.
_MOST_VISITED = 3 * limits.ATTRIBUTES + 3


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


_Place = tuple[int, int, int]  # where the tag begins, where the message begins and ends


def _messages(body: bytes, start: int, end: int, wanted: int) -> Iterator[_Place]:
    count = 0
    for number, tag, value_start, value_end in fields(body, start, end):
        if number == wanted:
            if value_end < value_start:
                raise Malformed(f"field {number} at byte {tag} is not a message")
            count += 1
            if count > limits.GROUPS:
                raise too_many_spans()
            yield tag, value_start, value_end


def _without(body: bytes, start: int, end: int, places: list[_Place]) -> bytes:
    kept = []
    for tag, _, after in places:
        kept.append(body[start:tag])
        start = after
    kept.append(body[start:end])
    return b"".join(kept)


def fields(body: bytes | memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, start of the tag, start and end of the value; the end is before the start of what has no length.

    Raises:
        Malformed: when the bytes are no protobuf message.
    """
    while at < end:
        tag_at = at
        # Nearly all large messages are one field again and again, of 128 bytes to 16 KiB: no calls for those.
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
