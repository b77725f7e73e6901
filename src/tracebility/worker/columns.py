"""A batch's rows as columns in Native format: one table's block at a time, each value touched once more."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, NamedTuple, TypeAlias

from tracebility.stores import native_format as native
from tracebility.stores.native_format import Column
from tracebility.wire.envelope import Header
from tracebility.worker.batch import Batch, Row
from tracebility.worker.previews import previews

# Envelopes, and how many rows each has.
Headers: TypeAlias = Sequence[tuple[Header, int]]

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
# Columns of `span` as they are sent.
SPAN_COLUMNS: tuple[tuple[str, str], ...] = (
    ("org_id", "UUID"),
    ("workspace_id", "UUID"),
    ("project_id", "UUID"),
    *((name, kind) for name, kind, _ in _OF_A_FIELD),
    ("input_preview", _TEXT),
    ("output_preview", _TEXT),
    ("tags", "Array(String)"),
    ("metadata", _MAP),
    ("attributes", _MAP),
    ("resource", _MAP),
    ("source", _LABEL),
    ("event_id", "UUID"),
    ("envelope_id", "UUID"),
    ("accepted_at", _MICROS),
    ("version", _COUNT),
)
_POSITIONS = {field: position for position, field in enumerate(Row._fields)}


class Block(NamedTuple):
    """Rows ready to insert."""

    table: str
    names: tuple[str, ...]
    rows: int
    data: bytes


MAX_VERSION = (1 << 63) - 1


def span_block(batch: Batch) -> Block:
    """The batch's rows for ``span``. A statement's data may be several blocks; the engine makes one part of them."""
    blocks = [chunk.block for chunk in batch.chunks]
    if batch.rows:
        blocks.append(_rows_block(batch))
    rows = len(batch.rows) + sum(chunk.rows for chunk in batch.chunks)
    return Block("span", tuple(name for name, _ in SPAN_COLUMNS), rows, b"".join(blocks))


def block_of(data: Mapping[str, native.Pieces], headers: Headers, event_ids: bytes) -> bytes:
    """A block of ``span``: ``data`` by column, and what the envelopes say, so many rows each."""
    accepted = _accepted(headers)
    said = {
        **data,
        **_tenants(headers),
        "source": native.low_cardinality(_per_envelope(headers, lambda header: header.source)),
        "event_id": native.uuids(event_ids),
        "envelope_id": native.uuids(b"".join(header.id.bytes * rows for header, rows in headers)),
        "accepted_at": accepted,
        "version": accepted,
    }
    columns = [Column(name, kind, said[name]) for name, kind in SPAN_COLUMNS]
    return native.block(columns, sum(rows for _, rows in headers))


def meter_block(batch: Batch) -> Block:
    """The batch's rows for ``billing_meter``: a count of one and a count of bytes for each span."""
    headers = [*batch.envelopes, *chain.from_iterable(chunk.headers for chunk in batch.chunks)]
    at_id, at_size = _POSITIONS["event_id"], _POSITIONS["size"]
    ids = b"".join([*(row[at_id] for row in batch.rows), *(chunk.event_ids for chunk in batch.chunks)])
    sizes = [*(row[at_size] for row in batch.rows), *chain.from_iterable(chunk.sizes for chunk in batch.chunks)]
    rows = len(sizes)
    columns = [Column(name, "UUID", data * 2) for name, data in _tenants(headers).items()]
    columns += (
        Column("period", _LABEL, native.low_cardinality(_per_envelope(headers, lambda header: header.period) * 2)),
        Column("meter", _LABEL, native.low_cardinality([SPANS_METER] * rows + [BYTES_METER] * rows)),
        Column("event_id", "UUID", native.uuids(ids * 2)),
        Column("qty", _COUNT, native.unsigned(chain(repeat(1, rows), sizes))),
        Column("accepted_at", _MICROS, _accepted(headers) * 2),
        Column("version", _COUNT, _first_accepted_wins(headers) * 2),
    )
    return Block("billing_meter", tuple(column.name for column in columns), 2 * rows, native.block(columns, 2 * rows))


def _rows_block(batch: Batch) -> bytes:
    values = tuple(zip(*batch.rows, strict=True))
    by_field = {field: values[position] for field, position in _POSITIONS.items()}
    inputs, outputs = previews(batch)
    data = {name: _ENCODERS[kind](by_field[field]) for name, kind, field in _OF_A_FIELD} | {
        "input_preview": native.strings(inputs),
        "output_preview": native.strings(outputs),
        "tags": native.arrays_of_strings(batch.tags, by_field["tags"]),
        "metadata": native.maps(batch.metadata_keys, batch.metadata_values, by_field["metadata"]),
        "attributes": native.maps(batch.attribute_keys, batch.attribute_values, by_field["attributes"]),
        "resource": native.repeated_maps(batch.resources),
    }
    return block_of(data, batch.envelopes, b"".join(by_field["event_id"]))


def _tenants(headers: Headers) -> dict[str, native.Pieces]:
    return {
        name: native.uuids(b"".join(getattr(header, name).bytes * rows for header, rows in headers))
        for name in ("org_id", "workspace_id", "project_id")
    }


def _accepted(headers: Headers) -> native.Pieces:
    """What was stamped at accept. It is the rows' version too: the newest accept of a span wins."""
    return native.signed(_per_envelope(headers, lambda header: header.accepted_at_us))


def _first_accepted_wins(headers: Headers) -> native.Pieces:
    """What is sent again later stays billed in the hour in which it came first, so a settled hour does not change."""
    return native.signed(_per_envelope(headers, lambda header: MAX_VERSION - header.accepted_at_us))


def _per_envelope(headers: Headers, read: Callable[[Header], Any]) -> list[Any]:
    return list(chain.from_iterable(repeat(read(header), rows) for header, rows in headers))
