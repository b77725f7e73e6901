"""Which installation a command is meant for, and what an installation keeps."""

import json
import multiprocessing
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracebility.config import load_settings
from tracebility.embedded.installation import AlreadyRunning, DataDir, Secrets, locate, write_private
from tracebility.errors import ConfigurationError

DSNS = {"pg_dsn": "postgresql://a@b/c", "redis_url": "redis://d/0", "clickhouse_url": "http://e/f"}
VARIABLES = {f"TRACEBILITY_{name.upper()}": value for name, value in DSNS.items()}


def test_three_dsns_win_over_a_data_directory(tmp_path: Path) -> None:
    write_private(tmp_path / "ready.json", dict.fromkeys(DSNS, "other"))
    found = locate(tmp_path, VARIABLES)
    assert found.environment() == VARIABLES
    assert found.data_dir is None


def test_a_ready_file_fills_in_what_the_environment_lacks(tmp_path: Path) -> None:
    write_private(tmp_path / "ready.json", DSNS | {"api_key": "tb_x"})
    found = locate(tmp_path, {"TRACEBILITY_PG_DSN": "postgresql://mine"})
    assert (found.pg_dsn, found.redis_url) == ("postgresql://mine", DSNS["redis_url"])
    assert found.ready["api_key"] == "tb_x"


@pytest.mark.parametrize(
    ("written", "given", "expected"),
    [
        ({}, {}, ""),
        ({"redis_stream_url": None}, {}, ""),
        ({"redis_stream_url": "redis://written/0"}, {}, "redis://written/0"),
        ({"redis_stream_url": "redis://written/0"}, {"TRACEBILITY_REDIS_STREAM_URL": "redis://g/0"}, "redis://g/0"),
        ({}, {"TRACEBILITY_REDIS_STREAM_URL": "redis://g/0"}, "redis://g/0"),
        ({}, VARIABLES | {"TRACEBILITY_REDIS_STREAM_URL": "redis://g/0"}, "redis://g/0"),
        ({"redis_stream_url": "redis://of-another-installation/0"}, VARIABLES, ""),
    ],
)
def test_the_queue_may_have_a_server_of_its_own(
    tmp_path: Path, written: dict[str, str | None], given: dict[str, str], expected: str
) -> None:
    write_private(tmp_path / "ready.json", DSNS | written)
    found = locate(tmp_path, given)
    assert (found.redis_url, found.redis_stream_url) == (DSNS["redis_url"], expected)
    assert found.environment() == VARIABLES | ({"TRACEBILITY_REDIS_STREAM_URL": expected} if expected else {})
    assert found.queue_url == (expected or DSNS["redis_url"])
    assert found.queue_variable == load_settings(found.environment()).stream_variable


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"pg_dsn": "x"}'])
def test_no_usable_installation_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "ready.json").write_text(content)
    with pytest.raises(ConfigurationError, match="tracebility up") as raised:
        locate(tmp_path, {})
    assert "\n" not in str(raised.value)


def test_a_directory_belongs_to_one_process(tmp_path: Path) -> None:
    first = DataDir.open(tmp_path / "data")
    with pytest.raises(AlreadyRunning, match=r"\(pid \d+\)"):
        DataDir.open(tmp_path / "data")
    first.close()
    DataDir.open(tmp_path / "data").close()


@pytest.mark.parametrize("path", ["/proc/nowhere", "/dev/null"])
def test_a_place_that_can_be_no_directory_is_told(path: str) -> None:
    with pytest.raises(ConfigurationError, match="--data-dir"):
        DataDir.open(Path(path))


@pytest.mark.parametrize("kind", ["sticky", "home"])
def test_a_directory_that_others_use_is_left_alone(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders made for this: were it to fail on the real ones, it would close them to everybody on the machine."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777 if kind == "sticky" else 0o755)
    if kind == "home":
        monkeypatch.setenv("HOME", str(folder))
    before = folder.stat().st_mode
    with pytest.raises(ConfigurationError, match="--data-dir"):
        DataDir.open(folder)
    assert folder.stat().st_mode == before
    assert list(folder.iterdir()) == []


def test_a_directory_is_closed_to_other_users(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o755)
    DataDir.open(folder).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.fixture
def long_dir(tmp_path: Path) -> Iterator[DataDir]:
    """A data directory whose path is too long for unix sockets."""
    opened = DataDir.open(tmp_path / ("d" * 100))
    yield opened
    opened.close()
    for record in tmp_path.glob("*/sockets.json"):
        shutil.rmtree(json.loads(record.read_text())["folder"], ignore_errors=True)


def test_a_long_path_gets_a_private_folder_for_its_sockets_and_keeps_it(long_dir: DataDir) -> None:
    folder = long_dir.sockets()
    assert len(str(folder)) < 75
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert long_dir.sockets() == folder


def test_a_short_path_keeps_its_sockets_inside(tmp_path: Path) -> None:
    short = DataDir.open(Path("/tmp") / tmp_path.name)
    assert short.sockets() == short.run
    short.close()
    shutil.rmtree(short.path)


def test_a_copied_directory_does_not_use_the_sockets_of_its_original(long_dir: DataDir) -> None:
    folder = long_dir.sockets()
    shutil.copytree(long_dir.path, long_dir.path.with_name("c" * 100))
    copy = DataDir.open(long_dir.path.with_name("c" * 100))
    assert copy.sockets() != folder
    assert long_dir.sockets() == folder
    copy.close()


def test_secrets_stay_the_same_and_private(tmp_path: Path) -> None:
    path = tmp_path / "installation.json"
    made = Secrets(path)
    password = made.password("postgres")
    assert len(password) >= 32
    assert made.password("valkey") != password
    again = Secrets(path)
    assert again.password("postgres") == password
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_damaged_secrets_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "installation.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"installation\.json is damaged"):
        Secrets(tmp_path / "installation.json")


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text("old, and readable by all")
    path.chmod(0o644)
    write_private(path, {"new": True})
    assert json.loads(path.read_text()) == {"new": True}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_follows_no_file_that_somebody_else_made(tmp_path: Path) -> None:
    trap = tmp_path / f".ready.json.{os.getpid()}"
    trap.write_text("")
    trap.chmod(0o666)
    write_private(tmp_path / "ready.json", {"key": "secret"})
    assert trap.read_text() == ""
    assert (tmp_path / "ready.json").stat().st_ino != trap.stat().st_ino


def listening(port: int, **options: int) -> socket.socket:
    """A listener on ``port``, as another program would make it."""
    listener = socket.socket()
    for name, value in options.items():
        listener.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def test_a_port_is_kept_until_something_else_has_taken_it(tmp_path: Path) -> None:
    path = tmp_path / "installation.json"
    with Secrets(path).reserve_port("clickhouse") as reserved:
        port = reserved.getsockname()[1]
    with Secrets(path).reserve_port("clickhouse") as again:
        assert again.getsockname()[1] == port
    with listening(port), Secrets(path).reserve_port("clickhouse") as moved:
        assert moved.getsockname()[1] != port
        port = moved.getsockname()[1]
    with Secrets(path).reserve_port("clickhouse") as again:
        assert again.getsockname()[1] == port


def test_two_copies_of_an_installation_do_not_share_a_port(tmp_path: Path) -> None:
    path, copied = tmp_path / "installation.json", tmp_path / "copied.json"
    with Secrets(path).reserve_port("clickhouse") as original:
        copied.write_bytes(path.read_bytes())
        with Secrets(copied).reserve_port("clickhouse") as copy:
            assert copy.getsockname()[1] != original.getsockname()[1]


def test_only_the_engine_can_listen_on_a_reserved_port(tmp_path: Path) -> None:
    with Secrets(tmp_path / "installation.json").reserve_port("clickhouse") as reserved:
        port = reserved.getsockname()[1]
        for options in ({}, {"SO_REUSEADDR": 1}):
            with pytest.raises(OSError, match="in use"):
                listening(port, **options)
        listening(port, SO_REUSEADDR=1, SO_REUSEPORT=1).close()
        if os.getuid() == 0:  # Another user cannot, whatever it sets.
            taking = multiprocessing.get_context("fork").Process(target=take_as_another_user, args=(port,))
            taking.start()
            taking.join(20)
            assert taking.exitcode == 0


def take_as_another_user(port: int) -> None:
    os.setuid(65_534)
    for reuse_port in (0, 1):
        with pytest.raises(OSError, match="in use"):
            listening(port, SO_REUSEADDR=1, SO_REUSEPORT=reuse_port)


def test_a_stopped_installation_says_how_to_start_it(tmp_path: Path) -> None:
    Secrets(tmp_path / "installation.json").password("postgres")
    told = f"is stopped; start it with 'tracebility up --data-dir {tmp_path}'"
    with pytest.raises(ConfigurationError, match=told):
        locate(tmp_path, {})
    gone = subprocess.Popen(["true"])
    gone.wait()
    write_private(tmp_path / "ready.json", DSNS | {"supervisor_pid": gone.pid})
    with pytest.raises(ConfigurationError, match=told):
        locate(tmp_path, {})
    write_private(tmp_path / "ready.json", DSNS | {"supervisor_pid": os.getpid()})
    assert locate(tmp_path, {}).pg_dsn == DSNS["pg_dsn"]


def test_an_installation_that_is_starting_is_not_called_stopped(tmp_path: Path) -> None:
    data = DataDir.open(tmp_path)
    try:
        data.secrets().password("postgres")
        with pytest.raises(ConfigurationError, match=rf"is starting or stopping \(pid {os.getpid()}\)"):
            locate(tmp_path, {})
    finally:
        data.close()
    with pytest.raises(ConfigurationError, match="is stopped"):
        locate(tmp_path, {})
