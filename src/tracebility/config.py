"""What an installation is told from outside: one DSN per store, and a few numbers. Read from the environment only.

A DSN carries its own credentials; there is no second place for a user or a password.
"""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tracebility.errors import ConfigurationError

DEFAULT_PORT = 7080

_SCHEMES = {
    "TRACEBILITY_PG_DSN": ("postgresql", "postgres"),
    "TRACEBILITY_CLICKHOUSE_URL": ("http", "https"),
    "TRACEBILITY_REDIS_URL": ("redis", "rediss", "unix"),
}
_EXAMPLES = {
    "TRACEBILITY_PG_DSN": "postgresql://user:password@host:5432/tracebility",
    "TRACEBILITY_CLICKHOUSE_URL": "http://user:password@host:8123/tracebility",
    "TRACEBILITY_REDIS_URL": "redis://:password@host:6379/0",
}


class Settings(BaseSettings):
    """Settings of every target. Each field is the variable ``TRACEBILITY_<NAME>``; docs/configuration.md has all."""

    model_config = SettingsConfigDict(env_prefix="TRACEBILITY_", extra="ignore")

    pg_dsn: Annotated[str, Field(description="PostgreSQL, the control plane")] = ""
    clickhouse_url: Annotated[str, Field(description="ClickHouse's HTTP interface, the data plane")] = ""
    redis_url: Annotated[str, Field(description="Redis or Valkey, the queue")] = ""

    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(description="port to listen on", ge=0, le=65535)] = DEFAULT_PORT
    listen_socket: Annotated[str, Field(description="unix socket to listen on instead of host and port")] = ""
    listen_fd: Annotated[
        int | None, Field(description="listening socket inherited from `tracebility up`; not set by hand")
    ] = None
    start_fd: Annotated[
        int | None, Field(description="pipe of `tracebility up`: its end is the start; not set by hand")
    ] = None
    api_socket: Annotated[
        str, Field(description="ingest-api: unix socket of the api target, for every route that is not an ingest route")
    ] = ""
    web: Annotated[bool, Field(description="api: serve the pages for browsers beside the API")] = True
    spool_dir: Annotated[Path, Field(description="ingest-api: the disk buffer's folder")] = Path("spool")
    spool_max_bytes: Annotated[
        int, Field(description="ingest-api: most bytes the disk buffer may hold", ge=1 << 20)
    ] = 4 << 30

    def dsn(self, variable: str) -> str:
        """The DSN held by ``variable`` (for example ``TRACEBILITY_PG_DSN``).

        Raises:
            ConfigurationError: when it is missing or malformed, naming the variable and the form, never the value.
        """
        value: str = getattr(self, variable.removeprefix("TRACEBILITY_").lower())
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


def load_settings() -> Settings:
    """The settings as the environment has them.

    Raises:
        ConfigurationError: for the first variable with an unusable value, naming it and what it takes.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = f"TRACEBILITY_{first['loc'][0]}".upper()
        raise ConfigurationError(
            f"{name} is not usable: {first['msg']}. Correct it, or unset it for its default."
        ) from None


def redact(text: str) -> str:
    """``text`` with the password of every URL in it replaced by ``***``, for messages and logs."""
    return re.sub(r"(\w+://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
