"""Puts the spans of a run into a tree, whatever clients sent: orphans, cycles, ten thousand spans, endless chains."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

# Deeper spans hang on their ancestor at this depth, beside one another. JSON parsers stop at some depth (Python's at
# about 500 nested objects in lists), and a run has to open even when an agent called itself ten thousand times.
DEEPEST_NESTING = 100

Child = TypeVar("Child")


class Node(Protocol[Child]):
    """A span as far as a tree needs it."""

    id: str
    parent_id: str | None
    depth: int
    children: list[Child]


SomeNode = TypeVar("SomeNode", bound=Node[Any])


def grow(spans: Iterable[SomeNode]) -> list[SomeNode]:
    """The top-most spans, each with its ``children`` and ``depth`` (its true one) filled in; siblings stay in the
    order given.

    Top-most are spans without a parent, spans whose parent is not among the given, and of spans that are one another's
    ancestors the one of the cycle that was given first.
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
    if len(placed) < len(given):  # what is left is in cycles, or under one
        positions = {id(span): position for position, span in enumerate(given)}
        for span in given:
            if id(span) not in placed:
                first = min(_cycle_above(span, by_id), key=lambda member: positions[id(member)])
                top.append(first)
                _hang(first, below, placed)
        top.sort(key=lambda span: positions[id(span)])
    return top


def flatten(top: Sequence[SomeNode]) -> list[SomeNode]:
    """All spans of the tree, each before its children."""
    flat: list[SomeNode] = []
    waiting = list(reversed(top))
    while waiting:
        span = waiting.pop()
        flat.append(span)
        waiting.extend(reversed(span.children))
    return flat


def _cycle_above(span: SomeNode, by_id: dict[str, SomeNode]) -> list[SomeNode]:
    """The spans of the cycle that the way up from ``span`` ends in."""
    passed: dict[int, SomeNode] = {}
    while id(span) not in passed:
        passed[id(span)] = span
        span = by_id[span.parent_id or ""]
    return list(passed.values())[list(passed).index(id(span)) :]


def _hang(root: SomeNode, below: dict[str, list[SomeNode]], placed: set[int]) -> None:
    """Fill ``children`` and ``depth`` under ``root``, each span once, without recursion."""
    placed.add(id(root))
    root.depth = 0
    waiting: list[tuple[SomeNode, SomeNode]] = [(root, root)]  # a span, and the one that its children hang on
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
