"""Settings: one DSN per store and a few numbers, read from the environment only.

A DSN carries its own credentials; there is no second place for a user or a password.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta as Field

from tracebility.errors import ConfigurationError

DEFAULT_PORT = 7080
PREFIX = "TRACEBILITY_"

_SCHEMES = {
    "TRACEBILITY_PG_DSN": ("postgresql", "postgres"),
    "TRACEBILITY_CLICKHOUSE_URL": ("http", "https"),
    "TRACEBILITY_CLICKHOUSE_READER_URL": ("http", "https"),
    "TRACEBILITY_REDIS_URL": ("redis", "rediss", "unix"),
    "TRACEBILITY_REDIS_STREAM_URL": ("redis", "rediss", "unix"),
    "TRACEBILITY_API_URL": ("http", "https"),
}
_EXAMPLES = {
    "TRACEBILITY_PG_DSN": "postgresql://user:password@host:5432/tracebility",
    "TRACEBILITY_CLICKHOUSE_URL": "http://user:password@host:8123/tracebility",
    "TRACEBILITY_CLICKHOUSE_READER_URL": "http://reader:password@host:8123/tracebility",
    "TRACEBILITY_REDIS_URL": "redis://:password@host:6379/0",
    "TRACEBILITY_REDIS_STREAM_URL": "redis://:password@host:6379/0",
    "TRACEBILITY_API_URL": "http://host:7080",
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of every target. Each field is the variable ``TRACEBILITY_<NAME>``; docs/configuration.md has all."""

    pg_dsn: Annotated[str, Field(description="PostgreSQL, the control plane")] = ""
    clickhouse_url: Annotated[str, Field(description="ClickHouse's HTTP interface, the data plane")] = ""
    clickhouse_reader_url: Annotated[
        str, Field(description="api: the same as a user with the role tracebility_reader; without it, the one above")
    ] = ""
    redis_url: Annotated[str, Field(description="Redis or Valkey: limits, counters, caches, and the queue")] = ""
    redis_stream_url: Annotated[
        str, Field(description="another Redis or Valkey for the queue alone; without it, the one above")
    ] = ""

    host: Annotated[str, Field(description="address to listen on; localhost is 127.0.0.1 and ::1")] = "localhost"
    port: Annotated[int, Field(description="port to listen on", ge=0, le=65535)] = DEFAULT_PORT
    listen_socket: Annotated[str, Field(description="unix socket to listen on instead of host and port")] = ""
    listen_fds: Annotated[
        str, Field(description="listening sockets inherited from `tracebility up`; not set by hand")
    ] = ""
    start_fd: Annotated[
        int | None, Field(description="pipe of `tracebility up`: its end is the start; not set by hand")
    ] = None
    api_socket: Annotated[
        str, Field(description="ingest-api: unix socket of the api target, for every route that is not an ingest route")
    ] = ""
    metrics_sockets: Annotated[
        str,
        Field(description="ingest-api: name=path,... of other targets' unix sockets; /metrics has theirs too"),
    ] = ""
    api_as_owner: Annotated[
        bool, Field(description="api: start although its ClickHouse user owns the data; not set by hand")
    ] = False
    api_url: Annotated[
        str,
        Field(description="ingest-api: the same by URL, for an api target elsewhere; the socket goes first"),
    ] = ""
    web: Annotated[bool, Field(description="api: serve the pages for browsers beside the API")] = True
    alert_webhook_url: Annotated[
        str, Field(description="operator: where alerts are posted; without it, only logged")
    ] = ""
    alert_webhook_secret: Annotated[str, Field(description="operator: what posted alerts are signed with")] = ""
    ingest_dual_read_legacy: Annotated[
        bool, Field(description="ingest-worker: also drain the stream from before the shards")
    ] = True
    spool_dir: Annotated[Path, Field(description="ingest-api: the disk buffer's folder")] = Path("spool")
    spool_max_bytes: Annotated[
        int, Field(description="ingest-api: most bytes the disk buffer may hold", ge=1 << 20)
    ] = 4 << 30

    shards_auto: Annotated[
        bool, Field(description="operator: move and split orgs by itself when their shards stay uneven")
    ] = False

    @property
    def reader_variable(self) -> str:
        """The variable that names ClickHouse for reads: its own, where it is set."""
        return "TRACEBILITY_CLICKHOUSE_READER_URL" if self.clickhouse_reader_url else "TRACEBILITY_CLICKHOUSE_URL"

    @property
    def stream_variable(self) -> str:
        """The variable that names the server of the queue: its own, where it has one."""
        return "TRACEBILITY_REDIS_STREAM_URL" if self.redis_stream_url else "TRACEBILITY_REDIS_URL"

    def dsn(self, variable: str) -> str:
        """The DSN or URL held by ``variable`` (for example ``TRACEBILITY_PG_DSN``).

        Raises:
            ConfigurationError: when it is missing or malformed, naming the variable and the form, never the value.
        """
        value: str = getattr(self, variable.removeprefix(PREFIX).lower())
        if not value:
            raise ConfigurationError(f"{variable} is not set. Set it to a DSN such as {_EXAMPLES[variable]}.")
        try:
            parts = urlsplit(value)
            well_formed = parts.scheme in _SCHEMES[variable] and bool(parts.hostname or parts.path) and parts.port != 0
        except ValueError:
            well_formed = False
        if not well_formed:
            raise ConfigurationError(f"{variable} is malformed. Write it as {_EXAMPLES[variable]}.")
        return value


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings as the environment has them.

    Raises:
        ConfigurationError: for the first variable with an unusable value, naming it and what it takes.
    """
    given: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        name = f"{PREFIX}{field.name.upper()}"
        if name not in environment:
            continue
        try:
            given[field.name] = msgspec.convert(environment[name], field.type, strict=False, dec_hook=_of_text)
        except (msgspec.ValidationError, ValueError) as error:
            raise ConfigurationError(
                f"{name} is not usable: {error}. Correct it, or unset it for its default."
            ) from None
    return Settings(**given)


def _of_text(kind: type, text: str) -> Any:
    return kind(text)


def redact(text: str) -> str:
    """``text`` with the password of every URL in it replaced by ``***``, for messages and logs."""
    return re.sub(r"(\w+://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
