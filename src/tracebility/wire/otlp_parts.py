"""Spans cut out of a request, each with what it cannot be read without, and requests made of them again."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tracebility.errors import BadRequest, PayloadTooLarge
from tracebility.wire import limits, otlp_repeats
from tracebility.wire.inspection import Inspection, Part
from tracebility.wire.rejection import Rejection


@dataclass(frozen=True, slots=True, eq=False)
class Around:
    """A scope and its resource, as they came."""

    resource: bytes
    scope: bytes


class Slice(NamedTuple):
    """One span, as it came: a view of the body, of which there is no second copy until it is joined."""

    around: Around
    span: bytes | memoryview


def in_parts(
    slices: Iterable[Slice],
    why_not: Callable[[int, Slice], str],
    why_not_around: Callable[[Around], str],
    join: Callable[[Iterable[Slice]], bytes],
    read_around: Callable[[Around], ExportTraceServiceRequest],
) -> Inspection:
    """Those of ``slices`` that can be kept, in requests of about ``limits.ENVELOPE_BYTES``.

    ``why_not`` says what keeps a span from being stored, ``why_not_around`` what keeps all that share a scope.

    Raises:
        PayloadTooLarge: when what is around the spans comes to too much.
    """
    refused: list[Rejection] = []
    parts: list[Part] = []
    members: list[Slice] = []
    size = items = 0
    around, around_reason, around_chars = None, "", 0
    known: dict[tuple[bytes, bytes], tuple[str, int]] = {}
    repeated = 0
    for index, one in enumerate(slices):
        if one.around is not around:
            around = one.around
            sent = around.resource, around.scope
            if sent not in known:
                around_reason = why_not_around(around)
                known[sent] = around_reason, 0 if around_reason else otlp_repeats.around_chars(read_around(around))
            around_reason, around_chars = known[sent]
        reason = f"span {index}: {around_reason}" if around_reason else why_not(index, one)
        if reason:
            refused.append(rejection(index, reason, len(refused)))
            continue
        items += 1
        repeated += around_chars
        if repeated > limits.REPEATED_BYTES:
            raise otlp_repeats.too_much_repeated()
        if members and size + len(one.span) > limits.ENVELOPE_BYTES:
            parts.append(Part(join(members), len(members)))
            members, size = [], 0
        if not members or members[-1].around is not around:
            size += len(around.resource) + len(around.scope)
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
