"""HTML pages from templates. Values are escaped unless they are `Html`."""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template

from starlette.responses import Response


class Html(str):
    """Text that is HTML already and is not escaped."""

    __slots__ = ()


def fill(template: str, **values: object) -> Html:
    """``template`` with each ``$name`` replaced by its value, escaped unless it is `Html`."""
    return Html(Template(template).substitute({name: _safe(value) for name, value in values.items()}))


def join(parts: list[Html]) -> Html:
    """``parts``, concatenated."""
    return Html("".join(parts))


@cache
def template(name: str) -> str:
    """The text of a file of ``api/templates``."""
    return files("tracebility.api").joinpath("templates", name).read_text("utf-8")


def page(title: str, content: Html, *, status: int = 200, account: str = "") -> Response:
    """A whole page. Its policy makes browsers run no script and load nothing from other sites."""
    style = template("style.css")
    body = fill(template("page.html"), title=title, style=Html(style), content=content, account=account)
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    # Not "no-referrer": with that, browsers send "Origin: null" also with the forms of these pages.
    headers = {"content-security-policy": policy, "referrer-policy": "same-origin"}
    return Response(body, status, headers, media_type="text/html")


def _safe(value: object) -> str:
    return value if isinstance(value, Html) else escape(str(value))
