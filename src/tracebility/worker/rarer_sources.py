"""Where a span's inputs and outputs are spread over many attributes or events: put together into one text each."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebility.wire.conventions import (
    MESSAGE_EVENTS,
    NAME_TOO_LONG,
    OPERATION_DETAILS_EVENT,
    SOURCES,
    Rule,
    RuleTable,
    Slot,
    as_text,
    assemble,
)
from tracebility.wire.limits import LABEL_CHARS
from tracebility.wire.otlp_values import read_any
from tracebility.worker.otlp_values import put_back

_MESSAGE_SLOTS = (Slot.INPUTS, Slot.OUTPUTS)
_DETAILS_RANKS = {int(slot): SOURCES[slot].index(f"({OPERATION_DETAILS_EVENT})") for slot in _MESSAGE_SLOTS}
_DETAILS_RANKS[int(Slot.SYSTEM_INSTRUCTIONS)] = len(SOURCES[Slot.SYSTEM_INSTRUCTIONS])
_MESSAGES_RANKS = {int(slot): SOURCES[slot].index("(messages)") for slot in _MESSAGE_SLOTS}
# Names of the provider on each message: the span says it.
_NOT_OF_A_MESSAGE = frozenset({"gen_ai.system", "gen_ai.provider.name"})


class Filler:
    """One span's slots while its rarer sources are tried; ``origins`` holds the attribute that filled each so far."""

    def __init__(
        self,
        table: RuleTable,
        values: list[Any],
        origins: list[KeyValue | None],
        add_key: Callable[[str], None],
        add_text: Callable[[str], None],
    ) -> None:
        self._table = table
        self._values = values
        self._origins = origins
        self._add_key = add_key
        self._add_text = add_text
        self._ranks: dict[int, int] = {}

    def take_lists(self, parts: Sequence[tuple[Rule, Any, str]]) -> None:
        """Fill slots from attributes that spell lists; those of a slot with a better source stay attributes.

        So do attributes whose name is too long to be anything else: engine and readers keep dictionaries of names.
        """
        groups: dict[tuple[int, int], list[tuple[Rule, Any, str]]] = {}
        for part in parts:
            groups.setdefault((part[0].slot, part[0].rank), []).append(part)
        for (slot, rank), group in sorted(groups.items()):
            if slot != NAME_TOO_LONG.slot and self._is_better(slot, rank):
                spelled = assemble([(rule.path or (), value) for rule, value, _ in group])
                self._fill(slot, rank, as_text(spelled))
                continue
            for _, value, key in group:
                self._add_key(key[:LABEL_CHARS])
                self._add_text(as_text(value))

    def take_messages(self, events: Sequence[Span.Event]) -> Collection[int]:
        """Fill slots from events that carry messages; the positions of those that gave all they had."""
        spent: set[int] = set()
        messages: dict[int, list[tuple[int, Any]]] = {}
        for position, event in enumerate(events):
            known = MESSAGE_EVENTS.get(event.name)
            if known is not None:
                messages.setdefault(known[0], []).append((position, _message(event, known[1])))
            elif event.name == OPERATION_DETAILS_EVENT and self._take_details(event):
                spent.add(position)
        for slot, found in messages.items():
            if self._is_better(slot, _MESSAGES_RANKS[slot]):
                self._fill(slot, _MESSAGES_RANKS[slot], as_text([message for _, message in found]))
                spent.update(position for position, _ in found)
        return spent

    def _take_details(self, event: Span.Event) -> bool:
        """Whether nothing of the event is left."""
        left = len(event.attributes)
        for pair in event.attributes:
            rule = self._table[pair.key]
            if rule is None or rule.read is None or rule.path is not None or rule.slot not in _DETAILS_RANKS:
                continue
            value, rank = rule.read(read_any(pair.value)), _DETAILS_RANKS[rule.slot]
            if value is not None and self._is_better(rule.slot, rank):
                self._fill(rule.slot, rank, value)
                left -= 1
        return left == 0

    def _is_better(self, slot: int, rank: int) -> bool:
        origin = self._origins[slot]
        if origin is not None:
            rule = self._table[origin.key]
            return rule is None or rank < rule.rank
        return rank < self._ranks.get(slot, rank + 1)

    def _fill(self, slot: int, rank: int, value: Any) -> None:
        put_back(self._origins[slot], self._add_key, self._add_text)
        self._origins[slot] = None
        self._values[slot] = value
        self._ranks[slot] = rank


def with_system(system: str, inputs: str | None) -> str:
    """System instructions put before the messages, as a message of their own."""
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
    said = {pair.key: read_any(pair.value) for pair in event.attributes if pair.key not in _NOT_OF_A_MESSAGE}
    if not role and len(said) == 1:
        return next(iter(said.values()))  # an event that carries the whole prompt or completion
    return ({"role": role} if role and "role" not in said else {}) | said
