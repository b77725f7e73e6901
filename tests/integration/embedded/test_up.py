"""`tracebility up` as a parent: what it starts stays there, ends with it, and comes back as it was."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

TRACEBILITY = Path(sys.executable).parent / "tracebility"
DEADLINE_S = 60.0
STORES = ("postgres", "valkey", "clickhouse")

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
                [TRACEBILITY, "up", "--data-dir", data_dir, *(arguments or ("--only-stores",))],
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


def shared_memory() -> set[str]:
    """System V segments and files in /dev/shm: what a database can leave behind outside its directory."""
    segments = {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}
    return segments | {path.name for path in Path("/dev/shm").glob("PostgreSQL*")}


def ask_valkey(ready: dict[str, Any], *words: str) -> bytes:
    password, _, address = ready["redis_url"].removeprefix("redis://:").partition("@")
    port = int(address.partition(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        for command in (("AUTH", password), words):
            parts = "".join(f"${len(word)}\r\n{word}\r\n" for word in command)
            connection.sendall(f"*{len(command)}\r\n{parts}".encode())
            answer = connection.recv(4096)
    return answer


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts installations in directories of this test, and ends them after it."""
    started: list[Up] = []

    def start_one(name: str = "data", *arguments: str, **environment: str) -> Up:
        started.append(Up(tmp_path / name, *arguments, **environment))
        return started[-1]

    yield start_one
    for one in started:
        family = one.family()
        one.stop()
        assert not alive(family)


def test_it_keeps_secrets_to_its_user_and_leaves_nothing_behind(start: Callable[..., Up], tmp_path: Path) -> None:
    segments = shared_memory()
    up = start("data", "--only-stores", "--ready-file", str(tmp_path / "elsewhere.json"))
    ready = up.wait_ready()
    assert set(ready["pids"]) == set(STORES)
    assert json.loads((tmp_path / "elsewhere.json").read_text()) == ready
    assert stat.S_IMODE(up.data_dir.stat().st_mode) == 0o700
    for path in (up.data_dir / "ready.json", tmp_path / "elsewhere.json", up.data_dir / "installation.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    family = up.family()
    secrets = [ready[name].partition("@")[0].rpartition(":")[2] for name in ("pg_dsn", "redis_url", "clickhouse_url")]
    for process in family:
        assert not [word for word in process.cmdline() for secret in secrets if secret in word]
    began = time.monotonic()
    assert up.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 10
    assert not alive(family)
    assert shared_memory() <= segments
    assert not (up.data_dir / "ready.json").exists()
    assert all(secret not in up.said() for secret in secrets)


def test_a_second_up_on_the_directory_is_told_the_pid_of_the_first(start: Callable[..., Up]) -> None:
    first = start()
    eventually("the lock", lambda: (first.data_dir / "lock").exists() and (first.data_dir / "lock").read_text())
    refused = subprocess.run(
        [TRACEBILITY, "up", "--data-dir", first.data_dir], capture_output=True, text=True, timeout=20, check=False
    )
    assert refused.returncode != 0
    assert refused.stderr.count("\n") == 1
    assert f"(pid {first.process.pid})" in refused.stderr
    first.wait_ready()


def test_children_follow_a_killed_parent_and_the_next_start_recovers(start: Callable[..., Up]) -> None:
    up = start()
    ready = up.wait_ready()
    assert ask_valkey(ready, "SET", "kept", "yes") == b"+OK\r\n"
    family = up.family()
    up.process.kill()
    up.process.wait()
    # Not waited for: the next start must cope with children that are still dying.
    again = start().wait_ready()
    assert not alive(family)
    unchanged = ("pg_dsn", "redis_url", "clickhouse_url", "api_key", "operator_key", "org_id", "admin_password")
    assert {name: again.get(name) for name in unchanged} == {name: ready.get(name) for name in unchanged}
    assert ask_valkey(again, "GET", "kept") == b"$3\r\nyes\r\n"


def test_a_stale_pid_file_that_names_a_living_process_is_no_obstacle(start: Callable[..., Up]) -> None:
    up = start()
    up.wait_ready()
    up.stop()
    pid_file = up.data_dir / "postgres" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{pid_file.parent}\n0\n0\n\n\n\n")
    start().wait_ready()


@pytest.mark.parametrize("name", STORES)
def test_a_killed_store_is_restarted_and_the_ready_file_says_so(name: str, start: Callable[..., Up]) -> None:
    up = start()
    before = up.wait_ready()["pids"]
    os.kill(before[name], signal.SIGKILL)

    def restarted() -> dict[str, int] | None:
        ready = up.ready()
        return ready["pids"] if ready and ready["pids"][name] != before[name] else None

    after = eventually("a new pid", restarted)
    assert psutil.Process(after[name]).ppid() == up.process.pid
    assert {other: pid for other, pid in after.items() if other != name} == {
        other: pid for other, pid in before.items() if other != name
    }


def test_two_installations_live_side_by_side(start: Callable[..., Up]) -> None:
    one, other = start("one"), start("other")
    ready = [one.wait_ready(), other.wait_ready()]
    assert ask_valkey(ready[0], "SET", "whose", "one") == b"+OK\r\n"
    assert ask_valkey(ready[1], "GET", "whose") == b"$-1\r\n"


def test_a_taken_port_is_one_line_that_names_the_fix(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = subprocess.run(
            [TRACEBILITY, "up", "--data-dir", tmp_path / "data", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert refused.returncode != 0
    assert refused.stderr.count("\n") == 1
    assert str(port) in refused.stderr
    assert "--port" in refused.stderr
