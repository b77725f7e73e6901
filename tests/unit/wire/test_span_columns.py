"""The list of span columns is what the migrations make and what the API reads."""

import re
from pathlib import Path

from tracebility.stores.queries import query
from tracebility.wire.span_columns import SPAN_COLUMNS, Shown

SCHEMAS = Path(__file__).parents[3] / "schemas" / "clickhouse"


def test_every_column_is_made_with_its_type() -> None:
    ddl = "\n".join((SCHEMAS / name).read_text() for name in ("0001_span.sql", "0006_tenant_columns.sql"))
    for column in SPAN_COLUMNS:
        assert re.search(rf"\b{column.name} {re.escape(column.type)}[ ,]", ddl), column


def test_the_api_reads_the_columns_that_it_shows() -> None:
    found = re.search(r"SELECT(.*?)FROM span", query("read_run_spans"), re.S)
    assert found is not None
    read = set(re.findall(r"\w+", re.sub(r" AS \w+|toUnixTimestamp64\w+", "", found[1])))
    assert read == {column.name for column in SPAN_COLUMNS if column.shown is not Shown.HIDDEN}
