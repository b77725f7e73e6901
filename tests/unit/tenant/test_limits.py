"""The limits of a plan: each with unit, default and reason, which are told to people as they stand in the code."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import NODEFAULT, inspect

from tracebility.tenant.limits import Limits

PAGE = (Path(__file__).parents[3] / "docs" / "quotas.md").read_text()


def fields(kind: type[msgspec.Struct]) -> Iterator[inspect.Field]:
    """The fields of ``kind`` that hold a limit, at whatever depth."""
    told = inspect.type_info(kind)
    assert isinstance(told, inspect.StructType)
    for field in told.fields:
        assert isinstance(field.type, inspect.UnionType)
        inner = next(part for part in field.type.types if not isinstance(part, inspect.NoneType))
        if isinstance(inner, inspect.StructType):
            yield from fields(inner.cls)
        else:
            yield field


@pytest.mark.parametrize("field", list(fields(Limits)), ids=lambda field: field.name)
def test_a_limit_has_unit_default_and_reason_and_the_page_says_them(field: inspect.Field) -> None:
    assert isinstance(field.type, inspect.UnionType)
    [limit] = [part for part in field.type.types if isinstance(part, inspect.Metadata)]
    assert field.required or field.default in (None, NODEFAULT)  # never one that nobody wrote
    assert limit.extra is not None
    reason = (limit.extra_json_schema or {})["description"]
    assert f"| `{field.name}` | {limit.extra['unit']} | {reason} |" in PAGE
