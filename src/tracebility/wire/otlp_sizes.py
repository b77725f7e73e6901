"""Where the spans of an OTLP request lie and how large they are: read off the lengths there, none is decoded."""

from collections.abc import Iterator
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

# Tags of the one field that leads down on each floor: number and wire type, a length.
_RESOURCE_SPANS, _SCOPE_SPANS, _SPAN = 1 << 3 | 2, 2 << 3 | 2, 2 << 3 | 2
# And of what says whose they are, beside it.
_RESOURCE, _SCOPE = 1 << 3 | 2, 1 << 3 | 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class Group(NamedTuple):
    """Spans of one resource and scope, which are messages of their own; start and end of each span."""

    resource: bytes
    scope: bytes
    spans: list[tuple[int, int]]


def groups(body: bytes) -> Iterator[Group]:
    """The spans of ``body``, in the order in which it decodes.

    Raises:
        ValueError, IndexError: when it is not protobuf, or has a spelling that is not followed here, such as groups.
    """
    for resource in _fields(body, 0, len(body), _RESOURCE_SPANS):
        # Of a message that comes in pieces, the pieces put together are the whole.
        owner = b"".join(body[start:end] for start, end in _fields(body, *resource, _RESOURCE))
        for scope in _fields(body, *resource, _SCOPE_SPANS):
            name = b"".join(body[start:end] for start, end in _fields(body, *scope, _SCOPE))
            yield Group(owner, name, list(_fields(body, *scope, _SPAN)))


def spans_above(body: bytes, request: ExportTraceServiceRequest, most: int) -> dict[int, bytes]:
    """The spans of ``body`` that are larger than ``most`` bytes, as they came, by their position in ``request``.

    ``most`` is 16 KiB or more: nearly all spans are below, and that costs half as much to see.
    """
    if len(body) <= most:
        return {}
    expected = sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
    try:
        scopes = [
            scope
            for resource in _fields(body, 0, len(body), _RESOURCE_SPANS)
            for scope in _fields(body, *resource, _SCOPE_SPANS)
        ]
        if sum(_short_spans(body, *scope) for scope in scopes) == expected:
            return {}
        places = [place for scope in scopes for place in _fields(body, *scope, _SPAN)]
        if len(places) == expected:
            return {at: body[start:end] for at, (start, end) in enumerate(places) if end - start > most}
    except (IndexError, ValueError):
        pass
    spans = (span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans)
    return {at: span.SerializeToString() for at, span in enumerate(spans) if span.ByteSize() > most}


def span_sizes(body: bytes, request: ExportTraceServiceRequest) -> list[int]:
    """The size of each span of ``body``, in the order of ``request``, which is what ``body`` decodes to."""
    try:
        sizes = [
            end - start
            for resource in _fields(body, 0, len(body), _RESOURCE_SPANS)
            for scope in _fields(body, *resource, _SCOPE_SPANS)
            for start, end in _fields(body, *scope, _SPAN)
        ]
    except (IndexError, ValueError):
        sizes = []
    spans = sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
    if len(sizes) == spans:
        return sizes
    # Protobuf has spellings that are not followed here, such as groups; then each span is measured.
    return [
        span.ByteSize() for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
    ]


def _short_spans(body: bytes, at: int, end: int) -> int:
    """How many spans there are in a scope up to the first of 16 KiB or more."""
    count = 0
    while at < end:
        if body[at] == _SPAN and (low := body[at + 1]) >= 0x80 > (high := body[at + 2]):
            at += 3 + (low & 0x7F | high << 7)
            count += 1
            continue
        tag, at = _varint(body, at)
        size, at = _varint(body, at)
        if tag & 7 != _LENGTH or (tag == _SPAN and size >= 1 << 14):
            break
        at += size
        count += tag == _SPAN
    return count


def _fields(body: bytes, at: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Where the content of each field with the tag ``wanted`` lies in the message from ``at`` to ``end``."""
    while at < end:
        # Nearly all of a large message is one field again and again, of less than 16 KiB: no calls for those.
        if body[at] == wanted and body[at + 1] >= 0x80 > body[at + 2]:
            size = body[at + 1] & 0x7F | body[at + 2] << 7
            at += 3 + size
            if at > end:
                raise ValueError(f"a field of {size} bytes ends at byte {at} of {end}")
            yield at - size, at
            continue
        tag, at = _varint(body, at)
        kind = tag & 7
        if kind == _LENGTH:
            size, at = _varint(body, at)
            if at + size > end:
                raise ValueError(f"a field of {size} bytes at byte {at} of {end}")
            if tag == wanted:
                yield at, at + size
            at += size
        elif kind == _VARINT:
            _, at = _varint(body, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    byte = body[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value, shift = byte & 0x7F, 7
    while byte >= 0x80:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
    return value, at
