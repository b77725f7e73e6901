"""Where an installation lives on disk, what it keeps secret there, and how a command finds the one it is meant for."""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracebility.errors import ConfigurationError

DATA_DIR_VARIABLE = "TRACEBILITY_DATA_DIR"
DSN_VARIABLES = {
    "pg_dsn": "TRACEBILITY_PG_DSN",
    "redis_url": "TRACEBILITY_REDIS_URL",
    "clickhouse_url": "TRACEBILITY_CLICKHOUSE_URL",
}
# The queue's own server, where it has one: beside the three, never instead of one.
STREAM_VARIABLE = "TRACEBILITY_REDIS_STREAM_URL"

# Below Linux' range of ports for outgoing connections (32768 up), so that no client's socket sits on a store's port.
STORE_PORTS = range(20_000, 32_000)
# A unix socket's path has 108 bytes; the longest file name we put into the folder is well below 30.
SOCKET_FOLDER_BYTES = 75


class AlreadyRunning(ConfigurationError):
    """Another ``tracebility up`` holds the data directory."""


@dataclass(frozen=True, slots=True)
class Located:
    """A found installation: its DSNs, and, when it is one of ``tracebility up``, what its ready file says.

    ``redis_stream_url`` is empty where one server has both of Redis's roles.
    """

    pg_dsn: str
    redis_url: str
    clickhouse_url: str
    redis_stream_url: str = ""
    data_dir: Path | None = None
    ready: Mapping[str, Any] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The variables that configure a service of this installation."""
        own_queue = {STREAM_VARIABLE: self.redis_stream_url} if self.redis_stream_url else {}
        return {variable: getattr(self, name) for name, variable in DSN_VARIABLES.items()} | own_queue

    @property
    def queue_url(self) -> str:
        """The server of the queue, as every target finds it: its own, where it has one."""
        return self.redis_stream_url or self.redis_url

    @property
    def queue_variable(self) -> str:
        """The variable that names that server, for who is told that it is away."""
        return STREAM_VARIABLE if self.redis_stream_url else DSN_VARIABLES["redis_url"]


def default_data_dir() -> Path:
    """``TRACEBILITY_DATA_DIR``, else ``~/.tracebility``."""
    return Path(os.environ.get(DATA_DIR_VARIABLE) or Path.home() / ".tracebility")


def locate(data_dir: Path | None = None, environment: Mapping[str, str] = os.environ) -> Located:
    """The installation a command is meant for: the three DSNs, else ``data_dir``, else the default data directory.

    With some of the DSNs set, those replace what the directory's ready file says. The queue's own server is looked for
    in the same places; it may be in neither.

    Raises:
        ConfigurationError: when there is none, saying how to name one.
    """
    given = {name: environment.get(variable, "") for name, variable in DSN_VARIABLES.items()}
    stream_url = environment.get(STREAM_VARIABLE, "")
    if all(given.values()):
        return Located(given["pg_dsn"], given["redis_url"], given["clickhouse_url"], stream_url)
    folder = (data_dir or default_data_dir()).expanduser().absolute()
    path = folder / "ready.json"
    try:
        ready = json.loads(path.read_text())
        dsns = {name: given[name] or str(ready[name]) for name in DSN_VARIABLES}
        # Not there in files from before it was written.
        dsns["redis_stream_url"] = stream_url or str(ready.get("redis_stream_url") or "")
    except FileNotFoundError:
        if (folder / "installation.json").exists():
            raise ConfigurationError(_not_ready(folder)) from None
        missing = ", ".join(DSN_VARIABLES[name] for name, value in given.items() if not value)
        raise ConfigurationError(
            f"There is no installation in {folder}. Start one with 'tracebility up', name another with --data-dir, "
            f"or set {missing}."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read ({type(error).__name__}). Run 'tracebility up' again."
        ) from None
    return Located(**dsns, data_dir=folder, ready=ready)


def _not_ready(folder: Path) -> str:
    """Why an installation has no ready file: it is starting or stopping under a process, or nothing runs it."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        lock = -1
    pid = ""
    if lock >= 0:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 32, 0).decode().strip() or "unknown"
        os.close(lock)
    if pid:
        return f"The installation in {folder} is not ready: it is starting or stopping (pid {pid}). Try again."
    return f"The installation in {folder} is stopped. Start it with 'tracebility up --data-dir {folder}'."


class DataDir:
    """The folder of one installation, locked for as long as this process lives."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self.run = _private_folder(path / "run")

    @classmethod
    def open(cls, path: Path) -> "DataDir":
        """Make ``path`` if need be, close it to other users, and lock it.

        Raises:
            AlreadyRunning: when a living process has it, naming its pid.
            ConfigurationError: when it cannot be used, saying why.
        """
        path = path.expanduser().absolute()
        try:
            _private_folder(path)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"The data directory {path} cannot be used: {error.strerror}. Choose another with --data-dir."
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 32, 0).decode().strip()
            os.close(lock)
            raise AlreadyRunning(
                f"tracebility is already running on {path} (pid {pid or 'unknown'}). "
                "Stop it first, or choose another directory with --data-dir."
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return cls(path, lock)

    def close(self) -> None:
        """Give the folder back."""
        os.ftruncate(self._lock, 0)
        os.close(self._lock)

    def sockets(self) -> Path:
        """A private folder whose path is short enough for unix sockets: ours, else one in the temporary directory.

        Raises:
            ConfigurationError: when the temporary one belongs to somebody else.
        """
        if len(os.fsencode(self.run)) <= SOCKET_FOLDER_BYTES:
            return self.run
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"tracebility-{name}"
        try:
            _private_folder(folder)
        except OSError as error:
            raise ConfigurationError(
                f"{folder} is not ours to use ({error.strerror}). Choose a shorter --data-dir."
            ) from None
        return folder

    def secrets(self) -> "Secrets":
        """What this installation keeps, made on first use."""
        return Secrets(self.path / "installation.json")


class Secrets:
    """Passwords, ports and first keys of one installation, in a file only its user can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        try:
            self._values = json.loads(path.read_text())
        except FileNotFoundError:
            pass
        except ValueError:
            raise ConfigurationError(
                f"{path} is damaged. Restore it from a backup, or start afresh in another --data-dir."
            ) from None

    def password(self, name: str) -> str:
        """The password called ``name``, made at first use."""
        return str(self._kept("passwords", name, lambda: secrets.token_urlsafe(24)))

    def port(self, name: str) -> int:
        """The loopback port of a store: the one it had, unless something else has taken it meanwhile."""
        port = int(self._kept("ports", name, free_port))
        if not is_free(port):
            self._values["ports"].pop(name)
            port = int(self._kept("ports", name, free_port))
        return port

    def get(self, name: str) -> Any:
        """The value kept under ``name``, or None."""
        return self._values.get(name)

    def keep(self, name: str, value: Any) -> None:
        """Store ``value`` on disk before returning."""
        self._values[name] = value
        write_private(self._path, self._values)

    def _kept(self, group: str, name: str, make: Any) -> Any:
        values = self._values.setdefault(group, {})
        if name not in values:
            values[name] = make()
            self.keep(group, values)
        return values[name]


def write_private(path: Path, document: Mapping[str, Any]) -> None:
    """Replace ``path`` by ``document`` as JSON, at once and for its user only; a reader sees the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def free_port() -> int:
    """A loopback port nothing listens on."""
    while True:
        port = secrets.choice(STORE_PORTS)
        if is_free(port):
            return port


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether ``port`` could be listened on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _private_folder(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to another user")
    if found.st_mode & stat.S_ISVTX or path in (Path("/"), Path.home()):
        raise PermissionError(errno.EPERM, "it is a folder that others use too")
    path.chmod(0o700)
    return path
