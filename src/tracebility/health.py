"""``/healthz``, ``/readyz`` and ``/metrics``: the same for every target. None of them needs a key or names a tenant."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec

from tracebility.errors import MethodNotAllowed, NotFound, Problem, StoreUnavailable
from tracebility.request_id import App, Receive, RequestIds, Scope, Send
from tracebility.telemetry import METRICS_CONTENT_TYPE, Metrics

Ping = Callable[[], Awaitable[object]]  # returns when a store answers, otherwise raises `StoreUnavailable`

# A store that takes longer to answer a ping counts as missing.
READY_WAIT_S = 2.0

PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

_JSON = "application/json"


async def unanswered(*pings: tuple[str, Ping]) -> dict[str, str]:
    """The stores that do not answer, each with the reason. A store in two roles is given, and asked, twice."""
    reasons = await asyncio.gather(*(_failure(ping) for _, ping in pings))
    return {store: reason for (store, _), reason in zip(pings, reasons, strict=True) if reason}


async def _failure(ping: Ping) -> str:
    """Why the store does not answer; empty when it does. The store's own words are not shown: they may name hosts."""
    try:
        async with asyncio.timeout(READY_WAIT_S):
            await ping()
    except TimeoutError:
        return f"no answer within {READY_WAIT_S:.0f} s"
    except StoreUnavailable:
        return "no usable answer"
    return ""


class Readiness(msgspec.Struct, frozen=True):
    """The body of ``/readyz``. ``missing`` has each store that does not answer, and why."""

    status: Literal["ok", "degraded", "unavailable"]
    missing: Mapping[str, str]


async def needs_every_store(missing: Callable[[], Awaitable[Mapping[str, str]]]) -> Readiness:
    """The readiness of a target that can do nothing without one of its stores."""
    stores = await missing()
    return Readiness("unavailable" if stores else "ok", stores)


def create_app(
    metrics: Metrics,
    readiness: Callable[[], Awaitable[Readiness]],
    otherwise: App | None = None,
    complete: Callable[[bytes], Awaitable[bytes]] | None = None,
) -> App:
    """An app that answers `PATHS`. ``otherwise`` answers every other path; without it they are 404.

    ``complete`` makes of this process's metrics what ``/metrics`` answers.
    """
    other = otherwise or _not_found

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in PATHS:
            await other(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            problem = MethodNotAllowed(scope["path"], ("GET", "HEAD"))
            await _refuse(problem, scope, send)
        else:
            status, content_type, body = await _answer(scope["path"], metrics, readiness)
            if complete is not None and scope["path"] == "/metrics":
                body = await complete(body)
            await _respond(send, status, {"content-type": content_type}, body)

    return app if otherwise else RequestIds(app)


async def _answer(path: str, metrics: Metrics, readiness: Callable[[], Awaitable[Readiness]]) -> tuple[int, str, bytes]:
    if path == "/healthz":
        return 200, _JSON, b'{"status":"ok"}'
    if path == "/metrics":
        return 200, METRICS_CONTENT_TYPE, metrics.exposition()
    found = await readiness()
    return 503 if found.status == "unavailable" else 200, _JSON, msgspec.json.encode(found)


async def _not_found(scope: Scope, _: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await _refuse(NotFound(), scope, send)


async def _refuse(problem: Problem, scope: Scope, send: Send) -> None:
    body = msgspec.json.encode(problem.body(scope["path"]))
    await _respond(send, problem.status, problem.headers(), body)


async def _respond(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    encoded.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


# The three paths as OpenAPI describes them.
DESCRIPTION: dict[str, Any] = {
    "/healthz": {"get": {"tags": ["health"], "summary": "Whether the process lives", "responses": {
        "200": {"description": "The process lives, whatever its stores do."}}}},
    "/readyz": {"get": {"tags": ["health"], "summary": "Whether the stores answer", "responses": {
        "200": {"description": "Every store answers."},
        "503": {"description": "`missing` names each store that does not answer, and why."}}}},
    "/metrics": {"get": {"tags": ["health"], "summary": "Prometheus metrics of this process", "responses": {
        "200": {"description": "Prometheus' text format.", "content": {"text/plain": {}}}}}},
}  # fmt: skip
