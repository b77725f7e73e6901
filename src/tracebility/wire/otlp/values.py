"""Converts OTLP attribute values to Python objects."""

import base64
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue


def read_any(sent: AnyValue) -> Any:
    """The value of ``sent``: bytes as base64 text, as in OTLP/JSON; None for an empty value."""
    which = sent.WhichOneof("value")
    if which == "int_value":
        return sent.int_value
    if which is None:
        return None
    if which == "array_value":
        return [one.string_value or read_any(one) for one in sent.array_value.values]
    if which == "kvlist_value":
        return {pair.key: read_any(pair.value) for pair in sent.kvlist_value.values}
    value = getattr(sent, which)
    return base64.b64encode(value).decode() if which == "bytes_value" else value
