"""The columns of `span`: the one list of them, with their types in the engine and the slot that fills each.

A column that an attribute fills needs a line here, its attributes in `conventions.SOURCES`, a migration, and a place in
`read_runs.sql` if the API is to show it. The worker derives reading and encoding from type and slot.
"""

from typing import NamedTuple

from tracebility.wire.conventions import Slot

TEXT = "String"
LABEL = "LowCardinality(String)"
COUNT = "UInt64"
NANOS = "DateTime64(9, 'UTC')"
NULLABLE_NANOS = f"Nullable({NANOS})"
MICROS = "DateTime64(6, 'UTC')"
DOLLARS = "Nullable(Decimal(18, 9))"
UUID = "UUID"
TEXTS = "Array(String)"
MAP = "Map(LowCardinality(String), String)"


class SpanColumn(NamedTuple):
    """A column; ``slot`` is where an OTLP span's attributes fill it, if they do."""

    name: str
    type: str
    slot: Slot | None = None


SPAN_COLUMNS = (
    SpanColumn("org_id", UUID),
    SpanColumn("workspace_id", UUID),
    SpanColumn("project_id", UUID),
    SpanColumn("trace_id", TEXT),
    SpanColumn("span_id", TEXT),
    SpanColumn("parent_span_id", TEXT),
    SpanColumn("name", LABEL),
    SpanColumn("kind", LABEL, Slot.KIND),
    SpanColumn("otel_kind", LABEL),
    SpanColumn("start_time", NANOS),
    SpanColumn("end_time", NULLABLE_NANOS),
    SpanColumn("status", LABEL),
    SpanColumn("status_message", TEXT),
    SpanColumn("error_type", LABEL, Slot.ERROR_TYPE),
    SpanColumn("model", LABEL, Slot.MODEL),
    SpanColumn("request_model", LABEL, Slot.REQUEST_MODEL),
    SpanColumn("provider", LABEL, Slot.PROVIDER),
    SpanColumn("input_tokens", COUNT, Slot.INPUT_TOKENS),
    SpanColumn("output_tokens", COUNT, Slot.OUTPUT_TOKENS),
    SpanColumn("total_tokens", COUNT, Slot.TOTAL_TOKENS),
    SpanColumn("cache_read_tokens", COUNT, Slot.CACHE_READ_TOKENS),
    SpanColumn("cache_write_tokens", COUNT, Slot.CACHE_WRITE_TOKENS),
    SpanColumn("reasoning_tokens", COUNT, Slot.REASONING_TOKENS),
    SpanColumn("cost", DOLLARS, Slot.COST),
    SpanColumn("cost_source", LABEL),
    SpanColumn("time_to_first_token_ns", COUNT, Slot.TIME_TO_FIRST_TOKEN),
    SpanColumn("inputs", TEXT, Slot.INPUTS),
    SpanColumn("outputs", TEXT, Slot.OUTPUTS),
    SpanColumn("session_id", TEXT, Slot.SESSION_ID),
    SpanColumn("user_id", TEXT, Slot.USER_ID),
    SpanColumn("scope_name", LABEL),
    SpanColumn("scope_version", LABEL),
    SpanColumn("environment", LABEL, Slot.ENVIRONMENT),
    SpanColumn("events", TEXT),
    SpanColumn("links", TEXT),
    SpanColumn("input_preview", TEXT),
    SpanColumn("output_preview", TEXT),
    SpanColumn("tags", TEXTS, Slot.TAGS),
    SpanColumn("metadata", MAP, Slot.METADATA),
    SpanColumn("attributes", MAP),
    SpanColumn("resource", MAP),
    SpanColumn("source", LABEL),
    SpanColumn("event_id", UUID),
    SpanColumn("envelope_id", UUID),
    SpanColumn("accepted_at", MICROS),
    SpanColumn("version", COUNT),
)
