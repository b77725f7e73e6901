"""Converts span events and links to JSON, and finds the exception that a span recorded."""

import time
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebility.wire.otlp.values import read_any

_EXCEPTION = "exception"
_encode = msgspec.json.Encoder().encode


class RecordedException(NamedTuple):
    """An exception event. ``escaped``: the exception left the span, so the span failed even if its status is unset."""

    type: str
    message: str
    escaped: bool


def exception_of(events: Sequence[Span.Event], names: Sequence[str]) -> RecordedException | None:
    """The last exception that the span recorded, if any."""
    if _EXCEPTION not in names:
        return None
    last = len(names) - 1 - names[::-1].index(_EXCEPTION)
    attributes = _attributes(events[last])
    escaped = str(attributes.get("exception.escaped", "")).lower() == "true"
    kind, message = (str(attributes.get(f"exception.{part}") or "") for part in ("type", "message"))
    return RecordedException(kind, message, escaped)


def events_json(events: Sequence[Span.Event], names: Sequence[str], spent: Collection[int]) -> bytes:
    """The events as a JSON array, without those in ``spent``; empty bytes when no event remains.

    Events without attributes are encoded directly: spans of streamed answers have one for each piece.
    """
    kept = [
        b'{"name":%b,"time":"%b","attributes":%b}'
        % (
            _encode(name),
            rfc3339(event.time_unix_nano).encode(),
            _encode(_attributes(event)) if event.attributes else b"{}",
        )
        for position, (event, name) in enumerate(zip(events, names, strict=True))
        if position not in spent
    ]
    return b"[%b]" % b",".join(kept) if kept else b""


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
    """A time in Unix nanoseconds as RFC 3339 text with nine decimals."""
    seconds = at_ns // 1_000_000_000
    return f"{_second(seconds)}.{at_ns - seconds * 1_000_000_000:09d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _attributes(owner: Span.Event | Span.Link) -> dict[str, Any]:
    return {pair.key: pair.value.string_value or read_any(pair.value) for pair in owner.attributes}
