"""The unmodified client does on the embedded engine what it does on a server."""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import lz4.frame
import pytest
import zstandard
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, ProgrammingError, StreamFailureError

from .conftest import FrontProcess

ROWS = 50_000
Make = Callable[[str], str]


@pytest.mark.parametrize("codec", [False, "lz4", "zstd", "gzip", True])
def test_every_codec_stores_every_row_of_an_insert_of_many_blocks(front: FrontProcess, table: Make, codec: str) -> None:
    name = table("id UInt64, text String")
    client = front.client(compress=codec)
    rows = [[number, f"row {number} " * 20] for number in range(ROWS)]
    context = client.create_insert_context(name, ["id", "text"], data=rows)
    assert context.block_row_count < ROWS / 3  # several blocks, so several frames
    summary = client.insert(context=context)
    assert summary.written_rows == ROWS
    assert client.query(f"SELECT count(), uniqExact(id), sum(length(text)) FROM {name}").result_rows == [
        (ROWS, ROWS, sum(len(text) for _, text in rows))
    ]
    assert len(client.query(f"SELECT * FROM {name} ORDER BY id").result_rows) == ROWS
    client.close()


@pytest.mark.parametrize("codec", [False, "lz4", "zstd", "gzip", True])
async def test_every_codec_of_the_async_client(front: FrontProcess, table: Make, codec: str) -> None:
    name = table("id UInt64, text String")
    client = await front.async_client(compress=codec)
    ids = list(range(ROWS))
    summary = await client.insert(name, [ids, [f"row {i} " * 20 for i in ids]], ["id", "text"], column_oriented=True)
    assert summary.written_rows == ROWS
    answer = await client.query(f"SELECT id FROM {name} ORDER BY id")
    assert [row[0] for row in answer.result_rows] == ids
    await client.close()


def native_block(ids: list[int]) -> bytes:
    """A Native block of one column ``id UInt64``; fewer than 128 rows."""
    return bytes([1, len(ids), 2]) + b"id\x06UInt64" + struct.pack(f"<{len(ids)}Q", *ids)


@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
async def test_raw_native_blocks_in_any_number_of_frames(
    async_owner: AsyncClient, table: Make, codec: str | None
) -> None:
    name = table("id UInt64")
    # 2,570 is two line feeds: text that ends an inline statement, data that must not end an insert.
    blocks = [native_block([2570, 10, 0]), native_block([1]), native_block([0x0A0A0A0A0A0A0A0A, 0x3B3B])]
    frames = {"lz4": lz4.frame.compress, "zstd": zstandard.compress, None: bytes}[codec]
    body = b"".join(frames(block) for block in blocks)
    summary = await async_owner.raw_insert(name, ["id"], body, fmt="Native", compression=codec)
    assert summary.written_rows == 6
    assert (await async_owner.query(f"SELECT count() FROM {name}")).result_rows == [(6,)]


def test_values_and_json_lines_with_empty_lines_in_them(owner: Client, table: Make) -> None:
    name = table("id UInt64, text String")
    owner.command(f"INSERT INTO {name} VALUES (1, 'a\n\nb; SELECT 1'), (2, 'it''s')")
    owner.raw_insert(name, ["id", "text"], b'{"id": 3, "text": "x"}\n\n{"id": 4, "text": "y"}\n', fmt="JSONEachRow")
    owner.command(f"INSERT INTO {name} VALUES ({{id:UInt64}}, {{text:String}})", {"id": 5, "text": "a\nb"})
    owner.command(f"INSERT INTO {name} SELECT number, 'FORMAT Native' FROM numbers(6, 2)")
    assert owner.query(f"SELECT * FROM {name} ORDER BY id").result_rows == [
        (1, "a\n\nb; SELECT 1"),
        (2, "it's"),
        (3, "x"),
        (4, "y"),
        (5, "a\nb"),
        (6, "FORMAT Native"),
        (7, "FORMAT Native"),
    ]


PARAMETERS = [
    ("UUID", UUID("12345678-1234-5678-1234-567812345678")),
    ("String", 'it\'s "quoted" \\ back\n\ttab; -- /* */ {x:String} ü 雪 \x01'),
    ("Array(String)", ["it's", "b\nc", "", "\\"]),
    ("Array(UUID)", [UUID(int=1), UUID(int=2)]),
    ("Array(Tuple(String, UInt8))", [("a'b", 1), ("c", 2)]),
    ("DateTime64(6, 'UTC')", datetime(2026, 2, 3, 4, 5, 6, 789012)),
    ("Nullable(String)", None),
    ("Nullable(DateTime64(9, 'UTC'))", None),
    ("Int64", -(2**63)),
    ("UInt64", 2**64 - 1),
    ("Float64", 1.5e-300),
    ("Bool", True),
    ("Decimal(18, 9)", Decimal("123456789.000000001")),
]


@pytest.mark.parametrize(("kind", "value"), PARAMETERS, ids=[kind for kind, _ in PARAMETERS])
def test_parameters_arrive_as_they_were(owner: Client, kind: str, value: object) -> None:
    assert owner.query(f"SELECT {{p:{kind}}}", parameters={"p": value}).result_rows == [(value,)]


async def test_parameters_too_long_for_a_url(async_owner: AsyncClient, owner: Client) -> None:
    ids = [uuid4() for _ in range(5_000)]
    query = "SELECT length({ids:Array(UUID)}), {text:String}"
    parameters = {"ids": ids, "text": "a\r\n--b\r\n" * 3}
    assert (await async_owner.query(query, parameters=parameters)).result_rows == [(5_000, parameters["text"])]
    assert owner.query(query, parameters=parameters).result_rows == [(5_000, parameters["text"])]


def test_column_types_that_the_schema_uses(owner: Client, table: Make) -> None:
    name = table(
        "id UUID, kind LowCardinality(String), at DateTime64(9, 'UTC'), end Nullable(DateTime64(9, 'UTC')), "
        "cost Nullable(Decimal(18, 9)), tags Array(String), attributes Map(LowCardinality(String), String), n UInt64"
    )
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    row = [UUID(int=7), "llm", at, None, Decimal("0.000000001"), ["a", "b'"], {"k": "v"}, 2**63]
    assert owner.insert(name, [row, row]).written_rows == 2
    found = owner.query(f"SELECT * FROM {name} LIMIT 1", query_tz="UTC", tz_mode="aware").result_rows[0]
    assert list(found) == row


def test_nothing_inserted_is_no_error(owner: Client, table: Make) -> None:
    name = table("id UInt64")
    assert owner.insert(name, [], ["id"]).written_rows == 0
    assert owner.raw_insert(name, ["id"], b"", fmt="Native").written_rows == 0


def test_formats_and_raw_queries(owner: Client) -> None:
    assert owner.raw_query("SELECT 1 AS a, 'x' AS b", fmt="JSONEachRow") == b'{"a":1,"b":"x"}\n'
    assert owner.raw_query("SELECT number FROM numbers(3)", fmt="TabSeparated") == b"0\n1\n2\n"
    assert owner.raw_query("SELECT number FROM numbers(200000)", fmt="CSVWithNames").count(b"number") == 1
    assert owner.raw_query("SELECT 1 WHERE 0", fmt="TSVWithNames") == b"1\n"
    assert b'"rows": 2' in owner.raw_query("SELECT number FROM numbers(2) FORMAT JSON")


@pytest.mark.parametrize("codec", [False, "lz4", "zstd", "gzip"])
def test_answers_are_streamed(front: FrontProcess, codec: str) -> None:
    client = front.client(compress=codec)
    with client.query_row_block_stream("SELECT number FROM numbers(2000000)") as blocks:
        assert sum(len(block) for block in blocks) == 2_000_000
    with client.raw_stream("SELECT number FROM numbers(300000)", fmt="TabSeparated") as stream:
        assert sum(1 for _ in stream) == 300_000
    client.close()


async def test_answers_are_streamed_to_the_async_client(async_owner: AsyncClient) -> None:
    rows = 0
    async with await async_owner.query_row_block_stream(
        "SELECT number, toString(number) FROM numbers(1000000)"
    ) as stream:
        async for block in stream:
            rows += len(block)
    assert rows == 1_000_000


ERRORS = [
    ("SELECT * FROM nowhere", 60),
    ("SELECT nothing", 47),
    ("SELECT FROM WHERE", 62),
    ("SELECT throwIf(1)", 395),
    ("SELECT noSuchFunction(1)", 46),
    ("SELECT 1 SETTINGS no_such_setting = 1", 115),
    ("SELECT {missing:String}", 456),
    ("SELECT 1; SELECT 2", 62),
    ("SELECT 1 INTO OUTFILE '/tmp/stolen'", 48),
    ("INSERT INTO nowhere VALUES (1)", 60),
    ("", 62),
    ("-- nothing but a comment", 62),
    ("foo", 62),
    ("SELECT * FROM file('/etc/passwd', 'TSV', 'a String')", 497),
    ("SELECT * FROM url('http://127.0.0.1:1/', 'TSV', 'a String')", 497),
    ("SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')", 497),
    ("SHOW ACCESS", 497),
]


@pytest.mark.parametrize(("statement", "code"), ERRORS, ids=[statement[:40] for statement, _ in ERRORS])
def test_errors_carry_the_engine_s_code(owner: Client, statement: str, code: int) -> None:
    with pytest.raises(DatabaseError) as raised:
        owner.raw_query(statement)
    assert raised.value.code == code


@pytest.mark.parametrize("codec", [False, "lz4", "zstd", "gzip"])
def test_an_error_in_mid_answer_is_an_error_for_the_client(front: FrontProcess, codec: str) -> None:
    client = front.client(compress=codec)
    query = "SELECT throwIf(number = 3000000, 'in mid answer') FROM numbers(4000000)"
    with client.query_row_block_stream(query) as blocks, pytest.raises(StreamFailureError) as raised:
        for _ in blocks:
            pass
    assert raised.value.code == 395
    assert "in mid answer" in str(raised.value)
    client.close()


async def test_an_error_in_mid_answer_is_an_error_for_the_async_client(async_owner: AsyncClient) -> None:
    query = "SELECT throwIf(number = 3000000, 'in mid answer') FROM numbers(4000000)"
    async with await async_owner.query_row_block_stream(query) as stream:
        with pytest.raises(StreamFailureError) as raised:
            async for _ in stream:
                pass
    assert raised.value.code == 395


def test_a_wrong_password_and_an_unknown_user_are_told_alike(front: FrontProcess) -> None:
    words = []
    for user, password in (("tracebility", "wrong"), ("nobody", "wrong"), ("tracebility_reader", ""), ("default", "")):
        with pytest.raises(DatabaseError) as raised:
            front.client(username=user, password=password)
        assert raised.value.code == 516
        words.append(str(raised.value).replace(user, "USER"))
    assert len(set(words)) == 1


def test_settings_of_a_request_end_with_it(owner: Client) -> None:
    question = "SELECT getSetting('max_block_size'), getSetting('async_insert')"
    before = owner.query(question).result_rows
    assert before[0][1] is False
    assert owner.query(question, settings={"max_block_size": 1234}).result_rows == [(1234, False)]
    assert owner.query(question).result_rows == before
    with pytest.raises((DatabaseError, ProgrammingError)):
        owner.query("SELECT 1", settings={"max_block_size": "many"})


def test_a_read_ends_at_its_max_execution_time(owner: Client) -> None:
    with pytest.raises(DatabaseError) as raised:
        owner.query("SELECT sum(sipHash64(number)) FROM numbers(100000000000)", settings={"max_execution_time": 1})
    assert raised.value.code == 159


def test_a_session_keeps_its_tables_and_settings(front: FrontProcess) -> None:
    one, two = front.client(session_id="one"), front.client(session_id="two")
    one.command("CREATE TEMPORARY TABLE mine (a UInt8)")
    one.insert("mine", [[1], [2]], ["a"], database="")
    one.command("SET max_threads = 1")
    one.query("SELECT 1", settings={"max_block_size": 99})
    assert one.query("SELECT sum(a), getSetting('max_threads') FROM mine").result_rows == [(3, 1)]
    assert one.query("SELECT getSetting('max_block_size')").result_rows != [(99,)]
    with pytest.raises(DatabaseError) as raised:
        two.query("SELECT * FROM mine")
    assert raised.value.code == 60


def test_metadata_statements(owner: Client, table: Make) -> None:
    name = table("id UInt64")
    assert owner.command(f"EXISTS TABLE {name}") == 1
    assert (name,) in owner.query("SHOW TABLES").result_rows
    assert owner.query(f"DESCRIBE TABLE {name}").result_rows[0][:2] == ("id", "UInt64")
    assert owner.query(f"SELECT id FROM {name} LIMIT 0").column_names == ("id",)
    assert owner.server_version.split(".")[0].isdecimal()
    assert str(owner.server_tz) == "UTC"
    assert owner.ping()


def test_the_summary_says_what_was_read_and_written(owner: Client, table: Make) -> None:
    name = table("id UInt64")
    written = owner.command(f"INSERT INTO {name} SELECT number FROM numbers(1000)")
    assert written.written_rows == 1000
    read = owner.query(f"SELECT sum(id) FROM {name}")
    assert int(read.summary["read_rows"]) == 1000
    assert read.query_id


def test_inserts_while_others_read(front: FrontProcess, table: Make) -> None:
    name = table("id UInt64")
    client = front.client(autogenerate_session_id=False)
    with client.query_row_block_stream("SELECT number FROM numbers(3000000)") as blocks:
        assert client.insert(name, [[1]], ["id"]).written_rows == 1
        assert sum(len(block) for block in blocks) == 3_000_000
