"""The one load that every figure and every fault round stands on: OTLP requests as an instrumented agent sends them.

A request holds fifty spans of about 2 KB in five traces. Texts differ from span to span and are about as compressible
as English, so that disk figures are honest. Requests are built once; ids and times are patched into the bytes, which
costs under a microsecond a span.
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

SPANS_A_REQUEST = 50
SPANS_A_TRACE = 10
SPAN_BYTES = 2048
SPAN_MICROS = 20_000  # how long a generated span lasts

_HEADS = (*"bcdfghjklmnprstvw", "br", "ch", "dr", "fl", "gr", "pl", "pr", "sh", "sl", "st", "th", "tr")
_HEARTS = (*"aeiou", "ai", "ea", "ee", "io", "ou")
_TAILS = ("", "", "n", "r", "s", "t", "l", "nd", "ng", "rd", "st", "ck", "m")

_SIZES = (16, 8, 8, 8)  # bytes of what is renewed: trace id, span id, parent's id, times

CANARY_KEY = "canary"
CANARY_CHARS = 32

# A trace of ten: an agent plans, looks something up, calls tools and models. Each span's kind and its parent's place.
_SHAPE: tuple[tuple[str, int], ...] = (
    ("invoke_agent", -1), ("chat", 0), ("execute_tool", 0), ("chat", 0), ("retrieval", 0),
    ("invoke_agent", 0), ("chat", 5), ("execute_tool", 5), ("chat", 5), ("chat", 0),
)  # fmt: skip
_MODELS = (
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-mini"),
    ("anthropic", "claude-sonnet-4-5"),
    ("gcp.gemini", "gemini-2.5-flash"),
)
_TOOLS = ("search_orders", "issue_refund", "read_calendar", "run_query", "fetch_page")


def canary_of(tenant: str) -> str:
    """What marks every span of ``tenant``, and may never be seen by another."""
    return blake2b(tenant.encode(), digest_size=CANARY_CHARS // 2).hexdigest()


class Prose:
    """Text of made-up words with the word frequencies of a natural language."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._words, self._edges = _vocabulary()
        self._numbers = np.random.default_rng(seed)

    def text(self, chars: int) -> str:
        """Sentences of ``chars`` characters in all."""
        drawn = np.minimum(np.searchsorted(self._edges, self._numbers.random(chars // 3)), len(self._words) - 1)
        out: list[str] = []
        size, left = 0, 0
        for index in drawn:
            word = self._words[index]
            if left == 0:
                left = self._random.randint(5, 17)
                word = word.capitalize()
            left -= 1
            if left == 0:
                word += self._random.choice((".", ".", ".", "?", f" {self._random.randint(2, 4000)}."))
            out.append(word)
            size += len(word) + 1
            if size > chars:
                break
        return " ".join(out)[:chars]


@cache
def _vocabulary(words: int = 12_000) -> tuple[list[str], npt.NDArray[np.float64]]:
    chance = random.Random(words)
    pick, syllables = chance.choice, (1, 1, 2, 2, 3)
    made = {"".join(pick(_HEADS) + pick(_HEARTS) + pick(_TAILS) for _ in range(pick(syllables))) for _ in range(words)}
    # The frequent words are short. The spread is set so that zstd shrinks the text as it does an encyclopedia's.
    by_frequency = sorted(sorted(made), key=lambda word: len(word) * chance.uniform(0.05, 1.95))
    weights = 1 / (np.arange(len(by_frequency)) + 1.0)
    return by_frequency, np.cumsum(weights / weights.sum())


@dataclass(slots=True)
class Stamp:
    """The ids that one sending of a request carried: ``spans`` and ``traces`` as big-endian integers and raw bytes."""

    spans: npt.NDArray[np.uint64]
    traces: bytes


class Request:
    """One prebuilt request body whose ids and times can be renewed in place."""

    def __init__(self, message: ExportTraceServiceRequest) -> None:
        spans = [span for block in message.resource_spans for scope in block.scope_spans for span in scope.spans]
        traces: dict[bytes, int] = {}
        self.trace_of = np.array([traces.setdefault(span.trace_id, len(traces)) for span in spans])
        place_of = {span.span_id: place for place, span in enumerate(spans)}
        self.parent_of = np.array([place_of.get(span.parent_span_id, -1) for span in spans])
        self.size = len(spans)
        self.trace_count = len(traces)
        raw = message.SerializeToString()
        body = bytearray(raw)
        self.data, self.view = np.frombuffer(body, np.uint8), memoryview(body)
        ids_at: list[tuple[int, int, int]] = []
        times_at: list[int] = []
        times: list[int] = []
        for span in spans:
            start = raw.index(b"\x0a\x10" + span.trace_id + b"\x12\x08" + span.span_id)
            at_parent = raw.index(b"\x22\x08" + span.parent_span_id, start) if span.parent_span_id else -3
            ids_at.append((start + 2, start + 20, at_parent + 2))
            at = raw.index(b"\x39" + span.start_time_unix_nano.to_bytes(8, "little") + b"\x41", start)
            times_at += [at + 1, at + 10]
            times += [span.start_time_unix_nano, span.end_time_unix_nano]
            for event in span.events:
                at = raw.index(b"\x09" + event.time_unix_nano.to_bytes(8, "little"), at)
                times_at.append(at + 1)
                times.append(event.time_unix_nano)
        places = np.array(ids_at)
        self._children = np.flatnonzero(self.parent_of >= 0)
        columns = (places[:, 0], places[:, 1], places[self._children, 2], np.array(times_at))
        self._where = np.concatenate([_run(starts, size) for starts, size in zip(columns, _SIZES, strict=True)])
        self._before_ns = max(times) - np.array(times, np.uint64)  # the latest time of all becomes the present

    def renew(self, numbers: np.random.Generator) -> Stamp:
        """Give every trace and span a new id, and move its times to the present."""
        traces = numbers.integers(0, 256, (self.trace_count, 16), np.uint8)
        spans = numbers.integers(1, 1 << 63, self.size, np.uint64)
        ids = spans.astype(">u8").view(np.uint8).reshape(-1, 8)
        self.data[self._where] = np.concatenate([
            traces[self.trace_of].ravel(), ids.ravel(), ids[self.parent_of[self._children]].ravel(),
            (np.uint64(time.time_ns()) - self._before_ns).view(np.uint8),
        ])  # fmt: skip
        return Stamp(spans, traces.tobytes())


def requests(
    count: int, *, tenant: str = "", spans: int = SPANS_A_REQUEST, span_bytes: int = SPAN_BYTES, seed: int = 7
) -> list[Request]:
    """``count`` different requests whose spans carry the canary of ``tenant``."""
    prose = Prose(seed)
    canary, first = canary_of(tenant), seed * 100_003
    return [Request(message(prose, canary, spans, span_bytes, seed=first + number)) for number in range(count)]


def message(prose: Prose, canary: str, spans: int, span_bytes: int, *, seed: int) -> ExportTraceServiceRequest:
    """One request of ``spans`` spans."""
    chance = random.Random(seed)
    request = ExportTraceServiceRequest()
    block = request.resource_spans.add()
    block.resource.attributes.extend(
        _attributes(
            {"service.name": "support-agent", "service.version": "2.14.1", "deployment.environment.name": "production"}
        )
    )
    scope = block.scope_spans.add()
    scope.scope.name, scope.scope.version = "opentelemetry.instrumentation.openai_v2", "2.3.0"
    for number in range(spans):
        place = number % SPANS_A_TRACE
        if place == 0:
            trace_id, members = chance.randbytes(16), [chance.randbytes(8) for _ in range(SPANS_A_TRACE)]
            conversation, user = f"conv_{chance.randbytes(8).hex()}", f"user-{chance.randint(1, 50_000)}"
        operation, parent = _SHAPE[place]
        span = scope.spans.add(
            trace_id=trace_id, span_id=members[place], parent_span_id=members[parent] if parent >= 0 else b""
        )
        span.start_time_unix_nano = 1_700_000_000_000_000_000 + place * SPAN_MICROS * 1000
        span.end_time_unix_nano = span.start_time_unix_nano + SPAN_MICROS * 1000
        _fill(span, operation, prose, chance, span_bytes)
        span.attributes.extend(
            _attributes({"gen_ai.conversation.id": conversation, "user.id": user, CANARY_KEY: canary})
        )
    return request


def _fill(span: Span, operation: str, prose: Prose, chance: random.Random, span_bytes: int) -> None:
    provider, model = chance.choice(_MODELS)
    tool = chance.choice(_TOOLS)
    span.kind = Span.SPAN_KIND_CLIENT if operation == "chat" else Span.SPAN_KIND_INTERNAL
    values: dict[str, Any] = {"gen_ai.operation.name": operation}
    room = span_bytes - 560
    if operation == "chat":
        span.name = f"chat {model}"
        values |= {
            "gen_ai.provider.name": provider, "gen_ai.request.model": model, "gen_ai.response.model": model,
            "gen_ai.request.temperature": chance.choice((0.0, 0.2, 0.7, 1.0)), "gen_ai.request.max_tokens": 1024,
            "gen_ai.response.id": f"chatcmpl-{chance.randbytes(14).hex()}", "gen_ai.response.finish_reasons": ["stop"],
            "gen_ai.usage.input_tokens": chance.randint(80, 4000),
            "gen_ai.usage.output_tokens": chance.randint(10, 900),
            "gen_ai.input.messages": _said([("system", prose.text(room // 5)), ("user", prose.text(room * 3 // 10))]),
            "gen_ai.output.messages": _said([("assistant", prose.text(room * 2 // 10))]),
        }  # fmt: skip
    elif operation == "execute_tool":
        span.name = f"execute_tool {tool}"
        values |= {
            "gen_ai.tool.name": tool, "gen_ai.tool.call.id": f"call_{chance.randbytes(12).hex()}",
            "gen_ai.tool.call.arguments": '{"query": "' + prose.text(room // 3) + '", "limit": 20}',
            "gen_ai.tool.call.result": '{"rows": ["' + prose.text(room // 2) + '"]}',
        }  # fmt: skip
    else:
        span.name = f"{operation} support"
        values |= {
            "gen_ai.agent.name": "support", "gen_ai.input.messages": _said([("user", prose.text(room * 4 // 10))]),
            "gen_ai.output.messages": _said([("assistant", prose.text(room * 3 // 10))]),
        }  # fmt: skip
    if chance.random() < 0.02:
        span.status.code, span.status.message = Status.STATUS_CODE_ERROR, prose.text(60)
    span.attributes.extend(_attributes(values))
    short = span_bytes - span.ByteSize() - 150  # what the ids of conversation, user and canary will take
    if short > 40:
        span.attributes.extend(_attributes({"app.note": prose.text(short)}))


def _said(turns: Sequence[tuple[str, str]]) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in turns])


def _attributes(values: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in values.items()]


def _value(value: Any) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    result = AnyValue()
    result.array_value.values.extend(_value(item) for item in value)
    return result


def _run(starts: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    return (starts[:, None] + np.arange(length)).ravel()
