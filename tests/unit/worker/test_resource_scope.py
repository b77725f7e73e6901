"""What is around spans is measured alike at the edge and here: what the edge takes is not given up here."""

from itertools import chain
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tracebility.wire.conventions import RuleTable
from tracebility.wire.otlp import split
from tracebility.worker.resource_scope import read_resource_scope

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)
ATTRIBUTES = st.dictionaries(st.text(max_size=20) | st.text("k", min_size=1000, max_size=1100), VALUES, max_size=8)


@given(resource=ATTRIBUTES, scope=ATTRIBUTES)
def test_what_is_around_spans_is_as_large_as_its_attributes_in_a_row(
    wire: Any, resource: dict[str, Any], scope: dict[str, Any]
) -> None:
    request = wire.make_request(wire.make_span(), resource=resource)
    [group] = request.resource_spans
    [scoped] = group.scope_spans
    scoped.scope.attributes.extend(wire.make_request(resource=scope).resource_spans[0].resource.attributes)
    owner = read_resource_scope(RuleTable(), group.resource, scoped.scope)
    chars = split.scope_chars_of(request)
    assert chars == owner.chars == sum(map(len, chain(owner.keys, owner.values, *owner.scope_attributes)))
    around_bytes = group.resource.ByteSize() + scoped.scope.ByteSize()
    assert chars <= split.MAX_CHARS_PER_BYTE * around_bytes
