"""The edge as a bare ASGI application: ingest routes, three for operators, and everything else passed on to the api.

No framework stands before them: at 50 spans a request, it would cost as much as all the rest.
"""

import time
from collections.abc import Iterable

import structlog

from tracebility import health
from tracebility.errors import NOT_FOR_OTHERS, Forbidden, MethodNotAllowed, NotFound, Problem, UnsupportedMedia
from tracebility.failpoints import failpoint
from tracebility.ingest import body
from tracebility.ingest.accept import Sent
from tracebility.ingest.service import IngestServices
from tracebility.ingest.target_metrics import with_other_targets
from tracebility.request_id import App, Receive, RequestIds, Scope, Send
from tracebility.tenant import context
from tracebility.tenant.context import TenantContext
from tracebility.wire import encoding
from tracebility.wire.protocol import Answer, Call, Match, Protocol, Route, problem_answer
from tracebility.wire.protocols import ROUTER

_log = structlog.get_logger()


def create_app(services: IngestServices, api: App | None = None) -> App:
    """The edge over opened ``services``. Other routes go to ``api``, else to the api target, else they are 404."""
    return RequestIds(_Edge(services, api or services.api_proxy or _not_found))


class _Edge:
    def __init__(self, services: IngestServices, api: App) -> None:
        self._services = services
        self._other = health.create_app(services.metrics.all, services.readiness, api, self._with_other_targets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        path = scope["path"]
        match = ROUTER.find(path) if scope["type"] == "http" else None
        if match is not None:
            await self._ingest(match, scope, receive, send)
        else:
            await self._other(scope, receive, send)

    async def _ingest(self, match: Match, scope: Scope, receive: Receive, send: Send) -> None:
        route, protocol = match.routes.get(scope["method"]) or next(iter(match.routes.values()))
        requests = self._services.metrics.requests
        began = time.perf_counter()
        status = 499  # as nginx logs it: the client went away
        requests.started()
        try:
            try:
                answer = await self._accepted(match, scope, receive)
                failpoint("edge_after_enqueue_before_answer")
            except Problem as problem:
                answer = self._refusal(protocol, scope, problem)
            except body.Disconnected:
                return
            except Exception:  # noqa: BLE001  (the client is owed an answer whatever we did wrong)
                _log.exception("request failed", route=route.path)
                answer = self._refusal(
                    protocol, scope, Problem("The request failed for a reason that is not yours; it has been logged.")
                )
            status = answer.status
            await respond(send, answer)
        finally:
            requests.answered(route.path, scope["method"], status, time.perf_counter() - began)

    async def _accepted(self, match: Match, scope: Scope, receive: Receive) -> Answer:
        headers = _headers(scope["headers"])
        found = match.routes.get(scope["method"])
        if found is None:
            raise MethodNotAllowed(scope["path"], match.routes)
        tenant = await self._admitted(headers)
        call = _call(*found, match, headers.get(b"content-type", ""), scope.get("query_string", b"").decode("latin-1"))
        content_encoding = encoding.encoding_of(headers.get(b"content-encoding", ""), found[1].encodings)
        with self._services.budget.lease(tenant.org_id) as lease:
            data = await body.read(receive, headers.get(b"content-length", ""), lease)
            return await self._services.intake.accept(tenant, Sent(found[1], call, content_encoding, data))

    async def _admitted(self, headers: dict[bytes, str]) -> TenantContext:
        """The tenant that may ingest with the key in ``headers``. Asked before the body is read."""
        tenant = await self._services.resolver.resolve(headers.get(b"authorization", ""), headers.get(b"x-api-key", ""))
        if context.Scope.INGEST_WRITE not in tenant.scopes:
            raise Forbidden(
                f"This key lacks the scope '{context.Scope.INGEST_WRITE}'.", hint="Use a key that has this scope."
            )
        return tenant

    async def _with_other_targets(self, own: bytes) -> bytes:
        return await with_other_targets(own, self._services.metrics_sockets)

    def _refusal(self, protocol: Protocol, scope: Scope, problem: Problem) -> Answer:
        content_type = protocol.content_type(_headers(scope["headers"]).get(b"content-type", ""))
        return protocol.answer_problem(content_type, problem, scope["path"])


_NOT_FOR_OTHERS = tuple((name.encode(), value.encode()) for name, value in NOT_FOR_OTHERS.items())
_WANTED = frozenset({b"authorization", b"x-api-key", b"content-type", b"content-encoding", b"content-length"})


def _call(route: Route, protocol: Protocol, match: Match, sent_type: str, query: str) -> Call:
    content_type = protocol.content_type(sent_type)
    if content_type is None:
        raise UnsupportedMedia(
            f"The content type {sent_type[:64]!r} is not understood.", hint=f"Send {' or '.join(protocol.media_types)}."
        )
    return Call(route, content_type, match.parameters, query)


async def respond(send: Send, answer: Answer) -> None:
    """Send ``answer`` whole."""
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [
                (b"content-type", answer.content_type),
                (b"content-length", str(len(answer.body)).encode()),
                *_NOT_FOR_OTHERS,
                *answer.headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": answer.body})


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


async def _not_found(scope: Scope, _: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await respond(send, problem_answer(None, NotFound(), scope["path"]))
