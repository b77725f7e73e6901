"""What a target without routes of its own answers: whether it lives, whether its stores do, and its metrics."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from tracebility.telemetry import METRICS_CONTENT_TYPE, Metrics

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


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
