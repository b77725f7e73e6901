"""Encodes columns in ClickHouse's Native format, for the worker's inserts, at a few microseconds per span.

A block is a header and, for each column, its name, type and data. Each function below encodes the values of one column;
``block`` joins columns. Values must fit their type: the mapping of client data clamps them. A *cell* is an encoded
string: the length of its UTF-8, then the UTF-8.
"""

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, repeat
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

# The varints of lengths below this are precomputed.
_PRECOMPUTED_LENGTHS = 1 << 14
# LowCardinality, serialization version 1: each block brings a dictionary ("additional keys", bit 9; renewed, bit 10).
_LOW_CARDINALITY_VERSION = (1).to_bytes(8, "little")
_DICTIONARY_FLAGS = 1 << 9 | 1 << 10
_INDEX_CODES = (("B", 1 << 8), ("H", 1 << 16), ("I", 1 << 32))
_INDEX_TYPES = {"B": "<u1", "H": "<u2", "I": "<u4"}


# The data of a column in pieces, to be joined once for the whole block.
Pieces: TypeAlias = list[bytes]
Codes: TypeAlias = npt.NDArray[np.int64]

# The longest encoding of a length.
MAX_VARINT_BYTES = 10

EMPTY_TEXT = b"\0"  # the cell of an empty string: a length of 0


class Column(NamedTuple):
    """An encoded column: the prefix that its type requires, then the values."""

    name: str
    type: str
    data: Pieces


def varint(number: int) -> bytes:
    """Encode ``number`` as LEB128: base 128, lowest group first."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def text(value: str) -> bytes:
    """Encode a string as a cell. Lone surrogates, which UTF-8 cannot encode, become question marks."""
    encoded = value.encode("utf-8", "replace")
    length = len(encoded)
    return (_VARINTS[length] if length < _PRECOMPUTED_LENGTHS else varint(length)) + encoded


def cell(encoded: bytes) -> bytes:
    """Make a cell of UTF-8 bytes."""
    length = len(encoded)
    return (_VARINTS[length] if length < _PRECOMPUTED_LENGTHS else varint(length)) + encoded


def read_text(cell: bytes) -> str:
    """Decode a string cell, which may be truncated."""
    start = 1
    while cell[start - 1] >= 0x80:
        start += 1
    return cell[start:].decode("utf-8", "ignore")


_VARINTS = [varint(length) for length in range(_PRECOMPUTED_LENGTHS)]


def block(columns: Sequence[Column], rows: int) -> bytes:
    """One block of ``rows`` rows, ready to follow ``INSERT INTO ... FORMAT Native``."""
    pieces = [varint(len(columns)), varint(rows)]
    for column in columns:
        pieces += (text(column.name), text(column.type))
        pieces += column.data
    return b"".join(pieces)


def strings(values: Sequence[str]) -> Pieces:
    """Encode ``String``. Lone surrogates, which UTF-8 cannot encode, become question marks."""
    if not any(values):
        return [bytes(len(values))]
    try:
        encoded = list(map(str.encode, values))
    except UnicodeEncodeError:
        encoded = [value.encode("utf-8", "replace") for value in values]
    lengths = list(map(len, encoded))
    pieces: Pieces = [b""] * (2 * len(values))
    if max(lengths) < _PRECOMPUTED_LENGTHS:
        pieces[::2] = map(_VARINTS.__getitem__, lengths)
    else:
        pieces[::2] = map(varint, lengths)
    pieces[1::2] = encoded
    return pieces


def low_cardinality(values: Sequence[str]) -> Pieces:
    """Encode ``LowCardinality(String)``: the distinct values of the block, then one index per row."""
    return [_LOW_CARDINALITY_VERSION, *_dictionary(values)]


def low_cardinality_codes(codes: Codes, cells: Sequence[bytes]) -> Pieces:
    """Like ``low_cardinality``, for values given as indexes into ``cells``."""
    return [_LOW_CARDINALITY_VERSION, *_dictionary_codes(codes, cells)]


def unsigned(values: Iterable[int]) -> Pieces:
    """Encode ``UInt64``."""
    return [_little_endian(array("Q", values))]


def signed(values: Iterable[int]) -> Pieces:
    """Encode ``Int64``, ``DateTime64`` (ticks since 1970) and ``Decimal(18, s)`` (units of its scale)."""
    return [_little_endian(array("q", values))]


def nullable_signed(values: Sequence[int | None]) -> Pieces:
    """Encode ``Nullable`` of the types of ``signed``: one NULL flag byte per row, then the values."""
    nulls = bytes([value is None for value in values])
    return [nulls, *signed([value or 0 for value in values])]


def uuids(values: bytes) -> Pieces:
    """Encode ``UUID`` from 16 bytes per row in RFC 9562 order. ClickHouse stores each half little-endian."""
    halves = array("Q", values)
    halves.byteswap()
    return [halves.tobytes()]


def arrays_of_strings(rows: Sequence[Sequence[str]]) -> Pieces:
    """Encode ``Array(String)``."""
    return [_offsets(map(len, rows)), *strings(list(chain.from_iterable(rows)))]


def arrays_of_cells(rows: Sequence[Sequence[bytes]]) -> Pieces:
    """Like ``arrays_of_strings``, for rows of cells."""
    return [_offsets(map(len, rows)), *chain.from_iterable(rows)]


def maps(rows: Sequence[Mapping[str, str]]) -> Pieces:
    """Encode ``Map(LowCardinality(String), String)``."""
    keys = list(chain.from_iterable(rows))
    values = list(chain.from_iterable(row.values() for row in rows))
    return [_LOW_CARDINALITY_VERSION, _offsets(map(len, rows)), *_dictionary(keys), *strings(values)]


def maps_of_cells(rows: Sequence[tuple[Sequence[int], Sequence[bytes]]], keys: Sequence[bytes]) -> Pieces:
    """Like ``maps``, for rows given as indexes into the cells ``keys`` and as many cells of values."""
    codes = np.array(list(chain.from_iterable(numbers for numbers, _ in rows)), np.int64)
    counts = np.fromiter((len(numbers) for numbers, _ in rows), np.int64, len(rows))
    return maps_codes(codes, keys, list(chain.from_iterable(cells for _, cells in rows)), counts)


def maps_codes(codes: Codes, keys: Sequence[bytes], values: Pieces, counts: Codes) -> Pieces:
    """Like ``maps``, for the entries of all rows in order: indexes into the cells ``keys``, and cells of values.

    ``counts``: the number of entries of each row.
    """
    offsets = np.cumsum(counts).astype("<u8").tobytes()
    return [_LOW_CARDINALITY_VERSION, offsets, *_dictionary_codes(codes, keys), *values]


def repeated_maps(runs: Sequence[tuple[Sequence[str], Sequence[str], int]]) -> Pieces:
    """Like ``maps``, for runs of equal rows: the keys and values of one row, and the number of such rows."""
    positions: dict[str, int] = {}
    for keys, _, _ in runs:
        for key in keys:
            positions.setdefault(key, len(positions))
    offsets = _offsets(chain.from_iterable(repeat(len(keys), rows) for keys, _, rows in runs))
    if not positions:
        return [_LOW_CARDINALITY_VERSION, offsets]
    code = _index_code(len(positions))
    indexes = [_little_endian(array(code, [positions[key] for key in keys])) * rows for keys, _, rows in runs]
    texts = [b"".join(strings(values)) * rows for _, values, rows in runs]
    entries = sum(len(keys) * rows for keys, _, rows in runs)
    return [_LOW_CARDINALITY_VERSION, offsets, *_dictionary_head(list(positions), code, entries), *indexes, *texts]


def _offsets(counts: Iterable[int]) -> bytes:
    return _little_endian(array("Q", accumulate(counts)))


def _dictionary(values: Sequence[str]) -> Pieces:
    if not values:
        return []
    positions = {value: position for position, value in enumerate(dict.fromkeys(values))}
    code = _index_code(len(positions))
    indexes = _little_endian(array(code, map(positions.__getitem__, values)))
    return [*_dictionary_head(list(positions), code, len(values)), indexes]


def _dictionary_codes(codes: Codes, cells: Sequence[bytes]) -> Pieces:
    if not codes.size:
        return []
    is_used = np.zeros(len(cells), np.bool_)
    is_used[codes] = True
    used = np.flatnonzero(is_used).tolist()
    code = _index_code(len(used))
    indexes = (np.cumsum(is_used) - 1)[codes].astype(_INDEX_TYPES[code])
    flags = _DICTIONARY_FLAGS | "BHI".index(code)
    return [
        *unsigned((flags, len(used))), *(cells[one] for one in used), *unsigned((len(codes),)), indexes.tobytes()
    ]  # fmt: skip


def _dictionary_head(distinct: Sequence[str], code: str, rows: int) -> Pieces:
    flags = _DICTIONARY_FLAGS | "BHI".index(code)
    return [*unsigned((flags, len(distinct))), *strings(distinct), *unsigned((rows,))]


def _index_code(distinct: int) -> str:
    return next(code for code, bound in _INDEX_CODES if distinct <= bound)


def _little_endian(numbers: "array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
