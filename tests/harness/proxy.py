"""Bad weather on a TCP road: stands between a client and a store, and delays, starves, cuts or swallows what passes."""

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from enum import StrEnum

from .address import connected, led_through

_CHUNK_BYTES = 1 << 16


class Road(StrEnum):
    """How the road is right now."""

    CLEAR = "clear"
    BLACKHOLE = "blackhole"  # connects, takes bytes, hands none on in either direction
    HALF_OPEN = "half-open"  # requests arrive, answers are lost
    CLOSED = "closed"  # every new connection is reset


@dataclass
class Proxy:
    """A TCP proxy to the store of ``dsn`` whose weather changes while connections stand."""

    dsn: str
    road: Road = Road.CLEAR
    latency_s: float = 0.0  # added to every chunk, each direction
    bytes_per_s: float = 0.0  # 0 is unbounded
    linger_s: float = 0.0  # an end of file is passed on this much later
    cut_after_bytes: int = 0  # so many bytes towards the store from now on, every connection is reset; 0 is never
    cuts: int = 0
    listen_port: int = 0
    connections: int = 0
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    def before(cls, dsn: str) -> "Proxy":
        """A proxy to the store that ``dsn`` names."""
        return cls(dsn)

    def through(self, dsn: str) -> str:
        """``dsn`` led through this proxy."""
        return led_through(dsn, self.listen_port)

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.listen_port, limit=_CHUNK_BYTES)
        self.listen_port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        await asyncio.gather(*self._tasks)

    def clear(self) -> None:
        """Fine weather again. What was swallowed stays lost, so its connections are cut."""
        swallowed = self.road is not Road.CLEAR
        self.road, self.latency_s, self.bytes_per_s, self.linger_s = Road.CLEAR, 0.0, 0.0, 0.0
        if swallowed:
            self.reset()

    def reset(self) -> None:
        """Cut every standing connection with a TCP reset."""
        for writer in list(self._open):
            _reset(writer)

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.road is Road.CLOSED:
            _reset(client_out)
            return
        self.connections += 1
        try:
            store_in, store_out = await connected(self.dsn, _CHUNK_BYTES)
        except OSError:
            _reset(client_out)
            return
        self._open |= {client_out, store_out}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(client_in, store_out, answers=False))
                group.create_task(self._pump(store_in, client_out, answers=True))
        except* OSError:
            pass
        finally:
            for writer in (client_out, store_out):
                self._open.discard(writer)
                _reset(writer)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        while chunk := await source.read(_CHUNK_BYTES):
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            if self.bytes_per_s:
                await asyncio.sleep(len(chunk) / self.bytes_per_s)
            if self.road is Road.BLACKHOLE or (answers and self.road is Road.HALF_OPEN):
                continue
            if sink.is_closing():
                return
            if not answers and self._is_cut_by(len(chunk)):
                return
            sink.write(chunk)
            await sink.drain()
        if self.linger_s:
            await asyncio.sleep(self.linger_s)
        if self.road is not Road.BLACKHOLE and not sink.is_closing():
            sink.write_eof()

    def _is_cut_by(self, size: int) -> bool:
        if not self.cut_after_bytes:
            return False
        self.cut_after_bytes = max(0, self.cut_after_bytes - size)
        if self.cut_after_bytes:
            return False
        self.cuts += 1
        self.reset()
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
