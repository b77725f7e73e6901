"""Assembles inputs and outputs that are spread over several attributes or events into one JSON text each."""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebility.wire.conventions import (
    MESSAGE_EVENTS,
    OPERATION_DETAILS_EVENT,
    SOURCES,
    RuleTable,
    Slot,
    as_text,
    assemble,
)
from tracebility.wire.otlp.values import read_any

Path = tuple[int | str, ...]

_MESSAGE_SLOTS = (Slot.INPUTS, Slot.OUTPUTS)
_DETAILS_RANKS = {int(slot): SOURCES[slot].index(f"({OPERATION_DETAILS_EVENT})") for slot in _MESSAGE_SLOTS}
_DETAILS_RANKS[int(Slot.SYSTEM_INSTRUCTIONS)] = len(SOURCES[Slot.SYSTEM_INSTRUCTIONS])
_MESSAGES_RANKS = {int(slot): SOURCES[slot].index("(messages)") for slot in _MESSAGE_SLOTS}
# Attributes of message events that name the provider. The span has the provider too, so messages omit them.
_PROVIDER_ATTRIBUTES = frozenset({"gen_ai.system", "gen_ai.provider.name"})

MESSAGE_NAMES = frozenset({*MESSAGE_EVENTS, OPERATION_DETAILS_EVENT})

_HOLE = re.compile(rb"\0(\d+)\0")


class ListPlan(NamedTuple):
    """A list as JSON with holes for values. It is the same for all attributes with this sequence of names."""

    fragments: list[bytes]  # one more than there are holes
    holes: list[int]  # for each hole: the position of the attribute whose value fills it
    unplaced: list[int]  # positions of attributes that contradict an earlier one, and stay attributes

    def fill(self, values: Sequence[bytes]) -> bytes:
        """The list as JSON. ``values``: each attribute's value as JSON."""
        pieces = [b""] * (2 * len(self.holes) + 1)
        pieces[::2] = self.fragments
        pieces[1::2] = [values[hole] for hole in self.holes]
        return b"".join(pieces)


def list_plan(paths: Sequence[Path]) -> ListPlan:
    """Make the plan for attributes that put values at ``paths`` of a list."""
    holes = [(path, msgspec.Raw(b"\0%d\0" % position)) for position, path in enumerate(paths)]
    listed, unplaced = assemble(holes)
    # JSON escapes control characters, so a name from a client cannot look like a hole.
    parts = _HOLE.split(msgspec.json.encode(listed))
    return ListPlan(parts[::2], [int(part) for part in parts[1::2]], unplaced)


class ListPlans:
    """Plans by sequence of name numbers; the least recently used plan is evicted first.

    Instrumentations need few plans. The bounds are for clients with arbitrary names.
    """

    MAX_PLANS = 2_000
    MAX_PARTS_PER_PLAN = 256  # larger plans are not kept

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[int, ...], ListPlan] = OrderedDict()

    def plan(self, names: tuple[int, ...], paths: Mapping[int, Path] | Sequence[Path]) -> ListPlan:
        """The plan for this sequence of names. ``paths``: the path of each name, by its number."""
        known = self._plans.get(names)
        if known is not None:
            self._plans.move_to_end(names)
            return known
        plan = list_plan([paths[name] for name in names])
        if len(names) <= self.MAX_PARTS_PER_PLAN:
            self._plans[names] = plan
            if len(self._plans) > self.MAX_PLANS:
                self._plans.popitem(last=False)
        return plan

    def __len__(self) -> int:
        return len(self._plans)

    def clear(self) -> None:
        """Delete all plans. Required when the numbers of names change."""
        self._plans.clear()


class EventMessages(NamedTuple):
    """Texts from events, by slot. ``spent``: positions of events whose whole content is in the texts."""

    texts: dict[int, str]
    spent: set[int]


def from_events(
    events: Sequence[Span.Event], names: Sequence[str], table: RuleTable, best_rank: Callable[[int], int]
) -> EventMessages:
    """Read inputs, outputs and system instructions from ``events``, where they are better than the span's own.

    ``best_rank`` returns the rank of the value that fills a slot so far.
    """
    texts: dict[int, str] = {}
    ranks: dict[int, int] = {}
    spent: set[int] = set()
    messages: dict[int, list[tuple[int, Any]]] = {}

    def fill(slot: int, rank: int, text: str) -> bool:
        if rank >= min(best_rank(slot), ranks.get(slot, rank + 1)):
            return False
        texts[slot], ranks[slot] = text, rank
        return True

    for position, (event, name) in enumerate(zip(events, names, strict=True)):
        known = MESSAGE_EVENTS.get(name)
        if known is not None:
            messages.setdefault(known[0], []).append((position, _message(event, known[1])))
        elif name == OPERATION_DETAILS_EVENT:
            left = len(event.attributes)
            for pair in event.attributes:
                rule = table[pair.key]
                if rule is None or rule.read is None or rule.path is not None or rule.slot not in _DETAILS_RANKS:
                    continue
                value = rule.read(read_any(pair.value))
                left -= value is not None and fill(rule.slot, _DETAILS_RANKS[rule.slot], value)
            if left == 0:
                spent.add(position)
    for slot, found in messages.items():
        if fill(slot, _MESSAGES_RANKS[slot], as_text([message for _, message in found])):
            spent.update(position for position, _ in found)
    return EventMessages(texts, spent)


def with_system(system: str, inputs: str) -> str:
    """Put the system instructions before the input messages, as a separate message."""
    first = b'{"role":"system","parts":' + _parts(system) + b"}"
    if not inputs:
        return (b"[" + first + b"]").decode()
    messages = inputs.strip()
    if not (messages.startswith("[") and _is_json(messages)):
        messages = '[{"role":"user","parts":' + _parts(inputs).decode() + "}]"
    rest = messages[1:].lstrip()
    return f"[{first.decode()}{'' if rest == ']' else ','}{rest}"


def _parts(text: str) -> bytes:
    if text[:1] == "[" and _is_json(text):
        return text.encode()
    return msgspec.json.encode([{"type": "text", "content": text}])


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _message(event: Span.Event, role: str) -> Any:
    """The content of a message event, with the role that its event name implies."""
    content = {
        pair.key: pair.value.string_value or read_any(pair.value)
        for pair in event.attributes
        if pair.key not in _PROVIDER_ATTRIBUTES
    }
    if not role and len(content) == 1:
        return next(iter(content.values()))  # an event that carries the whole prompt or completion
    return ({"role": role} if role and "role" not in content else {}) | content
