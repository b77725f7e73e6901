"""The api target's ASGI app: its routes, and what every answer has (headers, request id, metrics)."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.routing import BaseRoute

from tracebility import health
from tracebility.api import openapi, pages, problems, routers, routing
from tracebility.api.service import ApiServices
from tracebility.errors import NOT_FOR_OTHERS
from tracebility.request_id import App, Message, Receive, RequestIds, Scope, Send
from tracebility.telemetry import RequestMetrics


def create_app(services: ApiServices) -> App:
    """The app that answers with ``services``."""
    app = _app(web=services.web)
    app.state.services = services
    watched = health.create_app(services.metrics, partial(health.needs_every_store, services.missing_stores), app)
    return RequestIds(_Observed(watched, RequestMetrics(services.metrics, "api")))


def routes() -> Sequence[BaseRoute]:
    """Every route of this app but the health routes."""
    return _app(web=True).routes


def openapi_document() -> dict[str, Any]:
    """The description of every HTTP route of an installation."""
    return openapi.document(routes())


def _app(*, web: bool) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.router.route_class = routing.Route
    problems.install(app)
    # One flat list, which tests walk; include_router would nest the routes.
    for router in (*routers.all_routers(), *([pages.router] if web else [])):
        app.router.routes.extend(router.routes)
    described: list[bytes] = []

    @app.get("/openapi.json", tags=["description"], summary="This description")
    async def description() -> Response:
        """Every route, ingest included."""
        if not described:
            described.append(msgspec.json.encode(openapi_document()))
        return Response(described[0], media_type="application/json")

    return app


class _Observed:
    """Adds the headers that every answer has, and counts the answer under its route's template. HEAD is answered as
    GET, without the body.
    """

    def __init__(self, app: App, requests: RequestMetrics) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, status = scope["method"], 500
        is_head = method == "HEAD"
        if is_head:
            scope = {**scope, "method": "GET"}
        began = time.perf_counter()

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in NOT_FOR_OTHERS.items():
                    headers[name] = value
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        self._requests.started()
        try:
            await self._app(scope, receive, observed)
        finally:
            self._requests.answered(_template(scope), method, status, time.perf_counter() - began)


def _template(scope: Scope) -> str:
    """The route of a request without its ids."""
    if scope["path"] in health.PATHS:
        return str(scope["path"])
    return getattr(scope.get("route"), "path", "unmatched")
