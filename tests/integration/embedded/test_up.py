"""`tracebility up` as a parent: what it starts stays there, ends with it, and comes back as it was."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import Request, urlopen

import psutil
import pytest

TRACEBILITY = Path(sys.executable).parent / "tracebility"
DEADLINE_S = 60.0
STOP_BOUND_S = 10.0  # what the contract promises
STORES = ("postgres", "valkey", "clickhouse")
TARGETS = ("ingest-api", "ingest-worker", "ingest-worker-2", "api", "operator")

T = TypeVar("T")


def eventually(what: str, attempt: Callable[[], T], seconds: float = DEADLINE_S) -> T:
    """The first true value of `attempt`."""
    deadline = time.monotonic() + seconds
    while not (value := attempt()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.02)
    return value


class Up:
    """A `tracebility up` of this test's own."""

    def __init__(self, data_dir: Path, *arguments: str, **environment: str) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_name(f"{data_dir.name}.log")
        outside = {name: value for name, value in os.environ.items() if not name.startswith("TRACEBILITY_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [TRACEBILITY, "up", "--data-dir", data_dir, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=outside | environment,
                start_new_session=True,
            )

    def wait_ready(self) -> dict[str, Any]:
        """The ready file, once this start has written it."""

        def ready() -> dict[str, Any] | None:
            assert self.process.poll() is None, self.said()
            found = self.ready()
            return found if found and found["supervisor_pid"] == self.process.pid else None

        return eventually("the ready file", ready)

    def ready(self) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads((self.data_dir / "ready.json").read_text())
        except FileNotFoundError:
            return None
        return document

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Itself and everything below it."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    def lives(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if lives(process)]


def shared_memory_of(postgres: Path) -> list[int]:
    """System V segments of this cluster: PostgreSQL's key is the inode of its directory."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    keys = [int(line.split()[0]) & 0xFFFFFFFF for line in lines]
    return [key for key in keys if key == postgres.stat().st_ino & 0xFFFFFFFF]


def ask_valkey(ready: dict[str, Any], *words: str) -> bytes:
    password, _, path = ready["redis_url"].removeprefix("unix://:").partition("@")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        for command in (("AUTH", password), words):
            parts = "".join(f"${len(word)}\r\n{word}\r\n" for word in command)
            connection.sendall(f"*{len(command)}\r\n{parts}".encode())
            answer = connection.recv(4096)
    return answer


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One whole installation for the tests of this file, which leave it as whole as they found it."""
    folder = tmp_path_factory.mktemp("up")
    one = Up(folder / "data", "--port", "0", "--workers", "2", "--ready-file", str(folder / "elsewhere.json"))
    try:
        one.wait_ready()
        eventually("the other ready file", (folder / "elsewhere.json").exists)
        yield one
    finally:
        one.stop()


def test_the_ready_file_says_all_and_keeps_it_to_its_user(up: Up) -> None:
    ready = up.ready()
    assert ready is not None
    assert set(ready["pids"]) == {*STORES, *TARGETS}
    assert ready["otlp_grpc"] is None
    for name in ("api_key", "operator_key", "org_id", "workspace_id", "project_id", "admin_email", "admin_password"):
        assert isinstance(ready[name], str)
        assert ready[name]
    assert ready["clickhouse_url"].endswith("/tracebility")
    elsewhere = up.data_dir.with_name("elsewhere.json")
    assert json.loads(elsewhere.read_text()) == ready
    assert stat.S_IMODE(up.data_dir.stat().st_mode) == 0o700
    for path in (up.data_dir / "ready.json", elsewhere, up.data_dir / "installation.json", up.data_dir / "tenant.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_secret_is_on_a_command_line_or_in_the_output(up: Up) -> None:
    ready = up.ready()
    assert ready is not None
    passwords = [ready[name].partition("@")[0].rpartition(":")[2] for name in ("pg_dsn", "redis_url", "clickhouse_url")]
    words = [word for process in up.family() for word in process.cmdline()]
    assert not [password for password in passwords if any(password in word for word in words)]
    assert not [password for password in (*passwords, ready["admin_password"]) if password in up.said()]


def test_the_api_may_only_read_the_data_plane(up: Up) -> None:
    ready = up.ready()
    assert ready is not None
    environments = {name: psutil.Process(ready["pids"][name]).environ() for name in TARGETS}
    assert environments["api"]["TRACEBILITY_CLICKHOUSE_URL"] == ready["clickhouse_reader_url"]
    assert environments["ingest-worker"]["TRACEBILITY_CLICKHOUSE_URL"] == ready["clickhouse_url"]
    assert ready["clickhouse_reader_url"] != ready["clickhouse_url"]


def test_the_shown_first_trace_works_as_pasted(up: Up) -> None:
    shown = re.findall(r"^  curl .*?(?=\n\n)", up.said(), re.MULTILINE | re.DOTALL)
    assert len(shown) == 2
    send, read = shown
    accepted = subprocess.run(["bash", "-c", send], capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(accepted.stdout)["accepted"] == 1

    def runs() -> list[dict[str, Any]]:
        answer = subprocess.run(["bash", "-c", read], capture_output=True, text=True, timeout=30, check=True)
        items: list[dict[str, Any]] = json.loads(answer.stdout)["items"]
        return items

    assert "first trace" in [run["name"] for run in eventually("the first trace", runs)]

    code = textwrap.dedent(
        up.said().partition("opentelemetry-exporter-otlp-proto-http):\n")[2].partition("and read it")[0]
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    eventually("the trace from Python", lambda: "chat gpt-4o-mini" in [run["name"] for run in runs()])


@pytest.mark.parametrize("name", [*STORES, *TARGETS])
def test_a_killed_child_is_restarted_and_the_ready_file_says_so(name: str, up: Up) -> None:
    ready = up.ready()
    assert ready is not None
    before = ready["pids"]
    os.kill(before[name], signal.SIGKILL)

    def restarted() -> dict[str, int] | None:
        now = up.ready()
        return now["pids"] if now and now["pids"][name] != before[name] else None

    after = eventually("a new pid", restarted)
    assert psutil.Process(after[name]).ppid() == up.process.pid
    assert {other: pid for other, pid in after.items() if other != name} == {
        other: pid for other, pid in before.items() if other != name
    }
    eventually("an answer to a query", lambda: answers(ready))


def test_a_second_up_on_the_directory_is_told_the_pid_of_the_first(up: Up) -> None:
    refused = refuse("--data-dir", str(up.data_dir))
    assert f"(pid {up.process.pid})" in refused


def test_a_taken_port_is_one_line_that_names_the_fix(up: Up, tmp_path: Path) -> None:
    ready = up.ready()
    assert ready is not None
    port = ready["url"].rpartition(":")[2]
    refused = refuse("--data-dir", str(tmp_path / "data"), "--port", port)
    assert port in refused
    assert "--port" in refused


def test_two_installations_live_side_by_side(up: Up, stores: Any) -> None:
    ready = up.ready()
    assert ready is not None
    assert ask_valkey(ready, "SET", "whose", "mine") == b"+OK\r\n"
    assert ask_valkey(stores.ready, "GET", "whose") == b"$-1\r\n"
    assert ask_valkey(ready, "DEL", "whose") == b":1\r\n"


def test_localhost_reaches_it_over_both_protocols(up: Up) -> None:
    ready = up.ready()
    assert ready is not None
    port = int(ready["url"].rpartition(":")[2])
    families = {found[0] for found in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        if family in families:
            with socket.socket(family) as connection:
                connection.connect((address, port))


def test_a_copied_directory_has_stores_of_its_own(up: Up, tmp_path: Path) -> None:
    """The copy is made while its original runs, with its sockets, pid files and port, and starts beside it."""
    ready = up.ready()
    assert ready is not None
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", up.data_dir, copy], check=False, capture_output=True)  # Files may vanish meanwhile.
    beside = Up(copy, "--port", "0", "--only-stores")
    try:
        found = beside.wait_ready()
        assert not {found[name] for name in ("pg_dsn", "redis_url", "clickhouse_url")} & set(map(str, ready.values()))
        assert ask_valkey(found, "SET", "whose", "copy") == b"+OK\r\n"
        assert ask_valkey(ready, "GET", "whose") == b"$-1\r\n"
        assert answers(ready)
    finally:
        beside.stop()


def test_children_follow_a_killed_parent_and_the_next_start_finds_everything_again(up: Up) -> None:
    """Kept last. The next start copes with children that still die, and a pid file that names a living process."""
    ready = up.ready()
    assert ready is not None
    assert ask_valkey(ready, "SET", "kept", "yes") == b"+OK\r\n"
    assert shared_memory_of(up.data_dir / "postgres")
    family = up.family()
    up.process.kill()
    up.process.wait()
    pid_file = up.data_dir / "postgres" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{pid_file.parent}\n0\n0\n\n\n\n")

    again = Up(up.data_dir, "--port", "0", "--workers", "2")
    try:
        found = again.wait_ready()
        assert not alive(family)
        same = ("pg_dsn", "redis_url", "clickhouse_url", "api_key", "operator_key", "org_id", "admin_password")
        assert {name: found[name] for name in same} == {name: ready[name] for name in same}
        assert ask_valkey(found, "GET", "kept") == b"$3\r\nyes\r\n"
        assert answers(found)
        family = again.family()
        began = time.monotonic()
        assert again.stop(signal.SIGINT) == 0
        took = time.monotonic() - began
    finally:
        again.stop()
    assert took < STOP_BOUND_S
    assert not alive(family)
    assert not shared_memory_of(up.data_dir / "postgres")
    assert not (up.data_dir / "ready.json").exists()
    told = subprocess.run(
        [TRACEBILITY, "status", "--data-dir", up.data_dir], capture_output=True, text=True, check=False
    )
    assert told.stderr.endswith(f"is stopped; start it with 'tracebility up --data-dir {up.data_dir}'.\n")


def answers(ready: dict[str, Any]) -> bool:
    """Whether the whole way from the port through the api to its stores is open."""
    request = Request(f"{ready['url']}/v1/projects", headers={"authorization": f"Bearer {ready['api_key']}"})
    try:
        with urlopen(request, timeout=10) as answer:
            return bool(json.load(answer)["items"])
    except OSError:
        return False


def refuse(*arguments: str) -> str:
    """The one line that `tracebility up` says when it does not start."""
    done = subprocess.run([TRACEBILITY, "up", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr
