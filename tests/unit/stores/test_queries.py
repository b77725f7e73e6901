"""Queries are found by name."""

import pytest

from tracebility.stores.queries import query


def test_a_name_stands_for_its_query() -> None:
    assert query("any_org") == "SELECT EXISTS (SELECT FROM org)"


def test_a_text_stands_for_itself() -> None:
    assert query("SELECT 1") == "SELECT 1"


def test_a_name_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        query("no_such_query")
