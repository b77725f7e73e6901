"""Resource and scope of spans, as text: what every row of their spans repeats."""

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tracebility.wire.conventions import RESOURCE_SLOTS, RuleTable, Slot, as_text
from tracebility.wire.limits import LABEL_CHARS, NAME_CHARS
from tracebility.wire.otlp.values import read_any

_RESOURCE_SLOTS = frozenset(map(int, RESOURCE_SLOTS))


class ResourceScope(NamedTuple):
    """A resource and a scope. ``chars``: characters that they add to each row."""

    keys: tuple[str, ...]
    values: tuple[str, ...]
    environment: str
    session_id: str
    user_id: str
    scope_name: str
    scope_version: str
    scope_attributes: tuple[tuple[str, str], ...]
    chars: int


def read_resource_scope(table: RuleTable, resource: Resource, scope: InstrumentationScope) -> ResourceScope:
    """Convert a resource and a scope to text.

    The rest of a long scope name is dropped, because an attribute would repeat it in every span.
    """
    texts, slot_values = _read_resource(table, resource.attributes)
    attributes = tuple(
        (f"otel.scope.{pair.key}"[:LABEL_CHARS], as_text(read_any(pair.value))) for pair in scope.attributes
    )
    return ResourceScope(
        keys=tuple(texts),
        values=tuple(texts.values()),
        environment=slot_values.get(Slot.ENVIRONMENT, ""),
        session_id=slot_values.get(Slot.SESSION_ID, ""),
        user_id=slot_values.get(Slot.USER_ID, ""),
        scope_name=scope.name[:NAME_CHARS],
        scope_version=scope.version[:LABEL_CHARS],
        scope_attributes=attributes,
        chars=sum(map(len, chain(texts, texts.values(), *attributes))),
    )


def _read_resource(table: RuleTable, attributes: Iterable[KeyValue]) -> tuple[dict[str, str], dict[int, str]]:
    """The attributes of a resource as text, and the values that fill slots of its spans, by slot."""
    texts: dict[str, str] = {}
    slot_values: dict[int, str] = {}
    best: dict[int, int] = {}
    for pair in attributes:
        text = texts[pair.key[:LABEL_CHARS]] = as_text(read_any(pair.value))
        rule = table[pair.key]
        if rule is not None and rule.slot in _RESOURCE_SLOTS and text and rule.rank < best.get(rule.slot, 1 << 30):
            best[rule.slot] = rule.rank
            slot_values[rule.slot] = text[:LABEL_CHARS]
    return texts, slot_values
