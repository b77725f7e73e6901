"""An OTLP request cut along its spans, without decoding them.

For requests too large for one envelope or one parse, and for those of which a span cannot be parsed at all, so that the
others are kept.

Protobuf is cut on the wire (tag, length, bytes), JSON by text. What surrounds a span, its resource and its scope, is
kept as it came, and repeated where spans that shared it part ways.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import msgspec
from msgspec import Raw

from tracebility.errors import BadRequest, PayloadTooLarge
from tracebility.wire import jsontext, limits

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Malformed(ValueError):
    """The bytes are not protobuf. ``str()`` says where."""


@dataclass(frozen=True, slots=True, eq=False)
class Around:
    """A scope and its resource: what their spans need with them."""

    resource: bytes
    scope: bytes


class Slice(NamedTuple):
    """One span as it came."""

    around: Around
    span: bytes


def cut_protobuf(body: bytes) -> list[Slice]:
    """The spans of a protobuf request.

    Raises:
        BadRequest: when it is not protobuf down to its spans.
        PayloadTooLarge: when it holds too many spans, or too many groups of them.
    """
    try:
        return list(_cut(body))
    except Malformed as error:
        raise BadRequest(
            f"The body is not a whole OTLP trace request: {error}.",
            hint="Send an ExportTraceServiceRequest as it was serialised, all of it.",
        ) from error


def join_protobuf(slices: Iterable[Slice]) -> bytes:
    """A request of ``slices``."""
    request = bytearray()
    for around, members in groupby(slices, lambda one: one.around):
        scope = b"".join((around.scope, *(_field(2, one.span) for one in members)))
        request += _field(1, around.resource + _field(2, scope))
    return bytes(request)


def has_too_many_attributes(span: bytes) -> bool:
    """Whether the span on the wire has more than ``limits.ATTRIBUTES``, in events, links and nested values too.

    Counted before it is parsed: a parsed attribute takes up to 40 times its bytes.

    Raises:
        Malformed: when ``span`` is not protobuf.
    """
    seen = 0
    todo = [(0, len(span), _SPAN)]
    while todo:
        start, end, children = todo.pop()
        for number, _, value_start, value_end in _fields(span, start, end):
            inner = children.get(number)
            if inner is not None and value_end >= value_start:
                seen += 1
                if seen > limits.ATTRIBUTES:
                    return True
                if value_end > value_start:
                    todo.append((value_start, value_end, inner))
    return False


def too_many_spans() -> PayloadTooLarge:
    """More spans than a request may hold."""
    return PayloadTooLarge(f"The body holds more than {limits.ITEMS} spans.", hint="Send fewer a request.")


_Children = dict[int, "_Children"]
_VALUE: _Children = {}
_PAIR: _Children = {2: _VALUE}
_VALUE.update({5: {1: _VALUE}, 6: {1: _PAIR}})
_SPAN: _Children = {9: _PAIR, 11: {3: _PAIR}, 13: {4: _PAIR}}


def _cut(body: bytes) -> Iterator[Slice]:
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
            around = Around(resource, _without(body, scope_start, scope_end, members))
            for _, span_start, span_end in members:
                yield Slice(around, body[span_start:span_end])


_Place = tuple[int, int, int]  # where the tag begins, where the message begins and ends


def _messages(body: bytes, start: int, end: int, wanted: int) -> Iterator[_Place]:
    count = 0
    for number, tag, value_start, value_end in _fields(body, start, end):
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


def _fields(body: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, start of the tag, start and end of the value; the end is before the start of what has no length."""
    while at < end:
        tag_at = at
        tag, at = _varint(body, at, end)
        number, form = tag >> 3, tag & 7
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
        if at > end or number == 0:
            raise Malformed(f"field {number} at byte {tag_at} is cut off or has no number")
        yield number, tag_at, at, at - 1


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for place in range(at, min(end, at + 10)):
        byte = body[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    raise Malformed(f"the number at byte {at} has no end")


def _field(number: int, value: bytes) -> bytes:
    head = bytearray([number << 3 | _BYTES])
    length = len(value)
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return bytes(head) + value


def cut_json(body: bytes) -> list[Slice]:
    """The spans of a JSON request whose text `jsontext.repair` has seen.

    Raises:
        BadRequest: when it is not JSON of an OTLP request down to its spans.
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
                raise PayloadTooLarge(f"The body holds more than {limits.GROUPS} groups.", hint="Send fewer a request.")
            for scope in map(_decode_scope, scopes):
                around = Around(
                    _members(resource=group.resource, schemaUrl=group.schema_url),
                    _members(scope=scope.scope, schemaUrl=scope.schema_url),
                )
                slices += [Slice(around, bytes(span)) for span in _list(scope.spans)]
                if len(slices) > limits.ITEMS:
                    raise too_many_spans()
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not an OTLP trace request: {error}.") from error
    return slices


def join_json(slices: Iterable[Slice]) -> bytes:
    """A request of ``slices``."""
    groups = [
        b'{%b"scopeSpans":[{%b"spans":[%b]}]}' % (around.resource, around.scope, b",".join(one.span for one in members))
        for around, members in groupby(slices, lambda one: one.around)
    ]
    return b'{"resourceSpans":[%b]}' % b",".join(groups)


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    resource_spans: Raw = Raw()


class _Group(msgspec.Struct, frozen=True, rename="camel"):
    resource: Raw = Raw()
    scope_spans: Raw = Raw()
    schema_url: Raw = Raw()


class _Scope(msgspec.Struct, frozen=True, rename="camel"):
    scope: Raw = Raw()
    spans: Raw = Raw()
    schema_url: Raw = Raw()


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_group: Callable[[Raw], _Group] = msgspec.json.Decoder(_Group).decode
_decode_scope: Callable[[Raw], _Scope] = msgspec.json.Decoder(_Scope).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode


def _list(raw: Raw) -> list[Raw]:
    text = bytes(raw)
    if not text or text == b"null":
        return []
    if len(text) > limits.ENVELOPE_BYTES:
        jsontext.check_values(text, 1, limits.GROUPS, "spans in one list")
    return _decode_list(text)


def _members(**values: Raw) -> bytes:
    """What stands before the list in an object: each member that was sent, with a comma after it."""
    return b"".join(b'"%b":%b,' % (name.encode(), bytes(raw)) for name, raw in values.items() if bytes(raw))
