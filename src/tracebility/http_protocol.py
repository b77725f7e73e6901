"""Bound what a connection costs before there is a request, and answer malformed HTTP with problem JSON.

uvicorn bounds neither the size of a request's head nor the time it takes, and anyone may open a connection.
"""

import asyncio

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tracebility import request_id
from tracebility.errors import BadRequest, HeadTooLarge, Problem, RequestTimeout
from tracebility.wire import limits


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    _timer: asyncio.TimerHandle | None = None
    _fed = 0  # bytes since the parser last reported an event
    _told = _in_head = _in_body = _refused = False
    _problem: Problem | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(limits.HEAD_SECONDS, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._told = False
        super().data_received(data)
        if self._refused:
            return
        self._fed = 0 if self._told else self._fed + len(data)
        if self._fed > limits.HEAD_BYTES:
            self._refuse(_too_large())
        elif self._timer is None and not self._in_body and (self._in_head or not self._told):
            self._timer = self.loop.call_later(limits.HEAD_SECONDS, self._too_slow)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > limits.HEAD_BYTES:
            self._problem = _too_large()
            raise self._problem
        self._stop_timer()
        super().on_headers_complete()
        self._in_head, self._in_body, self._told = False, True, True

    def on_body(self, body: bytes) -> None:
        self._told = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body, self._told = False, True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for malformed HTTP; ``msg`` has no details."""
        self._refuse(
            self._problem
            or BadRequest(
                "This is not an HTTP/1.1 request: its first line, a header, its length or a chunk is malformed.",
                hint="Send one content-length or chunks, and a path of ASCII characters, others percent-encoded.",
            )
        )

    def _too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._answering():
            self._timer = self.loop.call_later(limits.HEAD_SECONDS, self._too_slow)
        elif self._in_head or self._fed:
            detail = f"The headers were not complete within {limits.HEAD_SECONDS:.0f} s."
            self._refuse(RequestTimeout(detail, hint="Send the request at once."))
        else:
            self._refused = True
            self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, problem: Problem) -> None:
        """Answer ``problem`` and close, after the answer to an earlier request of the connection."""
        self._refused = True
        self._stop_timer()
        if self._answering():
            if not self.cycle.more_body:
                self.cycle.keep_alive = False  # the connection ends with that answer
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            with request_id.answering():
                body, own = msgspec.json.encode(problem.body()), problem.headers()
            headers = [*self.server_state.default_headers]
            headers += [(name.encode(), value.encode()) for name, value in own.items() if name != "connection"]
            headers += [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
            lines = [b"%b: %b\r\n" % header for header in headers]
            self.transport.write(b"".join([STATUS_LINE[problem.status], *lines, b"\r\n", body]))
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"The address and headers are larger than {limits.HEAD_BYTES >> 10} KiB.", hint="Send fewer or shorter headers."
    )
