"""Structs of OTLP/JSON. Every field may be absent or null; unknown fields are ignored.

As in proto3's JSON mapping, numbers may be text, and fields may have their .proto names (``resource_spans``).
"""

import re
from collections.abc import Iterator

import msgspec

from tracebility.wire import jsontext

# Numbers of every integer type may be text.
Long = int | float | str | None


class _Struct(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Without garbage collection (``gc=False``): the structs have no cycles, and a body makes thousands of them."""


class AnyValue(_Struct, frozen=True, rename="camel", gc=False):
    string_value: str | None = None
    int_value: Long = None
    bool_value: bool | None = None
    double_value: Long = None
    array_value: "ArrayValue | None" = None
    kvlist_value: "KeyValueList | None" = None
    bytes_value: str | None = None


class ArrayValue(_Struct, frozen=True, rename="camel", gc=False):
    values: list[AnyValue | None] | None = None


class KeyValue(_Struct, frozen=True, rename="camel", gc=False):
    key: str | None = None
    value: AnyValue | None = None


class KeyValueList(_Struct, frozen=True, rename="camel", gc=False):
    values: list[KeyValue] | None = None


Attributes = list[KeyValue] | None


class Event(_Struct, frozen=True, rename="camel", gc=False):
    time_unix_nano: Long = None
    name: str | None = None
    attributes: Attributes = None
    dropped_attributes_count: Long = None


class Link(_Struct, frozen=True, rename="camel", gc=False):
    trace_id: str | None = None
    span_id: str | None = None
    trace_state: str | None = None
    attributes: Attributes = None
    dropped_attributes_count: Long = None
    flags: Long = None


class Status(_Struct, frozen=True, rename="camel", gc=False):
    message: str | None = None
    code: int | str | None = None


class Span(_Struct, frozen=True, rename="camel", gc=False):
    trace_id: str | None = None
    span_id: str | None = None
    trace_state: str | None = None
    parent_span_id: str | None = None
    flags: Long = None
    name: str | None = None
    kind: int | str | None = None
    start_time_unix_nano: Long = None
    end_time_unix_nano: Long = None
    attributes: Attributes = None
    dropped_attributes_count: Long = None
    events: list[Event] | None = None
    dropped_events_count: Long = None
    links: list[Link] | None = None
    dropped_links_count: Long = None
    status: Status | None = None


class Scope(_Struct, frozen=True, rename="camel", gc=False):
    name: str | None = None
    version: str | None = None
    attributes: Attributes = None
    dropped_attributes_count: Long = None


class Resource(_Struct, frozen=True, rename="camel", gc=False):
    attributes: Attributes = None
    dropped_attributes_count: Long = None


class ScopeSpans(_Struct, frozen=True, rename="camel", gc=False):
    scope: Scope | None = None
    spans: list[Span] | None = None
    schema_url: str | None = None


class ResourceSpans(_Struct, frozen=True, rename="camel", gc=False):
    resource: Resource | None = None
    scope_spans: list[ScopeSpans] | None = None
    schema_url: str | None = None


class Request(_Struct, frozen=True, rename="camel", gc=False):
    resource_spans: list[ResourceSpans] | None = None


def repair(body: bytes) -> bytes:
    """Apply `jsontext.repair`, and change .proto field names to camel case.

    This is safe because every object key is a field name in OTLP/JSON: names chosen by clients are values.
    """
    body = jsontext.repair(body)
    return _PROTO_NAMES.sub(_camel, body) if b'_spans"' in body else body


def _camel(found: re.Match[bytes]) -> bytes:
    first, *others = found[1].split(b"_")
    return b'"%b"%b' % (first + b"".join(map(bytes.capitalize, others)), found[2])


_STRUCTS = (AnyValue, Event, Link, Span, Resource, Scope, ScopeSpans, ResourceSpans, Request)
_NAMES = sorted({name for struct in _STRUCTS for name in struct.__struct_fields__ if "_" in name})
_PROTO_NAMES = re.compile(rb'(?<!\\)"(%b)"(\s*:)' % "|".join(_NAMES).encode())


read_request = msgspec.json.Decoder(Request).decode
read_span = msgspec.json.Decoder(Span).decode


def groups_of(request: Request) -> Iterator[int]:
    """The number of spans directly in each resource (always 0) and each scope of ``request``."""
    for group in request.resource_spans or ():
        yield 0
        for scoped in group.scope_spans or ():
            yield len(scoped.spans or ())


def spans_in_scopes(request: Request) -> list[int]:
    """The number of spans of each scope of ``request``."""
    return [len(scoped.spans or ()) for group in request.resource_spans or () for scoped in group.scope_spans or ()]


def spans_of(request: Request) -> Iterator[Span]:
    """All spans of ``request`` in order."""
    for group in request.resource_spans or ():
        for scoped in group.scope_spans or ():
            yield from scoped.spans or ()
