"""Spans form a tree whatever clients sent."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from tracebility.api import tree


@dataclass(eq=False)
class Span:
    id: str
    parent_id: str | None
    depth: int = -1
    children: list["Span"] = field(default_factory=list)


def spans(*pairs: tuple[str, str | None]) -> list[Span]:
    return [Span(id, parent) for id, parent in pairs]


def outline(top: list[Span]) -> str:
    return "".join(f"{span.id}({outline(span.children)})" if span.children else span.id for span in top)


def test_children_hang_on_their_parent_in_the_order_given() -> None:
    assert outline(tree.grow(spans(("r", None), ("a", "r"), ("b", "r"), ("c", "a")))) == "r(a(c)b)"


def test_a_child_may_come_before_its_parent() -> None:
    assert outline(tree.grow(spans(("c", "a"), ("a", "r"), ("r", None)))) == "r(a(c))"


def test_a_span_without_its_parent_is_top_most_in_the_order_given() -> None:
    assert outline(tree.grow(spans(("x", "gone"), ("r", None), ("y", "x")))) == "x(y)r"


def test_a_cycle_is_cut_before_the_span_given_first() -> None:
    assert outline(tree.grow(spans(("u", "b"), ("b", "a"), ("a", "b"), ("r", None)))) == "b(ua)r"
    assert outline(tree.grow(spans(("self", "self")))) == "self"


def test_a_chain_of_twenty_thousand_is_nested_no_deeper_than_parsers_go() -> None:
    chain = spans(("0", None), *((str(n), str(n - 1)) for n in range(1, 20_000)))
    top = tree.grow(chain)
    assert [span.depth for span in tree.flatten(top)] == list(range(20_000))

    deepest, level = 0, top
    while level:
        deepest += 1
        level = [child for span in level for child in span.children]
    assert deepest == tree.DEEPEST_NESTING + 1


@given(
    st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers(0, 14)), max_size=30, unique_by=lambda pair: pair[0])
)
def test_every_span_is_in_the_tree_once_and_under_its_parent_unless_top_most(
    pairs: list[tuple[int, int | None]],
) -> None:
    given_spans = spans(*((str(id), None if parent is None else str(parent)) for id, parent in pairs))
    top = tree.grow(given_spans)
    flat = tree.flatten(top)
    assert sorted(span.id for span in flat) == sorted(span.id for span in given_spans)
    for span in flat:
        for child in span.children:
            assert child.parent_id == span.id
            assert child.depth == span.depth + 1
    # A top-most span has no stored parent, or is the one that a cycle was cut at: then its way up comes back to it.
    by_id = {span.id: span for span in given_spans}
    for span in top:
        above, seen = by_id.get(span.parent_id or ""), set()
        while above is not None and above is not span:
            assert above.id not in seen, "a span under a cycle is not top-most"
            seen.add(above.id)
            above = by_id.get(above.parent_id or "")


def test_a_hundred_thousand_orphans_and_cycles_are_placed_once_each() -> None:
    given_spans = spans(*((str(n), str(n ^ 1) if n % 3 else "gone") for n in range(100_000)))
    assert len(tree.flatten(tree.grow(given_spans))) == len(given_spans)
