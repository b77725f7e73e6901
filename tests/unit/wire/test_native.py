"""Native runs: each is read whole, or named with what is wrong with it, and the others go on."""

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebility.errors import BadRequest, PayloadTooLarge
from tracebility.wire import limits, native
from tracebility.wire.native import Run, Usage, decode_runs, inspect
from tracebility.wire.rejection import Rejection

ROOT = "550e8400-e29b-41d4-a716-446655440000"
CHILD = "660e8400-e29b-41d4-a716-446655440000"
GRANDCHILD = "770e8400-e29b-41d4-a716-446655440000"


def run(**changes: Any) -> dict[str, Any]:
    return {"id": ROOT, "name": "answer", "kind": "llm", "start_time": "2026-01-31T12:00:00Z"} | changes


def body(*runs: Any) -> bytes:
    return json.dumps({"runs": runs}).encode()


def only(text: bytes) -> Run:
    [found] = decode_runs(text)
    assert isinstance(found, Run), found
    return found


def test_one_run_may_stand_alone() -> None:
    assert only(json.dumps(run()).encode()) == only(body(run()))


def test_every_field_is_read() -> None:
    sent = run(
        trace_id=CHILD,
        parent_id=GRANDCHILD,
        kind="LLM",
        end_time=1769860801.5,
        inputs={"messages": [1, {"a": None}]},
        outputs="plain text",
        error={"message": "boom", "type": "ValueError"},
        model="m",
        provider="p",
        usage={"input_tokens": 3, "output_tokens": 2.0, "cache_read_tokens": None, "other": 7},
        cost=0.1,
        session_id=12,
        user_id="u",
        tags=["a", "b"],
        metadata={"text": "x", "number": 1, "nested": {"b": [2]}, "null": None},
        of_a_newer_client=[1],
    )
    text = json.dumps(sent).encode()
    assert only(text) == Run(
        id=ROOT,
        trace_id=CHILD,
        parent_id=GRANDCHILD,
        name="answer",
        kind="llm",
        start_ns=1_769_860_800 * 10**9,
        end_ns=1_769_860_801_500_000_000,
        status="error",
        inputs='{"messages": [1, {"a": null}]}',
        outputs="plain text",
        error="boom",
        error_type="ValueError",
        model="m",
        provider="p",
        usage=Usage(input_tokens=3, output_tokens=2),
        cost=Decimal("0.1"),
        session_id="12",
        user_id="u",
        tags=("a", "b"),
        metadata={"text": "x", "number": "1", "nested": '{"b": [2]}', "null": ""},
        size=len(text),
    )


def test_what_may_be_absent_may_be_null() -> None:
    optional = set(native._Sent.__struct_fields__) - {"id", "name", "kind", "start_time"}
    found = only(body(run(**dict.fromkeys(optional))))
    assert found.usage is None
    assert (found.end_ns, found.inputs, found.error, found.status) == (0, "", "", "unset")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "unset"),
        ({"end_time": "2026-01-31T12:00:01Z"}, "ok"),
        ({"error": "boom"}, "error"),
        ({"error": {"code": 3}}, "error"),
        ({"status": "Success"}, "ok"),
        ({"status": "running", "end_time": None}, "unset"),
        ({"status": "error"}, "error"),
    ],
)
def test_status_is_told_or_follows(changes: dict[str, Any], status: str) -> None:
    assert only(body(run(**changes))).status == status


BAD = [
    ({"id": "7"}, "id"),
    ({"id": "0" * 32}, "id"),
    ({"id": None}, "id"),
    ({"parent_id": ROOT}, "parent_id"),
    ({"trace_id": "zz"}, "trace_id"),
    ({"name": 3}, "name"),
    ({"name": "x" * (limits.NAME_CHARS + 1)}, "name"),
    ({"kind": "banana"}, "kind"),
    ({"start_time": "soon"}, "start_time"),
    ({"start_time": 2**63}, "start_time"),
    ({"end_time": -5}, "end_time"),
    ({"status": "fine"}, "status"),
    ({"usage": {"input_tokens": -1}}, "usage.input_tokens"),
    ({"usage": {"output_tokens": 1.5}}, "usage.output_tokens"),
    ({"usage": {"output_tokens": "many"}}, "usage.output_tokens"),
    ({"usage": {"output_tokens": 2**63}}, "usage.output_tokens"),
    ({"usage": {"output_tokens": True}}, "usage.output_tokens"),
    ({"usage": [1]}, "usage"),
    ({"cost": -1}, "cost"),
    ({"cost": "NaN"}, "cost"),
    ({"tags": ["x" * (limits.LABEL_CHARS + 1)]}, "tags"),
    ({"tags": ["x"] * (limits.TAGS + 1)}, "tags"),
    ({"tags": [1]}, "tags"),
    ({"metadata": {str(number): number for number in range(limits.ATTRIBUTES + 1)}}, "metadata"),
    ({"metadata": [1]}, "metadata"),
    ({"session_id": {"a": 1}}, "session_id"),
]


@pytest.mark.parametrize(("changes", "field"), BAD)
def test_a_bad_run_is_named_and_the_others_are_kept(changes: dict[str, Any], field: str) -> None:
    good = run(id=CHILD)
    first, second, third = decode_runs(body(good, run(**changes), good))
    assert isinstance(first, Run)
    assert isinstance(third, Run)
    assert isinstance(second, Rejection)
    assert second.index == 1
    assert field in second.error
    found = inspect(body(good, run(**changes), good))
    assert (found.items, [one.index for one in found.rejected], found.parts) == (2, [1], ())


@pytest.mark.parametrize("item", [None, 3, "run", [], {}, True])
def test_what_is_no_run_is_named(item: Any) -> None:
    assert [one.index for one in inspect(body(item, run())).rejected] == [0]


@pytest.mark.parametrize("depth", [limits.JSON_DEPTH, 900, 10_000])
def test_a_run_that_is_too_deep_is_refused_alone(depth: int) -> None:
    deep = json.dumps(run()).encode()[:-1] + b',"inputs":' + b"[" * depth + b"]" * depth + b"}"
    text = b'{"runs":[%b,%b]}' % (deep, json.dumps(run(id=CHILD)).encode())
    refused, kept = decode_runs(text)
    assert isinstance(refused, Rejection)
    assert "deep" in refused.error
    assert isinstance(kept, Run)


def test_the_deepest_run_allowed_is_kept() -> None:
    nested = b"[" * (limits.JSON_DEPTH - 1) + b"]" * (limits.JSON_DEPTH - 1)
    assert only(json.dumps(run()).encode()[:-1] + b',"inputs":' + nested + b"}").inputs == nested.decode()


def test_invalid_utf8_and_half_surrogates_cost_their_run_at_most() -> None:
    broken = json.dumps(run()).encode().replace(b"answer", b"\xff")
    half = json.dumps(run(id=CHILD, inputs={"a": "\ud800"})).encode()
    hidden = json.dumps(run(id=GRANDCHILD)).encode()[:-1] + b',"inputs":["\xc3\x28"]}'
    refused, kept, also_refused = decode_runs(b'{"runs":[%b,%b,%b]}' % (broken, half, hidden))
    assert isinstance(refused, Rejection)
    assert isinstance(also_refused, Rejection)
    assert isinstance(kept, Run)
    assert kept.inputs == '{"a": "\\ufffd"}'


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"3",
        b'"x"',
        b"[]",
        b"{",
        b'{"runs":',
        b'{"runs":null}',
        b'{"runs":{}}',
        b"{}{}",
        b'{"a":NaN}',
        b"\xff",
    ],
)
def test_a_body_that_holds_no_runs_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest):
        decode_runs(text)


def test_an_empty_list_is_well() -> None:
    assert decode_runs(b'{"runs":[]}') == []
    assert inspect(b'{"runs":[]}').items == 0


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    with suppress(BadRequest, PayloadTooLarge):
        inspect(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers()
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(native._Sent.__struct_fields__, JSON)))
def test_any_values_are_read_or_refused(sent: dict[str, Any]) -> None:
    [found] = decode_runs(body(run() | sent))
    assert isinstance(found, Run | Rejection)


def test_children_without_a_trace_join_their_topmost_ancestor() -> None:
    runs = decode_runs(body(run(id=GRANDCHILD, parent_id=CHILD), run(id=CHILD, parent_id=ROOT), run()))
    assert {one.trace_id for one in runs if isinstance(one, Run)} == {ROOT}
    [orphan] = decode_runs(body(run(id=GRANDCHILD, parent_id=CHILD)))
    assert isinstance(orphan, Run)
    assert orphan.trace_id == CHILD


def test_ids_that_differ_in_case_only_are_one_id() -> None:
    found = decode_runs(
        body(
            run(id=ROOT.upper()),
            run(id=CHILD, parent_id=ROOT),
            run(id=GRANDCHILD.upper(), parent_id=CHILD.upper()),
            run(id="A" * 16, trace_id="B" * 32, parent_id="C" * 16),
            run(id=GRANDCHILD, trace_id=CHILD.upper()),
        )
    )
    assert [(one.id, one.parent_id, one.trace_id) for one in found if isinstance(one, Run)] == [
        (ROOT, "", ROOT),
        (CHILD, ROOT, ROOT),
        (GRANDCHILD, CHILD, ROOT),
        ("a" * 16, "c" * 16, "b" * 32),
        (GRANDCHILD, "", CHILD),
    ]


def test_a_run_is_not_its_own_parent_in_other_letters() -> None:
    [refused] = decode_runs(body(run(id=ROOT, parent_id=ROOT.upper())))
    assert isinstance(refused, Rejection)
    assert "its own parent" in refused.error


def test_parents_in_a_circle_end() -> None:
    runs = decode_runs(body(run(id=CHILD, parent_id=ROOT), run(parent_id=CHILD)))
    assert len({one.trace_id for one in runs if isinstance(one, Run)}) == 1


def test_a_large_body_travels_in_parts_that_read_the_same() -> None:
    filler = "x" * 300_000
    runs = [run(id=f"{number:032x}", parent_id=ROOT, inputs=filler) for number in range(1, 9)] + [{"id": 1}, run()]
    whole = body(*runs)
    found = inspect(whole)
    assert found.items == 9
    assert [one.index for one in found.rejected] == [8]
    assert len(found.parts) == 3
    assert all(len(part.body) < limits.ENVELOPE_BYTES * 1.1 for part in found.parts)
    in_parts = [one for part in found.parts for one in decode_runs(part.body)]
    kept = [one for one in decode_runs(whole) if isinstance(one, Run)]
    assert [(one.id, one.trace_id, one.inputs) for one in in_parts if isinstance(one, Run)] == [
        (one.id, one.trace_id, one.inputs) for one in kept
    ]
    assert [part.items for part in found.parts] == [3, 3, 3]


def test_a_run_that_is_too_large_is_refused_alone() -> None:
    found = inspect(body(run(inputs="x" * limits.ITEM_BYTES), run(id=CHILD)))
    assert found.items == 1
    assert "10 MiB" in found.rejected[0].error


@pytest.mark.parametrize("trace", [{}, {"trace_id": CHILD}])
@pytest.mark.parametrize("below", [0, 1, 30, 49, 50, 51])
def test_what_the_edge_accepts_the_worker_reads(below: int, trace: dict[str, str]) -> None:
    empty = len(json.dumps(run(inputs="") | trace))
    whole = body(run(id=CHILD), run(inputs="x" * (limits.ITEM_BYTES - empty - below)) | trace)
    found = inspect(whole)
    read = [one for part in found.parts for one in decode_runs(part.body)]
    assert not [one for one in read if isinstance(one, Rejection)]
    assert (len(read), len(found.rejected)) == ((2, 0) if trace or below > 49 else (1, 1))
    assert [one.index for one in found.rejected] == [1][: len(found.rejected)]


def test_a_long_line_of_parents_is_walked_once() -> None:
    looks = 0

    class Counted(dict[str, Run]):
        def get(self, key: str, default: Any = None) -> Any:
            nonlocal looks
            looks += 1
            return super().get(key, default)

    ids = [f"{number:032x}" for number in range(1, 2001)]
    runs = [
        native.decode_runs(body(run(id=own, parent_id=parent)))[0] for own, parent in zip(ids[1:], ids, strict=False)
    ]
    unplaced = [msgspec.structs.replace(one, trace_id="") for one in runs if isinstance(one, Run)]
    traces: dict[str, str] = {}
    by_id = Counted((one.id, one) for one in unplaced)
    assert {native._trace_of(one.id, by_id, traces) for one in reversed(unplaced)} == {ids[0]}
    assert looks <= len(ids)


def test_an_inline_inspection_finds_what_a_full_one_finds_or_gives_up() -> None:
    good = body(run(), {"id": 1}, run(id=CHILD, parent_id=ROOT))
    assert native.inspect_inline(good) == inspect(good)
    assert native.inspect_inline(body(*[{}] * 60_000)) is None
    with pytest.raises(BadRequest):
        native.inspect_inline(b"{")


def test_too_many_runs_are_refused_before_they_are_made() -> None:
    with pytest.raises(PayloadTooLarge):
        inspect(b'{"runs":[' + b"1," * (1 << 20) + b"1]}")


def test_unknown_fields_are_named_and_the_run_is_kept() -> None:
    strange = run(id=CHILD, input="q", prompt_tokens=3, usage={"prompt_tokens": 1, "output_tokens": 2})
    found = inspect(body(run(), strange, run(kind="no", input=1)))
    assert (found.items, [one.index for one in found.rejected]) == (2, [2])
    assert [(one.index, one.warning) for one in found.warnings] == [
        (1, "unknown field 'input' is not stored; did you mean 'inputs'?"),
        (1, "unknown field 'prompt_tokens' is not stored; did you mean 'usage.input_tokens'?"),
        (1, "unknown field 'usage.prompt_tokens' is not stored; did you mean 'usage.input_tokens'?"),
        (2, "unknown field 'input' is not stored; did you mean 'inputs'?"),
    ]
    assert inspect(body(run())).warnings == ()
    assert native.inspect_inline(body(strange)) == inspect(body(strange))


def test_unknown_fields_of_a_run_alone_and_beside_a_list_are_named() -> None:
    [warning] = inspect(json.dumps(run(model_name="m")).encode()).warnings
    assert (warning.index, "did you mean 'model'" in warning.warning) == (0, True)
    [warning] = inspect(json.dumps({"runs": [run()], "project": "p"}).encode()).warnings
    assert (warning.index, warning.warning) == (None, "unknown field 'project' is not stored")


def test_many_unknown_fields_are_counted_and_a_few_named() -> None:
    crowd = run(**{f"x{number}": 1 for number in range(5_000)})
    assert native.inspect_inline(body(crowd)) is None
    warnings = inspect(body(crowd)).warnings
    assert len(warnings) == limits.REJECTIONS_NAMED + 1
    assert warnings[-1].warning == f"{5_000 - limits.REJECTIONS_NAMED} more unknown fields are not stored"
