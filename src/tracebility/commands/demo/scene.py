"""Builds one trace as OTLP: spans that nest as ``with`` blocks do, on a clock that the story moves on."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

Message = dict[str, Any]

_GENAI_OPERATIONS = {
    "llm": "chat",
    "agent": "invoke_agent",
    "tool": "execute_tool",
    "embedding": "embeddings",
    "retriever": "retrieval",
    "chain": "invoke_workflow",
}


@dataclass
class Scene:
    """A trace while it is told. ``dialect`` is genai or openinference: whose attribute names the spans carry."""

    rng: random.Random
    now_ns: int
    dialect: str
    service: str
    session_id: str
    user_id: str
    tags: Sequence[str]
    environment: str
    spans: list[Span] = field(default_factory=list)
    _open: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._trace_id = self.rng.randbytes(16)

    @contextmanager
    def step(self, kind: str, name: str, inputs: object = None) -> Iterator[Span]:
        """A span around what happens in the block."""
        parent = self._open[-1] if self._open else None
        span = Span(
            trace_id=self._trace_id,
            span_id=self.rng.randbytes(8),
            parent_span_id=parent.span_id if parent is not None else b"",
            name=name,
            kind=Span.SPAN_KIND_CLIENT if kind in ("llm", "embedding") else Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=self.now_ns,
        )
        self.spans.append(span)
        self._open.append(span)
        self._describe(span, kind, name)
        if parent is None:
            self._describe_whole(span)
        if inputs is not None:
            self._carry(span, kind, "input", inputs)
        self.wait(0.001, 0.004)
        yield span
        self._open.pop()
        span.end_time_unix_nano = self.now_ns

    def answer(self, span: Span, kind: str, outputs: object) -> None:
        """What came out of ``span``."""
        self._carry(span, kind, "output", outputs)

    def fail(self, span: Span, error: str, message: str) -> None:
        """``span`` ends in ``error``."""
        span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=message))
        set_attributes(span, {"error.type": error})
        event = span.events.add(name="exception", time_unix_nano=self.now_ns)
        event.attributes.extend(pairs({"exception.type": error, "exception.message": message}))

    def call(
        self, model: str, provider: str, messages: Sequence[Message], reply: str, *, tool: str = "", cached: int = 0
    ) -> Message:
        """A model is called with ``messages`` and replies; the reply as a message for the history."""
        with self.step("llm", f"chat {model}") as span:
            prompt_tokens = sum(len(str(message["content"])) for message in messages) // 4 + 7 * len(messages)
            reply_tokens = max(len(reply) // 4, 12)
            cached = min(cached, prompt_tokens)
            self.wait(0.2 + reply_tokens * 0.004, 0.6 + reply_tokens * 0.012)
            output: Message = {"role": "assistant", "content": reply}
            if self.dialect == "genai":
                set_attributes(
                    span, _genai_call(model, provider, messages, output, prompt_tokens, reply_tokens, cached)
                )
                set_attributes(span, {"gen_ai.response.finish_reasons": ["tool_calls" if tool else "stop"]})
            else:
                set_attributes(
                    span, _openinference_call(model, provider, messages, output, prompt_tokens, reply_tokens)
                )
        return output

    def wait(self, least_s: float, most_s: float) -> None:
        """Time passes."""
        self.now_ns += int(self.rng.uniform(least_s, most_s) * 1e9)

    def finished(self) -> ResourceSpans:
        """The trace as a client sends it."""
        resource = {"service.name": self.service, "deployment.environment.name": self.environment}
        library = "opentelemetry.instrumentation.genai" if self.dialect == "genai" else "openinference.instrumentation"
        return ResourceSpans(
            resource=Resource(attributes=pairs(resource)),
            scope_spans=[ScopeSpans(scope=InstrumentationScope(name=library, version="1.0"), spans=self.spans)],
        )

    def _describe(self, span: Span, kind: str, name: str) -> None:
        if self.dialect == "openinference":
            set_attributes(span, {"openinference.span.kind": kind.upper()})
            return
        set_attributes(span, {"gen_ai.operation.name": _GENAI_OPERATIONS.get(kind, "invoke_workflow")})
        if kind == "agent":
            set_attributes(span, {"gen_ai.agent.name": name.removeprefix("invoke_agent ")})
        if kind == "tool":
            set_attributes(span, {"gen_ai.tool.name": name.removeprefix("execute_tool ")})

    def _describe_whole(self, root: Span) -> None:
        set_attributes(root, {"session.id": self.session_id, "user.id": self.user_id, "tag.tags": list(self.tags)})

    def _carry(self, span: Span, kind: str, way: str, content: object) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        if self.dialect == "genai" and kind == "tool":
            set_attributes(span, {f"gen_ai.tool.call.{'arguments' if way == 'input' else 'result'}": text})
        else:
            mime = "text/plain" if isinstance(content, str) else "application/json"
            set_attributes(span, {f"{way}.value": text, f"{way}.mime_type": mime})


def set_attributes(span: Span, values: Mapping[str, Any]) -> None:
    """Add ``values`` to the span's attributes."""
    span.attributes.extend(pairs(values))


def pairs(values: Mapping[str, Any]) -> list[KeyValue]:
    """``values`` as OTLP has them."""
    return [KeyValue(key=key, value=_any(value)) for key, value in values.items()]


def _any(value: Any) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case list():
            return AnyValue(array_value=ArrayValue(values=[_any(item) for item in value]))
        case _:
            return AnyValue(string_value=str(value))


def _genai_call(
    model: str,
    provider: str,
    messages: Sequence[Message],
    output: Message,
    prompt_tokens: int,
    reply_tokens: int,
    cached: int,
) -> dict[str, Any]:
    def parts(message: Message) -> Message:
        return {"role": message["role"], "parts": [{"type": "text", "content": message["content"]}]}

    values: dict[str, Any] = {
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.request.temperature": 0.2,
        "gen_ai.usage.input_tokens": prompt_tokens,
        "gen_ai.usage.output_tokens": reply_tokens,
        "gen_ai.input.messages": json.dumps([parts(message) for message in messages]),
        "gen_ai.output.messages": json.dumps([parts(output) | {"finish_reason": "stop"}]),
    }
    return values | ({"gen_ai.usage.cache_read.input_tokens": cached} if cached else {})


def _openinference_call(
    model: str, provider: str, messages: Sequence[Message], output: Message, prompt_tokens: int, reply_tokens: int
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "llm.provider": provider,
        "llm.model_name": model,
        "llm.token_count.prompt": prompt_tokens,
        "llm.token_count.completion": reply_tokens,
        "llm.token_count.total": prompt_tokens + reply_tokens,
        "llm.invocation_parameters": json.dumps({"temperature": 0.2}),
    }
    for position, message in enumerate(messages):
        for name in ("role", "content"):
            values[f"llm.input_messages.{position}.message.{name}"] = message[name]
    for name in ("role", "content"):
        values[f"llm.output_messages.0.message.{name}"] = output[name]
    return values
