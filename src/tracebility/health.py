"""Whether a target lives and its stores do; and what one without routes of its own answers."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from tracebility.errors import StoreUnavailable
from tracebility.telemetry import METRICS_CONTENT_TYPE, Metrics

Message = MutableMapping[str, Any]
Ping = Callable[[], Awaitable[object]]  # returns when a store answers, else raises `StoreUnavailable`
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

# A store that takes longer to say "here" is not one to send requests to.
READY_WAIT_S = 2.0


async def unanswered(*pings: tuple[str, Ping]) -> dict[str, str]:
    """The stores that do not answer, and what they say instead; one in two roles is given, and asked, twice."""
    said = await asyncio.gather(*(_failure(ping) for _, ping in pings))
    return {store: words for (store, _), words in zip(pings, said, strict=True) if words}


async def _failure(ping: Ping) -> str:
    """Empty when it answers. A store's own words are for the log, not for anyone."""
    try:
        async with asyncio.timeout(READY_WAIT_S):
            await ping()
    except TimeoutError:
        return f"no answer within {READY_WAIT_S:.0f} s"
    except StoreUnavailable:
        return "no usable answer"
    return ""


class Counted(Protocol):
    """The metrics of a target."""

    all: Metrics


class Watched(Protocol):
    """A target, as far as who watches it needs it."""

    @property
    def metrics(self) -> Counted:
        """What it counts."""

    async def missing_stores(self) -> dict[str, str]:
        """The stores that do not answer, and what they say instead."""


def create_app(services: Watched) -> App:
    """``/healthz``, ``/readyz`` and ``/metrics``."""

    async def app(
        scope: Message, _receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            return
        status, content_type, body = await _answer(services, scope["path"])
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


async def _answer(services: Watched, path: str) -> tuple[int, str, bytes]:
    if path == "/healthz":
        return 200, "application/json", b'{"status":"ok"}'
    if path == "/readyz":
        missing = await services.missing_stores()
        document = {"status": "unavailable", "missing": missing} if missing else {"status": "ok"}
        return 503 if missing else 200, "application/json", json.dumps(document).encode()
    if path == "/metrics":
        return 200, METRICS_CONTENT_TYPE, services.metrics.all.exposition()
    return 404, "application/json", b'{"status":"no such path"}'
