"""Records on disk: whatever bytes are cut off or damaged, every whole record comes back, in order, and no other."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracebility.ingest.disk_buffer import records
from tracebility.ingest.disk_buffer.records import HEAD_BYTES, MAGIC, encode, read, size_of

NONCE = 0x5EED

envelopes = st.fixed_dictionaries(
    {
        "h": st.binary(max_size=40),
        "b": st.binary(max_size=80)
        | st.sampled_from([MAGIC, MAGIC * 9])
        | st.builds(lambda org: encode(0, 0, org, {"h": b"", "b": b""}), st.binary(min_size=16, max_size=16)),
    }
)
written = st.lists(st.tuples(st.binary(min_size=16, max_size=16), envelopes), max_size=8)
on_disk = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def all_of(path: Path, data: bytes, batch: int = 100) -> tuple[list[records.Record], list[tuple[int, int]], int]:
    """Everything that a replay finds in a file of ``data``."""
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    found: list[records.Record] = []
    damaged: list[tuple[int, int]] = []
    offset = torn = 0
    try:
        while offset < len(data):
            step = read(fd, len(data), NONCE, offset, batch)
            assert step.next_offset > offset
            offset = step.next_offset
            found += step.records
            damaged += step.damaged
            torn += step.torn_bytes
    finally:
        os.close(fd)
    return found, damaged, torn


def contents(found: list[records.Record]) -> list[tuple[bytes, dict[str, bytes]]]:
    return [(record.org, record.fields) for record in found]


@on_disk
@given(written, st.integers(1, 300))
def test_what_was_written_comes_back_in_order(
    tmp_path: Path, entries: list[tuple[bytes, dict[str, bytes]]], batch: int
) -> None:
    parts = [encode(NONCE, 7, org, fields) for org, fields in entries]
    assert [size_of(fields) for _, fields in entries] == list(map(len, parts))
    found, damaged, torn = all_of(tmp_path / "file", b"".join(parts), batch)
    assert contents(found) == entries
    assert {record.epoch for record in found} <= {7}
    assert (damaged, torn) == ([], 0)


@on_disk
@given(written, st.data())
def test_a_torn_tail_costs_what_was_not_whole(
    tmp_path: Path, entries: list[tuple[bytes, dict[str, bytes]]], data: st.DataObject
) -> None:
    parts = [encode(NONCE, 0, org, fields) for org, fields in entries]
    whole = b"".join(parts)
    length = data.draw(st.integers(0, len(whole)))
    found, damaged, torn = all_of(tmp_path / "file", whole[:length])
    ends = [sum(map(len, parts[: count + 1])) for count in range(len(parts))]
    survivors = sum(end <= length for end in ends)
    assert contents(found) == entries[:survivors]
    assert damaged == []
    assert torn == length - (ends[survivors - 1] if survivors else 0)


@on_disk
@given(written.filter(bool), st.data())
def test_a_damaged_record_is_set_aside_and_the_rest_comes_back(
    tmp_path: Path, entries: list[tuple[bytes, dict[str, bytes]]], data: st.DataObject
) -> None:
    parts = [encode(NONCE, 0, org, fields) for org, fields in entries]
    victim = data.draw(st.integers(0, len(parts) - 1))
    place = data.draw(st.integers(0, len(parts[victim]) - 1))
    damaged_part = bytearray(parts[victim])
    damaged_part[place] ^= data.draw(st.integers(1, 255))
    start = sum(map(len, parts[:victim]))
    found, damaged, torn = all_of(
        tmp_path / "file", b"".join([*parts[:victim], bytes(damaged_part), *parts[victim + 1 :]])
    )
    assert contents(found) == entries[:victim] + entries[victim + 1 :]
    is_last = victim == len(parts) - 1
    if damaged or not is_last:
        assert damaged == [(start, start + len(parts[victim]))]
    else:
        # The last one with a damaged length cannot be told from one that was cut off.
        assert torn == len(parts[victim])


@on_disk
@given(st.binary(max_size=300))
def test_any_bytes_end(tmp_path: Path, data: bytes) -> None:
    found, damaged, torn = all_of(tmp_path / "file", data)
    assert found == []
    assert torn + sum(end - start for start, end in damaged) == len(data)


def test_zeros_behind_the_last_record_are_a_torn_tail(tmp_path: Path) -> None:
    entry = (b"o" * 16, {"h": b"h", "b": b"b"})
    part = encode(NONCE, 0, *entry)
    found, damaged, torn = all_of(tmp_path / "file", part + bytes(5000))
    assert (contents(found), damaged, torn) == ([entry], [], 5000)


def test_a_client_cannot_plant_a_record_in_its_body(tmp_path: Path) -> None:
    """With the head before it damaged, the search meets the body; only who knows the file's number could pass."""
    planted = encode(0, 0, b"v" * 16, {"h": b"forged", "b": b"forged"})
    part = bytearray(encode(NONCE, 0, b"a" * 16, {"h": b"h", "b": planted}))
    part[5] ^= 1
    after = encode(NONCE, 0, b"b" * 16, {"h": b"h", "b": b"b"})
    found, damaged, _ = all_of(tmp_path / "file", bytes(part) + after)
    assert contents(found) == [(b"b" * 16, {"h": b"h", "b": b"b"})]
    assert damaged == [(0, len(part))]


def test_a_search_goes_beyond_its_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_SEARCH_BYTES", 7)
    entry = (b"o" * 16, {"h": b"h", "b": b"b"})
    found, damaged, _ = all_of(tmp_path / "file", b"?" * 100 + encode(NONCE, 0, *entry))
    assert (contents(found), damaged) == ([entry], [(0, 100)])


def test_owners_are_counted_by_their_heads(tmp_path: Path) -> None:
    parts = [encode(NONCE, 0, org * 16, {"h": b"", "b": b"x" * 10}) for org in (b"a", b"b", b"a")]
    path = tmp_path / "file"
    path.write_bytes(b"".join(parts) + b"torn")
    fd = os.open(path, os.O_RDONLY)
    try:
        held = records.owners(fd, path.stat().st_size)
    finally:
        os.close(fd)
    one = HEAD_BYTES + 4 + 10
    assert held == {b"a" * 16: 2 * one, b"b" * 16: one}


@pytest.mark.parametrize("window", range(5, 12))
def test_a_good_record_is_found_wherever_the_search_is_cut(
    tmp_path: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search reads a piece at a time: what marks a record may begin in one piece and end in the next."""
    monkeypatch.setattr(records, "_SEARCH_BYTES", window)
    good = encode(NONCE, 0, bytes(16), {"h": b"h", "b": b"b"})
    for rubbish in range(1, 30):
        found, damaged, torn = all_of(tmp_path / "file", bytes(rubbish) + good)
        assert (len(found), damaged, torn) == (1, [(0, rubbish)], 0)
