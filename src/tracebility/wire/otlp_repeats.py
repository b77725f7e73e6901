"""What a request's resources and scopes come to when each of their spans carries its own, as rows do.

The worker measures an envelope so and gives up on one beyond the bound; the edge does it first, and says so.
"""

from itertools import chain

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tracebility.errors import PayloadTooLarge
from tracebility.wire import limits
from tracebility.wire.conventions import as_text
from tracebility.wire.otlp_values import read_any

SCOPE_PREFIX = "otel.scope."

# No message's text has more characters than so many times its bytes: an empty attribute of a scope takes 2 bytes and
# becomes `otel.scope.` and `null`.
MOST_GROWTH = 8


def check(request: ExportTraceServiceRequest, in_scopes: list[int], body_bytes: int) -> None:
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


def around_chars(request: ExportTraceServiceRequest) -> int:
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
