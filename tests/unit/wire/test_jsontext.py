"""JSON text of any depth and with any escapes is decoded, or refused, without recursion."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebility.errors import BadRequest, PayloadTooLarge
from tracebility.wire import jsontext

documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)


def depth(document: Any) -> int:
    if isinstance(document, dict):
        return 1 + max(map(depth, document.values()), default=0)
    if isinstance(document, list):
        return 1 + max(map(depth, document), default=0)
    return 0


@given(documents, st.booleans())
def test_depth_is_counted_outside_of_strings(document: Any, ascii_only: bool) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert not jsontext.is_deeper(text, depth(document))
    assert depth(document) == 0 or jsontext.is_deeper(text, depth(document) - 1)


@given(documents)
def test_shallow_text_is_not_cut(document: Any) -> None:
    text = json.dumps(document).encode()
    assert jsontext.cut(text) == text


@pytest.mark.parametrize("deep", ["[" * 5000 + "]" * 5000, '{"a":[' * 5000 + '"]{"' + "]}" * 5000])
def test_what_is_too_deep_is_cut_out_and_its_neighbours_stay(deep: str) -> None:
    text = f'[{{"b": "}}[{chr(92)}""}}, {deep}, 7]'.encode()
    decoded = jsontext.decode(text, msgspec.json.decode)
    assert decoded[0] == {"b": '}["'}
    assert decoded[2] == 7
    assert depth(decoded) == 256
    assert jsontext.is_deeper(jsontext.cut(text), 255)


@pytest.mark.parametrize("window", [1, 7, 64])
def test_windows_meet_without_a_seam(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (b'{"a\\\\": [1, "]\\"[", {"b": ' + b"[" * 300 + b"]" * 300 + b'}], "c": "\\u00e9"}') * 1
    whole, deep = jsontext.cut(text), jsontext.is_deeper(text, 302)
    monkeypatch.setattr(jsontext, "_WINDOW_BYTES", window)
    assert jsontext.cut(text) == whole
    assert jsontext.is_deeper(text, 302) == deep


@pytest.mark.parametrize(
    "text", [b"[" * 3000, b"[" * 3000 + b'"' * 3, b'{"a":' * 2000 + b"\\]}" * 2000, b"", b" ", b"nul"]
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest):
        jsontext.decode(text, msgspec.json.decode)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (r'"\ud800"', "\ufffd"),
        (r'"\udc00x"', "\ufffdx"),
        (r'"\ud83d\ude00"', "\N{GRINNING FACE}"),
        (r'"\ud83d\ud83d\ude00"', "\ufffd\N{GRINNING FACE}"),
        (r'"\\ud800"', r"\ud800"),
        (r'"\\\ud800"', "\\\ufffd"),
        (r'"\uD800\n"', "\ufffd\n"),
    ],
)
def test_half_a_surrogate_pair_reads_as_the_replacement_character(sent: str, read: str) -> None:
    assert msgspec.json.decode(jsontext.repair(sent.encode())) == read


@given(st.text(st.characters(codec=None)))
def test_any_escaped_text_can_be_decoded(text: str) -> None:
    decoded = msgspec.json.decode(jsontext.repair(json.dumps(text).encode()))
    assert decoded == json.loads(json.dumps(text)).encode("utf-16", "surrogatepass").decode("utf-16", "replace") or (
        "\ufffd" in decoded
    )


def test_values_are_counted_before_any_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsontext, "_UNCOUNTED", 0)
    text = b"[" + b'{"a":[1,2,3]},' * 99 + b'{"b":"[,,,,"}]'
    jsontext.check_values(text, 100, "things")
    with pytest.raises(PayloadTooLarge, match="more than 99 things"):
        jsontext.check_values(text, 99, "things")
