"""The id of the request that is being answered. The answer, its problem document and every log line carry it.

A client, or an ingress, may send its own id in ``X-Request-Id``; otherwise one is made.
"""

import os
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADER = "x-request-id"

_HEADER = HEADER.encode()
_ACCEPTED = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_current: ContextVar[str] = ContextVar("request_id", default="")


def current() -> str:
    """The id of the request that this code answers; empty outside of a request."""
    return _current.get()


@contextmanager
def answering(sent: bytes = b"") -> Iterator[bytes]:
    """Within the block `current` is ``sent`` if that is usable as an id, else a new id; gives the id."""
    request_id = sent if _ACCEPTED.fullmatch(sent) else os.urandom(8).hex().encode()
    token = _current.set(request_id.decode())
    try:
        yield request_id
    finally:
        _current.reset(token)


class RequestIds:
    """An ASGI application that gives each request of another one its id."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        with answering(sent) as request_id:

            async def identified(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": _with(message.get("headers", ()), request_id)}
                await send(message)

            await self._app({**scope, "headers": _with(scope["headers"], request_id)}, receive, identified)


def _with(headers: Any, request_id: bytes) -> list[tuple[bytes, bytes]]:
    return [*(header for header in headers if header[0] != _HEADER), (_HEADER, request_id)]
