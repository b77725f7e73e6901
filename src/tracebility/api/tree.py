"""Builds the tree of a run's spans. Handles orphans, cycles, long chains and ten thousand spans."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

# Deeper spans become children of their ancestor at this depth. JSON parsers have a depth limit (Python's is about 500
# nested objects in lists), and a run must be readable even when an agent called itself ten thousand times.
DEEPEST_NESTING = 100

Child = TypeVar("Child")


class Node(Protocol[Child]):
    """The fields of a span that the tree needs."""

    id: str
    parent_id: str | None
    depth: int
    children: list[Child]


SomeNode = TypeVar("SomeNode", bound=Node[Any])


def grow(spans: Iterable[SomeNode]) -> list[SomeNode]:
    """The root spans, each with its ``children`` and its real ``depth`` filled in; siblings keep their order.

    Roots are spans without a parent, spans whose parent is not in ``spans``, and the first span of each cycle.
    """
    given = list(spans)
    by_id = {span.id: span for span in reversed(given)}
    below: dict[str, list[SomeNode]] = {}
    top: list[SomeNode] = []
    for span in given:
        if span.parent_id is None or span.parent_id not in by_id or span.parent_id == span.id:
            top.append(span)
        else:
            below.setdefault(span.parent_id, []).append(span)
    placed: set[int] = set()
    for span in top:
        _hang(span, below, placed)
    if len(placed) < len(given):  # the rest is in cycles, or below one
        positions = {id(span): position for position, span in enumerate(given)}
        for span in given:
            if id(span) not in placed:
                first = min(_cycle_above(span, by_id), key=lambda member: positions[id(member)])
                top.append(first)
                _hang(first, below, placed)
        top.sort(key=lambda span: positions[id(span)])
    return top


def flatten(top: Sequence[SomeNode]) -> list[SomeNode]:
    """All spans of the tree, parents before children."""
    flat: list[SomeNode] = []
    waiting = list(reversed(top))
    while waiting:
        span = waiting.pop()
        flat.append(span)
        waiting.extend(reversed(span.children))
    return flat


def _cycle_above(span: SomeNode, by_id: dict[str, SomeNode]) -> list[SomeNode]:
    """The spans of the cycle that the ancestors of ``span`` end in."""
    passed: dict[int, SomeNode] = {}
    while id(span) not in passed:
        passed[id(span)] = span
        span = by_id[span.parent_id or ""]
    return list(passed.values())[list(passed).index(id(span)) :]


def _hang(root: SomeNode, below: dict[str, list[SomeNode]], placed: set[int]) -> None:
    """Fill ``children`` and ``depth`` below ``root``, each span once, without recursion."""
    placed.add(id(root))
    root.depth = 0
    waiting: list[tuple[SomeNode, SomeNode]] = [(root, root)]  # a span, and the span that gets its children
    while waiting:
        span, holder = waiting.pop()
        entered: list[tuple[SomeNode, SomeNode]] = []
        for child in below.get(span.id, ()):
            if id(child) in placed:
                continue
            placed.add(id(child))
            child.depth = span.depth + 1
            holder.children.append(child)
            entered.append((child, child if child.depth < DEEPEST_NESTING else holder))
        waiting.extend(reversed(entered))
