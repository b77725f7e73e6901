"""An OTLP request in JSON cut along its spans, as text, without decoding them.

For requests too large for one envelope, and for those of which a span is not what it should be, so that the others are
kept. What surrounds a span, its resource and its scope, is kept as it came.
"""

from collections.abc import Callable, Iterable
from itertools import groupby

import msgspec
from msgspec import Raw
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tracebility.errors import BadRequest
from tracebility.wire import jsontext, limits, otlp_fill
from tracebility.wire.otlp_parts import Around, Slice, not_a_request, too_many_groups, too_many_spans


def cut(body: bytes) -> list[Slice]:
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
                raise too_many_groups()
            for scope in map(_decode_scope, scopes):
                around = Around(
                    _members(resource=group.resource, schemaUrl=group.schema_url),
                    _members(scope=scope.scope, schemaUrl=scope.schema_url),
                )
                slices += [Slice(around, memoryview(span)) for span in _list(scope.spans)]
                if len(slices) > limits.ITEMS:
                    raise too_many_spans()
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise not_a_request(jsontext.told(error)) from error
    return slices


def join(slices: Iterable[Slice]) -> bytes:
    """A request of ``slices``."""
    groups = [
        b'{%b"scopeSpans":[{%b"spans":[%b]}]}' % (around.resource, around.scope, b",".join(one.span for one in members))
        for around, members in groupby(slices, lambda one: one.around)
    ]
    return b'{"resourceSpans":[%b]}' % b",".join(groups)


def why_not_around(around: Around) -> str:
    """Why no span can be kept that has this resource and scope; empty when they are well."""
    size = len(around.resource) + len(around.scope)
    if size > limits.AROUND_BYTES:
        return f"its resource and scope are {size} bytes, more than {limits.AROUND_BYTES >> 10} KiB"
    try:
        read_around(around)
    except BadRequest as error:
        return f"its resource or scope cannot be read: {error.detail}"
    return ""


def read_around(around: Around) -> ExportTraceServiceRequest:
    """A resource and scope, with a span that says nothing.

    Raises:
        BadRequest: when they cannot be read.
    """
    return otlp_fill.decode(join([Slice(around, b"{}")]))


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
    jsontext.check_values(text, limits.GROUPS, "spans in one list")
    return _decode_list(text)


def _members(**values: Raw) -> bytes:
    """What stands before the list in an object: each member that was sent, with a comma after it."""
    return b"".join(b'"%b":%b,' % (name.encode(), bytes(raw)) for name, raw in values.items() if bytes(raw))
