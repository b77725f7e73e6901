"""What the agents of the demo do: a handful of stories, told anew each time from a seed."""

import random
import uuid
from collections.abc import Callable

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from tracebility.commands.demo.scene import Message, Scene, set_attributes

MODELS = (
    ("gpt-4o", "openai"),
    ("gpt-4o-mini", "openai"),
    ("claude-3-5-sonnet-20241022", "anthropic"),
    ("claude-3-5-haiku-20241022", "anthropic"),
    ("gemini-1.5-pro", "google"),
)
EMBEDDER = ("text-embedding-3-small", "openai")
TOPICS = (
    "the refund of order 48213",
    "a failing nightly import",
    "the difference between the Team and Enterprise plans",
    "the quarterly churn report",
    "latency in the Frankfurt region",
    "the export of invoices to CSV",
    "single sign-on with two identity providers",
    "a contract that renews next month",
)
FINDINGS = (
    "The import stopped because the source renamed a column; mapping it again fixes it.",
    "Refunds take three to five working days and go back to the card that was charged.",
    "Churn fell from 3.1 to 2.4 percent, most of it among customers with more than ten seats.",
    "The slow requests all pass one connection pool, which is capped at twenty.",
    "Both identity providers can be used at once when each has its own domain.",
    "Invoices can be exported from the billing page, one file a month.",
)
USERS = tuple(f"user-{number:03d}" for number in range(40))
OPEN_SESSIONS = 12  # conversations that go on at once


class Storyteller:
    """Makes traces. The same seed tells the same ones, whatever the time they are set in."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311  (makes demo data)
        self._sessions: list[tuple[str, str]] = []

    def tell(self, start_ns: int) -> ResourceSpans:
        """One trace that starts at ``start_ns``."""
        rng = self._rng
        story, service, _ = rng.choices(_STORIES, weights=[weight for _, _, weight in _STORIES])[0]
        session_id, user_id = self._session()
        scene = Scene(
            rng=rng,
            now_ns=start_ns,
            dialect=rng.choice(("genai", "openinference")),
            service=service,
            session_id=session_id,
            user_id=user_id,
            tags=rng.sample(("eu", "beta", "priority", "batch", "v2"), k=rng.randint(0, 2)),
            environment=rng.choice(("production", "production", "staging")),
        )
        story(scene)
        return scene.finished()

    def _session(self) -> tuple[str, str]:
        """A conversation that goes on, or a new one in the place of an old."""
        if len(self._sessions) < OPEN_SESSIONS or self._rng.random() < 0.15:
            session = (str(uuid.UUID(bytes=self._rng.randbytes(16), version=4)), self._rng.choice(USERS))
            if len(self._sessions) < OPEN_SESSIONS:
                self._sessions.append(session)
            else:
                self._sessions[self._rng.randrange(OPEN_SESSIONS)] = session
            return session
        return self._rng.choice(self._sessions)


def support(scene: Scene) -> None:
    """A support agent looks an order up, with a tool that at times has to be tried again."""
    topic, finding = scene.rng.choice(TOPICS), scene.rng.choice(FINDINGS)
    model = scene.rng.choice(MODELS)
    history = _opening("You are a support agent. Be short and exact.", f"I need help with {topic}.")
    with scene.step("agent", "invoke_agent support", history[-1]["content"]) as agent:
        history.append(scene.call(*model, history, "I will look this up.", tool="crm_lookup"))
        found = _tool_with_retries(scene, "crm_lookup", {"query": topic}, finding)
        if not found:
            scene.fail(agent, "ToolError", "crm_lookup did not answer after 3 tries")
            return
        history.append({"role": "tool", "content": found})
        reply = scene.call(*model, history, f"About {topic}: {finding}")
        scene.answer(agent, "agent", reply["content"])


def research(scene: Scene) -> None:
    """A supervisor sends researchers off, a writer joins what they find, a critic sends it back once or twice."""
    topic = scene.rng.choice(TOPICS)
    lead, helper = scene.rng.choice(MODELS), scene.rng.choice(MODELS)
    with scene.step("chain", "research crew", {"topic": topic}) as crew:
        with scene.step("agent", "invoke_agent supervisor", f"Plan research on {topic}.") as supervisor:
            plan = scene.call(*lead, _opening("You plan research.", f"Plan research on {topic}."), "Three questions.")
            scene.answer(supervisor, "agent", plan["content"])
        notes = []
        for number in range(scene.rng.randint(2, 4)):
            with scene.step("agent", f"invoke_agent researcher-{number + 1}", f"Question {number + 1}") as researcher:
                passages = _retrieve(scene, topic)
                request = _opening("You answer from passages only.", f"{topic}\n\n" + "\n".join(passages))
                notes.append(scene.call(*helper, request, scene.rng.choice(FINDINGS))["content"])
                scene.answer(researcher, "agent", notes[-1])
        draft = ""
        for round_number in range(scene.rng.randint(1, 3)):
            with scene.step("agent", "invoke_agent writer", {"notes": notes, "round": round_number + 1}) as writer:
                request = _opening("You write reports.", "\n".join(notes) + draft)
                draft = scene.call(*lead, request, " ".join(notes))["content"]
                scene.answer(writer, "agent", draft)
            with scene.step("evaluator", "critic", draft) as critic:
                verdict = scene.call(*helper, _opening("You find faults.", draft), "The second claim needs a source.")
                scene.answer(critic, "evaluator", verdict["content"])
        scene.answer(crew, "chain", draft)


def question(scene: Scene) -> None:
    """A question is answered from documents."""
    topic = scene.rng.choice(TOPICS)
    with scene.step("chain", "answer from documents", {"question": f"What about {topic}?"}) as chain:
        with scene.step("embedding", "embed question", topic) as embedding:
            scene.wait(0.02, 0.09)
            model, provider = EMBEDDER
            _embedding_usage(scene, embedding, model, provider, len(topic) // 4)
        passages = _retrieve(scene, topic)
        request = _opening("Answer from the passages.", f"What about {topic}?\n\n" + "\n".join(passages))
        reply = scene.call(*scene.rng.choice(MODELS), request, scene.rng.choice(FINDINGS))
        scene.answer(chain, "chain", {"answer": reply["content"], "passages": len(passages)})


def coding(scene: Scene) -> None:
    """A coding agent goes round and round; each call carries the whole history before it."""
    model = scene.rng.choice(MODELS)
    task = f"Fix {scene.rng.choice(TOPICS)} and add a test."
    history = _opening("You are a careful programmer. Use the tools.", task)
    with scene.step("agent", "invoke_agent coder", task) as agent:
        for turn in range(scene.rng.randint(6, 30)):
            tool = scene.rng.choice(("read_file", "search", "edit_file", "run_tests"))
            cached = sum(len(str(message["content"])) for message in history[:-1]) // 4 if turn else 0
            history.append(scene.call(*model, history, f"I will use {tool}.", tool=tool, cached=cached))
            result = _tool_with_retries(scene, tool, {"turn": turn}, _tool_output(scene))
            history.append({"role": "tool", "content": result or "error: no answer"})
        scene.answer(agent, "agent", scene.call(*model, history, "Done: the tests pass.")["content"])


def refused(scene: Scene) -> None:
    """A provider turns the calls away until the agent gives up."""
    model, provider = scene.rng.choice(MODELS)
    with scene.step("chain", "nightly summary", {"day": scene.rng.randint(1, 28)}) as chain:
        for attempt in range(3):
            with scene.step("llm", f"chat {model}") as call:
                scene.wait(0.1, 0.4)
                _failed_call(scene, call, model, provider)
            scene.wait(0.5 * 2**attempt, 0.6 * 2**attempt)
        scene.fail(chain, "RateLimitError", f"{provider} refused 3 times: rate limit exceeded")


_STORIES: tuple[tuple[Callable[[Scene], None], str, int], ...] = (
    (support, "support-desk", 40),
    (question, "docs-assistant", 30),
    (research, "research-crew", 15),
    (coding, "coding-agent", 9),
    (refused, "nightly-jobs", 6),
)


_SOURCE_LINES = (
    "def refund(order: Order, amount: Money) -> Receipt:",
    '    """Pay back at most what was paid."""',
    "    if amount > order.paid:",
    "        raise RefundTooLarge(order.id, amount)",
    "    with transaction() as tx:",
    "        tx.insert(Refund(order.id, amount, at=now()))",
    "    return receipts.send(order.customer, amount)",
    "",
    "class Importer:",
    "    def __init__(self, source: Source, columns: Mapping[str, str]) -> None:",
    "        self.source, self.columns = source, columns",
    "FAILED tests/test_refund.py::test_a_refund_is_paid_once - AssertionError: 2 == 1",
    "12 passed, 1 failed in 0.84s",
)


def _opening(system: str, user: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _tool_with_retries(scene: Scene, name: str, arguments: Message, result: str) -> str:
    """The result, or nothing when three tries failed."""
    for attempt in range(3):
        with scene.step("tool", f"execute_tool {name}", arguments | {"attempt": attempt + 1}) as tool:
            scene.wait(0.02, 0.5)
            if scene.rng.random() < 0.12 + 0.2 * attempt:
                scene.wait(1, 3)
                scene.fail(tool, "TimeoutError", f"{name} did not answer within 3 s")
            else:
                scene.answer(tool, "tool", result)
                return result
    return ""


def _tool_output(scene: Scene) -> str:
    return "\n".join(
        f"{number + 1:>4}  {scene.rng.choice(_SOURCE_LINES)}" for number in range(scene.rng.randint(5, 80))
    )


def _retrieve(scene: Scene, topic: str) -> list[str]:
    with scene.step("retriever", "search documents", topic) as retriever:
        scene.wait(0.03, 0.2)
        passages = [f"[{number + 1}] {scene.rng.choice(FINDINGS)}" for number in range(scene.rng.randint(2, 6))]
        scene.answer(retriever, "retriever", passages)
    return passages


def _embedding_usage(scene: Scene, span: Span, model: str, provider: str, tokens: int) -> None:
    if scene.dialect == "genai":
        usage = {"gen_ai.provider.name": provider, "gen_ai.request.model": model, "gen_ai.usage.input_tokens": tokens}
    else:
        usage = {"embedding.model_name": model, "llm.provider": provider, "llm.token_count.prompt": tokens}
    set_attributes(span, usage)


def _failed_call(scene: Scene, span: Span, model: str, provider: str) -> None:
    genai = {"gen_ai.provider.name": provider, "gen_ai.request.model": model}
    openinference = {"llm.provider": provider, "llm.model_name": model}
    set_attributes(span, genai if scene.dialect == "genai" else openinference)
    scene.fail(span, "RateLimitError", "429: rate limit exceeded, try again later")
