"""Whatever is sent is a document or a refusal that says where it is wrong; never a crash, never half of one."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebility.errors import BadRequest, Problem, Unprocessable
from tracebility.orgs.keys import NewKey, Rotation, in_order
from tracebility.orgs.orgs import NewOrg, OrgChanges
from tracebility.orgs.projects import NewPlace
from tracebility.tenant.limits import Limits
from tracebility.validation import checked, must_be_name, read, stamp

KINDS: list[type[msgspec.Struct]] = [Limits, NewOrg, OrgChanges, NewPlace, NewKey, Rotation]
FIELDS = sorted({name for kind in KINDS for name in kind.__struct_fields__} | {"requests_per_s", "spans", "hard", "x"})

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["read", "admin"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
)


@given(kind=st.sampled_from(KINDS), value=values)
def test_any_json_is_a_document_or_a_refusal_that_names_a_place(kind: type[msgspec.Struct], value: Any) -> None:
    try:
        assert isinstance(read(json.dumps(value).encode(), kind), kind)
    except Unprocessable as refusal:
        place, _, words = refusal.detail.partition(": ")
        assert place
        assert len(words) > 5
        assert refusal.hint  # noqa: PT017
    except BadRequest:
        assert any(word in json.dumps(value) for word in ("NaN", "Infinity", "\\ud"))


@given(kind=st.sampled_from(KINDS), text=st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(kind: type[msgspec.Struct], text: bytes) -> None:
    try:
        read(text, kind)
    except Problem as refusal:
        assert refusal.status in (400, 422)  # noqa: PT017


@pytest.mark.parametrize("depth", [100, 10_000, 30_000])
@pytest.mark.parametrize("start", ["[", '{"x":', '{"rate":', '{"meters":{"spans":'])
@pytest.mark.parametrize("kind", KINDS)
def test_no_depth_is_too_much(kind: type[msgspec.Struct], start: str, depth: int) -> None:
    with pytest.raises(Problem) as refused:
        read((start * depth).encode(), kind)
    assert refused.value.status in (400, 422)


@pytest.mark.parametrize(
    ("text", "kind", "detail"),
    [
        ("{}", NewOrg, "name: is missing."),
        ('{"name": "a", "x": 1}', NewOrg, "x: there is no such field."),
        ("{}", Limits, "rate: is missing."),
        ('{"rate": {"burst": 5}}', Limits, "rate.requests_per_s: is missing."),
        ('{"meters": {"bytes": {"soft": 5}}}', Limits, "meters.bytes.hard: is missing."),
        ('{"meters": {"runs": {}}}', Limits, "meters.runs: there is no such field."),
        ('{"meters": {"spans": {"hard": -1}}}', Limits, "meters.spans.hard: expected `int` >= 0."),
        (
            '{"meters": {"spans": {"hard": 1, "soft": 2}}}',
            Limits,
            "meters.spans.soft: must be at most hard, which is 1.",
        ),
        ('{"suspended": null}', OrgChanges, "suspended: expected `bool`, got `null`."),
        ("5", NewOrg, "the body: expected `object`, got `int`."),
        (
            '{"name": "a", "scopes": ["operator"]}',
            NewKey,
            "scopes: must contain at least one of ingest:write, read, admin, and nothing else.",
        ),
    ],
)
def test_a_refusal_says_where_and_what_is_taken(text: str, kind: type[msgspec.Struct], detail: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        read(text.encode(), kind)
    assert refused.value.detail == detail


def test_options_of_a_command_have_the_bounds_of_a_body() -> None:
    assert checked(Rotation, {"overlap_s": 5}) == Rotation(5)
    with pytest.raises(Unprocessable, match="overlap_s"):
        checked(Rotation, {"overlap_s": -1})


@given(st.text(max_size=300))
def test_a_name_is_what_people_can_read(text: str) -> None:
    try:
        must_be_name(text)
    except ValueError:
        assert not text.strip() or len(text) > 200 or not text.isprintable()
    else:
        assert "\0" not in text
        assert "\n" not in text
        text.encode()


@given(st.lists(st.sampled_from(["ingest:write", "read", "admin"])))
def test_scopes_are_shown_once_each_and_always_in_one_order(scopes: list[str]) -> None:
    assert in_order(scopes) == [scope for scope in ("ingest:write", "read", "admin") if scope in scopes]


def test_times_are_shown_in_utc_with_six_digits() -> None:
    moment = datetime(2026, 11, 27, 1, 0, 0, 5, timezone(timedelta(hours=2)))
    assert stamp(moment) == "2026-11-26T23:00:00.000005Z"
    assert stamp(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000000Z"
    assert stamp(None) is None
