"""OTLP's values as Python's own, and back into attributes."""

import base64
from collections.abc import Callable
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from tracebility.wire.conventions import Rule, RuleTable, as_text


def read_any(sent: AnyValue) -> Any:
    """The value of ``sent``; bytes as base64 text, as OTLP's JSON has them, and None where none was sent."""
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


def put_back(origin: KeyValue | None, add_key: Callable[[str], None], add_text: Callable[[str], None]) -> None:
    """Make an attribute of what was taken for a column and then yielded to something better."""
    if origin is not None:
        add_key(origin.key)
        add_text(as_text(read_any(origin.value)))


def is_better(rule: Rule, origin: KeyValue | None, table: RuleTable) -> bool:
    """Whether an attribute of ``rule`` goes before ``origin``, which filled the slot so far."""
    earlier = None if origin is None else table[origin.key]
    return earlier is None or rule.rank < earlier.rank
