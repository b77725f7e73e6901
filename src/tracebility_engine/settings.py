"""Settings of the engine's process, from the environment only, since ``ps`` shows command lines."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DATABASE = "tracebility"
OWNER = "tracebility"
READER = "tracebility_reader"

_MIB = 1 << 20
# Queries, merges and caches together; the engine's own default is 90 % of the machine's memory.
DEFAULT_MEMORY_BYTES = 3 << 30
# Below this the engine cannot merge wide parts.
MIN_MEMORY_BYTES = 512 * _MIB
DEFAULT_STOP_TIMEOUT_S = 8
# Not TRACEBILITY_CLICKHOUSE_*: only the DSN says how to reach a store.
PREFIX = "TRACEBILITY_FRONT_"
OWNER_PASSWORD = PREFIX + "OWNER_PASSWORD"
READER_PASSWORD = PREFIX + "READER_PASSWORD"
MEMORY_BYTES = PREFIX + "MEMORY_BYTES"
QUERY_LOG = PREFIX + "QUERY_LOG"
STOP_TIMEOUT_S = PREFIX + "STOP_TIMEOUT_S"
PROOF_KEY = PREFIX + "PROOF_KEY"
VARIABLES = (OWNER_PASSWORD, READER_PASSWORD, MEMORY_BYTES, QUERY_LOG, STOP_TIMEOUT_S, PROOF_KEY)


class StartRefused(Exception):
    """The engine cannot start as it is told to. The text is one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """Data directory, address, passwords and limits."""

    data_dir: Path
    host: str
    port: int
    owner_password: str = field(repr=False)
    reader_password: str = field(repr=False)
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    query_log: bool = False
    stop_timeout_s: int = DEFAULT_STOP_TIMEOUT_S
    # Signs the nonces of `GET /proof`, so that whoever started this process knows it before it sends a password.
    proof_key: str = field(default="", repr=False)
    # Opens the row policies for owner sessions that name no tenant. Made anew at each start, never leaves the process.
    owner_pass: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)


def from_environment(
    data_dir: Path, host: str, port: int, environment: Mapping[str, str] = os.environ
) -> FrontSettings:
    """Read the variables ``TRACEBILITY_FRONT_*``.

    Raises:
        StartRefused: when a password is missing or a number is malformed; the text names the variable.
    """
    return FrontSettings(
        data_dir=data_dir.resolve(),
        host=host,
        port=port,
        owner_password=_password(environment, OWNER_PASSWORD),
        reader_password=_password(environment, READER_PASSWORD),
        memory_bytes=_number(environment, MEMORY_BYTES, DEFAULT_MEMORY_BYTES, MIN_MEMORY_BYTES),
        query_log=environment.get(QUERY_LOG, "") in {"1", "true"},
        stop_timeout_s=_number(environment, STOP_TIMEOUT_S, DEFAULT_STOP_TIMEOUT_S, 1),
        proof_key=environment.get(PROOF_KEY, ""),
    )


def _password(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise StartRefused(f"{name} is not set. Set it to the password that clients will send.")
    return value


def _number(environment: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise StartRefused(f"{name} is {text!r}. Set it to a whole number of at least {least}.")
    return int(text)
