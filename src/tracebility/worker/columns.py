"""Encodes the rows of a batch as blocks in Native format, one for each table."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import numpy as np
import numpy.typing as npt

from tracebility.stores import native_format as native
from tracebility.stores.native_format import Column
from tracebility.wire.envelope import Header
from tracebility.wire.span_columns import (
    COUNT,
    DOLLARS,
    LABEL,
    MAP,
    MICROS,
    NANOS,
    NULLABLE_NANOS,
    SPAN_COLUMNS,
    TEXT,
    TEXTS,
)
from tracebility.worker.batch import Batch
from tracebility.worker.previews import Order, previews

Flags: TypeAlias = npt.NDArray[np.bool_]
Numbers: TypeAlias = npt.NDArray[np.int64]

# Envelopes in the order of the rows, each with its number of rows.
Headers: TypeAlias = Sequence[tuple[Header, int]]

SPANS_METER = "spans"
BYTES_METER = "bytes"

# A copy of a span never replaces a more complete one, in any order of arrival. The version is the accept time in
# microseconds, which fits 51 bits until 2041, plus these higher bits for an end, outputs and usage.
_WITH_END, _WITH_OUTPUT, _WITH_USAGE = 1 << 54, 1 << 53, 1 << 52

_ENCODERS: dict[str, Callable[[Sequence[Any]], native.Pieces]] = {
    TEXT: native.strings,
    LABEL: native.low_cardinality,
    COUNT: native.unsigned,
    NANOS: native.signed,
    NULLABLE_NANOS: native.nullable_signed,
    DOLLARS: native.nullable_signed,
    TEXTS: native.arrays_of_strings,
    MAP: native.maps,
}
# Values for fields that a run does not have.
_DEFAULTS: dict[str, Any] = {TEXT: "", LABEL: "", COUNT: 0, NULLABLE_NANOS: None, DOLLARS: None, TEXTS: (), MAP: {}}


class Block(NamedTuple):
    """Rows ready to insert."""

    table: str
    names: tuple[str, ...]
    rows: int
    data: bytes


MAX_VERSION = (1 << 63) - 1


def span_block(batch: Batch) -> Block:
    """The batch's rows of ``span``. An insert may hold several blocks; the engine merges them into one part."""
    blocks = [chunk.block for chunk in batch.chunks]
    if batch.runs:
        blocks.append(_runs_block(batch))
    rows = len(batch.runs) + sum(chunk.rows for chunk in batch.chunks)
    return Block("span", tuple(column.name for column in SPAN_COLUMNS), rows, b"".join(blocks))


def completeness(has_end: Flags, has_output: Flags, has_usage: Flags) -> Numbers:
    """The bits that an end, outputs and usage add to a version."""
    bits: Numbers = has_end * _WITH_END + has_output * _WITH_OUTPUT + has_usage * _WITH_USAGE
    return bits


def block_of(data: Mapping[str, native.Pieces], headers: Headers, event_ids: bytes, complete: Numbers) -> bytes:
    """Join a block of ``span`` from ``data`` by column and the columns that the envelopes fill.

    ``complete`` is the `completeness` of each row. Among equally complete copies the latest accept wins.
    """
    accepted = np.array(_per_envelope(headers, lambda header: header.accepted_at_us), np.int64)
    by_column = {
        **data,
        **_tenants(headers),
        "source": native.low_cardinality(_per_envelope(headers, lambda header: header.source)),
        "event_id": native.uuids(event_ids),
        "envelope_id": native.uuids(b"".join(header.id.bytes * rows for header, rows in headers)),
        "accepted_at": [accepted.astype("<i8").tobytes()],
        "version": [(accepted + complete).astype("<i8").tobytes()],
    }
    columns = [Column(column.name, column.type, by_column[column.name]) for column in SPAN_COLUMNS]
    return native.block(columns, sum(rows for _, rows in headers))


def meter_block(batch: Batch) -> Block:
    """The batch's rows of ``billing_meter``: for each span one row with quantity 1 and one with its bytes."""
    headers = [*batch.envelopes, *chain.from_iterable(chunk.headers for chunk in batch.chunks)]
    ids = b"".join([*(run["event_id"] for run in batch.runs), *(chunk.event_ids for chunk in batch.chunks)])
    sizes = [*batch.sizes, *chain.from_iterable(chunk.sizes for chunk in batch.chunks)]
    rows = len(sizes)
    columns = [Column(name, "UUID", data * 2) for name, data in _tenants(headers).items()]
    columns += (
        Column("period", LABEL, native.low_cardinality(_per_envelope(headers, lambda header: header.period) * 2)),
        Column("meter", LABEL, native.low_cardinality([SPANS_METER] * rows + [BYTES_METER] * rows)),
        Column("event_id", "UUID", native.uuids(ids * 2)),
        Column("qty", COUNT, native.unsigned(chain(repeat(1, rows), sizes))),
        Column("accepted_at", MICROS, native.signed(_per_envelope(headers, lambda header: header.accepted_at_us) * 2)),
        Column("version", COUNT, _first_accepted_wins(headers) * 2),
    )
    return Block("billing_meter", tuple(column.name for column in columns), 2 * rows, native.block(columns, 2 * rows))


def _runs_block(batch: Batch) -> bytes:
    runs = batch.runs
    texts: dict[str, native.Pieces] = {name: [native.text(run[name]) for run in runs] for name in ("inputs", "outputs")}
    traces: dict[tuple[UUID, str], int] = {}
    projects = _per_envelope(batch.envelopes, lambda header: header.project_id)
    keys = zip(projects, [run["trace_id"] for run in runs], strict=True)
    ends = np.array([run["end_time"] or 0 for run in runs], np.int64)
    order = Order(
        np.array([traces.setdefault(key, len(traces)) for key in keys]),
        np.array([run["parent_span_id"] != "" for run in runs]),
        np.array([run["start_time"] for run in runs], np.int64),
        ends,
    )
    inputs, outputs = previews(order, texts["inputs"], texts["outputs"])
    data: dict[str, native.Pieces] = texts | {"input_preview": inputs, "output_preview": outputs}
    for column in SPAN_COLUMNS:
        if (column.name not in data and column.type in _DEFAULTS) or column.type == NANOS:
            default = _DEFAULTS.get(column.type)
            data[column.name] = _ENCODERS[column.type]([run.get(column.name, default) for run in runs])
    has_output = np.array([run["outputs"] != "" for run in runs])
    has_usage = np.array([run["total_tokens"] > 0 or run["cost"] is not None for run in runs])
    complete = completeness(ends > 0, has_output, has_usage)
    return block_of(data, batch.envelopes, b"".join(run["event_id"] for run in runs), complete)


def _tenants(headers: Headers) -> dict[str, native.Pieces]:
    return {
        name: native.uuids(b"".join(getattr(header, name).bytes * rows for header, rows in headers))
        for name in ("org_id", "workspace_id", "project_id")
    }


def _first_accepted_wins(headers: Headers) -> native.Pieces:
    """Versions that let the first accept win: a span sent again stays in its first hour, so settled hours are final."""
    return native.signed(_per_envelope(headers, lambda header: MAX_VERSION - header.accepted_at_us))


def _per_envelope(headers: Headers, read: Callable[[Header], Any]) -> list[Any]:
    return list(chain.from_iterable(repeat(read(header), rows) for header, rows in headers))
