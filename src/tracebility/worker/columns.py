"""A batch's rows as columns in Native format: one table's block at a time, each value touched once more."""

from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import Any, NamedTuple

from tracebility.stores import native_format as native
from tracebility.stores.native_format import Column
from tracebility.worker.batch import Batch, Row
from tracebility.worker.previews import previews

SPANS_METER = "spans"
BYTES_METER = "bytes"

_TEXT = "String"
_LABEL = "LowCardinality(String)"
_COUNT = "UInt64"
_NANOS = "DateTime64(9, 'UTC')"
_MICROS = "DateTime64(6, 'UTC')"
_MAP = "Map(LowCardinality(String), String)"

_ENCODERS: dict[str, Callable[[Sequence[Any]], native.Pieces]] = {
    _TEXT: native.strings,
    _LABEL: native.low_cardinality,
    _COUNT: native.unsigned,
    _NANOS: native.signed,
    f"Nullable({_NANOS})": native.nullable_signed,
    "Nullable(Decimal(18, 9))": native.nullable_signed,
}

# Columns of `span` that are one value of a `Row`, by the field's name.
_OF_A_FIELD: tuple[tuple[str, str, str], ...] = (
    ("trace_id", _TEXT, "trace_id"),
    ("span_id", _TEXT, "span_id"),
    ("parent_span_id", _TEXT, "parent_span_id"),
    ("name", _LABEL, "name"),
    ("kind", _LABEL, "kind"),
    ("otel_kind", _LABEL, "otel_kind"),
    ("start_time", _NANOS, "start_ns"),
    ("end_time", f"Nullable({_NANOS})", "end_ns"),
    ("status", _LABEL, "status"),
    ("status_message", _TEXT, "status_message"),
    ("error_type", _LABEL, "error_type"),
    ("model", _LABEL, "model"),
    ("request_model", _LABEL, "request_model"),
    ("provider", _LABEL, "provider"),
    ("input_tokens", _COUNT, "input_tokens"),
    ("output_tokens", _COUNT, "output_tokens"),
    ("total_tokens", _COUNT, "total_tokens"),
    ("cache_read_tokens", _COUNT, "cache_read_tokens"),
    ("cache_write_tokens", _COUNT, "cache_write_tokens"),
    ("reasoning_tokens", _COUNT, "reasoning_tokens"),
    ("cost", "Nullable(Decimal(18, 9))", "cost"),
    ("cost_source", _LABEL, "cost_source"),
    ("time_to_first_token_ns", _COUNT, "time_to_first_token_ns"),
    ("inputs", _TEXT, "inputs"),
    ("outputs", _TEXT, "outputs"),
    ("session_id", _TEXT, "session_id"),
    ("user_id", _TEXT, "user_id"),
    ("scope_name", _LABEL, "scope_name"),
    ("scope_version", _LABEL, "scope_version"),
    ("environment", _LABEL, "environment"),
    ("events", _TEXT, "events"),
    ("links", _TEXT, "links"),
)
_POSITIONS = {field: position for position, field in enumerate(Row._fields)}


class Block(NamedTuple):
    """Rows ready to insert."""

    table: str
    names: tuple[str, ...]
    rows: int
    data: bytes


def span_block(batch: Batch) -> Block:
    """The batch's rows for ``span``."""
    values = tuple(zip(*batch.rows, strict=True))
    by_field = {field: values[position] for field, position in _POSITIONS.items()}
    columns = _tenant_columns(batch, 1)
    columns += (Column(name, kind, _ENCODERS[kind](by_field[field])) for name, kind, field in _OF_A_FIELD)
    inputs, outputs = previews(batch)
    columns += (
        Column("input_preview", _TEXT, native.strings(inputs)),
        Column("output_preview", _TEXT, native.strings(outputs)),
    )
    columns += (
        Column("tags", "Array(String)", native.arrays_of_strings(batch.tags, by_field["tags"])),
        Column("metadata", _MAP, native.maps(batch.metadata_keys, batch.metadata_values, by_field["metadata"])),
        Column("attributes", _MAP, native.maps(batch.attribute_keys, batch.attribute_values, by_field["attributes"])),
        Column("resource", _MAP, native.repeated_maps(batch.resources)),
        Column("source", _LABEL, native.low_cardinality(_per_envelope(batch, lambda header: header.source))),
        Column("event_id", "UUID", native.uuids(b"".join(by_field["event_id"]))),
        Column("envelope_id", "UUID", native.uuids(b"".join(header.id.bytes * n for header, n in batch.envelopes))),
    )
    columns += _stamp_columns(batch, 1)
    return _block("span", columns, len(batch.rows))


def meter_block(batch: Batch) -> Block:
    """The batch's rows for ``billing_meter``: a count of one and a count of bytes for each span."""
    rows = len(batch.rows)
    ids: list[bytes] = []
    sizes: list[int] = []
    position_of_id, position_of_size = _POSITIONS["event_id"], _POSITIONS["size"]
    for row in batch.rows:
        ids.append(row[position_of_id])
        sizes.append(row[position_of_size])
    columns = _tenant_columns(batch, 2)
    columns += (
        Column("period", _LABEL, native.low_cardinality(_per_envelope(batch, lambda header: header.period) * 2)),
        Column("meter", _LABEL, native.low_cardinality([SPANS_METER] * rows + [BYTES_METER] * rows)),
        Column("event_id", "UUID", native.uuids(b"".join(ids) * 2)),
        Column("qty", _COUNT, native.unsigned([1] * rows + sizes)),
    )
    columns += _stamp_columns(batch, 2)
    return _block("billing_meter", columns, 2 * rows)


def _block(table: str, columns: list[Column], rows: int) -> Block:
    return Block(table, tuple(column.name for column in columns), rows, native.block(columns, rows))


def _tenant_columns(batch: Batch, times: int) -> list[Column]:
    """The tenant of every row, for rows that repeat those of the batch ``times`` times."""
    return [
        Column(
            name,
            "UUID",
            native.uuids(b"".join(getattr(header, name).bytes * n for header, n in batch.envelopes)) * times,
        )
        for name in ("org_id", "workspace_id", "project_id")
    ]


def _stamp_columns(batch: Batch, times: int) -> list[Column]:
    """What was stamped at accept. It is the rows' version too: the newest accept of a span wins."""
    accepted = native.signed(_per_envelope(batch, lambda header: header.accepted_at_us)) * times
    return [
        Column("accepted_at", _MICROS, accepted),
        Column("version", _COUNT, accepted),
    ]


def _per_envelope(batch: Batch, read: Callable[[Any], Any]) -> list[Any]:
    return list(chain.from_iterable(repeat(read(header), rows) for header, rows in batch.envelopes))
