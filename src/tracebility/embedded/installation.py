"""The data directory of an installation, the secrets in it, and how a command finds its installation."""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shlex
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
SECRETS_FILE = "installation.json"
# The queue's separate server, if it has one. The three DSNs above are required in any case.
STREAM_VARIABLE = "TRACEBILITY_REDIS_STREAM_URL"

# Below Linux' port range for outgoing connections (from 32768), so that no client's socket takes a store's port.
STORE_PORTS = range(20_000, 32_000)
# A unix socket's path has at most 107 bytes. The longest file name in the folder is well below 30.
SOCKET_FOLDER_BYTES = 75


class AlreadyRunning(ConfigurationError):
    """Another ``tracebility up`` is using the data directory."""


@dataclass(frozen=True, slots=True)
class Located:
    """An installation: its DSNs, and the content of its ready file if ``tracebility up`` runs it.

    ``redis_stream_url`` is empty if the queue has no separate server.
    """

    pg_dsn: str
    redis_url: str
    clickhouse_url: str
    redis_stream_url: str = ""
    data_dir: Path | None = None
    ready: Mapping[str, Any] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The environment variables that configure a service of this installation."""
        own_queue = {STREAM_VARIABLE: self.redis_stream_url} if self.redis_stream_url else {}
        return {variable: getattr(self, name) for name, variable in DSN_VARIABLES.items()} | own_queue

    @property
    def queue_url(self) -> str:
        """The DSN of the queue: its separate server, if it has one."""
        return self.redis_stream_url or self.redis_url

    @property
    def queue_variable(self) -> str:
        """The environment variable of ``queue_url``, for error messages."""
        return STREAM_VARIABLE if self.redis_stream_url else DSN_VARIABLES["redis_url"]


def default_data_dir() -> Path:
    """``TRACEBILITY_DATA_DIR``, else ``~/.tracebility``."""
    return Path(os.environ.get(DATA_DIR_VARIABLE) or Path.home() / ".tracebility")


def locate(data_dir: Path | None = None, environment: Mapping[str, str] = os.environ) -> Located:
    """Find the installation by the three DSNs, else by ``data_dir``, else by the default data directory.

    If only some of the DSNs are set, they replace those of the ready file. The queue's separate server is optional.

    Raises:
        ConfigurationError: when there is no installation, or it is stopped; the text says what to do.
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
        # Older files do not have this field.
        dsns["redis_stream_url"] = stream_url or str(ready.get("redis_stream_url") or "")
    except FileNotFoundError:
        if (folder / SECRETS_FILE).exists():
            raise _stopped(folder) from None
        missing = ", ".join(DSN_VARIABLES[name] for name, value in given.items() if not value)
        raise ConfigurationError(
            f"There is no installation in {folder}. Start one with 'tracebility up', name another with --data-dir, "
            f"or set {missing}."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read ({type(error).__name__}). Run 'tracebility up' again."
        ) from None
    # After kill -9, the ready file of `tracebility up` remains although its children have ended too.
    if not _is_alive(ready.get("supervisor_pid")):
        raise _stopped(folder)
    return Located(**dsns, data_dir=folder, ready=ready)


def _stopped(folder: Path) -> ConfigurationError:
    if pid := _holder(folder):
        return ConfigurationError(f"The installation in {folder} is starting or stopping (pid {pid}); try again.")
    where = "" if folder == default_data_dir().expanduser().absolute() else f" --data-dir {shlex.quote(str(folder))}"
    return ConfigurationError(f"The installation in {folder} is stopped; start it with 'tracebility up{where}'.")


def _holder(folder: Path) -> str:
    """The pid of the ``tracebility up`` that uses ``folder``; empty if none does. It empties its file when it ends."""
    try:
        pid = (folder / "lock").read_text().strip()
    except OSError:
        return ""
    return pid if pid.isdigit() and _is_alive(int(pid)) else ""


def _is_alive(pid: int | None) -> bool:
    """Whether process ``pid`` is alive; True if the pid is unknown."""
    if pid is None:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class DataDir:
    """The folder of one installation, locked while this process lives."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self.run = _private_folder(path / "run")

    @classmethod
    def open(cls, path: Path) -> "DataDir":
        """Create ``path`` if it is missing, make it private, and lock it.

        Raises:
            AlreadyRunning: when another process holds the lock; the text names its pid.
            ConfigurationError: when the folder cannot be used; the text says why.
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
        """Release the lock."""
        os.ftruncate(self._lock, 0)
        os.close(self._lock)

    def sockets(self) -> Path:
        """A private folder with a path short enough for unix sockets: in this folder, else in the temporary directory.

        A temporary folder has a random name, so that no other user can create it first. The name is kept for the next
        start, with the identity of this directory, so that a copy of the directory does not use its original's sockets.
        """
        if len(os.fsencode(self.run)) <= SOCKET_FOLDER_BYTES:
            return self.run
        record, found = self.path / "sockets.json", self.path.stat()
        identity = f"{found.st_dev}:{found.st_ino}"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(record.read_text())
            if kept["data_dir"] == identity and Path(kept["folder"]).is_dir():
                return _private_folder(Path(kept["folder"]))
        folder = Path(tempfile.mkdtemp(prefix="tracebility-"))
        write_private(record, {"folder": str(folder), "data_dir": identity})
        return folder

    def secrets(self) -> "Secrets":
        """Passwords and ports of this installation."""
        return Secrets(self.path / SECRETS_FILE)


class Secrets:
    """Passwords and ports of one installation, in a file that only its user can read."""

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
        """The password ``name``, generated at first use."""
        return str(self._kept("passwords", name, lambda: secrets.token_urlsafe(24)))

    def reserve_port(self, name: str) -> socket.socket:
        """Reserve the previous loopback port of ``name``, or another one if that is taken, and store its number.

        The returned socket is bound but does not listen. While it is open, only processes of this user that set
        SO_REUSEPORT can listen on its port.
        """
        ports = self._values.get("ports", {})
        reserved = _reserve(ports[name]) if name in ports else None
        while reserved is None:
            reserved = _reserve(secrets.choice(STORE_PORTS))
        port = reserved.getsockname()[1]
        if ports.get(name) != port:
            self.keep("ports", {name: port})
        return reserved

    def get(self, name: str) -> Any:
        """The value stored under ``name``, or None."""
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
    """Write ``document`` as JSON to ``path``, readable by its user only. The file is replaced atomically."""
    # A random name and a new file: in a shared folder, another user could have created a predictable name first.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def free_port() -> int:
    """A loopback port that nothing listens on."""
    while (reserved := _reserve(secrets.choice(STORE_PORTS))) is None:
        pass
    with reserved:
        port: int = reserved.getsockname()[1]
    return port


def _reserve(port: int) -> socket.socket | None:
    reserving = socket.socket()
    reserving.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )  # Connections of the previous run may still be closing.
    try:
        reserving.bind(("127.0.0.1", port))
    except OSError:
        reserving.close()
        return None
    # SO_REUSEPORT is set after the bind. Set before, it would let two installations of one user share a port.
    reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return reserving


def _private_folder(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to another user")
    if found.st_mode & stat.S_ISVTX or path in (Path("/"), Path.home()):
        raise PermissionError(errno.EPERM, "it is a folder that others use too")
    path.chmod(0o700)
    return path
