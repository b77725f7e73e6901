"""Cursors fit one list of one owner, in one spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebility.api import cursor
from tracebility.errors import BadRequest

OWNER = b"runs" + bytes(range(32))
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(st.binary(max_size=200))
def test_what_was_sealed_is_unsealed(place: bytes) -> None:
    assert cursor.unseal(cursor.seal(place, OWNER), OWNER) == place


def test_no_change_of_one_character_is_taken() -> None:
    text = cursor.seal(b"a place of 23 bytes len", OWNER)
    for position in range(len(text)):
        for other in ALPHABET:
            changed = text[:position] + other + text[position + 1 :]
            if changed != text:
                with pytest.raises(BadRequest):
                    cursor.unseal(changed, OWNER)


def test_another_owners_cursor_is_refused() -> None:
    with pytest.raises(BadRequest):
        cursor.unseal(cursor.seal(b"place", OWNER), b"runs" + bytes(32))


@pytest.mark.parametrize(
    "text", ["", "A", "AAAA", "====", "ä", "é" * 30, " ", "null", "A" * 5000, "AA\x00AAAAAAAAAAAAAAAA"]
)
def test_other_text_is_refused_as_a_bad_request(text: str) -> None:
    with pytest.raises(BadRequest, match="cursor"):
        cursor.unseal(text, OWNER)
