"""The columns of `span`, with their ClickHouse types and the slots that fill them. There is no other list of them.

A new column for an attribute needs a line here, the attribute's names in `conventions.SOURCES`, a migration, and a line
in `read_runs.sql` if the API shows it. The worker derives reading and encoding from type and slot.
"""

from enum import Enum, auto
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


class Shown(Enum):
    """How the API shows a column of a span."""

    AS_STORED = auto()
    NULL_WHEN_EMPTY = auto()
    RESHAPED = auto()  # in `api/routers/runs.py`: times, money, JSON
    HIDDEN = auto()


class SpanColumn(NamedTuple):
    """A column. ``slot``: the slot that fills it from attributes of OTLP spans, if any."""

    name: str
    type: str
    slot: Slot | None = None
    shown: Shown = Shown.RESHAPED


SPAN_COLUMNS = (
    SpanColumn("org_id", UUID, shown=Shown.HIDDEN),
    SpanColumn("workspace_id", UUID, shown=Shown.HIDDEN),
    SpanColumn("project_id", UUID, shown=Shown.HIDDEN),
    SpanColumn("trace_id", TEXT, shown=Shown.AS_STORED),
    SpanColumn("span_id", TEXT),
    SpanColumn("parent_span_id", TEXT),
    SpanColumn("name", LABEL, shown=Shown.AS_STORED),
    SpanColumn("kind", LABEL, Slot.KIND, shown=Shown.AS_STORED),
    SpanColumn("otel_kind", LABEL, shown=Shown.NULL_WHEN_EMPTY),
    SpanColumn("start_time", NANOS),
    SpanColumn("end_time", NULLABLE_NANOS),
    SpanColumn("status", LABEL, shown=Shown.AS_STORED),
    SpanColumn("status_message", TEXT),
    SpanColumn("error_type", LABEL, Slot.ERROR_TYPE, shown=Shown.NULL_WHEN_EMPTY),
    SpanColumn("model", LABEL, Slot.MODEL, shown=Shown.NULL_WHEN_EMPTY),
    SpanColumn("request_model", LABEL, Slot.REQUEST_MODEL, shown=Shown.NULL_WHEN_EMPTY),
    SpanColumn("provider", LABEL, Slot.PROVIDER, shown=Shown.NULL_WHEN_EMPTY),
    SpanColumn("input_tokens", COUNT, Slot.INPUT_TOKENS, shown=Shown.AS_STORED),
    SpanColumn("output_tokens", COUNT, Slot.OUTPUT_TOKENS, shown=Shown.AS_STORED),
    SpanColumn("total_tokens", COUNT, Slot.TOTAL_TOKENS, shown=Shown.AS_STORED),
    SpanColumn("cache_read_tokens", COUNT, Slot.CACHE_READ_TOKENS, shown=Shown.AS_STORED),
    SpanColumn("cache_write_tokens", COUNT, Slot.CACHE_WRITE_TOKENS, shown=Shown.AS_STORED),
    SpanColumn("reasoning_tokens", COUNT, Slot.REASONING_TOKENS, shown=Shown.AS_STORED),
    SpanColumn("cost", DOLLARS, Slot.COST),
    SpanColumn("cost_source", LABEL, shown=Shown.NULL_WHEN_EMPTY),
    SpanColumn("time_to_first_token_ns", COUNT, Slot.TIME_TO_FIRST_TOKEN),
    SpanColumn("inputs", TEXT, Slot.INPUTS),
    SpanColumn("outputs", TEXT, Slot.OUTPUTS),
    SpanColumn("session_id", TEXT, Slot.SESSION_ID, shown=Shown.NULL_WHEN_EMPTY),
    SpanColumn("user_id", TEXT, Slot.USER_ID, shown=Shown.NULL_WHEN_EMPTY),
    SpanColumn("scope_name", LABEL, shown=Shown.NULL_WHEN_EMPTY),
    SpanColumn("scope_version", LABEL, shown=Shown.NULL_WHEN_EMPTY),
    SpanColumn("environment", LABEL, Slot.ENVIRONMENT, shown=Shown.NULL_WHEN_EMPTY),
    SpanColumn("events", TEXT),
    SpanColumn("links", TEXT),
    SpanColumn("input_preview", TEXT, shown=Shown.HIDDEN),
    SpanColumn("output_preview", TEXT, shown=Shown.HIDDEN),
    SpanColumn("tags", TEXTS, Slot.TAGS, shown=Shown.AS_STORED),
    SpanColumn("metadata", MAP, Slot.METADATA),
    SpanColumn("attributes", MAP),
    SpanColumn("resource", MAP),
    SpanColumn("source", LABEL, shown=Shown.AS_STORED),
    SpanColumn("event_id", UUID, shown=Shown.HIDDEN),
    SpanColumn("envelope_id", UUID, shown=Shown.HIDDEN),
    SpanColumn("accepted_at", MICROS),
    SpanColumn("version", COUNT, shown=Shown.HIDDEN),
)
