"""What the front makes of a statement's text."""

import pytest

from tracebility_engine.engine import EngineError
from tracebility_engine.statement import check_reader, check_tenant, parse

FORMATS = [
    ("SELECT 1", ""),
    ("SELECT 1 FORMAT Native", "Native"),
    ("SELECT 1\n FORMAT Native", "Native"),
    ("SELECT 1 format JSON ;\n-- the end", "JSON"),
    ("SELECT 1 FORMAT JSON SETTINGS max_threads = 1", "JSON"),
    ("SELECT 1 SETTINGS max_threads = 1 FORMAT JSON", "JSON"),
    ("SELECT 'FORMAT CSV'", ""),
    ("SELECT format FROM t", ""),
    ("SELECT * FROM (SELECT 1 FORMAT CSV)", ""),
    ("SELECT 1 /* FORMAT CSV */", ""),
    ("SELECT 1 -- FORMAT CSV", ""),
    ('SELECT `FORMAT` AS "CSV"', ""),
    ("SELECT $a$ ; FORMAT CSV $a$ FORMAT TSV", "TSV"),
    ("SELECT ‘; FORMAT CSV’", ""),
    ("SELECT 'it''s; \\' FORMAT CSV'", ""),
]


@pytest.mark.parametrize(("text", "fmt"), FORMATS)
def test_the_format_of_a_read(text: str, fmt: str) -> None:
    statement = parse(text.encode())
    assert (statement.format, statement.reads_only, statement.data_at) == (fmt, True, -1)
    assert b"the end" not in statement.text


INSERTS = [
    (b"INSERT INTO t (id) FORMAT Native\n\n\n;", b"INSERT INTO t (id) ", "Native", b"\n\n;"),
    (b"INSERT INTO t FORMAT TSV \t\r\n1", b"INSERT INTO t ", "TSV", b"1"),
    (b"INSERT INTO t FORMAT TSV 1", b"INSERT INTO t ", "TSV", b"1"),
    (b'insert into t(`format`, "values") values (1)', b'insert into t(`format`, "values") ', "Values", b" (1)"),
    (
        b"INSERT INTO t SETTINGS a = 'FORMAT CSV' FORMAT CSV\n'",
        b"INSERT INTO t SETTINGS a = 'FORMAT CSV' ",
        "CSV",
        b"'",
    ),
    (
        b"/* x */ INSERT -- VALUES\n INTO t FORMAT JSONEachRow {",
        b"/* x */ INSERT -- VALUES\n INTO t ",
        "JSONEachRow",
        b"{",
    ),
]


@pytest.mark.parametrize(("source", "text", "fmt", "data"), INSERTS)
def test_where_the_data_of_an_insert_begins(source: bytes, text: bytes, fmt: str, data: bytes) -> None:
    statement = parse(source)
    assert (statement.text, statement.format, source[statement.data_at :]) == (text, fmt, data)
    assert not statement.reads_only


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t SELECT 1",
        "INSERT INTO t (a) WITH x AS (SELECT 1) SELECT * FROM x",
        "INSERT INTO t (SELECT 1)",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
        "CREATE TABLE t (format String) ENGINE = Memory",
    ],
)
def test_statements_that_write_without_data(text: str) -> None:
    statement = parse(text.encode())
    assert not statement.reads_only
    assert statement.data_at == -1


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 62),
        (" -- \n /* */ ", 62),
        ("SELECT 1; DROP TABLE t", 62),
        ("SELECT ';'; -- \n SELECT 2", 62),
        ("SELECT 1 /* ; */ ; /* */ x", 62),
        ("INSERT INTO t", 62),
        ("SELECT 1 INTO/**/OUTFILE 'x'", 48),
        ("INSERT INTO t FROM INFILE 'x' FORMAT CSV", 48),
        ("INSERT INTO t SELECT 1 INTO OUTFILE 'x'", 48),
    ],
)
def test_what_is_refused(text: str, code: int) -> None:
    with pytest.raises(EngineError) as raised:
        parse(text.encode())
    assert raised.value.code == code


@pytest.mark.parametrize(
    "text",
    [
        "DROP TABLE t",
        "SELECT file ('x')",
        "SELECT “file”('x')",
        "SELECT * FROM `merge`('a', 'b')",
        "SELECT dictGetOrDefault('d', 'a', 1, 2)",
        "SELECT * FROM system . parts",
        'SELECT * FROM "system".`processes`',
        "SELECT * FROM {x:Identifier}",
        "SELECT * FROM {x : Identifier}",
        "SHOW CREATE TABLE t",
    ],
)
def test_what_a_reader_may_not_say(text: str) -> None:
    with pytest.raises(EngineError) as raised:
        check_reader(text.encode())
    assert raised.value.code in {164, 497}


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'file(', file, `url` FROM t WHERE system.x = 1 OR x IN ('system.parts')".replace("system.x", "a.x"),
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "SELECT name FROM system.settings",
        "SELECT {org:UUID}, {ids:Array(String)}",
        "EXPLAIN indexes = 1 SELECT 1",
        "DESCRIBE TABLE t",
    ],
)
def test_what_a_reader_may_say(text: str) -> None:
    check_reader(text.encode())


@pytest.mark.parametrize("text", ["SELECT 1 SETTINGS log_comment = 'x'", "SELECT (SELECT 1 SETTINGS `LOG_COMMENT`='')"])
def test_a_statement_may_not_name_its_tenant(text: str) -> None:
    with pytest.raises(EngineError):
        check_tenant(text.encode())
    check_tenant(b"SELECT 'log_comment', getSetting('log_comment')")
