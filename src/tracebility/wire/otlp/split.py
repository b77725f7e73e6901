"""Spans cut out of a request, each with what it cannot be read without, and requests made of them again."""

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
    """A scope and its resource, as they came."""

    resource: bytes
    scope: bytes


class Slice(NamedTuple):
    """One span, as it came: a view of the body, of which there is no second copy until it is joined."""

    owner: ResourceScope
    span: bytes | memoryview


def in_parts(
    slices: Iterable[Slice],
    why_not: Callable[[int, Slice], str],
    why_not_scope: Callable[[ResourceScope], str],
    join: Callable[[Iterable[Slice]], bytes],
    read_scope: Callable[[ResourceScope], ExportTraceServiceRequest],
) -> Inspection:
    """Those of ``slices`` that can be kept, in requests of about ``limits.ENVELOPE_BYTES``.

    ``why_not`` says what keeps a span from being stored, ``why_not_scope`` what keeps all that share a scope.

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
                owner_reason = why_not_scope(owner)
                known[sent] = owner_reason, 0 if owner_reason else scope_chars_of(read_scope(owner))
            owner_reason, owner_chars = known[sent]
        reason = f"span {index}: {owner_reason}" if owner_reason else why_not(index, one)
        if reason:
            refused.append(rejection(index, reason, len(refused)))
            continue
        items += 1
        repeated += owner_chars
        if repeated > limits.REPEATED_BYTES:
            raise too_much_repeated()
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
    """A span that is refused as the next after ``before`` others; an answer names the first ones only."""
    return Rejection(index, reason if before < limits.REJECTIONS_NAMED else "")


def too_many_groups() -> PayloadTooLarge:
    """More resources and scopes than a request may hold."""
    return PayloadTooLarge(f"The body holds more than {limits.GROUPS} groups.", hint="Send fewer a request.")


def too_many_spans() -> PayloadTooLarge:
    """More spans than a request may hold."""
    return PayloadTooLarge(f"The body holds more than {limits.ITEMS} spans.", hint="Send fewer a request.")


def not_a_request(detail: str) -> BadRequest:
    """A body that is no trace request, and where that shows."""
    return BadRequest(
        f"The body is not a whole OTLP trace request: {detail}.",
        hint="Send an ExportTraceServiceRequest as OTLP has it, protobuf or JSON as content-type says, all of it.",
    )


SCOPE_PREFIX = "otel.scope."

# No message's text has more characters than so many times its bytes: an empty attribute of a scope takes 2 bytes and
# becomes `otel.scope.` and `null`.
MOST_GROWTH = 8


def check_repeated(request: ExportTraceServiceRequest, in_scopes: list[int], body_bytes: int) -> None:
    """See to it that ``request`` stays within the bound; ``in_scopes`` is how many spans each of its scopes has.

    Raises:
        PayloadTooLarge: when it does not.
    """
    if body_bytes * MOST_GROWTH * sum(in_scopes) <= limits.REPEATED_BYTES:
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
                    raise too_much_repeated()


def scope_chars_of(request: ExportTraceServiceRequest) -> int:
    """What the one resource and scope of ``request`` come to."""
    [group] = request.resource_spans
    [scoped] = group.scope_spans
    return resource_chars(group.resource) + scope_chars(scoped.scope)


def resource_chars(resource: Resource) -> int:
    """Characters of a resource's attributes as a row has them."""
    texts = {pair.key[: limits.LABEL_CHARS]: as_text(read_any(pair.value)) for pair in resource.attributes}
    return sum(map(len, chain(texts, texts.values())))


def scope_chars(scope: InstrumentationScope) -> int:
    """Characters of a scope's attributes as a row has them."""
    return sum(
        min(len(SCOPE_PREFIX) + len(pair.key), limits.LABEL_CHARS) + len(as_text(read_any(pair.value)))
        for pair in scope.attributes
    )


def too_much_repeated() -> PayloadTooLarge:
    """Resources and scopes that are too large for so many spans."""
    return PayloadTooLarge(
        f"Resources and scopes, counted with each of their spans, are more than {limits.REPEATED_BYTES >> 20} MiB.",
        hint="Move large attributes from resource and scope to the spans they are about, or send fewer spans.",
    )
