"""Every bound on what a client may send: value, unit, reason. docs/limits.md lists them.

A request over a bound is a 413 and nothing is stored; an item over a bound is rejected and the others are stored.
"""

# --- of a request ---

# As sent, before decompression. OpenTelemetry's collector sends 8,192 spans a request at most: 16 MB of 2 KB spans.
BODY_BYTES = 20 << 20

# After decompression. Real bodies shrink 5 to 40 times; a bomb, 1,000 times and more, is stopped while it inflates.
INFLATED_BYTES = 100 << 20

# Spans or runs. The largest request by bytes, 100 MiB of 2 KB spans, has 51,200; more are empty ones that cost memory.
ITEMS = 60_000

# Resources and scopes that group an OTLP request's spans: one of each a span, at worst.
GROUPS = 2 * ITEMS

# Resources and scopes of an OTLP request, counted once per span, because every row has its own copy. Otherwise a body
# of 1 MiB could put half of it above thousands of tiny spans.
REPEATED_BYTES = 256 << 20

# Request line and headers. Proxies stop at 8 to 64 KiB.
HEAD_BYTES = 64 << 10

# How long a client may take from connecting, or from its first byte, until its headers are complete.
HEAD_SECONDS = 10.0

# How long a client may take to send its body: OTLP exporters give up after 10 s, LangSmith's after 90 s at most.
BODY_SECONDS = 90.0

# A body must arrive at this rate at least: a stalled one holds memory that others need.
STEP_BYTES = 10 << 10
STEP_SECONDS = 10.0

# --- of an item (a span or a run) ---

# Decoded. One item is one row: the engine writes rows of 10 MiB without trouble, and no reader opens larger ones.
ITEM_BYTES = 10 << 20

# Attributes, events and links, or keys of metadata. OpenTelemetry's SDKs stop at 128 each.
ATTRIBUTES = 10_000

# A resource and a scope: each part of a split request carries them.
RESOURCE_SCOPE_BYTES = 256 << 10

# Nested arrays and objects in JSON. Deeper ones exhaust the stack of some JSON parsers.
JSON_DEPTH = 128

# Nested messages in protobuf: the limit of every protobuf implementation, about 45 nested arrays in an attribute.
PROTOBUF_DEPTH = 100

# Names are shown whole and stored in dictionaries of distinct values.
NAME_CHARS = 4_096

# Session, user, model, provider, a tag, a metadata key: people filter by these.
LABEL_CHARS = 1_024

# The error message of a span; longer ones stay whole in an attribute. Lists of runs show it.
MESSAGE_CHARS = 16_384

# Tags of a run.
TAGS = 1_000

# Latest time: the largest signed 64-bit count of nanoseconds since 1970 (the year 2262).
MAX_UNIX_NANO = (1 << 63) - 1

# Largest count of tokens.
MAX_COUNT = (1 << 63) - 1

# --- of envelopes and answers ---

# A larger request is split by items, so that no envelope holds up its shard.
ENVELOPE_BYTES = 1 << 20

# An answer names this many rejected items, and counts the rest.
REJECTIONS_NAMED = 100
REJECTION_CHARS = 300
