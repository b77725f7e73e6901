"""Splits a request into its spans, each with its resource and scope, and joins accepted spans into smaller requests."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tracebility.errors import BadRequest, PayloadTooLarge
from tracebility.wire import limits
from tracebility.wire.conventions import as_text
from tracebility.wire.inspection import Inspection, Part
from tracebility.wire.otlp.values import read_any
from tracebility.wire.rejection import Rejection


@dataclass(frozen=True, slots=True, eq=False)
class ResourceScope:
    """A resource and a scope, as bytes of the request."""

    resource: bytes
    scope: bytes


class Slice(NamedTuple):
    """One span, as a view of the body. Joining makes the only copy."""

    owner: ResourceScope
    span: bytes | memoryview


def in_parts(
    slices: Iterable[Slice],
    span_problem: Callable[[int, Slice], str],
    scope_problem: Callable[[ResourceScope], str],
    join: Callable[[Iterable[Slice]], bytes],
    read_scope: Callable[[ResourceScope], ExportTraceServiceRequest],
) -> Inspection:
    """Join the valid spans of ``slices`` to requests of about ``limits.ENVELOPE_BYTES``.

    ``span_problem`` returns why a span is rejected, ``scope_problem`` why all spans of a scope are; empty: valid.

    Raises:
        PayloadTooLarge: when resources and scopes, repeated for each span, are too large.
    """
    refused: list[Rejection] = []
    parts: list[Part] = []
    members: list[Slice] = []
    size = items = 0
    owner, owner_reason, owner_chars = None, "", 0
    known: dict[tuple[bytes, bytes], tuple[str, int]] = {}
    repeated = 0
    for index, one in enumerate(slices):
        if one.owner is not owner:
            owner = one.owner
            sent = owner.resource, owner.scope
            if sent not in known:
                owner_reason = scope_problem(owner)
                known[sent] = owner_reason, 0 if owner_reason else scope_chars_of(read_scope(owner))
            owner_reason, owner_chars = known[sent]
        reason = f"span {index}: {owner_reason}" if owner_reason else span_problem(index, one)
        if reason:
            refused.append(rejection(index, reason, len(refused)))
            continue
        items += 1
        repeated += owner_chars
        if repeated > limits.REPEATED_BYTES:
            raise repeats_too_large()
        if members and size + len(one.span) > limits.ENVELOPE_BYTES:
            parts.append(Part(join(members), len(members)))
            members, size = [], 0
        if not members or members[-1].owner is not owner:
            size += len(owner.resource) + len(owner.scope)
        size += len(one.span)
        members.append(one)
    if members:
        parts.append(Part(join(members), len(members)))
    return Inspection(items, refused, tuple(parts))


def rejection(index: int, reason: str, before: int) -> Rejection:
    """The rejection of a span after ``before`` others. Answers show the first reasons only; later ones are not kept."""
    return Rejection(index, reason if before < limits.REJECTIONS_NAMED else "")


def too_many_groups() -> PayloadTooLarge:
    """The error for more resources and scopes than allowed."""
    return PayloadTooLarge(f"The body holds more than {limits.GROUPS} groups.", hint="Send fewer a request.")


def too_many_spans() -> PayloadTooLarge:
    """The error for more spans than allowed."""
    return PayloadTooLarge(f"The body holds more than {limits.ITEMS} spans.", hint="Send fewer a request.")


def not_a_request(detail: str) -> BadRequest:
    """The error for a body that is not a trace request. ``detail``: the parser's message."""
    return BadRequest(
        f"The body is not a whole OTLP trace request: {detail}.",
        hint="Send an ExportTraceServiceRequest as OTLP has it, protobuf or JSON as content-type says, all of it.",
    )


SCOPE_PREFIX = "otel.scope."

# Most characters that a byte of a resource or scope can become: an empty attribute of a scope has 2 bytes and becomes
# `otel.scope.` and `null`.
MAX_CHARS_PER_BYTE = 8


def check_repeated(request: ExportTraceServiceRequest, in_scopes: list[int], body_bytes: int) -> None:
    """Check the size of resources and scopes, repeated for each span. ``in_scopes``: the number of spans of each scope.

    Raises:
        PayloadTooLarge: when it is above ``limits.REPEATED_BYTES``.
    """
    if body_bytes * MAX_CHARS_PER_BYTE * sum(in_scopes) <= limits.REPEATED_BYTES:
        return
    repeated = 0
    following = iter(in_scopes)
    for group in request.resource_spans:
        of_resource = -1
        for scoped in group.scope_spans:
            count = next(following)
            if count:
                if of_resource < 0:
                    of_resource = resource_chars(group.resource)
                repeated += (of_resource + scope_chars(scoped.scope)) * count
                if repeated > limits.REPEATED_BYTES:
                    raise repeats_too_large()


def scope_chars_of(request: ExportTraceServiceRequest) -> int:
    """Characters of the one resource and scope of ``request``."""
    [group] = request.resource_spans
    [scoped] = group.scope_spans
    return resource_chars(group.resource) + scope_chars(scoped.scope)


def resource_chars(resource: Resource) -> int:
    """Characters of a resource's attributes in a row."""
    texts = {pair.key[: limits.LABEL_CHARS]: as_text(read_any(pair.value)) for pair in resource.attributes}
    return sum(map(len, chain(texts, texts.values())))


def scope_chars(scope: InstrumentationScope) -> int:
    """Characters of a scope's attributes in a row."""
    return sum(
        min(len(SCOPE_PREFIX) + len(pair.key), limits.LABEL_CHARS) + len(as_text(read_any(pair.value)))
        for pair in scope.attributes
    )


def repeats_too_large() -> PayloadTooLarge:
    """The error for resources and scopes that are too large for their number of spans."""
    return PayloadTooLarge(
        f"Resources and scopes, counted with each of their spans, are more than {limits.REPEATED_BYTES >> 20} MiB.",
        hint="Move large attributes from resource and scope to the spans they are about, or send fewer spans.",
    )
