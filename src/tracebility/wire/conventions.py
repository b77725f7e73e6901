"""Maps attribute names of OpenTelemetry's dialects to slots. Dialects are data: a new one adds names to ``SOURCES``.

``SOURCES`` lists for each slot the attributes that may fill it, best first. A name that ends in ``.*`` stands for
attributes that spell a list by index (``llm.input_messages.0.message.role``), a name in round brackets for span events.
An attribute stays an attribute if a better one fills its slot, or if its value has the wrong type.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum, auto
from typing import Any, NamedTuple, TypeAlias

import msgspec

from tracebility.wire.limits import ATTRIBUTES, LABEL_CHARS

Reader: TypeAlias = Callable[[Any], Any]

# No call has more tokens; a sum over a trace must not wrap around.
MAX_TOKENS = 10**12
# The largest Decimal(18, 9): just under a billion dollars.
MAX_COST_NANODOLLARS = 10**18 - 1
MAX_SECONDS = 10**9
# Bounds of the cache of rules by name, because clients choose the names. It is emptied when it is full.
_MAX_CACHED_NAMES = 20_000
_MAX_CACHED_NAME_CHARS = 200
# Indexes and keys in one attribute name. Tool calls of messages, the deepest paths of known dialects, have six.
_MAX_PATH_LENGTH = 16


class Slot(IntEnum):
    """Facts about a span that its attributes can carry, beyond OpenTelemetry's own fields."""

    KIND = 0
    TOOL_NAME = auto()
    MODEL = auto()
    REQUEST_MODEL = auto()
    PROVIDER = auto()
    INPUTS = auto()
    SYSTEM_INSTRUCTIONS = auto()
    OUTPUTS = auto()
    INPUT_TOKENS = auto()
    OUTPUT_TOKENS = auto()
    TOTAL_TOKENS = auto()
    CACHE_READ_TOKENS = auto()
    CACHE_WRITE_TOKENS = auto()
    REASONING_TOKENS = auto()
    COST = auto()
    INPUT_COST = auto()
    OUTPUT_COST = auto()
    SESSION_ID = auto()
    USER_ID = auto()
    TAGS = auto()
    METADATA = auto()
    ENVIRONMENT = auto()
    ERROR_TYPE = auto()
    TIME_TO_FIRST_TOKEN = auto()


OPERATION_DETAILS_EVENT = "gen_ai.client.inference.operation.details"
# Deprecated but still in use: one event for each message.
MESSAGE_EVENTS: Mapping[str, tuple[Slot, str]] = {
    "gen_ai.system.message": (Slot.INPUTS, "system"),
    "gen_ai.user.message": (Slot.INPUTS, "user"),
    "gen_ai.assistant.message": (Slot.INPUTS, "assistant"),
    "gen_ai.tool.message": (Slot.INPUTS, "tool"),
    "gen_ai.content.prompt": (Slot.INPUTS, ""),
    "gen_ai.choice": (Slot.OUTPUTS, "assistant"),
    "gen_ai.content.completion": (Slot.OUTPUTS, ""),
}

SOURCES: Mapping[Slot, tuple[str, ...]] = {
    Slot.KIND: ("openinference.span.kind", "gen_ai.operation.name"),
    Slot.TOOL_NAME: ("gen_ai.tool.name", "tool.name"),
    Slot.MODEL: (
        "gen_ai.response.model",
        "llm.response.model_name",
        "llm.model_name",
        "embedding.model_name",
        "reranker.model_name",
    ),
    Slot.REQUEST_MODEL: ("gen_ai.request.model", "llm.request.model_name"),
    Slot.PROVIDER: ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"),
    Slot.INPUTS: (
        "gen_ai.input.messages",
        f"({OPERATION_DETAILS_EVENT})",
        "gen_ai.tool.call.arguments",
        "llm.input_messages.*",
        "(messages)",
        "gen_ai.retrieval.query.text",
        "gen_ai.prompt",
        "input.value",
        "reranker.input_documents.*",
        "input",
    ),
    Slot.SYSTEM_INSTRUCTIONS: ("gen_ai.system_instructions",),
    Slot.OUTPUTS: (
        "gen_ai.output.messages",
        f"({OPERATION_DETAILS_EVENT})",
        "gen_ai.tool.call.result",
        "llm.output_messages.*",
        "(messages)",
        "gen_ai.retrieval.documents",
        "retrieval.documents.*",
        "reranker.output_documents.*",
        "gen_ai.completion",
        "output.value",
        "output",
    ),
    Slot.INPUT_TOKENS: ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"),
    Slot.OUTPUT_TOKENS: ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion"),
    Slot.TOTAL_TOKENS: ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total"),
    Slot.CACHE_READ_TOKENS: (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.cache_read_tokens",
        "gen_ai.usage.input_cached_tokens",
        "llm.token_count.prompt_details.cache_read",
        "llm.token_count.prompt_details.cache_input",
    ),
    Slot.CACHE_WRITE_TOKENS: (
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    Slot.REASONING_TOKENS: (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "llm.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
    Slot.COST: ("gen_ai.usage.cost", "llm.cost.total"),
    Slot.INPUT_COST: ("gen_ai.usage.input_cost", "llm.cost.prompt"),
    Slot.OUTPUT_COST: ("gen_ai.usage.output_cost", "llm.cost.completion"),
    Slot.SESSION_ID: ("session.id", "gen_ai.conversation.id"),
    Slot.USER_ID: ("user.id", "enduser.id", "gen_ai.user", "gen_ai.request.user", "llm.user"),
    Slot.TAGS: ("tag.tags",),
    Slot.METADATA: ("metadata",),
    Slot.ENVIRONMENT: ("deployment.environment.name", "deployment.environment"),
    Slot.ERROR_TYPE: ("error.type",),
    Slot.TIME_TO_FIRST_TOKEN: ("gen_ai.response.time_to_first_chunk",),
}

# Slots that a resource's attribute fills for all of its spans that have no value of their own.
RESOURCE_SLOTS = frozenset({Slot.SESSION_ID, Slot.USER_ID, Slot.ENVIRONMENT})

# In names that spell a list by index, words after an index that carry no information: they are left out of the path.
WRAPPERS = frozenset({"message", "message_content", "tool_call", "document"})

DEFAULT_KIND = "chain"
# Kinds of spans that are model calls and cost money. Other spans with a model or usage repeat those of their children.
MODEL_KINDS = frozenset({"llm", "embedding", "reranker"})

_KINDS = {
    # OpenInference, and our own kinds
    "llm": "llm",
    "chain": "chain",
    "tool": "tool",
    "retriever": "retriever",
    "embedding": "embedding",
    "agent": "agent",
    "reranker": "reranker",
    "guardrail": "guardrail",
    "evaluator": "evaluator",
    "prompt": "chain",
    "parser": "parser",
    "workflow": "workflow",
    "task": "task",
    # OpenTelemetry GenAI operations
    "chat": "llm",
    "text_completion": "llm",
    "completion": "llm",
    "generate_content": "llm",
    "generate": "llm",
    "embeddings": "embedding",
    "execute_tool": "tool",
    "invoke_agent": "agent",
    "create_agent": "agent",
    "invoke_workflow": "chain",
    "plan": "chain",
    "agent_step": "chain",
    "retrieval": "retriever",
}


def read_text(value: Any) -> str | None:
    """A name or id: text, or a whole number as text; None for empty text and for structures."""
    if type(value) is str:
        return value or None
    return str(value) if type(value) is int else None


def read_payload(value: Any) -> str | None:
    """Inputs and outputs: text unchanged, structures as JSON."""
    if type(value) is str:
        return value or None
    return None if value is None or value in ([], {}) else as_text(value)


def read_kind(value: Any) -> str | None:
    """Our kind for a dialect's name of it."""
    return _KINDS.get(value.lower()) if type(value) is str else None


def read_tokens(value: Any) -> int | None:
    """A count of tokens from a number or text; None for negative counts."""
    if type(value) is int and 0 <= value <= MAX_TOKENS:
        return value
    number = _number(value)
    return None if number is None or number < 0 else int(min(number, MAX_TOKENS))


def read_dollars(value: Any) -> int | None:
    """An amount in dollars, as nanodollars."""
    return _scaled(value, 1e9, MAX_COST_NANODOLLARS)


def read_seconds(value: Any) -> int | None:
    """A duration in seconds, as nanoseconds."""
    return _scaled(value, 1e9, MAX_SECONDS * 10**9)


def read_strings(value: Any) -> list[str] | None:
    """A list of texts, or its JSON; any other text is a list with one element."""
    if type(value) is str:
        listed = _json_list(value) if value.lstrip()[:1] == "[" else None
        if listed is None:
            return [value] if value else None
        value = listed
    return [as_text(part) for part in value] if type(value) is list and value else None


def _json_list(text: str) -> list[Any] | None:
    try:
        return msgspec.json.decode(text, type=list)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def read_object(value: Any) -> dict[str, str] | None:
    """An object, or its JSON, with each member's value as text. None when it has too many keys or a too long one."""
    if type(value) is str:
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None
    if type(value) is not dict or not 0 < len(value) <= ATTRIBUTES or max(map(len, value)) > LABEL_CHARS:
        return None
    return {key: as_text(member) for key, member in value.items()}


READERS: Mapping[Slot, Reader] = {
    Slot.KIND: read_kind,
    Slot.INPUTS: read_payload,
    Slot.SYSTEM_INSTRUCTIONS: read_payload,
    Slot.OUTPUTS: read_payload,
    Slot.INPUT_TOKENS: read_tokens,
    Slot.OUTPUT_TOKENS: read_tokens,
    Slot.TOTAL_TOKENS: read_tokens,
    Slot.CACHE_READ_TOKENS: read_tokens,
    Slot.CACHE_WRITE_TOKENS: read_tokens,
    Slot.REASONING_TOKENS: read_tokens,
    Slot.COST: read_dollars,
    Slot.INPUT_COST: read_dollars,
    Slot.OUTPUT_COST: read_dollars,
    Slot.TAGS: read_strings,
    Slot.METADATA: read_object,
    Slot.TIME_TO_FIRST_TOKEN: read_seconds,
}


def as_text(value: Any) -> str:
    """An attribute's value as text: text unchanged, anything else as JSON."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is int or kind is float:
        return repr(value)  # the same as JSON, except for infinities and NaN, which JSON does not have
    return msgspec.json.encode(value).decode()


class Rule(NamedTuple):
    """The slot of an attribute, and its rank there. ``path``: for a part of a list, indexes and keys to its place."""

    slot: int
    rank: int
    read: Reader | None  # None: `read_text`, which text need not go through
    path: tuple[int | str, ...] | None = None


# The rule of attributes whose name is longer than any in `SOURCES`.
NAME_TOO_LONG = Rule(-1, 0, as_text, ())


class RuleTable(dict[str, Rule | None]):
    """A cache of rules by attribute name. None: the name has no rule."""

    def __init__(self, sources: Mapping[Slot, tuple[str, ...]] = SOURCES) -> None:
        super().__init__()
        self._exact: dict[str, Rule] = {}
        self._lists: dict[str, Rule] = {}
        for slot, names in sources.items():
            for rank, name in enumerate(names):
                rule = Rule(int(slot), rank, READERS.get(slot))
                if name.endswith(".*"):
                    self._lists[name[:-1]] = rule
                elif not name.startswith("("):
                    self._exact[name] = rule
        self.update(self._exact)

    def __missing__(self, name: str) -> Rule | None:
        if len(self) >= _MAX_CACHED_NAMES:
            self.clear()
            self.update(self._exact)
        if len(name) > LABEL_CHARS:
            return NAME_TOO_LONG
        rule = next((self._of_list(name, prefix) for prefix in self._lists if name.startswith(prefix)), None)
        if len(name) <= _MAX_CACHED_NAME_CHARS:
            self[name] = rule
        return rule

    def _of_list(self, name: str, prefix: str) -> Rule | None:
        parts = name[len(prefix) :].split(".")
        path: list[int | str] = []
        for part in parts:
            if part.isascii() and part.isdigit() and len(part) < 10:
                path.append(int(part))
            elif not (part in WRAPPERS and path and type(path[-1]) is int):
                path.append(part)
        if len(path) > _MAX_PATH_LENGTH or type(path[0]) is not int:
            return None
        return self._lists[prefix]._replace(path=tuple(path))


def assemble(parts: Sequence[tuple[tuple[int | str, ...], Any]]) -> tuple[list[Any], list[int]]:
    """Assemble a list from ``parts``, and return it with the positions of the parts that contradict an earlier one.

    A part contradicts an earlier one if that put a value at its path or above it, or values below it.
    """
    root: dict[int | str, Any] = {}
    unplaced: list[int] = []
    for position, (path, value) in enumerate(parts):
        node = root
        for step in path[:-1]:
            below = node.setdefault(step, {})
            if type(below) is not dict:
                unplaced.append(position)
                break
            node = below
        else:
            if path[-1] in node:
                unplaced.append(position)
            else:
                node[path[-1]] = _Leaf(value)
    shaped = _shaped(root)
    return (shaped if type(shaped) is list else [shaped]), unplaced


class _Leaf(NamedTuple):
    """A value in the tree of `assemble`. Inner nodes are dicts."""

    value: Any


def _shaped(node: dict[int | str, Any]) -> Any:
    """Convert dicts whose keys are all indexes to lists, without gaps."""
    members = {key: _shaped(value) if type(value) is dict else value.value for key, value in node.items()}
    if all(type(key) is int for key in members):
        return [members[key] for key in sorted(members)]
    return {str(key): value for key, value in members.items()}


def _number(value: Any) -> float | int | None:
    if type(value) is str:
        try:
            value = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else float(value)
        except ValueError:
            return None
    if type(value) is int:
        return value
    return value if type(value) is float and math.isfinite(value) else None


def _scaled(value: Any, scale: float, largest: int) -> int | None:
    number = _number(value)
    return None if number is None or number < 0 or number > largest / scale else min(round(number * scale), largest)
