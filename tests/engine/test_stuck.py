"""Queries that do not end when they are told to: few are borne, more end the process, and its successor goes on."""

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, Error

from tracebility.stores.scoped import TENANT_SETTING
from tracebility_engine.app import EXIT_STUCK
from tracebility_engine.execution import MAX_STUCK

from .conftest import PASSWORDS, FrontProcess

DEADLINE_S = 60.0
PATIENCE_S = 0.2
IN_ITS_BLOCK_S = 0.5
HASTY = f"""
from tracebility_engine import execution, host
execution.KILL_PATIENCE_S = execution.DEADLINE_GRACE_S = host.RESTART_PATIENCE_S = {PATIENCE_S}
"""
# Told to end, the engine looks between two blocks. Each row of this one costs most of a second, whatever is said.
ONE_BLOCK = "SELECT sum(editDistance(repeat('a', 20000 + number % 2), repeat('b', 20000))) FROM numbers({rows})"


@pytest.fixture
def hasty_front(tmp_path: Path) -> Iterator[FrontProcess]:
    front = FrontProcess(tmp_path / "data", preface=HASTY).start()
    yield front
    front.kill()


@pytest.fixture
def watch(hasty_front: FrontProcess) -> Iterator[Client]:
    client = hasty_front.client(autogenerate_session_id=False)
    yield client
    client.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.02)


def running(watch: Client, state: str = "1") -> int:
    others = "FROM system.processes WHERE query LIKE '%editDistance%' AND query NOT LIKE '%processes%'"
    return int(watch.query(f"SELECT countIf({state}) {others}").result_rows[0][0])


def leave_behind(front: FrontProcess, watch: Client, count: int, rows: int) -> None:
    """So many clients ask what cannot be ended, and go."""
    clients = [ask(front, ONE_BLOCK.format(rows=rows)) for _ in range(count)]
    until(lambda: running(watch, "read_rows > 0") == count)
    time.sleep(IN_ITS_BLOCK_S)  # one that has read its block, and not begun to compute, would still end
    for client in clients:
        client.close()


def ask(front: FrontProcess, query: str) -> socket.socket:
    """A connection that has sent ``query`` and has not looked at an answer."""
    connection = socket.create_connection(("127.0.0.1", front.port))
    head = (
        f"POST / HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: tracebility\r\n"
        f"X-ClickHouse-Key: {PASSWORDS['tracebility']}\r\nContent-Length: {len(query)}\r\n\r\n"
    )
    connection.sendall((head + query).encode())
    return connection


def log(front: FrontProcess) -> str:
    return (front.data_dir.parent / f"{front.data_dir.name}.log").read_text()


def ended(front: FrontProcess) -> int:
    assert front.process is not None
    return front.process.wait(timeout=DEADLINE_S)


def test_few_are_borne_and_forgotten_once_they_have_ended(hasty_front: FrontProcess, watch: Client) -> None:
    for _ in range(2):
        leave_behind(hasty_front, watch, MAX_STUCK - 1, rows=1)
        until(lambda: not running(watch))
    assert watch.query("SELECT 1").result_rows == [(1,)]
    assert '"stuck"' not in log(hasty_front)


def test_a_read_past_its_time_is_answered_though_it_does_not_end(hasty_front: FrontProcess, watch: Client) -> None:
    client = hasty_front.client(autogenerate_session_id=False, query_retries=0)
    with pytest.raises(DatabaseError) as raised:
        client.query(ONE_BLOCK.format(rows=1000), settings={"max_execution_time": 1})
    assert raised.value.code == 159
    assert running(watch) == 1


def test_statements_at_once_are_bounded(tmp_path: Path) -> None:
    """Of reads that do not end, those beyond the bound are told to come again, and none before it is."""
    crowded = "from tracebility_engine import execution\nexecution.MAX_STATEMENTS = 3"
    front = FrontProcess(tmp_path / "data", preface=crowded).start()
    client = front.client(autogenerate_session_id=False, query_retries=0)
    reads = [ask(front, "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)") for _ in range(5)]
    until(lambda: len(answered(reads)) == 2)
    for connection in answered(reads):
        assert b"Code: 202. DB::Exception: Too many simultaneous queries" in connection.recv(1000)
    with pytest.raises(DatabaseError, match="Too many simultaneous"):
        client.query("SELECT 1")
    for connection in reads:
        connection.close()

    def is_served() -> bool:
        with suppress(DatabaseError):
            return client.query("SELECT 1").result_rows == [(1,)]
        return False

    until(is_served)
    front.kill()


def answered(connections: list[socket.socket]) -> list[socket.socket]:
    return select.select(connections, [], [], 0)[0]


def test_too_many_end_the_process_and_the_next_one_has_everything(hasty_front: FrontProcess, watch: Client) -> None:
    watch.command("CREATE TABLE kept (id UInt64) ENGINE = MergeTree ORDER BY id")
    assert watch.insert("kept", [[7]], ["id"]).written_rows == 1
    leave_behind(hasty_front, watch, MAX_STUCK, rows=1000)
    assert ended(hasty_front) == EXIT_STUCK
    assert "killed queries do not end" in log(hasty_front)
    hasty_front.start()
    assert hasty_front.client().query("SELECT id FROM kept").result_rows == [(7,)]


def test_one_that_keeps_a_table_from_its_policy_ends_the_process(hasty_front: FrontProcess, watch: Client) -> None:
    leave_behind(hasty_front, watch, 1, rows=1000)
    watch.command("CREATE TABLE fresh (org_id UUID) ENGINE = MergeTree ORDER BY org_id")
    with pytest.raises(Error):
        hasty_front.client("tracebility_reader", query_retries=0).query(
            "SELECT count() FROM fresh", settings={TENANT_SETTING: str(UUID(int=1))}
        )
    assert ended(hasty_front) == EXIT_STUCK
    hasty_front.start()
    reader = hasty_front.client("tracebility_reader")
    assert reader.query("SELECT count() FROM fresh", settings={TENANT_SETTING: str(UUID(int=1))}).result_rows == [(0,)]
