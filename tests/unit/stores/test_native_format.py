"""Blocks are read back by the reader of ClickHouse's own Python client."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver.transform import NativeTransform
from clickhouse_connect.driverc.buffer import ResponseBuffer
from hypothesis import given
from hypothesis import strategies as st

from tracebility.stores import native_format as native
from tracebility.stores.native_format import Column

TEXT = st.text(max_size=300)
LABEL = st.sampled_from(["", "a", "é\0", "x" * 200])
UINT64 = st.integers(0, (1 << 64) - 1)
NANOS = st.integers(0, (1 << 63) - 1)


class Source:
    """What the client reads an answer from."""

    def __init__(self, data: bytes) -> None:
        self.gen = iter([data])

    def close(self) -> None:
        pass


def read(columns: list[Column], rows: int) -> list[tuple[Any, ...]]:
    answer = NativeTransform.parse_response(ResponseBuffer(Source(native.block(columns, rows))))
    assert list(answer.column_names) == [column.name for column in columns]
    return [tuple(column) for column in answer.result_columns]


@given(st.lists(TEXT, min_size=1))
def test_strings_are_read_back(values: list[str]) -> None:
    assert read([Column("s", "String", native.strings(values))], len(values)) == [tuple(values)]


@pytest.mark.parametrize("length", [127, 128, 16_383, 16_384, 2_100_000])
def test_a_string_of_any_length_is_read_back(length: int) -> None:
    values = ["", "x" * length, "end"]
    assert read([Column("s", "String", native.strings(values))], 3) == [tuple(values)]


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert read([Column("s", "String", native.strings(["a\ud800b", "ü"]))], 2) == [("a?b", "ü")]


@given(st.lists(LABEL, min_size=1))
def test_labels_are_read_back(values: list[str]) -> None:
    column = Column("l", "LowCardinality(String)", native.low_cardinality(values))
    assert read([column], len(values)) == [tuple(values)]


@pytest.mark.parametrize("distinct", [256, 257, 65_536, 65_537])
def test_labels_are_read_back_at_the_bounds_of_an_index_s_width(distinct: int) -> None:
    values = [str(number) for number in range(distinct)] + ["0", str(distinct - 1)]
    column = Column("l", "LowCardinality(String)", native.low_cardinality(values))
    assert read([column], len(values)) == [tuple(values)]


@given(st.lists(st.tuples(UINT64, NANOS, st.none() | st.integers(-(10**18), 10**18), st.uuids()), min_size=1))
def test_numbers_and_ids_are_read_back(rows: list[tuple[int, int, int | None, UUID]]) -> None:
    counts, moments, costs, ids = zip(*rows, strict=True)
    columns = [
        Column("n", "UInt64", native.unsigned(counts)),
        Column("t", "Int64", native.signed(moments)),
        Column("c", "Nullable(Decimal(18, 9))", native.nullable_signed(costs)),
        Column("u", "UUID", native.uuids(b"".join(one.bytes for one in ids))),
    ]
    dollars = tuple(None if cost is None else Decimal(cost).scaleb(-9) for cost in costs)
    assert read(columns, len(rows)) == [counts, moments, dollars, ids]


@given(st.lists(st.tuples(st.lists(TEXT, max_size=4), st.dictionaries(LABEL, TEXT)), min_size=1))
def test_arrays_and_maps_are_read_back(rows: list[tuple[list[str], dict[str, str]]]) -> None:
    arrays, maps = zip(*rows, strict=True)
    columns = [
        Column("a", "Array(String)", native.arrays_of_strings(arrays)),
        Column(
            "m",
            "Map(LowCardinality(String), String)",
            native.maps(maps),
        ),
    ]
    read_arrays, read_maps = read(columns, len(rows))
    assert (tuple(map(list, read_arrays)), read_maps) == (arrays, maps)


@given(st.lists(st.tuples(st.dictionaries(LABEL, TEXT), st.integers(1, 5)), min_size=1))
def test_repeated_maps_are_read_back(runs: list[tuple[dict[str, str], int]]) -> None:
    rows = [one for one, times in runs for _ in range(times)]
    data = native.repeated_maps([(tuple(one), tuple(one.values()), times) for one, times in runs])
    assert read([Column("m", "Map(LowCardinality(String), String)", data)], len(rows)) == [tuple(rows)]


def test_a_block_without_values_anywhere_is_read_back() -> None:
    columns = [
        Column("s", "String", native.strings([""] * 3)),
        Column("m", "Map(LowCardinality(String), String)", native.maps([{}, {}, {}])),
        Column("r", "Map(LowCardinality(String), String)", native.repeated_maps([((), (), 3)])),
    ]
    assert read(columns, 3) == [("",) * 3, ({},) * 3, ({},) * 3]
