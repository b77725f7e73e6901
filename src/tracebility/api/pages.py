"""Pages for browsers: the latest runs, one run, and how to send the first trace.

The sign-in form stores the API key in a cookie that scripts cannot read and other sites cannot send. Only these pages
accept the cookie; routes under ``/v1`` do not.
"""

import asyncio
from typing import Annotated
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import Depends, Request
from starlette.responses import RedirectResponse, Response

from tracebility.api import page_parts as parts
from tracebility.api import routing
from tracebility.api.auth import Services, credentials, require, services_of
from tracebility.api.bodies import bounded_body
from tracebility.api.html import Html, fill, page, template
from tracebility.api.pagination import PageQuery
from tracebility.api.routers.projects import readable_projects
from tracebility.api.routers.runs import detail_from, run_from, seal_place, window_of
from tracebility.api.run_reads import newest_runs, one_run
from tracebility.api.scope import rows_of
from tracebility.errors import BadRequest, Forbidden, Unauthenticated
from tracebility.stores.scoped import ScopedClickHouse
from tracebility.tenant.context import Scope, TenantContext

router = routing.router("pages")

COOKIE = "tracebility_key"
RUNS_A_PAGE = 50
PROJECTS_SHOWN = 100
LARGEST_FORM_BYTES = 4096  # a key has 60 characters


async def page_principal(request: Request) -> TenantContext:
    """The tenant of the key in the headers, otherwise of the key in the cookie.

    Raises:
        Unauthenticated: without a valid key.
        Forbidden: when the key may not read.
    """
    authorization, api_key = credentials(request)
    if not authorization and not api_key:
        api_key = request.cookies.get(COOKIE, "")
    return require(await services_of(request).resolver.resolve(authorization, api_key), Scope.READ)


PageReader = Annotated[TenantContext, Depends(page_principal)]


async def page_rows(project_id: str, context: PageReader, request: Request, services: Services) -> ScopedClickHouse:
    """Rows of the project in the address."""
    return await rows_of(project_id, context, request, services)


@router.get("/", summary="The latest runs, or how to send the first")
async def landing(request: Request, services: Services, project: str = "", cursor: str = "") -> Response:
    """Shows the sign-in form when the request has no key."""
    try:
        context = await page_principal(request)
    except Unauthenticated:
        return _signed_out(request, refused=COOKIE in request.cookies)
    rows = await rows_of(project or str(context.project_id), context, request, services)
    scope = rows.scope
    window = window_of(cursor or None, None, None, scope)
    runs, more = await newest_runs(rows, window, RUNS_A_PAGE)
    projects = (await readable_projects(services, context, PageQuery(PROJECTS_SHOWN))).items
    if not runs and not cursor:
        content = parts.projects_bar(projects, scope.project_id) + _first_trace(request)
    else:
        older = f"/?project={scope.project_id}&cursor={quote(seal_place(window, runs[-1], scope))}" if more else ""
        content = parts.projects_bar(projects, scope.project_id) + parts.runs_table(
            [run_from(row) for row in runs], scope.project_id, services.now_ns(), older=older, newest=not cursor
        )
    return page("Runs · tracebility", Html(content), account=_SIGN_OUT)


@router.get("/projects/{project_id}/runs/{run_id}", summary="One run as a page")
async def run_page(rows: Annotated[ScopedClickHouse, Depends(page_rows)], services: Services, run_id: str) -> Response:
    """The run and its spans."""
    run, spans = await one_run(rows, run_id)

    def shaped() -> Response:  # in a thread, as in `runs.get_run`
        detail = detail_from(run, spans)
        content = parts.run_detail(detail, rows.scope.project_id, services.now_ns())
        return page(f"{detail.name} · tracebility", content, account=_SIGN_OUT)

    return await asyncio.to_thread(shaped)


@router.post("/session", summary="Sign in to the pages with an API key", status_code=303)
async def sign_in(request: Request, services: Services) -> Response:
    """Reads the sign-in form and sets the cookie."""
    _refuse_other_sites(request)
    form = await bounded_body(request, LARGEST_FORM_BYTES, hint="Enter only the key.")
    key = parse_qs(form.decode("utf-8", "replace")).get("key", [""])[0].strip()
    try:
        require(await services.resolver.resolve("", key), Scope.READ)
    except (Unauthenticated, Forbidden) as refusal:
        return _signed_out(request, refused=True, status=refusal.status)
    response = RedirectResponse("/", 303)
    response.set_cookie(COOKIE, key, path="/", httponly=True, samesite="strict", secure=_encrypted(request))
    return response


@router.post("/session/end", summary="Sign out of the pages", status_code=303)
async def sign_out(request: Request) -> Response:
    """Removes the cookie."""
    _refuse_other_sites(request)
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict", secure=_encrypted(request))
    return response


_SIGN_OUT = Html('<form method="post" action="/session/end"><button class="plain">Forget the key</button></form>')
_REFUSED = Html('<p class="refused" role="alert">This key is not valid, or has no scope to read.</p>')


def _signed_out(request: Request, *, refused: bool = False, status: int = 200) -> Response:
    form = fill(template("sign_in.html"), refused=_REFUSED if refused else "")
    response = page("tracebility", Html(form + _first_trace(request)), status=status)
    if refused:
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response


def _first_trace(request: Request) -> Html:
    return fill(template("first_trace.html"), origin=_origin(request))


def _origin(request: Request) -> str:
    return f"{'https' if _encrypted(request) else 'http'}://{request.headers.get('host', 'localhost')}"


def _encrypted(request: Request) -> bool:
    return request.headers.get("x-forwarded-proto", request.url.scheme) == "https"


def _refuse_other_sites(request: Request) -> None:
    """Refuse a form that was sent from another site: it must sign nobody in or out here.

    Browsers say where a form was in Sec-Fetch-Site, which no page can set. To a host name over plain HTTP they send no
    such header; there Origin is compared with Host. A client that sends neither header is not a browser.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not own:
        raise BadRequest("This form was sent from another site.", hint="Open the address of tracebility itself.")
