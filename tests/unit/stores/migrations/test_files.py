"""The schema's files: found in order, split into statements, directives understood, every statement safe to repeat."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebility.stores.migrations import files
from tracebility.stores.migrations.files import Guard, Load, SchemaError, Step, discover, rollback_file, steps
from tracebility.stores.policies import DATA_TABLES, TENANT_TABLES

CREATES_A_TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+)\s*\(?(.*?)\nENGINE", re.DOTALL)


def test_statements_end_at_semicolons_outside_of_strings_and_comments() -> None:
    text = "-- a; comment\nSELECT 'a;b', 'it''s', '\\';', `x;y` -- so; what\n;\n\nSELECT 2;\n"
    assert [step.action for step in steps(text)] == ["SELECT 'a;b', 'it''s', '\\';', `x;y`", "SELECT 2"]


FRAGMENTS = ["SELECT 1", " ", "\n", "'a;b'", "'it''s -- not'", "'\\';'", "`x;y`", "-", "1 - 2", "(a, b)", "/* x */"]
COMMENTS = ["", "-- a; comment's\n", "\n-- two\n-- lines;\n"]
STATEMENT = st.lists(st.sampled_from(FRAGMENTS), min_size=1).map(" ".join).map(str.strip).filter(bool)


@given(st.lists(st.tuples(st.sampled_from(COMMENTS), STATEMENT)))
def test_a_file_is_its_statements_in_order_whatever_stands_in_them(written: list[tuple[str, str]]) -> None:
    text = "".join(f"{comment}{statement};\n" for comment, statement in written)
    assert [step.action for step in steps(text)] == [statement for _, statement in written]
    assert [step.number for step in steps(text)] == list(range(1, len(written) + 1))


@given(st.lists(st.sampled_from(["a", "'", "''", "\\'", ";", "--", "\n", "`", "-", " ", "/* */"]), max_size=12))
def test_no_text_is_lost_or_invented(parts: list[str]) -> None:
    quoted = "SELECT '" + "".join(parts).replace("\\'", "").replace("'", "''") + "'"
    assert [step.action for step in steps(f"{quoted};\nSELECT 2")] == [quoted, "SELECT 2"]


def test_directives_hold_for_their_block() -> None:
    text = """
    SELECT 1;
    -- @unless table span_v1
    SELECT 2;
    SELECT 3;
    -- @end
    -- @load postgres project_tenants into project_tenant
    -- @only server
    SELECT 4;
    -- @end
    -- @when table span
    SELECT 5;
    -- @end
    """
    assert steps(text.replace("    ", "")) == [
        Step(1, "SELECT 1"),
        Step(2, "SELECT 2", Guard(1, "unless", "span_v1")),
        Step(3, "SELECT 3", Guard(1, "unless", "span_v1")),
        Step(4, Load("project_tenants", "project_tenant")),
        Step(5, "SELECT 4", Guard(2, "server")),
        Step(6, "SELECT 5", Guard(3, "when", "span")),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "-- @unless table x\nSELECT 1;",
        "-- @end\n",
        "-- @unless view x\nSELECT 1;\n-- @end\n",
        "-- @only server\n-- @unless table x\nSELECT 1;\n-- @end\n",
        "SELECT 1\n-- @only server\n;\n-- @end\n",
    ],
)
def test_a_directive_that_is_not_understood_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"@|block"):
        steps(text)


def test_both_stores_have_their_migrations_in_order() -> None:
    postgres, clickhouse = discover("postgres"), discover("clickhouse")
    assert [migration.number for migration in clickhouse] == list(range(1, 10))
    assert {migration.name for migration in postgres} >= {"0005_audit_log.sql", "0024_multitenancy_seam.sql"}
    assert {"0006_tenant_columns.sql", "0007_audit_log.sql"} <= {migration.name for migration in clickhouse}
    assert [migration.number for migration in postgres] == sorted({migration.number for migration in postgres})


def test_line_endings_do_not_change_a_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "schemas", lambda: tmp_path)
    folder = tmp_path / "postgres"
    folder.mkdir()
    file = folder / "0001_a.sql"
    file.write_bytes(b"SELECT 1;\n")
    [unix] = discover("postgres")
    file.write_bytes(b"SELECT 1;\r\n")
    [windows] = discover("postgres")
    assert unix.checksum == windows.checksum


def test_two_files_of_one_number_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "schemas", lambda: tmp_path)
    (tmp_path / "postgres").mkdir()
    for name in ("0001_a.sql", "0001_b.sql"):
        (tmp_path / "postgres" / name).touch()
    with pytest.raises(SchemaError, match="two files numbered 0001"):
        discover("postgres")


def test_a_migration_without_a_way_back_says_so() -> None:
    assert rollback_file(6).name == "0006_tenant_columns.sql"
    with pytest.raises(SchemaError, match=r"0007 cannot be rolled back. Migrations with a rollback: 0006\."):
        rollback_file(7)


def all_clickhouse_steps() -> list[tuple[str, Step, Step | None]]:
    found = []
    for migration in [*discover("clickhouse"), rollback_file(6)]:
        todo = steps(migration.text)
        found += [(migration.label, step, before) for step, before in zip(todo, [None, *todo], strict=False)]
    return found


@pytest.mark.parametrize(
    ("label", "step", "before"), all_clickhouse_steps(), ids=lambda value: getattr(value, "number", None)
)
def test_every_clickhouse_statement_is_safe_to_run_again(label: str, step: Step, before: Step | None) -> None:
    """The runner begins an unfinished file again at its first statement, so none may fail or double when repeated."""
    sql = step.action
    if isinstance(sql, Load):
        assert before is not None
        assert before.action == f"TRUNCATE TABLE {sql.table}"
        return
    verb = sql.split()[0]
    if verb == "CREATE":
        assert re.match(r"CREATE (TABLE|ROLE|ROW POLICY) IF NOT EXISTS |CREATE OR REPLACE ", sql)
    elif verb == "ALTER":
        assert sql.count("ADD COLUMN") == sql.count("ADD COLUMN IF NOT EXISTS")
    elif verb == "DROP":
        assert " IF EXISTS " in sql
    elif verb == "RENAME":
        assert step.guard is not None, label
    elif verb == "INSERT":
        # What filled it before is emptied first; on the way back the same rows merge by key and version.
        table = sql.split()[2]
        assert step.guard is not None, label
        assert table.endswith("_v1") or (before is not None and before.action == f"TRUNCATE TABLE {table}"), label
    else:
        assert verb in ("SELECT", "TRUNCATE", "GRANT", "SYSTEM"), sql


def test_every_table_with_an_org_id_has_a_row_policy() -> None:
    """On a server by migration, in the embedded engine by its configuration, which is written from TENANT_TABLES."""
    with_tenant = set(DATA_TABLES)
    policed: dict[str, set[str]] = {"tracebility_open": set(), "tracebility_tenant": set()}
    scratch = set()
    for migration in discover("clickhouse"):
        for step in steps(migration.text):
            if not isinstance(step.action, str):
                continue
            if found := CREATES_A_TABLE.match(step.action):
                if re.search(r"^\s+org_id UUID", found[2], re.MULTILINE):
                    with_tenant.add(found[1])
            elif dropped := re.match(r"DROP TABLE IF EXISTS (\w+)", step.action):
                scratch.add(dropped[1])
            elif policy := re.match(
                r"CREATE ROW POLICY IF NOT EXISTS (\w+) ON\s+(.*?)\s(AS|FOR) ", step.action, re.DOTALL
            ):
                assert step.guard is not None
                assert step.guard.kind == "server"
                policed[policy[1]] |= set(re.split(r",\s*", policy[2]))
    assert with_tenant - scratch <= set(TENANT_TABLES)
    assert policed == {"tracebility_open": set(TENANT_TABLES), "tracebility_tenant": set(TENANT_TABLES)}


def test_every_tenant_table_begins_its_sort_key_with_the_org() -> None:
    keys = {}
    for migration in discover("clickhouse")[5:]:
        for step in steps(migration.text):
            if isinstance(step.action, str) and (found := re.match(r"CREATE TABLE IF NOT EXISTS (\w+)", step.action)):
                keys[found[1].removesuffix("_v2")] = re.search(r"ORDER BY \(?([^)\n]*)", step.action)[1].split(", ")  # type: ignore[index]
    for table in DATA_TABLES:
        assert keys[table][:2] == (["org_id", "period"] if table == "billing_meter" else ["org_id", "project_id"])
    assert keys["billing_meter"] == ["org_id", "period", "meter", "event_id"]
    assert keys["audit_log"] == ["org_id", "event_time", "event_type"]
