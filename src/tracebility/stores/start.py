"""Waits for stores at start, and reports failures in one line that names the variable and the fix.

Once a service runs, the same failures raise `StoreUnavailable`, and the caller retries or buffers the data.
"""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, unquote, urlsplit

from tracebility.config import redact
from tracebility.errors import ConfigurationError, StoreUnavailable

START_WAIT_S = 5.0  # stores on one machine start together, and a supervisor restarts a dead one within this
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5


class Refused(StoreUnavailable):
    """The store answers, but refuses the credentials or the database."""


async def until_reachable(
    variable: str, dsn: str, probe: Callable[[], Awaitable[object]], *, wait_s: float = START_WAIT_S
) -> None:
    """Return once ``probe`` has succeeded.

    Raises:
        ConfigurationError: at once when the store refuses, after ``wait_s`` when it does not answer. The message never
            contains the password.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    pause = _FIRST_PAUSE_S
    while True:
        try:
            await probe()
            return
        except Refused as refused:
            raise ConfigurationError(
                f"{variable}: the store at {place(dsn)} refuses this DSN ({_one_line(refused.detail, dsn)}). "
                f"Put a user, password and database into {variable} that it accepts."
            ) from None
        except StoreUnavailable as away:
            if loop.time() + pause > deadline:
                raise ConfigurationError(
                    f"{variable}: no usable answer from {place(dsn)} ({_one_line(away.detail, dsn)}). "
                    f"Start the store there, or correct the host and port in {variable}."
                ) from None
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_S)


def place(dsn: str) -> str:
    """Return the host and port of ``dsn``, without credentials."""
    parts = urlsplit(dsn)
    if not parts.hostname:  # A unix socket: Redis has it as the path, PostgreSQL its folder as a parameter.
        return parse_qs(parts.query).get("host", [parts.path])[0]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port}" if parts.port else host


def _one_line(detail: str, dsn: str) -> str:
    line = redact(" ".join(detail.split())).rstrip(".")
    password = urlsplit(dsn).password
    for secret in {password, unquote(password)} if password else ():
        line = line.replace(secret, "***")
    return line if len(line) <= _LONGEST_DETAIL else line[:_LONGEST_DETAIL] + "..."


_LONGEST_DETAIL = 300  # three terminal lines; engines may answer with pages
