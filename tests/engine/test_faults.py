"""What clients that leave, and processes that die, leave behind: nothing half, and everything that was acknowledged."""

import asyncio
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, Error

from tracebility_engine.app import EXIT_DISK_FAILED

from .conftest import OWNER_PASSWORD, FrontProcess

Make = Callable[[str], str]
DEADLINE_S = 20.0
BASIC = b64encode(f"tracebility:{OWNER_PASSWORD}".encode()).decode()
LONG_READ = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"


def until(condition: Callable[[], bool]) -> None:
    """Return when it holds; fail when it does not hold in time."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.02)


def send(front: FrontProcess, head: str, body: bytes = b"") -> socket.socket:
    """Begin a request by hand."""
    connection = socket.create_connection(("127.0.0.1", front.port))
    connection.sendall(f"{head} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {BASIC}\r\n".encode() + body)
    return connection


def running(owner: Client, text: str) -> bool:
    found = owner.query("SELECT count() FROM system.processes WHERE query LIKE {like:String}", {"like": f"%{text}"})
    return bool(found.result_rows[0][0])


def test_a_read_whose_client_leaves_is_cancelled(front: FrontProcess, owner: Client) -> None:
    mark = uuid4().hex
    query = f"{LONG_READ} -- {mark}".encode()
    connection = send(front, "POST /", f"Content-Length: {len(query)}\r\n\r\n".encode() + query)
    until(lambda: running(owner, mark))
    connection.close()
    until(lambda: not running(owner, mark))


def test_a_streamed_read_whose_client_leaves_is_cancelled(front: FrontProcess, owner: Client) -> None:
    mark = uuid4().hex
    query = f"SELECT number FROM numbers(1000000000000) -- {mark}".encode()
    connection = send(front, "POST /", f"Content-Length: {len(query)}\r\n\r\n".encode() + query)
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    until(lambda: running(owner, mark))
    connection.close()
    until(lambda: not running(owner, mark))


def test_cancelled_reads_do_not_use_up_the_threads(front: FrontProcess, owner: Client) -> None:
    mark = uuid4().hex
    query = f"{LONG_READ} -- {mark}".encode()
    connections = [send(front, "POST /", f"Content-Length: {len(query)}\r\n\r\n".encode() + query) for _ in range(40)]
    for connection in connections:
        connection.close()
    until(lambda: not running(owner, mark))
    assert owner.query("SELECT 1").result_rows == [(1,)]


async def test_a_cancelled_task_of_the_async_client_ends_its_query(front: FrontProcess, owner: Client) -> None:
    mark = uuid4().hex
    client = await front.async_client()
    task = asyncio.create_task(client.command(f"{LONG_READ} /* {mark} */"))
    await asyncio.to_thread(until, lambda: running(owner, f"{mark} */"))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await client.close()
    until(lambda: not running(owner, f"{mark} */"))


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 1000000\r\n\r\n" + b"1\n" * 1000,
        b"Transfer-Encoding: chunked\r\n\r\n" + b"7d0\r\n" + b"1\n" * 1000 + b"\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"7d0\r\n" + b"1\n" * 900,
        b"Transfer-Encoding: chunked\r\n\r\n" + b"not a length\r\n",
    ],
    ids=["short of its length", "without its last chunk", "in a chunk", "malformed"],
)
def test_an_insert_whose_client_leaves_inserts_nothing(
    front: FrontProcess, owner: Client, table: Make, body: bytes
) -> None:
    name = table("id UInt64")
    connection = send(front, f"POST /?query=INSERT%20INTO%20{name}%20FORMAT%20TSV", body)
    connection.shutdown(socket.SHUT_WR)
    with suppress(ConnectionResetError):
        assert b" 200 " not in connection.recv(1000)
    connection.close()
    assert owner.insert(name, [[7]], ["id"]).written_rows == 1
    assert owner.query(f"SELECT groupArray(id) FROM {name}").result_rows == [([7],)]


def test_data_that_cannot_be_read_to_its_end_inserts_nothing(owner: Client, table: Make) -> None:
    name = table("id UInt64, text String")
    good = b"".join(f"{number}\ttext\n".encode() for number in range(100_000))
    for bad in (b"x\ty\n", b"5\n", b"5\tno end"):
        with suppress(DatabaseError):
            owner.raw_insert(name, ["id", "text"], good + bad, fmt="TabSeparated")
            assert bad == b"5\tno end"  # a last line without its end is a line
            owner.command(f"TRUNCATE TABLE {name}")
        assert owner.query(f"SELECT count() FROM {name}").result_rows == [(0,)]


def test_what_was_acknowledged_outlives_kill_9(own_front: FrontProcess) -> None:
    client = own_front.client(autogenerate_session_id=False)
    client.command("CREATE TABLE kept (batch UInt64, id UInt64) ENGINE = MergeTree ORDER BY id")
    acknowledged: set[int] = set()
    sent = 0
    for _ in range(2):
        writers = [
            threading.Thread(target=_write, args=(own_front, first, acknowledged)) for first in range(sent, sent + 3)
        ]
        sent += 1000
        for writer in writers:
            writer.start()
        wanted = len(acknowledged) + 20
        until(lambda: len(acknowledged) >= wanted)  # noqa: B023 - used at once
        own_front.kill()
        for writer in writers:
            writer.join()
        own_front.start()
        client = own_front.client(autogenerate_session_id=False)
        found = dict(client.query("SELECT batch, count() FROM kept GROUP BY batch").result_rows)
        assert acknowledged <= set(found)
        assert set(found.values()) == {1000}  # whole batches, none twice
    own_front.stop()


def _write(front: FrontProcess, first: int, acknowledged: set[int]) -> None:
    """Insert batches of 1,000 rows until the process dies; note those that were acknowledged."""
    with suppress(Error, OSError):
        client = front.client(autogenerate_session_id=False)
        for batch in range(first, first + 1000, 3):
            rows = [[batch] * 1000, list(range(1000))]
            summary = client.insert("kept", rows, ["batch", "id"], column_oriented=True)
            assert summary.written_rows == 1000
            acknowledged.add(batch)


def test_a_polite_stop_finishes_running_inserts_and_keeps_policies(own_front: FrontProcess) -> None:
    client = own_front.client(autogenerate_session_id=False)
    client.command("CREATE TABLE kept (org_id UUID, id UInt64) ENGINE = MergeTree ORDER BY org_id")
    answers: list[int] = []

    def insert() -> None:
        query = "INSERT INTO kept SELECT generateUUIDv4(), number FROM numbers(10) WHERE sleepEachRow(0.1) = 0"
        answers.append(client.command(query, settings={"max_block_size": 1}).written_rows)  # type: ignore[union-attr]

    inserting = threading.Thread(target=insert)
    inserting.start()
    watch = own_front.client(autogenerate_session_id=False)
    until(lambda: running(watch, "sleepEachRow(0.1) = 0"))
    assert own_front.stop() == 0
    inserting.join()
    assert answers == [10]
    own_front.start()
    assert own_front.client().query("SELECT count() FROM kept").result_rows == [(10,)]
    assert own_front.client("tracebility_reader").query("SELECT count() FROM kept").result_rows == [(0,)]


def test_a_second_process_on_a_directory_is_refused_with_the_first_one_s_pid(front: FrontProcess) -> None:
    command = [
        sys.executable,
        "-m",
        "tracebility_engine",
        "--data-dir",
        str(front.data_dir),
        "--port",
        "0",
    ]
    passwords = {f"TRACEBILITY_FRONT_{name}": "x" for name in ("OWNER_PASSWORD", "READER_PASSWORD")}
    second = subprocess.run(command, env=os.environ | passwords, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert f"in use by process {front.pid}" in second.stderr


def test_a_start_without_a_password_is_refused_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tracebility_engine", "--data-dir", str(tmp_path), "--port", "0"]
    without = {name: value for name, value in os.environ.items() if not name.startswith("TRACEBILITY_FRONT_")}
    refused = subprocess.run(command, env=without, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "TRACEBILITY_FRONT_OWNER_PASSWORD" in refused.stderr


def test_memory_is_bounded_both_ways(front: FrontProcess, owner: Client, table: Make) -> None:
    process = psutil.Process(front.pid)
    before = process.memory_info().rss
    most = 0

    def watched(pieces: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal most
        for piece in pieces:
            most = max(most, process.memory_info().rss)
            yield piece

    name = table("id UInt64, text String")
    line = b"1\t" + b"x" * 4093 + b"\n"
    piece = line * 256
    summary = owner.raw_insert(name, None, watched(piece for _ in range(400)), fmt="TabSeparated")  # type: ignore[arg-type]
    assert summary.written_rows == 256 * 400
    with owner.raw_stream(f"SELECT text FROM {name}", fmt="TabSeparated") as stream:
        size = sum(len(part) for part in watched(iter(lambda: stream.read(1 << 20), b"")))
    assert size == 256 * 400 * 4094
    # 400 MB each way. An insert is staged whole, so that it is written whole or not at all, then sorted and written.
    assert most - before < 1600 << 20
    with pytest.raises(DatabaseError) as raised:
        owner.query("SELECT groupArray(number) FROM numbers(2000000000)", settings={"max_memory_usage": 200 << 20})
    assert raised.value.code == 241
    assert owner.query("SELECT 1").result_rows == [(1,)]


def test_nothing_is_left_of_finished_requests(front: FrontProcess, owner: Client) -> None:
    assert list((front.data_dir / "bodies").iterdir()) == []
    assert owner.query("SELECT count() FROM system.processes").result_rows == [(1,)]
    log = (front.data_dir.parent / f"{front.data_dir.name}.log").read_text()
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("columns", "engine", "rows", "code"),
    [
        ("id UInt64, CONSTRAINT small CHECK id < 50", "MergeTree ORDER BY id", [[1], [60]], 469),
        ("id UInt64", "MergeTree ORDER BY id PARTITION BY id", [[i] for i in range(500)], 252),
    ],
    ids=["a constraint", "too many partitions"],
)
def test_an_insert_that_fails_as_its_part_is_made_says_so(
    owner: Client, table: Make, columns: str, engine: str, rows: list[list[int]], code: int
) -> None:
    """The engine's own streaming insert answers these with success."""
    name = table(columns, engine)
    with pytest.raises(DatabaseError, match=f"code: {code}|Code: {code}"):
        owner.insert(name, rows, ["id"])
    assert owner.query(f"SELECT count() FROM {name}").result_rows == [(0,)]
    assert owner.insert(name, [[7]], ["id"]).written_rows == 1


def limit_files(front: FrontProcess, size: int) -> None:
    """Writes past ``size`` bytes of a file fail from now on, as on a full disk."""
    resource.prlimit(front.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_an_insert_of_which_a_write_failed_is_not_acknowledged_and_may_be_sent_again(own_front: FrontProcess) -> None:
    """The engine itself would say that all is well, and have a part that nobody can read."""
    client = own_front.client()
    client.command("CREATE TABLE t (n UInt64, noise String) ENGINE = MergeTree ORDER BY n")
    noise = "SELECT number, randomString(1000) FROM numbers({start:UInt64}, 100)"
    client.command("INSERT INTO t " + noise, {"start": 0})
    limit_files(own_front, 50_000)
    with pytest.raises(Error):
        client.insert("t", [[100 + n, os.urandom(1000)] for n in range(100)], ["n", "noise"])
    assert own_front.process is not None
    assert own_front.process.wait(DEADLINE_S) == EXIT_DISK_FAILED
    own_front.start()
    limit_files(own_front, 50_000)
    with pytest.raises(Error):
        client.command("INSERT INTO t " + noise, {"start": 100})
    own_front.process.wait(DEADLINE_S)
    client = own_front.start().client()
    assert client.query("SELECT count(), sum(cityHash64(*)) > 0 FROM t").result_rows == [(100, 1)]
    client.command("INSERT INTO t " + noise, {"start": 100})
    assert client.query("SELECT count(), uniqExact(n), max(length(noise)) FROM t").result_rows == [(200, 200, 1000)]


def test_a_merge_of_which_a_write_failed_loses_nothing(own_front: FrontProcess) -> None:
    """Its sources are kept for half a minute."""
    client = own_front.client()
    client.command("CREATE TABLE t (n UInt64, noise String) ENGINE = MergeTree ORDER BY n")
    client.command("SYSTEM STOP MERGES t")
    for start in range(0, 500, 100):
        client.command(f"INSERT INTO t SELECT number, randomString(1000) FROM numbers({start}, 100)")
    before = client.query("SELECT count(), sum(cityHash64(*)) FROM t").result_rows
    limit_files(own_front, 200_000)
    client.command("SYSTEM START MERGES t")
    with suppress(Error):
        client.command("OPTIMIZE TABLE t FINAL")
    assert own_front.process is not None
    assert own_front.process.wait(DEADLINE_S) == EXIT_DISK_FAILED
    client = own_front.start().client()
    assert client.query("SELECT count(), sum(cityHash64(*)) FROM t").result_rows == before


# The first look after the disk fails, as for want of memory.
STUMBLING = """
from tracebility_engine import app, engine, host
looks, look = [], host.EngineHost.check_disk
async def check_disk(self):
    looks.append(1)
    if len(looks) == 1:
        raise engine.EngineError(241, "Code: 241. DB::Exception: Memory limit exceeded")
    await look(self)
host.EngineHost.check_disk, app._MAINTENANCE_S = check_disk, 1
"""
NO_ROOM = "from tracebility_engine import host\nhost.LEAST_FREE_BYTES = 1 << 60"


@pytest.mark.parametrize("preface", ["", STUMBLING], ids=["", "after a look that failed"])
def test_what_fails_in_the_background_is_found_without_a_statement(own_front: FrontProcess, preface: str) -> None:
    own_front.stop()
    own_front.preface = preface
    client = own_front.start().client()
    client.command("CREATE TABLE t (n UInt64, noise String) ENGINE = MergeTree ORDER BY n")
    client.command("INSERT INTO t SELECT number, randomString(1000) FROM numbers(1000)")
    limit_files(own_front, 200_000)
    client.command("ALTER TABLE t UPDATE noise = reverse(noise) WHERE 1 SETTINGS mutations_sync = 0")
    assert own_front.process is not None
    assert own_front.process.wait(DEADLINE_S) == EXIT_DISK_FAILED
    client = own_front.start().client()
    assert client.query("SELECT count(), min(length(noise)), max(length(noise)) FROM t").result_rows == [
        (1000, 1000, 1000)
    ]


def test_a_disk_without_room_takes_no_insert_and_goes_on_answering(own_front: FrontProcess) -> None:
    client = own_front.client()
    client.command("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    client.insert("t", [[1], [2]], ["n"])
    own_front.stop()
    own_front.preface = NO_ROOM
    client = own_front.start().client()
    for insert in (lambda: client.insert("t", [[3]], ["n"]), lambda: client.command("INSERT INTO t SELECT n FROM t")):
        with pytest.raises(DatabaseError) as raised:
            insert()
        assert raised.value.code == 243
    client.command("DELETE FROM t WHERE n = 1")
    assert client.query("SELECT n FROM t").result_rows == [(2,)]


def test_no_part_that_a_merge_may_leave_broken_keeps_the_engine_from_starting(owner: Client) -> None:
    settings = dict(owner.query("SELECT name, value FROM system.merge_tree_settings").result_rows)
    largest = int(settings["max_bytes_to_merge_at_max_space_in_pool"])
    assert int(settings["max_suspicious_broken_parts_bytes"]) > 1_000 * largest
    assert int(settings["max_suspicious_broken_parts"]) > int(settings["parts_to_throw_insert"])
