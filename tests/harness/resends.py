"""Clients that are not sure send again: the very same body, or the same spans in other groupings.

The first is recognised at the edge by its hash. The second nobody can recognise before it is read; its spans are stored
and billed once because of what they are.
"""

import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from .payload import Stamp

KEPT = 512  # bodies; a newer one takes the place of any, so that some are old enough to have been through a few faults
SHARE = 0.3  # of fresh requests that something is sent again after
SAME, REGROUPED = "same", "regrouped"


@dataclass(frozen=True, slots=True)
class Parcel:
    """A body that is ready to send, and whose spans were all sent before."""

    view: bytes
    stamp: Stamp

    @property
    def size(self) -> int:
        """Spans."""
        return len(self.stamp.spans)


class Resends:
    """What one tenant's clients sent lately, and what of it they send again."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._kept: list[bytes] = []
        self.spans: Counter[str] = Counter()  # sent again, by how

    def keep(self, body: bytes) -> None:
        """Remember what was just sent."""
        if len(self._kept) < KEPT:
            self._kept.append(body)
        else:
            self._kept[self._chance.randrange(KEPT)] = body

    def draw(self) -> list[Parcel]:
        """Bodies to send again now, mostly none."""
        if not self._kept or self._chance.random() > SHARE:
            return []
        if self._chance.random() < 0.5:
            how, parcels = SAME, [_parcel(self._chance.choice(self._kept))]
        else:
            few = self._chance.sample(self._kept, min(len(self._kept), self._chance.randint(1, 3)))
            how, parcels = REGROUPED, regrouped(few, self._chance)
        self.spans[how] += sum(parcel.size for parcel in parcels)
        return parcels


def regrouped(bodies: list[bytes], chance: random.Random) -> list[Parcel]:
    """The spans of ``bodies``, shuffled, in two to four requests. Which one has most of a trace is left to chance."""
    requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    spans = [span for request in requests for span in _spans(request)]
    chance.shuffle(spans)
    parts = chance.randint(2, 4)
    parcels = []
    for part in range(parts):
        request = ExportTraceServiceRequest()
        request.CopyFrom(requests[0])
        block = request.resource_spans[0].scope_spans[0]
        del block.spans[:]
        block.spans.extend(spans[part::parts])
        if block.spans:
            parcels.append(_parcel(request.SerializeToString()))
    return parcels


def _parcel(body: bytes) -> Parcel:
    spans = _spans(ExportTraceServiceRequest.FromString(body))
    ids = np.array([int.from_bytes(span.span_id) for span in spans], np.uint64)
    return Parcel(body, Stamp(ids, b"".join({span.trace_id: None for span in spans})))


def _spans(request: ExportTraceServiceRequest) -> list[Span]:
    return [span for block in request.resource_spans for scope in block.scope_spans for span in scope.spans]
