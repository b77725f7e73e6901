"""A protocol: one record with all that the edge and the API description need to know about a client format.

To add a protocol, add a module with its parser, a module with its record, a line in `protocols`, a mapping in the
worker for its source, and docs.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from tracebility.errors import NOT_FOR_OTHERS, Problem
from tracebility.wire.encoding import ENCODINGS
from tracebility.wire.inspection import Inspection


class Route(NamedTuple):
    """A method and a path. A segment in braces, as in ``/runs/{id}``, is a parameter that matches any segment."""

    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Call:
    """The head of a request: its route, its parameters, and the type of its body."""

    route: Route
    content_type: str  # as in envelopes, for example "json"
    parameters: Mapping[str, str] = field(default_factory=dict)
    query: str = ""  # the undecoded query string, without the question mark


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to the client."""

    status: int
    content_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def problem_answer(_: str | None, problem: Problem, instance: str) -> Answer:
    """``problem`` as problem JSON."""
    return Answer(
        problem.status, b"application/problem+json", msgspec.json.encode(problem.body(instance)), headers_of(problem)
    )


def headers_of(problem: Problem) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of ``problem``, except the content type and those that every response has."""
    own = {name: value for name, value in problem.headers().items() if name not in NOT_FOR_OTHERS}
    del own["content-type"]
    return tuple((name.encode(), value.encode()) for name, value in own.items())


@dataclass(frozen=True, slots=True)
class Protocol:
    """A client format.

    ``inspect`` reads a decompressed body, and raises `BadRequest` or `PayloadTooLarge` if none of it can be accepted.
    ``inspect_inline`` does the same on the event loop, or returns None as soon as it proves too slow. ``answer`` makes
    the response once the accepted items are stored durably. ``answer_problem`` makes error responses; its first
    argument is the content type of the request, None if unknown.
    """

    source: str  # the value in envelopes, by which the worker finds the mapping
    routes: tuple[Route, ...]
    media_types: Mapping[str, str]  # media type of a request -> content type in envelopes
    inspect: Callable[[bytes, Call], Inspection]
    inspect_inline: Callable[[bytes, Call], Inspection | None]
    answer: Callable[[Call, Inspection], Answer]
    answer_problem: Callable[[str | None, Problem, str], Answer] = problem_answer
    encodings: tuple[str, ...] = ENCODINGS
    media_parameters: tuple[
        str, ...
    ] = ()  # appended to the content type in envelopes, for example the boundary of multipart
    openapi_paths: Mapping[str, Any] = field(default_factory=dict)
    openapi_schemas: Mapping[str, Any] = field(default_factory=dict)

    def content_type(self, header: str) -> str | None:
        """The content type in envelopes for a ``content-type`` header; None when the header is not accepted."""
        media_type, *parameters = header.split(";")
        known = self.media_types.get(media_type.strip().lower())
        if known is None or not self.media_parameters:
            return known
        pairs = (parameter.strip().partition("=") for parameter in parameters)
        kept = {name.lower(): value.strip('"') for name, _, value in pairs if name.lower() in self.media_parameters}
        return ";".join((known, *(f"{name}={kept[name]}" for name in sorted(kept))))


class Match(NamedTuple):
    """The routes of a path by method, and the parameters in the path."""

    routes: Mapping[str, tuple[Route, Protocol]]
    parameters: Mapping[str, str]


class Router:
    """Finds the protocol of a request by its path and method.

    Trailing slashes, doubled slashes and case of a path are ignored, because exporters drop their data on a 404.
    """

    def __init__(self, protocols: Iterable[Protocol]) -> None:
        self._fixed: dict[str, dict[str, tuple[Route, Protocol]]] = {}
        self._patterns: dict[re.Pattern[str], dict[str, tuple[Route, Protocol]]] = {}
        for protocol in protocols:
            for route in protocol.routes:
                if "{" in route.path:
                    routes = self._patterns.setdefault(_pattern(route.path), {})
                else:
                    routes = self._fixed.setdefault(route.path, {})
                if route.method in routes:
                    raise ValueError(f"two protocols take {route.method} {route.path}")
                routes[route.method] = (route, protocol)

    def find(self, path: str) -> Match | None:
        """The routes of ``path``; None when no protocol has this path."""
        routes = self._fixed.get(path)
        if routes is None:
            path = "/" + "/".join(filter(None, path.split("/")))
            routes = self._fixed.get(path.lower())
        if routes is not None:
            return Match(routes, {})
        for pattern, routes in self._patterns.items():
            if found := pattern.fullmatch(path):
                return Match(routes, found.groupdict())
        return None


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)), re.IGNORECASE)
