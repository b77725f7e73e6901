"""Whose rows a session sees: the row policies hold for every table with an org, by every way to it."""

import threading
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode
from uuid import UUID

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, ProgrammingError

from tracebility.stores.scoped import REQUEST_SETTINGS, TENANT_SETTING

from .conftest import PASSWORDS, FrontProcess

OURS, THEIRS, NIL = UUID(int=0xA), UUID(int=0xB), UUID(int=0)
AS_US = {TENANT_SETTING: str(OURS)}


@pytest.fixture(scope="module")
def rows(owner: Client) -> Iterator[None]:
    """Three of our rows and two of theirs in a table, a view of it, a rollup of it, and a table without an org."""
    statements = [
        "CREATE TABLE policed (org_id UUID, id UInt64, text String) ENGINE = ReplacingMergeTree ORDER BY (org_id, id)",
        "CREATE TABLE rollup (org_id UUID, n UInt64) ENGINE = SummingMergeTree ORDER BY org_id",
        "CREATE MATERIALIZED VIEW to_rollup TO rollup AS SELECT org_id, count() AS n FROM policed GROUP BY org_id",
        "CREATE VIEW seen AS SELECT * FROM policed",
        "CREATE TABLE without_org (id UInt64) ENGINE = MergeTree ORDER BY id",
        "INSERT INTO without_org VALUES (1), (2)",
        f"INSERT INTO policed SELECT toUUID('{OURS}'), number, 'ours' FROM numbers(3)",
        f"INSERT INTO policed SELECT toUUID('{THEIRS}'), number, 'theirs' FROM numbers(2)",
    ]
    for statement in statements:
        owner.command(statement)
    yield
    for table in ("seen", "to_rollup", "rollup", "policed", "without_org"):
        owner.command(f"DROP TABLE {table}")


@pytest.fixture(scope="module")
def reader(front: FrontProcess, rows: None) -> Iterator[Client]:
    client = front.client("tracebility_reader")
    yield client
    client.close()


WAYS = [
    "SELECT count() FROM policed",
    "SELECT count() FROM policed FINAL",
    "SELECT count() FROM seen",
    "SELECT sum(n) FROM rollup",
    "SELECT sum(n) FROM to_rollup",
    "SELECT count() FROM (SELECT * FROM policed WHERE 1)",
    "WITH x AS (SELECT * FROM policed) SELECT count() FROM x",
    "SELECT count() FROM policed WHERE 1 OR 1",
    "SELECT count() FROM policed PREWHERE 1",
    "SELECT uniqExact(b.id) FROM policed AS a RIGHT JOIN policed AS b ON a.id = b.id + 100",
    "SELECT count() FROM policed WHERE id IN (SELECT id FROM policed)",
    "SELECT count() FROM (SELECT id FROM policed UNION ALL SELECT id FROM policed WHERE 0)",
    "SELECT count() FROM tracebility.`policed`",
    "SELECT length(groupArray(text)) FROM policed",
    "SELECT max(id) + 1 FROM policed",
]


@pytest.mark.parametrize("query", WAYS)
def test_a_tenant_sees_its_rows_and_nobody_else_s(reader: Client, owner: Client, query: str) -> None:
    assert reader.query(query, settings=AS_US).result_rows == [(3,)]
    assert reader.query(query, settings={TENANT_SETTING: str(THEIRS)}).result_rows == [(2,)]
    assert owner.query(query, settings=AS_US).result_rows == [(3,)]
    if "max" not in query and "uniqExact" not in query:
        assert owner.query(query).result_rows == [(5,)]


@pytest.mark.parametrize("query", WAYS[:-1])
def test_a_reader_that_names_no_tenant_sees_nothing(reader: Client, query: str) -> None:
    assert reader.query(query).result_rows[0][0] == 0
    assert reader.query(query, settings={TENANT_SETTING: str(NIL)}).result_rows[0][0] == 0


def test_settings_as_request_code_sends_them(reader: Client) -> None:
    assert reader.query(WAYS[0], settings={**REQUEST_SETTINGS, **AS_US, "max_execution_time": 5}).result_rows == [(3,)]


def test_tables_without_an_org_are_the_owner_s_alone(reader: Client, owner: Client) -> None:
    assert owner.query("SELECT count() FROM without_org").result_rows == [(2,)]
    assert reader.query("SELECT count() FROM without_org", settings=AS_US).result_rows == [(0,)]


WIDER_TEXTS = [
    f"SELECT count() FROM policed SETTINGS log_comment = '{THEIRS}'",
    f"SELECT count() FROM (SELECT * FROM policed SETTINGS log_comment = '{THEIRS}')",
    f"SELECT count() FROM policed SETTINGS {TENANT_SETTING} = '{THEIRS}'",
    "SELECT count() FROM policed SETTINGS readonly = 0",
    f"SET log_comment = '{THEIRS}'",
    "INSERT INTO policed (id) VALUES (1)",
    "CREATE TABLE mine AS policed",
    "CREATE TEMPORARY TABLE mine (a UInt8)",
    "ALTER TABLE policed DELETE WHERE 1",
    "DELETE FROM policed WHERE 1",
    "DROP TABLE policed",
    "TRUNCATE TABLE policed",
    "OPTIMIZE TABLE policed",
    "SYSTEM FLUSH LOGS",
    "KILL QUERY WHERE 1",
    "BACKUP TABLE policed TO File('/tmp/stolen')",
    "ALTER DATABASE tracebility MODIFY COMMENT 'x'",
    "WITH x AS (SELECT 1) INSERT INTO policed SELECT * FROM policed",
    "SELECT 1; SELECT 2",
    "SELECT * FROM policed INTO OUTFILE '/tmp/stolen'",
    "SELECT file('/etc/passwd')",
    "SELECT `file` /**/ ('/etc/passwd')",
    "SELECT FILE('/etc/passwd')",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "DESCRIBE TABLE url('http://127.0.0.1:1/')",
    "SELECT * FROM remote('127.0.0.1', tracebility.policed)",
    "SELECT * FROM merge('tracebility', '.*')",
    "SELECT * FROM mergeTreeIndex('tracebility', 'policed')",
    "SELECT * FROM system.processes",
    "SELECT * FROM `system`.parts",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM {d:Identifier}.parts",
    "SHOW ACCESS",
    "SHOW PROCESSLIST",
    "USE system",
]


@pytest.mark.parametrize("text", WIDER_TEXTS)
def test_text_cannot_widen_what_a_reader_sees_or_may(reader: Client, owner: Client, text: str) -> None:
    with pytest.raises(DatabaseError) as raised:
        reader.raw_query(text, settings=AS_US)
    assert raised.value.code in {62, 48, 115, 164, 497}
    assert owner.query("SELECT count() FROM policed").result_rows == [(5,)]


@pytest.mark.parametrize(
    "parameters",
    [
        {"log_comment": str(THEIRS)},
        {"readonly": "0", "log_comment": str(THEIRS)},
        {"additional_table_filters": "{}"},
        {"max_memory_usage": "0"},
        {"database": "system"},
        {"param_x": "1", "allow_introspection_functions": "1"},
    ],
    ids=str,
)
def test_the_url_cannot_widen_what_a_reader_sees_or_may(reader: Client, parameters: dict[str, str]) -> None:
    with pytest.raises((DatabaseError, ProgrammingError)) as raised:
        _raw(reader, parameters)
    assert raised.value.code in {164, 497}


def _raw(client: Client, parameters: dict[str, str]) -> object:
    """Send parameters past the client's own checks."""
    return client._raw_request(WAYS[0], {**AS_US, **parameters})  # type: ignore[attr-defined]


def test_readonly_zero_is_not_what_a_reader_gets(reader: Client) -> None:
    answer = reader._raw_request("SELECT getSetting('readonly')", {**AS_US, "readonly": "0"})  # type: ignore[attr-defined]
    assert answer.data == b"1\n"


def test_a_tenant_that_is_none_or_two_is_refused(front: FrontProcess, reader: Client) -> None:
    for value in ("", "x", "' OR 1", f"{OURS} ", "%"):
        with pytest.raises(DatabaseError):
            reader.query(WAYS[0], settings={TENANT_SETTING: value})
    for user in PASSWORDS:
        assert asked(front, user, (TENANT_SETTING, OURS)) == (200, b"3\n")
        assert asked(front, user, (TENANT_SETTING, OURS), (TENANT_SETTING, OURS)) == (200, b"3\n")
        status, said = asked(front, user, (TENANT_SETTING, OURS), (TENANT_SETTING, THEIRS))
        assert (status, b"is given twice" in said) == (400, True)


def test_not_even_the_owner_says_whose_rows_it_sees_by_the_engine_s_own_setting(front: FrontProcess) -> None:
    for tenant in ((), ((TENANT_SETTING, OURS),)):
        status, said = asked(front, "tracebility", *tenant, ("log_comment", THEIRS))
        assert (status, b"Cannot modify 'log_comment'" in said) == (500, True)


def asked(front: FrontProcess, user: str, *parameters: tuple[str, object]) -> tuple[int, bytes]:
    """Status and body of an answer to parameters that no client would send."""
    text = urlencode([("query", WAYS[0]), *parameters])
    credentials = b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()
    connection = HTTPConnection("127.0.0.1", front.port, timeout=30)
    connection.request("POST", f"/?{text}", headers={"authorization": f"Basic {credentials}"})
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_new_table_is_policed_before_a_reader_can_read_it(front: FrontProcess, owner: Client, reader: Client) -> None:
    owner.command("CREATE TABLE fresh (org_id UUID, id UInt64) ENGINE = MergeTree ORDER BY org_id")
    owner.command(f"INSERT INTO fresh VALUES ('{OURS}', 1), ('{THEIRS}', 2)")
    assert reader.query("SELECT id FROM fresh", settings=AS_US).result_rows == [(1,)]
    owner.command("RENAME TABLE fresh TO renamed")
    assert reader.query("SELECT id FROM renamed", settings=AS_US).result_rows == [(1,)]
    owner.command("CREATE TABLE fresh (id UInt64) ENGINE = MergeTree ORDER BY id")
    owner.command("INSERT INTO fresh VALUES (1)")
    assert owner.query("SELECT count() FROM fresh").result_rows == [(1,)]
    assert reader.query("SELECT count() FROM fresh", settings=AS_US).result_rows == [(0,)]
    owner.command("DROP TABLE fresh")
    owner.command("DROP TABLE renamed")


def test_what_the_engine_does_by_itself_sees_all_rows(owner: Client, reader: Client) -> None:
    """A dictionary is loaded and a mutation run by no session; both must not be bound to the tenant nil."""
    owner.command("CREATE TABLE source (id UInt64, org_id UUID) ENGINE = MergeTree ORDER BY id")
    owner.command(f"INSERT INTO source VALUES (1, '{OURS}'), (2, '{THEIRS}')")
    assert reader.query("SELECT count() FROM source", settings=AS_US).result_rows == [(1,)]  # the policy is there
    owner.command(
        "CREATE DICTIONARY lookup (id UInt64, org_id UUID) PRIMARY KEY id "
        "SOURCE(CLICKHOUSE(TABLE 'source')) LAYOUT(FLAT()) LIFETIME(0)"
    )
    owner.command("SYSTEM RELOAD DICTIONARY lookup")
    assert owner.query("SELECT dictGet('lookup', 'org_id', toUInt64(2))").result_rows == [(THEIRS,)]
    with pytest.raises(DatabaseError):
        reader.query("SELECT dictGet('lookup', 'org_id', toUInt64(2))", settings=AS_US)
    owner.command("ALTER TABLE source DELETE WHERE id = 2", settings={"mutations_sync": 1})
    owner.command("DELETE FROM source WHERE id = 1")
    assert owner.query("SELECT count() FROM source").result_rows == [(0,)]
    owner.command("DROP DICTIONARY lookup")
    owner.command("DROP TABLE source")


def test_a_tenant_s_read_does_not_wait_for_a_long_write_when_policies_are_due(
    front: FrontProcess, owner: Client, reader: Client
) -> None:
    impatient = front.client("tracebility_reader", query_retries=0)
    owner.command("CREATE TABLE due (org_id UUID) ENGINE = MergeTree ORDER BY org_id")
    writing = threading.Thread(
        target=lambda: front.client(autogenerate_session_id=False).command(
            "INSERT INTO due SELECT generateUUIDv4() FROM numbers(60) WHERE sleepEachRow(0.1) = 0",
            settings={"max_block_size": 1},
        )
    )
    writing.start()
    running = (
        "SELECT count() FROM system.processes WHERE query LIKE '%INSERT INTO due%' AND query NOT LIKE '%processes%'"
    )
    while owner.query(running).result_rows == [(0,)]:
        assert writing.is_alive()
    with pytest.raises(DatabaseError) as raised:
        impatient.query("SELECT count() FROM due", settings=AS_US)
    assert raised.value.code == 202
    writing.join()
    assert owner.query("SELECT count() FROM due").result_rows == [(60,)]
    assert reader.query("SELECT count() FROM due", settings=AS_US).result_rows == [(0,)]
    owner.command("DROP TABLE due")


# It is looked after the disk without pause, as if each renewal met such a look.
RESTLESS = "from tracebility_engine import app\napp._MAINTENANCE_S = 0.001"


def test_a_new_table_has_its_policy_whatever_else_the_process_is_about(tmp_path: Path) -> None:
    front = FrontProcess(tmp_path / "data", preface=RESTLESS).start()
    try:
        owner, reader = front.client(), front.client("tracebility_reader")
        for number in range(6):
            owner.command(f"CREATE TABLE new_{number} (org_id UUID) ENGINE = MergeTree ORDER BY org_id")
            owner.command(f"INSERT INTO new_{number} SELECT toUUID('{THEIRS}') FROM numbers(10)")
            assert reader.query(f"SELECT count() FROM new_{number}", settings=AS_US).result_rows == [(0,)]
    finally:
        front.kill()
