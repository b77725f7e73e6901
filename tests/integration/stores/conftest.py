"""A wire to a store that can be cut."""

import asyncio
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.harness.address import connected, led_through


class Wire:
    """A loopback port in front of a store. ``cut`` ends every connection and refuses new ones."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._links: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "Wire":
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    @property
    def dsn(self) -> str:
        """The store's DSN, through this wire."""
        port = self._server.sockets[0].getsockname()[1]
        return led_through(self._dsn, port)

    async def cut(self) -> None:
        self._server.close()
        for writer in self._links:
            writer.transport.abort()
        self._links.clear()
        await self._server.wait_closed()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await connected(self._dsn)
        self._links |= {writer, far_writer}
        with suppress(ConnectionError):
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture
def wire() -> type[Wire]:
    return Wire


@pytest.fixture
def wrong_password() -> Any:
    """A DSN with another password in the place of its own."""

    def change(dsn: str) -> str:
        parts = urlsplit(dsn)
        at = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{parts.username or ''}:n0t-the-pass@{at}").geturl()

    return change
