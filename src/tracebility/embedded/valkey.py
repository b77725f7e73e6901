"""The embedded Valkey, which holds the queue: on a unix socket, with every write synced to disk before its answer."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tracebility.embedded.binaries import valkey_server
from tracebility.embedded.process import Program

DEFAULT_MAX_BYTES = 1 << 30
# The log is rewritten when it has doubled since the last rewrite, but not below this size. A smaller bound (the default
# is 64 MB) would cause a rewrite, and a fork, every two seconds at 40 MB/s of ingest.
REWRITE_MIN_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Valkey:
    """The server's data folder, socket and password."""

    folder: Path
    socket: Path
    password: str
    max_bytes: int = DEFAULT_MAX_BYTES

    @property
    def url(self) -> str:
        """The DSN for clients."""
        return f"unix://:{self.password}@{quote(str(self.socket))}"

    def program(self) -> Program:
        """The command to start. Settings go into a file, because every user of the machine can read command lines."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        settings = {
            # No TCP port, so no other user of the machine can listen in its place and receive the password.
            "port": 0,
            "unixsocket": f'"{self.socket}"',
            "unixsocketperm": 600,
            "requirepass": self.password,
            "dir": f'"{self.folder}"',
            "appendonly": "yes",
            "appendfsync": "always",
            "no-appendfsync-on-rewrite": "no",
            "auto-aof-rewrite-percentage": 100,
            "auto-aof-rewrite-min-size": REWRITE_MIN_BYTES,
            "aof-load-truncated": "yes",
            "aof-use-rdb-preamble": "yes",
            "save": '""',
            "maxmemory": self.max_bytes,
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "databases": 1,
            "loglevel": "notice",
            "logfile": '""',
            "always-show-logo": "no",
            "set-proc-title": "no",
        }
        path = self.folder / "valkey.conf"
        path.touch(mode=0o600)
        path.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        return Program("valkey", [str(valkey_server()), str(path)], folder=self.folder)
