"""Span events and links as JSON, and the exception that a span recorded."""

import time
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebility.wire.otlp.values import read_any

_EXCEPTION = "exception"


class Recorded(NamedTuple):
    """An exception event. ``escaped``: it left the span, so the span failed even if its status does not say so."""

    type: str
    message: str
    escaped: bool


def exception_of(events: Sequence[Span.Event]) -> Recorded | None:
    """The last exception that the span recorded."""
    for event in reversed(events):
        if event.name == _EXCEPTION:
            said = _attributes(event)
            escaped = str(said.get("exception.escaped", "")).lower() == "true"
            kind, message = (str(said.get(f"exception.{part}") or "") for part in ("type", "message"))
            return Recorded(kind, message, escaped)
    return None


def events_json(events: Sequence[Span.Event], spent: Collection[int]) -> str:
    """The events as a JSON array, but for those that are ``spent``; empty when none is left."""
    kept = [
        {"name": event.name, "time": rfc3339(event.time_unix_nano), "attributes": _attributes(event)}
        for position, event in enumerate(events)
        if position not in spent
    ]
    return msgspec.json.encode(kept).decode() if kept else ""


def links_json(links: Sequence[Span.Link]) -> str:
    """The links as a JSON array."""
    return msgspec.json.encode(
        [
            {
                "trace_id": link.trace_id.hex(),
                "span_id": link.span_id.hex(),
                "trace_state": link.trace_state,
                "attributes": _attributes(link),
            }
            for link in links
        ]
    ).decode()


def rfc3339(at_ns: int) -> str:
    """A moment as text, to the nanosecond."""
    seconds, nanoseconds = divmod(at_ns, 10**9)
    return f"{_second(seconds)}.{nanoseconds:09d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _attributes(owner: Span.Event | Span.Link) -> dict[str, Any]:
    return {pair.key: pair.value.string_value or read_any(pair.value) for pair in owner.attributes}
