import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebility.wire import conventions
from tracebility.wire.conventions import READERS, SOURCES, RuleTable, as_text, assemble

ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def test_every_source_leads_to_its_slot_with_its_rank() -> None:
    table = RuleTable()
    for slot, names in SOURCES.items():
        for rank, name in enumerate(names):
            if name.startswith("("):
                continue
            rule = table[name.replace("*", "0.message.role")]
            assert rule is not None
            assert (rule.slot, rule.rank) == (slot, rank)


def test_no_attribute_has_two_meanings() -> None:
    names = [name for names in SOURCES.values() for name in names if not name.startswith("(")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("llm.input_messages.0.message.role", (0, "role")),
        ("llm.input_messages.3.message.tool_calls.1.tool_call.function.name", (3, "tool_calls", 1, "function", "name")),
        ("llm.input_messages.0.message.contents.2.message_content.text", (0, "contents", 2, "text")),
        ("retrieval.documents.10.document.score", (10, "score")),
    ],
)
def test_an_indexed_name_is_a_path(name: str, path: tuple[int | str, ...]) -> None:
    rule = RuleTable()[name]
    assert rule is not None
    assert rule.path == path


@pytest.mark.parametrize(
    "name", ["llm.input_messages", "llm.input_messages.", "llm.input_messages.role", "llm.input_messages.0" + ".a" * 99]
)
def test_a_name_that_spells_no_place_in_a_list_has_no_rule(name: str) -> None:
    assert RuleTable()[name] is None


def test_names_from_outside_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conventions, "_MAX_CACHED_NAMES", 200)
    table = RuleTable()
    for number in range(1000):
        assert table[f"app.{number}"] is None
    assert table["x" * 1_000] is None
    assert table["x" * 10_000] is conventions.NAME_TOO_LONG
    assert len(table) <= 200
    assert table["session.id"] is not None


@pytest.mark.parametrize(
    ("said", "kind"),
    [("LLM", "llm"), ("chat", "llm"), ("execute_tool", "tool"), ("RERANKER", "reranker"), ("invoke_agent", "agent")],
)
def test_kinds_of_all_dialects_are_ours(said: str, kind: str) -> None:
    assert conventions.read_kind(said) == kind


@pytest.mark.parametrize("said", ["UNKNOWN", "", "dance", 7, None])
def test_what_names_no_kind_says_nothing(said: Any) -> None:
    assert conventions.read_kind(said) is None


@pytest.mark.parametrize(
    ("said", "tokens"),
    [(5, 5), ("12", 12), (3.0, 3), (-1, None), ("many", None), (float("nan"), None), (1 << 62, 10**12), ([], None)],
)
def test_token_counts_are_read_or_left(said: Any, tokens: int | None) -> None:
    assert conventions.read_tokens(said) == tokens


@pytest.mark.parametrize(
    ("said", "nanodollars"),
    [(0.5, 500_000_000), ("0.25", 250_000_000), (float("inf"), None), (-1, None), (1 << 63, None), ("9" * 400, None)],
)
def test_amounts_are_read_or_left(said: Any, nanodollars: int | None) -> None:
    assert conventions.read_dollars(said) == nanodollars


@given(ANY_VALUE)
def test_no_value_stops_any_reader(value: Any) -> None:
    for read in {*READERS.values(), conventions.read_text}:
        taken = read(value)
        assert taken is None or isinstance(taken, str | int | list | dict)
    assert isinstance(as_text(value), str)


@given(st.recursive(st.text(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=5))
def test_metadata_in_json_becomes_texts(value: Any) -> None:
    read = conventions.read_object(json.dumps(value))
    if isinstance(value, dict) and value:
        assert read is not None
        assert set(read) == set(value)
        assert all(isinstance(text, str) for text in read.values())
    else:
        assert read is None


def test_indexed_parts_make_a_list_in_order_without_gaps() -> None:
    parts = [
        ((7, "role"), "user"),
        ((0, "role"), "system"),
        ((0, "calls", 1, "name"), "b"),
        ((0, "calls", 0, "name"), "a"),
    ]
    assert assemble(parts)[0] == [
        {"role": "system", "calls": [{"name": "a"}, {"name": "b"}]},
        {"role": "user"},
    ]


@given(st.lists(st.tuples(st.lists(st.integers(0, 3) | st.sampled_from("ab"), min_size=1, max_size=5), st.text())))
def test_contradicting_parts_still_make_a_list(parts: list[tuple[list[int | str], str]]) -> None:
    assert isinstance(assemble([((0, *path), value) for path, value in parts])[0], list)
