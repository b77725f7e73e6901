"""Every route that is not the edge's own, streamed through to the api target on its unix socket.

So one port serves all, and an api target that is down takes down its own routes only.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from tracebility.errors import Overloaded

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CONNECT_TIMEOUT_S = 2.0
# Longer than any query of the api may take; a stream that says nothing for so long is dead.
SILENCE_TIMEOUT_S = 120.0
CONNECTIONS = 256
CHUNK_BYTES = 64 << 10

# RFC 9110, section 7.6.1: what speaks of one connection is not handed on.
_HOP_BY_HOP = frozenset(
    [
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    ]
)


class ApiProxy:
    """An ASGI application that is another one, reached through ``socket``."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand one request on, and its answer back, both as they come."""
        if scope["type"] != "http":
            return
        request = _Request(scope, receive, send)
        handing_on = asyncio.create_task(self._handed_on(request))
        leaving = asyncio.create_task(request.client_gone())
        try:
            await asyncio.wait({handing_on, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if handing_on.done():
                await handing_on
        except (aiohttp.ClientError, TimeoutError, OSError):
            if request.answering:
                raise  # the server cuts the connection, so that half an answer is not taken for a whole one
            await _unavailable(scope, send)
        finally:
            for task in (handing_on, leaving):
                task.cancel()
            await asyncio.gather(handing_on, leaving, return_exceptions=True)

    async def _handed_on(self, request: "_Request") -> None:
        async with self._opened().request(
            request.scope["method"],
            request.url(),
            headers=request.headers(),
            data=request.body() if request.has_body else None,
            allow_redirects=False,
        ) as answer:
            request.answering = True
            await request.send(
                {
                    "type": "http.response.start",
                    "status": answer.status,
                    "headers": [(name.lower(), value) for name, value in _end_to_end(answer.raw_headers)],
                }
            )
            async for chunk in answer.content.iter_any():
                await request.send({"type": "http.response.body", "body": chunk, "more_body": True})
            await request.send({"type": "http.response.body", "body": b""})

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self._socket, limit=CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
            )
        return self._session


class _Request:
    """One request on its way through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.send = send
        self.answering = False
        self._receive = receive
        self._sent_whole = asyncio.Event()
        names = {name for name, _ in scope["headers"]}
        self.has_body = b"transfer-encoding" in names or b"content-length" in names
        if not self.has_body:
            self._sent_whole.set()

    def url(self) -> URL:
        target = self.scope.get("raw_path") or self.scope["path"].encode()
        query = self.scope.get("query_string", b"")
        text = (target + b"?" + query if query else target).decode("latin-1")
        return URL(f"http://api{text}", encoded=True)

    def headers(self) -> list[tuple[str, str]]:
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in _end_to_end(self.scope["headers"])
            if name != b"expect"  # answered here
        ]
        if self.scope.get("client"):
            headers.append(("x-forwarded-for", self.scope["client"][0]))
        return headers

    async def body(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ConnectionResetError("the client went away")
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]
        self._sent_whole.set()

    async def client_gone(self) -> None:
        """Return when the client has gone, once its body is through."""
        await self._sent_whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without what speaks of one connection only, by rule or because ``connection`` names it."""
    headers = list(headers)
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    return [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP | named]


async def _unavailable(scope: Scope, send: Send) -> None:
    problem = Overloaded("The api is not running; ingest is not affected.")
    data = msgspec.json.encode(problem.body(scope["path"]))
    headers = problem.headers() | {"content-length": str(len(data))}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
    await send({"type": "http.response.body", "body": data})
