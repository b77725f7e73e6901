"""Drives one client: ``python scenarios.py DIALECT URL``. Every dialect is a function, which imports what it needs."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from conversations import CONVERSATIONS, DOCUMENTS, SYSTEM, Conversation, find_orders, make_refund

RESOURCE = {
    "service.name": "shop-support",
    "service.version": "3.2.0",
    "deployment.environment.name": "production",
    "openinference.project.name": "support",
}


def otel_genai(url: str) -> None:
    """The OpenTelemetry SDK by hand: GenAI semantic conventions, messages as JSON in attributes."""
    _by_hand(url, with_events=False)


def otel_genai_events(url: str) -> None:
    """The same with messages as span events, as the conventions had them before."""
    _by_hand(url, with_events=True)


def _by_hand(url: str, *, with_events: bool) -> None:
    from opentelemetry.trace import SpanKind

    provider = _provider(url)
    tracer = provider.get_tracer("shop.support", "3.2.0")
    for one in CONVERSATIONS * 2:
        common = {"gen_ai.conversation.id": one.session_id, "session.id": one.session_id, "user.id": one.user_id}
        common |= {"tag.tags": one.tags, "metadata": json.dumps(one.metadata)}  # type: ignore[dict-item]

        def span(operation: str, subject: str, kind: SpanKind = SpanKind.INTERNAL, **values: Any) -> Any:
            attributes = {"gen_ai.operation.name": operation, **common, **{_dotted(k): v for k, v in values.items()}}  # noqa: B023
            return tracer.start_as_current_span(f"{operation} {subject}", kind=kind, attributes=attributes)

        def chat(history: list[dict[str, Any]], answer: list[dict[str, Any]], finish: str) -> None:
            model: dict[str, Any] = {
                "gen_ai__provider__name": "openai",
                "gen_ai__request__model": "gpt-4o",
                "gen_ai__request__temperature": 0.2,
                "gen_ai__request__max_tokens": 1024,
                "gen_ai__response__model": "gpt-4o-2024-08-06",
                "gen_ai__response__id": f"chatcmpl-{os.urandom(14).hex()}",
                "gen_ai__response__finish_reasons": [finish],
                "gen_ai__usage__input_tokens": 412,
                "gen_ai__usage__output_tokens": 57,
                "gen_ai__usage__cache_read__input_tokens": 128,
                "gen_ai__usage__reasoning__output_tokens": 16,
                "server__address": "api.openai.com",
            }
            said = [{"role": "assistant", "parts": answer, "finish_reason": finish}]
            if not with_events:
                model["gen_ai__input__messages"] = json.dumps(history, ensure_ascii=False)
                model["gen_ai__output__messages"] = json.dumps(said, ensure_ascii=False)
                model["gen_ai__system_instructions"] = json.dumps([{"type": "text", "content": SYSTEM}])
            with span("chat", "gpt-4o", SpanKind.CLIENT, **model) as current:
                if with_events:
                    system = {"gen_ai.system": "openai", "content": SYSTEM}
                    current.add_event("gen_ai.system.message", system)
                    for message in history:
                        content = json.dumps(message["parts"], ensure_ascii=False)
                        current.add_event(
                            f"gen_ai.{message['role']}.message", {"gen_ai.system": "openai", "content": content}
                        )
                    choice = {"index": 0, "finish_reason": finish, "message": json.dumps(answer, ensure_ascii=False)}
                    current.add_event("gen_ai.choice", {"gen_ai.system": "openai", **choice})

        question: dict[str, Any] = {"role": "user", "parts": [{"type": "text", "content": one.question}]}
        arguments = {"query": one.question[:40], "limit": 3}
        call = {
            "type": "tool_call",
            "id": f"call_{os.urandom(12).hex()}",
            "name": "find_orders",
            "arguments": arguments,
        }
        try:
            with span("invoke_agent", "support", gen_ai__agent__name="support", gen_ai__agent__id="agent-7"):
                documents = [{"id": id_, "content": text, "score": score} for id_, text, score, _ in DOCUMENTS]
                found = {"gen_ai__retrieval__query__text": one.question, "gen_ai__data_source__id": "handbook"}
                with span("retrieval", "handbook", **found, gen_ai__retrieval__documents=json.dumps(documents)):
                    pass
                with span("embeddings", "text-embedding-3-small", gen_ai__usage__input_tokens=19) as current:
                    current.set_attribute("gen_ai.provider.name", "openai")
                    current.set_attribute("gen_ai.request.model", "text-embedding-3-small")
                chat([question], [call], "tool_calls")
                described = {"gen_ai__tool__name": "find_orders", "gen_ai__tool__type": "function"}
                described |= {"gen_ai__tool__call__id": call["id"]}
                with span("execute_tool", "find_orders", **described) as current:
                    current.set_attribute("gen_ai.tool.call.arguments", json.dumps(arguments, ensure_ascii=False))
                    result = make_refund(**arguments) if "refund" in one.question else find_orders(**arguments)
                    current.set_attribute("gen_ai.tool.call.result", result)
                answered = {"type": "tool_call_response", "id": call["id"], "response": result}
                history = [question, {"role": "assistant", "parts": [call]}, {"role": "tool", "parts": [answered]}]
                chat(history, [{"type": "text", "content": "It arrives on Friday. Anything else?"}], "stop")
        except PermissionError:
            pass
    provider.shutdown()


def openinference_langchain(url: str) -> None:
    """LangChain under OpenInference: once with the application's context attributes, once without."""
    from openinference.instrumentation import using_attributes
    from openinference.instrumentation.langchain import LangChainInstrumentor

    provider = _provider(url)
    LangChainInstrumentor().instrument(tracer_provider=provider)
    _langchain(url, around=lambda one: using_attributes(user_id=one.user_id, tags=one.tags))
    _langchain(url)
    provider.shutdown()


def openllmetry_langchain(url: str) -> None:
    """LangChain under OpenLLMetry."""
    traceloop = _traceloop(url)

    def around(one: Conversation) -> AbstractContextManager[None]:
        traceloop.set_association_properties(_association(one))
        return nullcontext()

    _langchain(url, around)
    _flush()


def _langchain(url: str, around: Callable[[Conversation], AbstractContextManager[Any]] = nullcontext) -> None:
    from langchain.agents import create_agent
    from langchain_core.documents import Document
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    class Handbook(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [
                Document(page_content=text, id=id_, metadata={**metadata, "score": score})
                for id_, text, score, metadata in DOCUMENTS
            ]

    model = ChatOpenAI(model="gpt-4o", base_url=f"{url}/v1", api_key="none", temperature=0.2, max_retries=0)  # type: ignore[arg-type]
    agent = create_agent(model, [tool(find_orders), tool(make_refund)], system_prompt=SYSTEM)
    prompt = ChatPromptTemplate.from_messages([("system", "Answer from: {documents}"), ("user", "{question}")])
    retriever = Handbook()
    chain = (
        {"documents": (lambda asked: asked["question"]) | retriever, "question": lambda asked: asked["question"]}  # type: ignore[operator]
        | prompt
        | model
        | StrOutputParser()
    )
    for one in CONVERSATIONS:
        metadata = {"session_id": one.session_id, "user_id": one.user_id, **one.metadata}
        config: Any = {"tags": one.tags, "metadata": metadata, "run_name": "support"}
        with suppress(PermissionError), around(one):
            agent.invoke({"messages": [("user", one.question)]}, config)
            chain.invoke({"question": one.question}, config)


def openinference_openai_agents(url: str) -> None:
    """The OpenAI Agents SDK under OpenInference, over the Responses API."""
    from agents import Agent, RunConfig, Runner, function_tool, set_default_openai_client
    from openai import AsyncOpenAI
    from openinference.instrumentation import using_attributes
    from openinference.instrumentation.openai_agents import OpenAIAgentsInstrumentor

    provider = _provider(url)
    OpenAIAgentsInstrumentor().instrument(tracer_provider=provider)
    set_default_openai_client(AsyncOpenAI(base_url=f"{url}/v1", api_key="none"))
    tools = [function_tool(find_orders), function_tool(make_refund, failure_error_function=None)]
    orders = Agent(name="orders", instructions=SYSTEM, model="gpt-4o", tools=list(tools))
    triage = Agent(name="triage", instructions="Hand over to the right colleague.", model="gpt-4o", handoffs=[orders])

    async def converse() -> None:
        for one in CONVERSATIONS * 2:
            config = RunConfig(workflow_name="support", group_id=one.session_id, trace_metadata=dict(one.metadata))
            said = {"session_id": one.session_id, "user_id": one.user_id, "tags": one.tags, "metadata": one.metadata}
            with using_attributes(**said):  # type: ignore[arg-type]
                try:
                    await Runner.run(triage if one.tags[0] == "support" else orders, one.question, run_config=config)
                except Exception as error:  # noqa: BLE001 - the packages wrap what the tool raises
                    print("expected:", error)

    asyncio.run(converse())
    provider.shutdown()


def openllmetry_openai(url: str) -> None:
    """The OpenAI client under OpenLLMetry, in a decorated workflow."""
    traceloop = _traceloop(url)
    from openai import OpenAI
    from traceloop.sdk.decorators import task, tool, workflow

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    described = [
        {"type": "function", "function": {"name": f.__name__, "description": f.__doc__, "parameters": _PARAMETERS}}
        for f in (find_orders, make_refund)
    ]
    functions = {f.__name__: tool(name=f.__name__)(f) for f in (find_orders, make_refund)}

    @task(name="retrieve")  # type: ignore[untyped-decorator]
    def retrieve(question: str) -> list[dict[str, Any]]:
        client.embeddings.create(model="text-embedding-3-small", input=[question])
        return [{"id": id_, "content": text, "score": score} for id_, text, score, _ in DOCUMENTS]

    @workflow(name="support")  # type: ignore[untyped-decorator]
    def support(question: str) -> str:
        found = retrieve(question)
        system = f"{SYSTEM} Known: {found[0]['content']}"
        messages: list[Any] = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        first = client.chat.completions.create(model="gpt-4o", messages=messages, tools=described, temperature=0.2)  # type: ignore[arg-type]
        [call] = first.choices[0].message.tool_calls or []
        result = functions[call.function.name](**json.loads(call.function.arguments))  # type: ignore[union-attr]
        messages += [first.choices[0].message.model_dump(exclude_none=True)]
        messages += [{"role": "tool", "tool_call_id": call.id, "content": result}]
        stream = client.chat.completions.create(
            model="gpt-4o",
            messages=messages,
            tools=described,
            stream=True,
            stream_options={"include_usage": True},  # type: ignore[arg-type]
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    for one in CONVERSATIONS * 2:
        traceloop.set_association_properties(_association(one))
        with suppress(PermissionError):
            support(one.question)
    _flush()


_PARAMETERS = {
    "type": "object",
    "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
    "required": ["query"],
}


def langfuse(url: str) -> None:
    """The Langfuse SDK: its own client, and its drop-in for OpenAI."""
    from langfuse import Langfuse, propagate_attributes
    from langfuse.openai import OpenAI  # type: ignore[attr-defined]

    client = Langfuse(
        public_key="pk-lf-recorded",
        secret_key="sk-lf-recorded",
        base_url=url,
        environment="production",
        release="3.2.0",
    )
    openai = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    for one in CONVERSATIONS * 2:
        try:
            with (
                propagate_attributes(
                    session_id=one.session_id,
                    user_id=one.user_id,
                    tags=one.tags,
                    metadata=one.metadata,
                    trace_name="support",
                ),
                client.start_as_current_observation(
                    as_type="agent", name="support", input={"question": one.question}
                ) as root,
            ):
                found = [{"id": id_, "content": text, "score": score} for id_, text, score, _ in DOCUMENTS]
                with client.start_as_current_observation(
                    as_type="retriever", name="handbook", input=one.question
                ) as span:
                    span.update(output=found, metadata={"index": "handbook", "top_k": 3})
                messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": one.question}]
                openai.chat.completions.create(model="gpt-4o", messages=messages, temperature=0.2)
                with client.start_as_current_observation(
                    as_type="tool", name="find_orders", input={"query": one.question, "limit": 3}
                ) as span:
                    result = make_refund(one.question) if "refund" in one.question else find_orders(one.question)
                    span.update(output=json.loads(result))
                with client.start_as_current_observation(
                    as_type="generation", name="answer", model="claude-sonnet-4-5", input=messages
                ) as generation:
                    generation.update(
                        output={"role": "assistant", "content": "It arrives on Friday. Anything else?"},
                        usage_details={"input": 412, "output": 57, "cache_read_input_tokens": 128, "total": 469},
                        cost_details={"input": 0.00124, "output": 0.00086, "total": 0.0021},
                        model_parameters={"temperature": 0.2, "max_tokens": 1024},
                        metadata={"attempt": 1},
                    )
                root.update(output="It arrives on Friday. Anything else?")
        except PermissionError:
            pass
    client.flush()
    client.shutdown()


def pydantic_ai(url: str) -> None:
    """Pydantic AI with a tracer provider of the application's own."""
    from pydantic_ai import Agent
    from pydantic_ai.models.instrumented import InstrumentationSettings

    provider = _provider(url)
    Agent.instrument_all(InstrumentationSettings(tracer_provider=provider))
    tracer = provider.get_tracer("shop.support")
    agent = _pydantic_agent(url)
    for one in CONVERSATIONS * 2:
        attributes = {"session.id": one.session_id, "user.id": one.user_id, "tag.tags": one.tags}
        with (
            suppress(PermissionError),
            tracer.start_as_current_span("POST /support", attributes=attributes),  # type: ignore[arg-type]
        ):
            agent.run_sync(one.question, metadata=dict(one.metadata))
    provider.shutdown()


def logfire(url: str) -> None:
    """Pydantic AI and the OpenAI client under Logfire."""
    import logfire as lf
    from openai import OpenAI
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    processor = BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces"))
    lf.configure(
        send_to_logfire=False,
        console=False,
        service_name="shop-support",
        service_version="3.2.0",
        environment="production",
        additional_span_processors=[processor],
    )
    lf.instrument_pydantic_ai()
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    lf.instrument_openai(client)
    agent = _pydantic_agent(url)
    for one in CONVERSATIONS * 2:
        try:
            with lf.set_baggage(session_id=one.session_id, user_id=one.user_id):
                values: Any = {"session.id": one.session_id, "user.id": one.user_id, **one.metadata}
                with lf.span("answer {question}", question=one.question, _tags=one.tags, **values):
                    lf.info("documents found", documents=[list(document) for document in DOCUMENTS])
                    messages: Any = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": one.question}]
                    client.chat.completions.create(model="gpt-4o", messages=messages, temperature=0.2)
                    agent.run_sync(one.question, metadata=dict(one.metadata))
        except PermissionError:
            pass
    lf.force_flush()
    lf.shutdown()


def _pydantic_agent(url: str) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("gpt-4o", provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))
    return Agent(model, name="support", instructions=SYSTEM, tools=[find_orders, make_refund])


def _provider(url: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create(RESOURCE))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces"), schedule_delay_millis=60_000))
    return provider


def _traceloop(url: str) -> Any:
    from traceloop.sdk import Traceloop

    Traceloop.init(
        app_name="shop-support", api_endpoint=url, api_key="none", resource_attributes=RESOURCE, telemetry_enabled=False
    )
    return Traceloop


def _association(one: Conversation) -> dict[str, str]:
    return {"session_id": one.session_id, "user_id": one.user_id, **one.metadata}


def _flush() -> None:
    from opentelemetry import trace

    trace.get_tracer_provider().force_flush()  # type: ignore[attr-defined]


def _dotted(name: str) -> str:
    return name.replace("__", ".")


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
