"""What the client does not show: the interface itself, byte by byte, as scripts and other clients use it."""

import json
from collections.abc import Callable, Iterator
from urllib.parse import urlencode
from uuid import UUID
from zlib import compress as deflate

import httpx
import lz4.frame
import pytest
import zstandard
from isal import igzip

from tracebility.stores.scoped import TENANT_SETTING

from .conftest import OWNER_PASSWORD, READER_PASSWORD, FrontProcess

Make = Callable[[str], str]


@pytest.fixture(scope="module")
def http(front: FrontProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{front.port}", auth=("tracebility", OWNER_PASSWORD)) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(front: FrontProcess) -> Iterator[httpx.Client]:
    """A client that sends no credentials of its own accord."""
    with httpx.Client(base_url=f"http://127.0.0.1:{front.port}") as client:
        yield client


def test_ping_and_the_root_need_no_password(stranger: httpx.Client) -> None:
    for path in ("/ping", "/", "/replicas_status"):
        assert (stranger.get(path).status_code, stranger.get(path).text) == (200, "Ok.\n")
    assert stranger.get("/nothing").status_code == 404


def test_every_way_to_name_a_user(stranger: httpx.Client) -> None:
    query = {"query": "SELECT 'in'"}
    key = OWNER_PASSWORD.encode().decode("latin-1")  # headers are bytes; clients send UTF-8
    ways = [
        {"params": query | {"user": "tracebility", "password": OWNER_PASSWORD}},
        {
            "params": query,
            "headers": {b"X-ClickHouse-User": b"tracebility", b"X-ClickHouse-Key": key.encode("latin-1")},
        },
        {"params": query, "auth": ("tracebility", OWNER_PASSWORD)},
    ]
    for way in ways:
        assert stranger.get("/", **way).text == "in\n"  # type: ignore[arg-type]
    for way in ways[:1]:
        wrong = stranger.get("/", params=way["params"] | {"password": OWNER_PASSWORD + "x"})
        assert (wrong.status_code, wrong.headers["X-ClickHouse-Exception-Code"]) == (403, "516")
        assert "tracebility: Authentication failed" in wrong.text
    assert stranger.get("/", params=query).status_code == 403
    assert stranger.get("/", params=query, headers={"Authorization": "Basic ???"}).status_code == 403


def test_headers_of_an_answer(http: httpx.Client) -> None:
    answer = http.post("/", params={"query_id": "my-query", "default_format": "JSONEachRow"}, content="SELECT 1 AS a")
    assert answer.text == '{"a":1}\n'
    assert answer.headers["X-ClickHouse-Query-Id"] == "my-query"
    assert answer.headers["X-ClickHouse-Format"] == "JSONEachRow"
    assert answer.headers["X-ClickHouse-Timezone"] == "UTC"
    assert set(json.loads(answer.headers["X-ClickHouse-Summary"])) >= {"read_rows", "written_rows", "elapsed_ns"}
    by_header = http.post("/", headers={"X-ClickHouse-Format": "CSV"}, content="SELECT 'a', 1")
    assert by_header.text == '"a",1\n'


@pytest.mark.parametrize(
    ("statement", "status"),
    [("SELECT * FROM nowhere", 404), ("SELECT", 400), ("SELECT throwIf(1)", 500), ("SELECT 1 INTO OUTFILE 'x'", 501)],
)
def test_the_status_of_an_error(http: httpx.Client, statement: str, status: int) -> None:
    answer = http.post("/", content=statement)
    assert answer.status_code == status
    assert answer.text.startswith(f"Code: {answer.headers['X-ClickHouse-Exception-Code']}. DB::Exception")
    assert "version" in answer.text


def test_get_may_only_read(http: httpx.Client) -> None:
    answer = http.get("/", params={"query": "CREATE TABLE made_by_get (a UInt8) ENGINE = Memory"})
    assert answer.headers["X-ClickHouse-Exception-Code"] == "164"


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("lz4", lz4.frame.compress),
        ("zstd", zstandard.compress),
        ("gzip", igzip.compress),
        ("deflate", deflate),
        ("identity", bytes),
    ],
)
def test_a_body_in_frames_cut_anywhere(
    http: httpx.Client, table: Make, name: str, pack: Callable[[bytes], bytes]
) -> None:
    into = table("id UInt64, text String")
    lines = [f"{number}\t{'x' * (number % 50)}\n".encode() for number in range(30_000)]
    frames = b"".join(pack(b"".join(lines[start : start + 1000])) for start in range(0, len(lines), 1000))

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(frames), 777):
            yield frames[start : start + 777]

    params = {"query": f"INSERT INTO {into} FORMAT TabSeparated"}
    answer = http.post("/", params=params, headers={"Content-Encoding": name}, content=pieces())
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["written_rows"] == "30000"
    assert http.post("/", content=f"SELECT count(), sum(id) FROM {into}").text == f"30000\t{sum(range(30_000))}\n"


@pytest.mark.parametrize(
    ("name", "pack"), [("lz4", lz4.frame.compress), ("zstd", zstandard.compress), ("gzip", igzip.compress)]
)
def test_a_torn_compressed_body_leaves_nothing(
    http: httpx.Client, table: Make, name: str, pack: Callable[[bytes], bytes]
) -> None:
    into = table("id UInt64")
    whole, torn = pack(b"1\n2\n"), pack(b"3\n4\n" * 1000)[:-5]
    params = {"query": f"INSERT INTO {into} FORMAT TabSeparated"}
    for body in (whole + torn, torn, whole + b"\x00garbage" if name != "gzip" else torn):
        answer = http.post("/", params=params, headers={"Content-Encoding": name}, content=body)
        assert answer.status_code == 400
    assert http.post("/", content=f"SELECT count() FROM {into}").text == "0\n"


def test_codings_that_are_not_known_are_refused(http: httpx.Client) -> None:
    assert http.post("/", headers={"Content-Encoding": "snappy"}, content=b"SELECT 1").status_code == 501
    assert http.post("/", params={"decompress": "1"}, content=b"SELECT 1").status_code == 501


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_answers_in_codings_that_browsers_know(http: httpx.Client, name: str) -> None:
    answer = http.post("/", headers={"Accept-Encoding": name}, content="SELECT number FROM numbers(100000)")
    assert answer.headers["Content-Encoding"] == name
    assert answer.text.count("\n") == 100_000
    plain = http.post(
        "/",
        params={"enable_http_compression": "0"},
        headers={"Accept-Encoding": name},
        content="SELECT number FROM numbers(100000)",
    )
    assert "Content-Encoding" not in plain.headers


def test_statement_and_data_may_come_in_pieces(http: httpx.Client, table: Make) -> None:
    into = table("id UInt64")
    ways = [
        ({"query": f"INSERT INTO {into} FORMAT TSV"}, "1\n"),
        ({"query": f"INSERT INTO {into} FORMAT TSV 2"}, "3\n"),
        ({"query": f"INSERT INTO {into}"}, "FORMAT TSV\n4\n"),
        ({"query": f"INSERT INTO {into} VALUES"}, "(5)"),
        ({"query": f"INSERT INTO {into} VALUES (6)"}, ""),
        ({}, f"INSERT INTO {into} (id) SETTINGS max_threads = 1 FORMAT CSV\r\n7\n"),
        ({}, f"/* INSERT; */ insert into {into} -- FORMAT\n(id) values (8)"),
    ]
    for params, body in ways:
        assert http.post("/", params=params, content=body).text == ""
    assert http.post("/", content=f"SELECT groupArray(id) FROM (SELECT id FROM {into} ORDER BY id)").text == (
        "[1,2,3,4,5,6,7,8]\n"
    )


def test_a_statement_in_a_form(http: httpx.Client) -> None:
    fields = {"query": "SELECT {a:String} FORMAT TSVRaw", "param_a": "it's"}
    assert http.post("/", files={name: (None, value) for name, value in fields.items()}).text == "it's\n"
    assert http.post("/", files={"query": (None, "SELECT 1"), "t": ("t", b"1")}).status_code == 501


def test_a_body_is_the_statement_whatever_curl_says_of_it(http: httpx.Client, table: Make) -> None:
    into = table("text String")
    said = {"Content-Type": "application/x-www-form-urlencoded"}  # of curl --data-binary
    assert http.post("/", content="SELECT 'a=b&c%20d'", headers=said).text == "a=b&c%20d\n"
    params = {"query": f"INSERT INTO {into} FORMAT TSV"}
    assert http.post("/", params=params, content="e=f&query=g\n", headers=said).status_code == 200
    assert http.post("/", content=f"SELECT * FROM {into}", headers=said).text == "e=f&query=g\n"


def test_a_statement_too_long_is_refused(http: httpx.Client) -> None:
    assert http.post("/", content="SELECT '" + "x" * (1 << 21) + "'").status_code == 400


def test_sessions_are_checked_and_locked(http: httpx.Client) -> None:
    unknown = http.post("/", params={"session_id": "unknown", "session_check": "1"}, content="SELECT 1")
    assert unknown.headers["X-ClickHouse-Exception-Code"] == "372"
    too_long = http.post("/", params={"session_id": "long", "session_timeout": "999999"}, content="SELECT 1")
    assert too_long.status_code == 400
    with http.stream("POST", "/", params={"session_id": "busy"}, content="SELECT * FROM numbers(100000000)") as stream:
        next(stream.iter_raw(1000))
        locked = http.post("/", params={"session_id": "busy"}, content="SELECT 1")
        assert locked.headers["X-ClickHouse-Exception-Code"] == "373"


def test_passwords_are_neither_in_the_command_line_nor_in_a_log(front: FrontProcess) -> None:
    with open(f"/proc/{front.pid}/cmdline", "rb") as command:
        assert OWNER_PASSWORD.encode() not in command.read()
    log = (front.data_dir.parent / f"{front.data_dir.name}.log").read_text()
    assert OWNER_PASSWORD not in log
    assert READER_PASSWORD not in log.replace("tracebility_reader", "")
    assert urlencode({"p": OWNER_PASSWORD}) not in log


def test_what_it_writes_down_for_itself_is_for_nobody_else_to_read(own_front: FrontProcess) -> None:
    own_front.client().command("CREATE TABLE policed (org_id UUID) ENGINE = MergeTree ORDER BY org_id")
    # Its first reader makes it remember which policies it runs with.
    own_front.client("tracebility_reader").query("SELECT 1", settings={TENANT_SETTING: str(UUID(int=1))})
    modes = {path.name: path.stat().st_mode & 0o777 for path in (own_front.data_dir / "config").iterdir()}
    assert modes == {"config.xml": 0o600, "users.xml": 0o600, "policies.json": 0o600}
