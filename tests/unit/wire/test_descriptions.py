"""What is written about the ingest routes and their limits is what the code does."""

from pathlib import Path

import pytest

from tracebility.wire import limits, native, protocols

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", [name for name in vars(limits) if name.isupper()])
def test_every_limit_is_documented(name: str) -> None:
    assert f"`{name}`" in (DOCS / "limits.md").read_text()


def test_every_field_of_a_run_is_described() -> None:
    described = protocols.OPENAPI_SCHEMAS["RunToSend"]
    sent = native._Sent
    assert set(described["properties"]) == set(sent.__struct_fields__)
    assert set(described["required"]) == set(sent.__struct_fields__) - set(
        sent.__struct_fields__[-len(sent.__struct_defaults__) :]
    )
    assert set(described["properties"]["usage"]["properties"]) == set(native.Usage.__struct_fields__)


def test_every_reference_leads_somewhere() -> None:
    text = str(protocols.OPENAPI_PATHS) + str(protocols.OPENAPI_SCHEMAS)
    names = {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(protocols.OPENAPI_SCHEMAS)
    assert len(names) > 4
