"""A key proves itself without a look-up, and nothing but the key opens."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebility.tenant import keys

KEY = keys.generate()


def test_a_key_has_the_form_that_secret_scanners_know() -> None:
    assert re.fullmatch(r"tb_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}", KEY.key)
    assert KEY.key.split("_")[1] == KEY.public_id


def test_a_key_opens_its_own_lock_only() -> None:
    parsed = keys.parse(KEY.key)
    assert parsed is not None
    assert parsed.public_id == KEY.public_id
    assert keys.matches(parsed, KEY.secret_hash)
    assert not keys.matches(parsed, keys.generate().secret_hash)
    assert not keys.matches(parsed, keys.NO_HASH)


@given(st.integers(0, len(KEY.key) - 1), st.characters(codec="utf-8"))
def test_one_wrong_character_is_seen_without_a_look_up(place: int, character: str) -> None:
    mistyped = KEY.key[:place] + character + KEY.key[place + 1 :]
    assert (keys.parse(mistyped) is None) == (mistyped != KEY.key)


@given(st.text())
def test_other_text_is_no_key(text: str) -> None:
    assert keys.parse(text) is None


@pytest.mark.parametrize(
    "text",
    ["", KEY.key[:-1], KEY.key + "0", KEY.key + "\n", KEY.key.upper(), " " + KEY.key],
    ids=["none", "short", "long", "with a line's end", "in capitals", "behind a space"],
)
def test_nearly_a_key_is_none(text: str) -> None:
    assert keys.parse(text) is None


def test_no_secret_is_shown_by_accident() -> None:
    secret = KEY.key[-keys.SECRET_CHARS :]
    assert secret not in repr(KEY)
    assert repr(KEY.secret_hash) not in repr(KEY)
    assert repr(KEY.secret_hash) not in repr(keys.parse(KEY.key))


def test_keys_differ() -> None:
    made = [keys.generate() for _ in range(100)]
    assert len({key.key for key in made}) == len({key.public_id for key in made}) == 100
