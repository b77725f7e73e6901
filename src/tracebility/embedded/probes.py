"""Readiness probes of stores and targets, over their own protocols but without their clients, which would cost memory.

A probe returns an empty text when the child is ready, else the reason. Before it sends a password, the server must
prove to be the child: on a unix socket the kernel names the listening process; on ClickHouse's port the engine signs a
random number with a key that was made for this start.
"""

import asyncio
import base64
import hmac
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

ANSWER_S = 2.0

# Its argument is the pid of the child, 0 before the child has started.
Probe = Callable[[int], Awaitable[str]]

_PEER_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class _Impostor(Exception):
    """Another process answers instead of the child."""


async def postgres(path: Path, user: str, database: str, pid: int) -> str:
    """Ready when it asks for a password. While it starts or stops, it answers with an error."""
    parameters = f"user\0{user}\0database\0{database}\0\0".encode()
    startup = struct.pack("!ii", len(parameters) + 8, 196608) + parameters
    try:
        answer = await _exchange(startup, 1, path=path, pid=pid)
    except _Impostor as impostor:
        return str(impostor)
    if answer[:1] == b"R":
        return ""
    return "it is starting up" if answer[:1] == b"E" else "it does not answer as PostgreSQL does"


async def valkey(path: Path, password: str, pid: int) -> str:
    """Ready when it answers PING. While it loads its log, it answers with an error."""
    try:
        answer = await _exchange(_command("AUTH", password) + _command("PING"), 1, path=path, pid=pid, until=b"PONG")
    except _Impostor as impostor:
        return str(impostor)
    if b"+PONG" in answer:
        return ""
    lines = answer.decode(errors="replace").strip().splitlines()
    return lines[-1].lstrip("-") if lines else "it closed the connection"


async def clickhouse(url: str, proof_key: str) -> str:
    """Ready when it signs a random number with ``proof_key`` and then answers a query of its user."""
    parts = urlsplit(url)
    port = parts.port or 8123
    nonce = secrets.token_hex(16)
    signed = await _exchange(_get(f"/proof?nonce={nonce}"), 1 << 12, port=port)
    if not hmac.compare_digest(signed.rpartition(b"\r\n\r\n")[2].strip(), proof(proof_key, nonce)):
        return f"another process answers on port {port}"
    credentials = base64.b64encode(f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()).decode()
    query = _get("/?query=SELECT%201", f"Authorization: Basic {credentials}\r\n")
    return _status(await _exchange(query, 64, port=port))


def proof(key: str, nonce: str) -> bytes:
    """The engine's answer to ``GET /proof?nonce=NONCE``."""
    return hmac.new(key.encode(), nonce.encode(), "sha256").hexdigest().encode()


async def http(url_path: str, *, port: int = 0, host: str = "127.0.0.1", path: Path | None = None, pid: int = 0) -> str:
    """Ready when ``url_path`` answers 200, over TCP or over the unix socket ``path`` of process ``pid``."""
    try:
        return _status(await _exchange(_get(url_path), 64, host=host, port=port, path=path, pid=pid))
    except _Impostor as impostor:
        return str(impostor)


async def _exchange(
    request: bytes,
    least: int,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    path: Path | None = None,
    pid: int = 0,
    until: bytes = b"",
) -> bytes:
    """Send ``request`` and read at least ``least`` bytes that contain ``until``, or until the server closes."""
    async with asyncio.timeout(ANSWER_S):
        if path is not None:
            reader, writer = await asyncio.open_unix_connection(path)
        else:
            reader, writer = await asyncio.open_connection(host, port)
        try:
            if path is not None and (other := _listening_pid(writer)) != pid:
                raise _Impostor(f"process {other} listens on {path}, which is not the one that was started")
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


def _listening_pid(writer: asyncio.StreamWriter) -> int:
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid: int = _PEER_CREDENTIALS.unpack(raw)[0]
    return pid


def _get(url_path: str, headers: str = "") -> bytes:
    return f"GET {url_path} HTTP/1.1\r\nHost: tracebility\r\n{headers}Connection: close\r\n\r\n".encode()


def _status(answer: bytes) -> str:
    line = answer.split(b"\r\n", 1)[0].decode(errors="replace")
    return "" if line.startswith("HTTP/1.") and line[9:12] == "200" else f"it answers '{line}'"


def _command(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    parts += [f"${len(word.encode())}\r\n{word}\r\n".encode() for word in words]
    return b"".join(parts)
