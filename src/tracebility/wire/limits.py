"""Limits of requests and items, with units and reasons. docs/limits.md lists them.

A request over a limit is answered 413 and nothing is stored. An item over a limit is rejected; the others are stored.
"""

# --- of a request ---

# Body as sent, before decompression. OpenTelemetry's collector sends at most 8,192 spans a request: 16 MB at 2 KB each.
BODY_BYTES = 20 << 20

# Body after decompression. Real bodies compress 5 to 40 times; a bomb, 1,000 times and more, is stopped early.
INFLATED_BYTES = 100 << 20

# Spans or runs. The largest body, 100 MiB of 2 KB spans, has 51,200. More would be near-empty spans that cost memory.
ITEMS = 60_000

# Resources and scopes of an OTLP request. At worst each span has one of each.
GROUPS = 2 * ITEMS

# Bytes of resources and scopes, counted once for each span, because every row holds a copy. Otherwise a resource of
# half a MiB could be repeated for thousands of tiny spans.
REPEATED_BYTES = 256 << 20

# Request line and headers. Proxies allow 8 to 64 KiB.
HEAD_BYTES = 64 << 10

# Time from the connection, or from a request's first byte, until its headers are complete.
HEAD_SECONDS = 10.0

# Time for sending a body. OTLP exporters time out after 10 s, LangSmith's after at most 90 s.
BODY_SECONDS = 90.0

# Lowest rate of an arriving body. A stalled body holds memory that others need.
STEP_BYTES = 10 << 10
STEP_SECONDS = 10.0

# --- of an item (a span or a run) ---

# Size of an item, decoded. One item is one row: the engine writes rows of 10 MiB easily, and nobody reads larger ones.
ITEM_BYTES = 10 << 20

# Attributes, events and links, or metadata keys. OpenTelemetry's SDKs allow 128 each.
ATTRIBUTES = 10_000

# Size of a resource and a scope, which each part of a split request repeats.
RESOURCE_SCOPE_BYTES = 256 << 10

# Nesting of arrays and objects in JSON. Deeper JSON exhausts the stack of some parsers.
JSON_DEPTH = 128

# Nesting of protobuf messages: the limit of every implementation. It allows about 45 nested arrays in an attribute.
PROTOBUF_DEPTH = 100

# Name of a span. Names are shown in full and stored in dictionaries of distinct values.
NAME_CHARS = 4_096

# Session, user, model, provider, tag or metadata key. People filter by these.
LABEL_CHARS = 1_024

# Error message of a span, shown in lists of runs. A longer message is stored in full as an attribute.
MESSAGE_CHARS = 16_384

# Tags of a run.
TAGS = 1_000

# Latest time, in the year 2262: the largest signed 64-bit number of nanoseconds since 1970.
MAX_UNIX_NANO = (1 << 63) - 1

# Largest number of tokens.
MAX_COUNT = (1 << 63) - 1

# --- of envelopes and answers ---

# A larger request is split between items, so that no envelope blocks its shard for long.
ENVELOPE_BYTES = 1 << 20

# Rejected items that an answer names; it counts the others. Length of each reason.
REJECTIONS_NAMED = 100
REJECTION_CHARS = 300
