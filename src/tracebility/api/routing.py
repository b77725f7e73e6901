"""The router that every file of ``routers`` makes: its routes refuse query parameters that they do not have."""

from collections.abc import Sequence
from enum import Enum
from typing import Any

from fastapi import APIRouter, Request
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.routing import APIRoute

from tracebility.errors import Unprocessable


class Route(APIRoute):
    """A route that answers 422 to a query parameter that is unknown or given twice.

    Ignored, ``?user_id=...`` would answer everything as if it was what was asked for. The check is the last dependency:
    a client that may not see what the address names learns that first.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = sorted(_query_parameters(self.dependant))

        async def check(request: Request) -> None:
            given = [name for name, _ in request.query_params.multi_items()]
            for name in given:
                if name not in known:
                    hint = f"This route takes {', '.join(known)}." if known else "This route takes none."
                    raise Unprocessable(f"{name[:100]}: is not a query parameter of this route.", hint=hint)
                if given.count(name) > 1:
                    raise Unprocessable(f"{name}: is given more than once.", hint=f"Give {name} once.")

        self.dependant.dependencies.append(get_dependant(path=self.path_format, call=check))


def _query_parameters(dependant: Dependant) -> set[str]:
    """The names of the query parameters of a route and of its dependencies."""
    own = {field.alias for field in dependant.query_params}
    return own.union(*(_query_parameters(below) for below in dependant.dependencies))


def router(*tags: str) -> APIRouter:
    """A router whose routes are of `Route`, listed under ``tags`` in the description."""
    named: Sequence[str | Enum] = tags
    return APIRouter(tags=list(named), route_class=Route)
