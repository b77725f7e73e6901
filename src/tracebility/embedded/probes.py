"""Whether a store or a target answers, asked over its own protocol without loading its client.

The supervisor stays small that way. Each probe returns an empty text when it is ready, else why it is not.
"""

import asyncio
import base64
import struct
from collections.abc import Awaitable, Callable
from urllib.parse import unquote, urlsplit

ANSWER_S = 2.0

Probe = Callable[[], Awaitable[str]]


async def postgres(dsn: str) -> str:
    """Ready when it asks for a password: while starting up or shutting down it answers with an error instead."""
    parts = urlsplit(dsn)
    parameters = f"user\0{parts.username or ''}\0database\0{parts.path.lstrip('/')}\0\0".encode()
    startup = struct.pack("!ii", len(parameters) + 8, 196608) + parameters
    answer = await _exchange(parts.hostname, parts.port or 5432, startup, 1)
    if answer[:1] == b"R":
        return ""
    return "it is starting up" if answer[:1] == b"E" else "it does not answer as PostgreSQL does"


async def valkey(url: str) -> str:
    """Ready when it answers PING, which it refuses while it reads its log."""
    parts = urlsplit(url)
    words = ["AUTH", *([unquote(parts.username)] if parts.username else []), unquote(parts.password or "")]
    auth = _command(*words) if parts.password else b""
    answer = await _exchange(parts.hostname, parts.port or 6379, auth + _command("PING"), 1, until=b"PONG")
    if b"+PONG" in answer:
        return ""
    return (
        answer.decode(errors="replace").strip().splitlines()[-1].lstrip("-")
        if answer.strip()
        else "it closed the connection"
    )


async def clickhouse(url: str) -> str:
    """Ready when it answers a query of its user."""
    parts = urlsplit(url)
    credentials = base64.b64encode(f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()).decode()
    request = (
        "GET /?query=SELECT%201 HTTP/1.1\r\nHost: clickhouse\r\n"
        f"Authorization: Basic {credentials}\r\nConnection: close\r\n\r\n"
    )
    return _status(await _exchange(parts.hostname, parts.port or 8123, request.encode(), 64))


async def http(path: str, *, port: int = 0, host: str = "127.0.0.1", socket_path: str = "") -> str:
    """Ready when ``path`` answers 200 over TCP or a unix socket."""
    request = f"GET {path} HTTP/1.1\r\nHost: tracebility\r\nConnection: close\r\n\r\n".encode()
    return _status(await _exchange(host, port, request, 64, socket_path=socket_path))


async def _exchange(
    host: str | None, port: int, request: bytes, least: int, *, until: bytes = b"", socket_path: str = ""
) -> bytes:
    """The answer to ``request``: at least ``least`` bytes with ``until`` among them, unless the other side closed."""
    async with asyncio.timeout(ANSWER_S):
        if socket_path:
            reader, writer = await asyncio.open_unix_connection(socket_path)
        else:
            reader, writer = await asyncio.open_connection(host or "127.0.0.1", port)
        try:
            writer.write(request)
            answer = b""
            while len(answer) < least or until not in answer:
                data = await reader.read(4096)
                if not data:
                    break
                answer += data
            return answer
        finally:
            writer.close()


def _status(answer: bytes) -> str:
    line = answer.split(b"\r\n", 1)[0].decode(errors="replace")
    return "" if line.startswith("HTTP/1.") and line[9:12] == "200" else f"it answers '{line}'"


def _command(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    parts += [f"${len(word.encode())}\r\n{word}\r\n".encode() for word in words]
    return b"".join(parts)
