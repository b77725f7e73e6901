"""Makes the load of the benchmarks: copies of spans recorded from real instrumentations, with new ids, times and texts.

A load is one recorded dialect (`tests/data/otlp_corpus`), ``mix`` (a request of each dialect in turn) or ``plain`` (the
synthetic payload of the fault tests, with one shape). A recorded trace is a template: names, models, tags and tool
schemas stay. Ids, users, token counts and texts are new in each copy; values that were equal within a trace stay equal.
The length of texts is scaled so that a span of the dialect has 2 KB on average. A dialect whose names and schemas alone
exceed that stays larger. 2 % of the spans end in an error.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tests.data.otlp_corpus import DIALECTS, bodies
from tests.harness.payload import SPAN_BYTES, SPANS_A_REQUEST, Prose, Request, requests

MIX, PLAIN = "mix", "plain"
LOADS = (MIX, *DIALECTS, PLAIN)
FAILED_SHARE = 0.02
USERS = 50_000
BASE_NS = 1_700_000_000_000_000_000
SAMPLE_REQUESTS = 6  # for finding the scale of text lengths

# Attributes that are the same in every span of a program: tools, their schemas, and settings.
_CONSTANT = re.compile(r"schema|definitions|parameters|(^|\.)tools(\.|$)|description|stacktrace")
_ID = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|(?<![0-9a-f])[0-9a-f]{12,}(?![0-9a-f])"
)
_USER = re.compile(r"\buser-\d+\b")
_PROSE_CHARS = 20  # a text of this length with spaces is prose
_LEAST_PROSE_CHARS = 8
_LEAST_SCALE = 0.4  # of text lengths


@dataclass(frozen=True)
class Trace:
    """One recorded trace: its spans in the order in which they were sent, each with its scope."""

    resource: Resource
    spans: list[tuple[InstrumentationScope, Span]]

    @property
    def failed(self) -> int:
        """The number of spans that ended in an error."""
        return sum(span.status.code == Status.STATUS_CODE_ERROR for _, span in self.spans)


def requests_of(
    load: str, count: int, *, spans: int = SPANS_A_REQUEST, tenant: str = "", seed: int = 7
) -> list[Request]:
    """Make ``count`` different requests of ``load``."""
    if load == PLAIN:
        return requests(count, tenant=tenant, spans=spans, seed=seed)
    makers = [Maker(dialect, seed + number) for number, dialect in enumerate(DIALECTS if load == MIX else (load,))]
    return [Request(maker.message(spans)) for maker in islice(cycle(makers), count)]


class Maker:
    """Makes requests of one dialect."""

    def __init__(self, dialect: str, seed: int) -> None:
        traces = _traces(dialect)
        self._good = [trace for trace in traces if not trace.failed]
        self._bad = [trace for trace in traces if trace.failed]
        self._bad_share = _share(self._good, self._bad)
        self._random = random.Random(seed)
        self._prose = Prose(seed)
        self._scale = 1.0
        self._fit()

    def message(self, spans: int) -> ExportTraceServiceRequest:
        """Make a request of ``spans`` spans: whole traces, and as much of the last one as fits."""
        request = ExportTraceServiceRequest()
        left = spans
        while left:
            bad = self._random.random() < self._bad_share
            trace = self._random.choice(self._bad if bad else self._good)
            left -= self._add(request, trace, left)
        return request

    def _fit(self) -> None:
        """Find the scale of text lengths at which a span has ``SPAN_BYTES`` on average."""
        sizes = []
        for scale in (1.0, 3.0):
            self._scale, self._random = scale, random.Random(0)
            made = [self.message(SPANS_A_REQUEST) for _ in range(SAMPLE_REQUESTS)]
            sizes.append(sum(one.ByteSize() for one in made) / len(made) / SPANS_A_REQUEST)
        a_unit = (sizes[1] - sizes[0]) / 2
        self._scale = max(_LEAST_SCALE, 1 + (SPAN_BYTES - sizes[0]) / a_unit)

    def _add(self, request: ExportTraceServiceRequest, trace: Trace, room: int) -> int:
        copy = _Copy(self._random, self._prose, self._scale)
        if not request.resource_spans:
            request.resource_spans.add().resource.CopyFrom(trace.resource)
        [block] = request.resource_spans
        chosen = _first(trace.spans, room)
        begin = min(span.start_time_unix_nano for _, span in chosen)
        trace_id = self._random.randbytes(16)
        ids = {span.span_id: self._random.randbytes(8) for _, span in chosen}
        for scope, recorded in chosen:
            group = next((one for one in block.scope_spans if one.scope == scope), None) or block.scope_spans.add(
                scope=scope
            )
            span = group.spans.add()
            span.CopyFrom(recorded)
            span.trace_id, span.span_id = trace_id, ids[recorded.span_id]
            if recorded.parent_span_id:
                span.parent_span_id = ids[recorded.parent_span_id]
            span.start_time_unix_nano += BASE_NS - begin
            span.end_time_unix_nano += BASE_NS - begin
            copy.renew(span.attributes)
            for event in span.events:
                event.time_unix_nano += BASE_NS - begin
                copy.renew(event.attributes)
            span.status.message = copy.text(span.status.message)
        return len(chosen)


class _Copy:
    """New ids and texts for one copy of a trace. Equal values stay equal."""

    def __init__(self, chance: random.Random, prose: Prose, scale: float) -> None:
        self._random, self._prose, self._scale = chance, prose, scale
        self._known: dict[str, str] = {}

    def renew(self, attributes: Sequence[KeyValue]) -> None:
        for one in attributes:
            if not _CONSTANT.search(one.key):
                self._value(one.key, one.value)

    def text(self, text: str) -> str:
        """Replace ids and prose in ``text``, also inside JSON, by those of this copy."""
        if text[:1] in ("{", "["):
            try:
                value = json.loads(text)
            except ValueError:
                pass
            else:
                separators = (",", ":") if '":"' in text or '":{' in text or '":[' in text else (", ", ": ")
                return json.dumps(self._inside(value), ensure_ascii=text.isascii(), separators=separators)
        if len(text) >= _PROSE_CHARS and " " in text:
            return self._known.get(text) or self._remember(text, self._prose.text(self._chars(text)))
        return _USER.sub(self._user, _ID.sub(self._id, text))

    def _value(self, key: str, value: AnyValue) -> None:
        kind = value.WhichOneof("value")
        if kind == "string_value":
            value.string_value = self.text(value.string_value)
        elif kind == "int_value" and "token" in key.lower():
            value.int_value = int(value.int_value * self._random.uniform(0.2, 3))
        elif kind == "array_value":
            for one in value.array_value.values:
                self._value(key, one)

    def _inside(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._inside(one) for one in value]
        if isinstance(value, dict):
            return {key: one if _CONSTANT.search(key) else self._inside(one) for key, one in value.items()}
        return value

    def _chars(self, text: str) -> int:
        return max(_LEAST_PROSE_CHARS, round(len(text) * self._scale * self._random.uniform(0.5, 1.5)))

    def _id(self, match: re.Match[str]) -> str:
        old = match[0]
        return self._known.get(old) or self._remember(old, re.sub("[0-9a-f]", self._digit, old))

    def _digit(self, _: re.Match[str]) -> str:
        return self._random.choice("0123456789abcdef")

    def _user(self, match: re.Match[str]) -> str:
        old = match[0]
        return self._known.get(old) or self._remember(old, f"user-{self._random.randrange(USERS):05}")

    def _remember(self, old: str, new: str) -> str:
        self._known[old] = new
        return new


def _traces(dialect: str) -> list[Trace]:
    found: dict[bytes, Trace] = {}
    for resource, scope, span in _spans(dialect):
        found.setdefault(span.trace_id, Trace(resource, [])).spans.append((scope, span))
    return list(found.values())


def _spans(dialect: str) -> Iterator[tuple[Resource, InstrumentationScope, Span]]:
    for body in bodies(dialect):
        for block in ExportTraceServiceRequest.FromString(body).resource_spans:
            for group in block.scope_spans:
                for span in group.spans:
                    yield block.resource, group.scope, span


def _share(good: Sequence[Trace], bad: Sequence[Trace]) -> float:
    """The share of failed traces that makes ``FAILED_SHARE`` of the spans fail."""
    if not bad:
        return 0.0
    failed, of_bad, of_good = (
        sum(trace.failed for trace in bad) / len(bad),
        sum(len(trace.spans) for trace in bad) / len(bad),
        sum(len(trace.spans) for trace in good) / len(good),
    )
    return FAILED_SHARE * of_good / (failed - FAILED_SHARE * (of_bad - of_good))


def _first(
    spans: Sequence[tuple[InstrumentationScope, Span]], room: int
) -> Sequence[tuple[InstrumentationScope, Span]]:
    """The first ``room`` of ``spans``, without spans whose parent is missing."""
    if len(spans) <= room:
        return spans
    chosen: set[bytes] = set()
    while len(chosen) < room:
        for _, span in sorted(spans, key=lambda one: one[1].start_time_unix_nano):
            is_next = span.span_id not in chosen and (not span.parent_span_id or span.parent_span_id in chosen)
            if is_next and len(chosen) < room:
                chosen.add(span.span_id)
    return [one for one in spans if one[1].span_id in chosen]
