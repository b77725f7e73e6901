"""The edge as a bare ASGI application: two ingest routes, three for operators, and everything else handed on.

Nothing stands between the server and the gates: at 50 spans a request, a framework would cost as much as all the rest.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import msgspec
import structlog

from tracebility.errors import NOT_FOR_OTHERS, MethodNotAllowed, NotFound, Problem, UnsupportedMedia
from tracebility.failpoints import failpoint
from tracebility.ingest import body, gates
from tracebility.ingest.accept import Answer, Sent
from tracebility.ingest.service import IngestServices
from tracebility.ingest.target_metrics import with_other_targets
from tracebility.telemetry import METRICS_CONTENT_TYPE
from tracebility.wire import encoding

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Route -> the source it writes, and what it takes.
INGEST_ROUTES = {
    "/v1/traces": ("otlp", {"application/x-protobuf": "protobuf", "application/json": "json"}),
    "/v1/runs": ("native", {"application/json": "json"}),
}

_log = structlog.get_logger()


def create_app(services: IngestServices, front: App | None = None) -> App:
    """The edge over opened ``services``; ``front`` answers every route that is not its own, else the api's socket."""
    return _Edge(services, front or services.front or _nothing_else)


class _Edge:
    def __init__(self, services: IngestServices, front: App) -> None:
        self._services = services
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        path = scope["path"]
        if path in INGEST_ROUTES:
            await self._ingest(path, scope, receive, send)
        elif path in _OPERATORS_ROUTES and scope["type"] == "http":
            await self._for_operators(path, scope, send)
        else:
            await self._front(scope, receive, send)

    async def _ingest(self, route: str, scope: Scope, receive: Receive, send: Send) -> None:
        requests = self._services.metrics.requests
        began = time.perf_counter()
        status = 499  # as nginx logs it: the client went away
        requests.started()
        try:
            try:
                answer = await self._accepted(route, scope, receive)
                failpoint("edge_after_enqueue_before_answer")
            except Problem as problem:
                status = problem.status
                await respond_problem(send, problem, route)
                return
            except body.Disconnected:
                return
            except Exception:  # noqa: BLE001  (the client is owed an answer whatever we did wrong)
                _log.exception("request failed", route=route)
                status = Problem.status
                await respond_problem(send, Problem("The request failed, and the cause is in the log."), route)
                return
            status = answer.status
            await respond(send, status, answer.content_type, answer.body, answer.headers)
        finally:
            requests.answered(route, scope.get("method", ""), status, time.perf_counter() - began)

    async def _accepted(self, route: str, scope: Scope, receive: Receive) -> Answer:
        headers = _headers(scope["headers"])
        source, types = INGEST_ROUTES[route]
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{route} takes POST.", hint="Send a POST request.")
        tenant = await gates.admit(
            self._services.resolver, headers.get(b"authorization", ""), headers.get(b"x-api-key", "")
        )
        sent_type = headers.get(b"content-type", "")
        content_type = types.get(sent_type.partition(";")[0].strip().lower())
        if content_type is None:
            raise UnsupportedMedia(
                f"The content type {sent_type[:64]!r} is not understood.", hint=f"Send {' or '.join(types)}."
            )
        content_encoding = encoding.encoding_of(headers.get(b"content-encoding", ""))
        with self._services.budget.lease(tenant.org_id) as lease:
            data = await body.read(receive, headers.get(b"content-length", ""), lease)
            return await self._services.intake.accept(tenant, Sent(source, content_type, content_encoding, data))

    async def _for_operators(self, path: str, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await respond_problem(send, MethodNotAllowed(f"{path} takes GET."), path)
        elif path == "/metrics":
            own = self._services.metrics.all.exposition()
            data = await with_other_targets(own, self._services.metrics_sockets)
            await respond(send, 200, METRICS_CONTENT_TYPE.encode(), data)
        elif path == "/healthz":
            await respond(send, 200, b"application/json", b'{"status":"ok"}')
        else:
            accepting_is_enough = scope.get("query_string", b"") == b"accepting"
            readiness = await self._services.readiness()
            ready = readiness.accepting if accepting_is_enough else not readiness.missing
            await respond(send, 200 if ready else 503, b"application/json", msgspec.json.encode(readiness))


_OPERATORS_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})
_NOT_FOR_OTHERS = tuple((name.encode(), value.encode()) for name, value in NOT_FOR_OTHERS.items())
_WANTED = frozenset({b"authorization", b"x-api-key", b"content-type", b"content-encoding", b"content-length"})


async def respond(
    send: Send, status: int, content_type: bytes, data: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """A whole answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", str(len(data)).encode()),
                *_NOT_FOR_OTHERS,
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": data})


async def respond_problem(send: Send, problem: Problem, instance: str) -> None:
    """``problem`` as problem JSON."""
    headers = problem.headers()
    content_type = headers.pop("content-type").encode()
    for name in NOT_FOR_OTHERS:
        headers.pop(name)
    if isinstance(problem, MethodNotAllowed):
        headers["allow"] = "POST" if instance in INGEST_ROUTES else "GET, HEAD"
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await respond(send, problem.status, content_type, msgspec.json.encode(problem.body(instance)), encoded)


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """The headers this file reads; one that is sent twice reads as both, joined, as HTTP has it."""
    found: dict[bytes, str] = {}
    for name, value in raw:
        if name in _WANTED:
            text = value.decode("latin-1")
            found[name] = f"{found[name]}, {text}" if name in found else text
    return found


async def _lifespan(receive: Receive, send: Send) -> None:
    """The services are opened before the server and closed after it, so there is nothing to do."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _nothing_else(scope: Scope, _: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await respond_problem(send, NotFound(), scope["path"])
