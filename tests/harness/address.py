"""Where a store's DSN points, and the same DSN led through a TCP port of ours."""

import asyncio
from urllib.parse import parse_qs, unquote, urlsplit


async def connected(dsn: str, limit: int = 1 << 16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the store that ``dsn`` names: over TCP, or the unix socket of Redis or PostgreSQL."""
    parts = urlsplit(dsn)
    if parts.hostname:
        assert parts.port is not None, dsn
        return await asyncio.open_connection(parts.hostname, parts.port, limit=limit)
    asked = parse_qs(parts.query)
    path = f"{asked['host'][0]}/.s.PGSQL.{asked['port'][0]}" if "host" in asked else unquote(parts.path)
    return await asyncio.open_unix_connection(path, limit=limit)


def led_through(dsn: str, port: int) -> str:
    """``dsn`` with 127.0.0.1 and ``port`` in the place of its own address."""
    parts = urlsplit(dsn)
    credentials, at, _ = parts.netloc.rpartition("@")
    through = parts._replace(netloc=f"{credentials}{at}127.0.0.1:{port}")
    if parts.scheme == "unix":
        through = through._replace(scheme="redis", path="/0")
    elif not parts.hostname:
        through = through._replace(query="")
    return through.geturl()
