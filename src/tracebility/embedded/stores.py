"""The three stores of an installation. Each is an external server if its DSN is set, else a child process."""

import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from secrets import token_urlsafe

from tracebility.embedded import probes
from tracebility.embedded.installation import DSN_VARIABLES, STREAM_VARIABLE, DataDir, Secrets
from tracebility.embedded.postgres import DATABASE, USER, Postgres
from tracebility.embedded.process import LineSink, Program
from tracebility.embedded.service import Service
from tracebility.embedded.valkey import Valkey
from tracebility.errors import ConfigurationError
from tracebility_engine import settings as engine

CLICKHOUSE_STOP_S = 2  # Time for running queries at shutdown; less than the supervisor's grace period.


@dataclass(slots=True)
class Stores:
    """The DSN of each store, and the services that run the embedded ones."""

    pg_dsn: str
    redis_url: str
    clickhouse_url: str
    clickhouse_reader_url: str
    postgres: Postgres | None
    redis_stream_url: str = ""  # an external server for the queue only; it is never embedded
    services: list[Service] = field(default_factory=list)
    _reserved: socket.socket | None = None

    def close(self) -> None:
        """Release the engine's port, after the engine has ended."""
        if self._reserved is not None:
            self._reserved.close()

    @classmethod
    def plan(cls, data: DataDir, environment: Mapping[str, str], on_line: LineSink) -> "Stores":
        """Decide which stores are embedded, without starting them.

        Raises:
            ConfigurationError: for a malformed DSN, or a program that is not installed.
        """
        _check_outside(environment)
        secrets, sockets = data.secrets(), data.sockets()
        stores = cls("", "", "", "", None, environment.get(STREAM_VARIABLE, ""))

        def keep(name: str, make: Callable[[], Program], probe: probes.Probe) -> None:
            stores.services.append(Service(name, make, probe, data.run, on_line))

        if environment.get("TRACEBILITY_PG_DSN"):
            stores.pg_dsn = environment["TRACEBILITY_PG_DSN"]
        else:
            postgres = Postgres(data.path / "postgres", sockets, secrets.password("postgres"))
            stores.postgres, stores.pg_dsn = postgres, postgres.dsn
            keep("postgres", postgres.program, partial(probes.postgres, postgres.socket, USER, DATABASE))
        if environment.get("TRACEBILITY_REDIS_URL"):
            stores.redis_url = environment["TRACEBILITY_REDIS_URL"]
        else:
            valkey = Valkey(data.path / "valkey", sockets / "valkey.sock", secrets.password("valkey"))
            stores.redis_url = valkey.url
            keep("valkey", valkey.program, partial(probes.valkey, valkey.socket, valkey.password))
        if environment.get("TRACEBILITY_CLICKHOUSE_URL"):
            stores.clickhouse_url = environment["TRACEBILITY_CLICKHOUSE_URL"]
            stores.clickhouse_reader_url = environment.get("TRACEBILITY_CLICKHOUSE_READER_URL", stores.clickhouse_url)
        else:
            clickhouse = ClickHouse(data.path / "clickhouse", secrets)
            stores.clickhouse_url, stores.clickhouse_reader_url = clickhouse.url(), clickhouse.url(reader=True)
            stores._reserved = clickhouse.reserved
            keep("clickhouse", clickhouse.program, clickhouse.probe)
        return stores

    def environment(self, *, reader: bool = False) -> dict[str, str]:
        """The DSN variables of a target. With ``reader`` the target can only read the data plane."""
        # An external ClickHouse with only an owner DSN: `up` works with it, and the api logs a warning.
        as_owner = reader and self.clickhouse_reader_url == self.clickhouse_url
        own_queue = {STREAM_VARIABLE: self.redis_stream_url} if self.redis_stream_url else {}
        return own_queue | {
            "TRACEBILITY_PG_DSN": self.pg_dsn,
            "TRACEBILITY_REDIS_URL": self.redis_url,
            "TRACEBILITY_CLICKHOUSE_URL": self.clickhouse_reader_url if reader else self.clickhouse_url,
            **({"TRACEBILITY_API_AS_OWNER": "true"} if as_owner else {}),
        }


def _check_outside(environment: Mapping[str, str]) -> None:
    given = [variable for variable in (*DSN_VARIABLES.values(), STREAM_VARIABLE) if environment.get(variable)]
    if given:
        # Imported here so that the supervisor stays small when there is nothing to check.
        from tracebility.config import load_settings

        for variable in given:
            load_settings().dsn(variable)


class ClickHouse:
    """The embedded engine behind ClickHouse's HTTP interface, on a loopback port, because its clients speak HTTP.

    The port stays reserved while we live, so that no other user can listen there during a restart of the engine and
    receive its passwords.
    """

    def __init__(self, folder: Path, secrets: Secrets) -> None:
        self._folder = folder
        self.reserved = secrets.reserve_port("clickhouse")
        self._port = self.reserved.getsockname()[1]
        self._proof_key = token_urlsafe(24)
        self._owner = secrets.password("clickhouse")
        self._reader = secrets.password("clickhouse_reader")

    def url(self, *, reader: bool = False) -> str:
        """The DSN for clients, as owner or as the read-only user."""
        user, password = (engine.READER, self._reader) if reader else (engine.OWNER, self._owner)
        return f"http://{user}:{password}@127.0.0.1:{self._port}/{engine.DATABASE}"

    async def probe(self, _pid: int) -> str:
        """Whether the engine that we started is ready."""
        return await probes.clickhouse(self.url(), self._proof_key)

    def program(self) -> Program:
        """The command to start.

        Raises:
            ConfigurationError: when the engine is not installed.
        """
        if find_spec("chdb") is None:
            raise ConfigurationError(
                "The ClickHouse engine was not found. Run 'pip install chdb-core', "
                "or set TRACEBILITY_CLICKHOUSE_URL to a server of yours."
            )
        where = ("--data-dir", str(self._folder), "--host", "127.0.0.1", "--port", str(self._port))
        return Program(
            "clickhouse",
            [sys.executable, "-m", "tracebility_engine", *where],
            environment={
                engine.OWNER_PASSWORD: self._owner,
                engine.READER_PASSWORD: self._reader,
                engine.PROOF_KEY: self._proof_key,
                engine.STOP_TIMEOUT_S: str(CLICKHOUSE_STOP_S),
            },
        )
