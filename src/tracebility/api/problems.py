"""Every answer other than 2xx as RFC 9457 problem JSON: our errors, the framework's, and unexpected exceptions."""

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from tracebility.api import html
from tracebility.errors import (
    AuditLogTampered,
    BadRequest,
    MethodNotAllowed,
    NotFound,
    Problem,
    StoreUnavailable,
    Unavailable,
    Unprocessable,
)

_log = structlog.get_logger()

_PAGE = """
<div class="card"><h1>$title</h1><p>$detail</p><p class="quiet">$hint</p>
<p><a href="/">Back to the start page</a></p></div>
"""

_WHERE = {"query": "the query parameter", "path": "the path parameter", "body": "the body", "header": "the header"}


def install(app: FastAPI) -> None:
    """Register the handlers with ``app``."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(AuditLogTampered, _on_tampered)
    app.add_exception_handler(StoreUnavailable, _on_store)
    app.add_exception_handler(HTTPException, _on_framework)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(Exception, _on_anything)


def respond(problem: Problem, request: Request, headers: dict[str, str] | None = None) -> Response:
    """``problem`` as the answer to ``request``."""
    headers = problem.headers() | (headers or {})
    if _from_browser(request):
        words = html.fill(_PAGE, title=problem.title, detail=problem.detail, hint=problem.hint)
        response = html.page(problem.title, words, status=problem.status)
        response.headers.update({name: value for name, value in headers.items() if name != "content-type"})
        return response
    return Response(msgspec.json.encode(problem.body(request.url.path)), problem.status, headers)


def _from_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/v1/")


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return respond(error, request)


async def _on_tampered(request: Request, error: Exception) -> Response:
    assert isinstance(error, AuditLogTampered)
    _log.error("trail_tampered", path=request.url.path, reason=error.reason)
    return respond(error, request)


async def _on_store(request: Request, error: Exception) -> Response:
    assert isinstance(error, StoreUnavailable)
    _log.warning("store_unavailable", store=error.store, detail=error.detail, path=request.url.path)
    return respond(Unavailable(f"The store '{error.store}' does not answer.", store=error.store), request)


async def _on_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem: Problem
    match error.status_code:
        case 404:
            problem = NotFound()
        case 405:
            error.headers = None
            problem = MethodNotAllowed(request.url.path, _methods_of(request))
        case _:
            problem = BadRequest(str(error.detail))
    return respond(problem, request, {name.lower(): value for name, value in (error.headers or {}).items()})


def _methods_of(request: Request) -> set[str]:
    """The methods of every route at this address. HEAD is answered wherever GET is."""
    path = request.url.path
    routes = [route for route in request.app.routes if isinstance(route, Route) and route.path_regex.match(path)]
    methods = {method for route in routes for method in route.methods or ()}
    return methods | ({"HEAD"} if "GET" in methods else set())


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place, *path = (str(part) for part in first["loc"])
    name = ".".join(path)
    return respond(
        Unprocessable(f"{name or place}: {first['msg']}.", hint=f"Correct {_WHERE.get(place, place)} {name}.".strip()),
        request,
    )


async def _on_anything(request: Request, error: Exception) -> Response:
    _log.error("request_failed", path=request.url.path, method=request.method, exc_info=error)
    return respond(Problem("The request failed because of an internal error. The log has the cause."), request)
