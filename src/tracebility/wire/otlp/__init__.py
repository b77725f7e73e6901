"""OTLP trace requests: the edge checks them (`inspect`), the worker reads them (`decode`, `spans`, `protobuf`)."""

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
