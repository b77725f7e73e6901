"""OTLP trace requests: what the edge checks (`inspect`), what the worker reads (`decode`, `spans`, `protobuf`)."""

from tracebility.wire.otlp.inspect import (
    JSON,
    PROTOBUF,
    decode,
    inspect,
    inspect_inline,
    partial_success,
    spans_of,
)

__all__ = ["JSON", "PROTOBUF", "decode", "inspect", "inspect_inline", "partial_success", "spans_of"]
