"""A store is asked only after it has proved to be the process that was started; until then no password is sent."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tracebility.embedded import probes


class Store:
    """A listener that answers everything with the same bytes, and keeps what it was sent."""

    def __init__(self, answer: bytes) -> None:
        self.heard = b""
        self._answer = answer

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            self.heard += data
            writer.write(self._answer)
            if self._answer.startswith(b"HTTP"):
                break
        writer.close()


@asynccontextmanager
async def on_a_socket(store: Store, path: Path) -> AsyncIterator[None]:
    async with await asyncio.start_unix_server(store, path):
        yield


ASK: dict[str, tuple[bytes, Callable[[Path, int], object]]] = {
    "postgres": (b"R", lambda path, pid: probes.postgres(path, "user", "database", pid)),
    "valkey": (b"+OK\r\n+PONG\r\n", lambda path, pid: probes.valkey(path, "sesame", pid)),
    "target": (b"HTTP/1.1 200 OK\r\n\r\n", lambda path, pid: probes.http("/readyz", path=path, pid=pid)),
}


@pytest.mark.parametrize("name", sorted(ASK))
async def test_the_process_that_was_started_is_ready(name: str, tmp_path: Path) -> None:
    answer, ask = ASK[name]
    store = Store(answer)
    async with on_a_socket(store, tmp_path / "s"):
        assert await ask(tmp_path / "s", os.getpid()) == ""  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(ASK))
async def test_another_process_is_not_and_is_sent_nothing(name: str, tmp_path: Path) -> None:
    answer, ask = ASK[name]
    store = Store(answer)
    async with on_a_socket(store, tmp_path / "s"):
        assert f"process {os.getpid()} listens on" in await ask(tmp_path / "s", 1)  # type: ignore[misc, operator]
    assert store.heard == b""


async def test_an_engine_that_cannot_sign_is_not_sent_the_password() -> None:
    store = Store(b"HTTP/1.1 200 OK\r\n\r\nOk.\n")
    async with await asyncio.start_server(store, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        said = await probes.clickhouse(f"http://owner:sesame@127.0.0.1:{port}/tracebility", "key")
    assert said == f"another process answers on port {port}"
    assert store.heard.startswith(b"GET /proof?nonce=")
    assert b"uthorization" not in store.heard
