"""How what was applied fits the files."""

from datetime import UTC, datetime

import pytest

from tracebility.stores.migrations.files import Migration, SchemaError
from tracebility.stores.migrations.history import Record, Standing, compare

AT = datetime(2026, 7, 1, 12, 30, tzinfo=UTC)
FIRST = Migration("clickhouse", 1, "0001_a.sql", "SELECT 1")
SECOND = Migration("clickhouse", 2, "0002_b.sql", "SELECT 2")


def record(migration: Migration, *, finished: bool = True, checksum: str = "") -> Record:
    return Record(migration.number, migration.name, checksum or migration.checksum, finished, AT)


def test_what_is_not_recorded_is_pending() -> None:
    assert compare("clickhouse", [FIRST, SECOND], [record(FIRST)]) == [
        Standing("clickhouse", 1, "0001_a.sql", "applied", AT),
        Standing("clickhouse", 2, "0002_b.sql", "pending", None),
    ]


def test_a_file_below_an_applied_one_is_pending_too() -> None:
    assert [standing.state for standing in compare("clickhouse", [FIRST, SECOND], [record(SECOND)])] == [
        "pending",
        "applied",
    ]


def test_an_applied_file_that_changed_is_named_with_the_fix() -> None:
    with pytest.raises(SchemaError) as refused:
        compare("clickhouse", [FIRST], [record(FIRST, checksum="0" * 64)])
    assert str(refused.value).startswith(
        "schemas/clickhouse/0001_a.sql was changed after it was applied at 2026-07-01 12:30 UTC"
    )
    assert "write the change as a new migration" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unfinished_file_may_change_because_it_runs_again_from_its_first_statement() -> None:
    [standing] = compare("clickhouse", [FIRST], [record(FIRST, finished=False, checksum="0" * 64)], {1: 3})
    assert standing == Standing("clickhouse", 1, "0001_a.sql", "interrupted", AT, 3)


def test_a_store_of_a_later_release_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"0002_b\.sql, which this release does not know"):
        compare("clickhouse", [FIRST], [record(FIRST), record(SECOND)])
