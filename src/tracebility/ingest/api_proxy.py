"""Stream every route that is not an ingest route through to the api target, on its unix socket or by URL.

One port serves everything, and an api target that is down takes down its own routes only.
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

# RFC 9110, section 7.6.1: headers about one connection are not passed on.
_HOP_BY_HOP = frozenset(
    [
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    ]
)


class ApiProxy:
    """An ASGI application that passes requests on to the api target, at ``socket`` or else at ``url``."""

    def __init__(self, *, socket: str = "", url: str = "") -> None:
        self._socket = socket
        self._base = url.rstrip("/") or "http://api"
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and its answer back, both as they come."""
        if scope["type"] != "http":
            return
        request = _Request(scope, receive, send)
        passing = asyncio.create_task(self._pass_on(request))
        leaving = asyncio.create_task(request.client_gone())
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                await passing
        except (aiohttp.ClientError, TimeoutError, OSError):
            if request.answering:
                raise  # the server cuts the connection, so that half an answer is not taken for a whole one
            await _unavailable(scope, send)
        finally:
            for task in (passing, leaving):
                task.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)

    async def _pass_on(self, request: "_Request") -> None:
        async with self._opened().request(
            request.scope["method"],
            URL(self._base + request.target(), encoded=True),
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
                connector=(
                    aiohttp.UnixConnector(self._socket, limit=CONNECTIONS)
                    if self._socket
                    else aiohttp.TCPConnector(limit=CONNECTIONS)
                ),
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
            )
        return self._session


class _Request:
    """One request that is passed on."""

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

    def target(self) -> str:
        """Path and query as the client sent them."""
        target: bytes = self.scope.get("raw_path") or self.scope["path"].encode()
        query: bytes = self.scope.get("query_string", b"")
        return (target + b"?" + query if query else target).decode("latin-1")

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
    """``headers`` without those about one connection, by rule or because ``connection`` names them."""
    headers = list(headers)
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    return [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP | named]


async def _unavailable(scope: Scope, send: Send) -> None:
    problem = Overloaded("The api target does not answer; ingest is not affected.")
    data = msgspec.json.encode(problem.body(scope["path"]))
    headers = problem.headers() | {"content-length": str(len(data))}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
    await send({"type": "http.response.body", "body": data})
