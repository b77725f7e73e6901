"""A protocol: one record with all that the edge and the API description need of a client format.

To add one: a module with its parser, a module with its record, a line in `protocols`, its mapping in the worker under
the same source, and its docs.
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
    """A method and a path. A segment in braces, as in ``/runs/{id}``, matches anything and is a parameter."""

    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Call:
    """What the head of a request says: the route it took, its parameters, and what its body is."""

    route: Route
    content_type: str  # as envelopes have it, such as "json"
    parameters: Mapping[str, str] = field(default_factory=dict)
    query: str = ""  # as it was sent, behind the question mark


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client gets."""

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
    """The headers of ``problem`` but for its content type and those of every answer."""
    own = {name: value for name, value in problem.headers().items() if name not in NOT_FOR_OTHERS}
    del own["content-type"]
    return tuple((name.encode(), value.encode()) for name, value in own.items())


@dataclass(frozen=True, slots=True)
class Protocol:
    """A client format.

    ``inspect`` reads a body, already inflated, and raises `BadRequest` or `PayloadTooLarge` for one that cannot be
    accepted at all. ``inspect_inline`` does the same on the event loop, or answers None as soon as that would take
    long. ``answer`` is the answer to a request whose accepted items are kept; ``answer_problem`` is given the content
    type of the request as far as it is known.
    """

    source: str  # in envelopes: the worker finds the mapping by it
    routes: tuple[Route, ...]
    media_types: Mapping[str, str]  # to the content type that envelopes have
    inspect: Callable[[bytes, Call], Inspection]
    inspect_inline: Callable[[bytes, Call], Inspection | None]
    answer: Callable[[Call, Inspection], Answer]
    answer_problem: Callable[[str | None, Problem, str], Answer] = problem_answer
    encodings: tuple[str, ...] = ENCODINGS
    media_parameters: tuple[str, ...] = ()  # kept with the content type, such as the boundary of multipart
    openapi_paths: Mapping[str, Any] = field(default_factory=dict)
    openapi_schemas: Mapping[str, Any] = field(default_factory=dict)

    def content_type(self, header: str) -> str | None:
        """The content type for envelopes that a ``content-type`` header names; None when it is not accepted."""
        media_type, *parameters = header.split(";")
        known = self.media_types.get(media_type.strip().lower())
        if known is None or not self.media_parameters:
            return known
        pairs = (parameter.strip().partition("=") for parameter in parameters)
        kept = {name.lower(): value.strip('"') for name, _, value in pairs if name.lower() in self.media_parameters}
        return ";".join((known, *(f"{name}={kept[name]}" for name in sorted(kept))))


class Match(NamedTuple):
    """The protocols of a path by method, and the parameters that the path holds."""

    routes: Mapping[str, tuple[Route, Protocol]]
    parameters: Mapping[str, str]


class Router:
    """Finds the protocol of a request by its path and method.

    A path is found however it is spelled: with a slash at its end, doubled slashes, or in other case. Exporters take a
    404 for a refusal of the data, which they then drop.
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
        """The routes of ``path``; None when no protocol has it."""
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
