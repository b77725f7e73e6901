"""What was taken for a column, back into attributes."""

from collections.abc import Callable

from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tracebility.wire.conventions import Rule, RuleTable, as_text
from tracebility.wire.otlp_values import read_any


def put_back(origin: KeyValue | None, add_key: Callable[[str], None], add_text: Callable[[str], None]) -> None:
    """Make an attribute of what was taken for a column and then yielded to something better."""
    if origin is not None:
        add_key(origin.key)
        add_text(as_text(read_any(origin.value)))


def is_better(rule: Rule, origin: KeyValue | None, table: RuleTable) -> bool:
    """Whether an attribute of ``rule`` goes before ``origin``, which filled the slot so far."""
    earlier = None if origin is None else table[origin.key]
    return earlier is None or rule.rank < earlier.rank
