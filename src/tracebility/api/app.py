"""The api target's ASGI app: routes, problems, headers, metrics, and the description of every route."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tracebility import __version__
from tracebility.api import pages, problems
from tracebility.api.routers import (
    audit,
    deletions,
    health,
    keys,
    ledger,
    orgs,
    plans,
    projects,
    runs,
    shards,
    usage,
    workspaces,
)
from tracebility.api.service import ApiServices
from tracebility.deletion.jobs import Deletion, UserDeletion
from tracebility.errors import NOT_FOR_OTHERS
from tracebility.orgs.keys import MadeKey, NewKey, RotatedKey, Rotation
from tracebility.orgs.orgs import MadeOrg, NewOrg, Org, OrgChanges
from tracebility.orgs.plans import Plan, PlanPage
from tracebility.orgs.projects import ChangedProject, MadeProject, MadeWorkspace, NewPlace, ProjectChanges
from tracebility.quota.quotas import Quotas
from tracebility.quota.usage import UsageByHour
from tracebility.shards.shard_map import ShardMove, ShardMoved, ShardPlan, ShardStatus
from tracebility.stores.ledger import Ledger
from tracebility.telemetry import RequestMetrics
from tracebility.tenant.limits import Limits
from tracebility.wire import openapi as ingest

_ANSWERS = (
    *(projects.ProjectPage, runs.RunPage, runs.RunDetail),
    *(PlanPage, Plan, orgs.OrgPage, Org, MadeOrg, Quotas, MadeWorkspace, MadeProject),
    *(keys.KeyPage, MadeKey, RotatedKey),
    *(ShardStatus, ShardPlan, ShardMoved),
    *(Deletion, deletions.DeletionPage, ChangedProject),
    *(Ledger, audit.AuditPage, audit.AuditGapPage, UsageByHour),
)
_BODIES = (
    *(Limits, NewOrg, OrgChanges, NewPlace, NewKey, Rotation),
    *(ShardMove, UserDeletion, ProjectChanges),
)


def create_app(services: ApiServices) -> ASGIApp:
    """The app that answers with ``services``."""
    app = _app(web=services.web)
    app.state.services = services
    return _Observed(app, RequestMetrics(services.metrics, "api"))


def openapi_document() -> dict[str, Any]:
    """Every HTTP route of an installation, the ingest target's included, as OpenAPI 3.1 has it."""
    document: dict[str, Any] = get_openapi(
        title="tracebility", version=__version__, routes=routes(), openapi_version="3.1.0"
    )
    _, schemas = msgspec.json.schema_components((*_ANSWERS, *_BODIES), ref_template="#/components/schemas/{name}")
    components = document.setdefault("components", {})
    components["schemas"] = schemas | ingest.SCHEMAS
    document["paths"] = ingest.PATHS | document["paths"]
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, tb_..."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    components["responses"] = {"Problem": _PROBLEM}
    document["paths"] = {
        path: {method: _described(path, operation) for method, operation in operations.items()}
        for path, operations in document["paths"].items()
    }
    return document


def routes() -> Sequence[BaseRoute]:
    """Every route of this app."""
    return _app(web=True).routes


def _described(path: str, operation: dict[str, Any]) -> dict[str, Any]:
    """``operation`` with what holds for every route: how a refusal looks, and that a key is needed."""
    answers = {status: answer for status, answer in operation["responses"].items() if status != "422"}
    answers["default"] = {"$ref": "#/components/responses/Problem"}
    needed: dict[str, Any] = {"security": [{"bearer": []}, {"apiKey": []}]} if path.startswith("/v1/") else {}
    return operation | needed | {"responses": answers}


def _app(*, web: bool) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    problems.install(app)
    # One flat list, so that a test can walk every route there is; include_router would nest them out of sight.
    for router in (*_ROUTERS, *([pages.router] if web else [])):
        app.router.routes.extend(router.routes)
    described: list[bytes] = []

    @app.get("/openapi.json", tags=["description"], summary="This description")
    async def openapi() -> Response:
        """Every route, ingest included."""
        if not described:
            described.append(msgspec.json.encode(openapi_document()))
        return Response(described[0], media_type="application/json")

    return app


_ROUTERS = (
    *(projects.router, runs.router, keys.router, workspaces.router, orgs.router, plans.router),
    *(ledger.router, usage.router, audit.router, shards.router, deletions.router, health.router),
)

_PROBLEM: dict[str, Any] = {
    "description": "Problem JSON (RFC 9457). 429 and 503 carry Retry-After.",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": {"type": "string", "examples": ["urn:tracebility:error:not-found"]},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "hint": {"type": "string"},
                    "instance": {"type": "string"},
                },
            }
        }
    },
}


class _Observed:
    """Puts the headers that every answer has on each, and counts it under its route's template. HEAD is answered as
    GET is, without the body.
    """

    def __init__(self, app: ASGIApp, requests: RequestMetrics) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, status = scope["method"], 500
        headless = method == "HEAD"
        if headless:
            scope = {**scope, "method": "GET"}
        began = time.perf_counter()

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in NOT_FOR_OTHERS.items():
                    headers[name] = value
            elif headless:
                message = {**message, "body": b""}
            await send(message)

        self._requests.started()
        try:
            await self._app(scope, receive, observed)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._requests.answered(route, method, status, time.perf_counter() - began)
