"""ClickHouse's HTTP interface as an ASGI application."""

import asyncio
import hmac
import os
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tracebility_engine import answers, codecs, request
from tracebility_engine.body import Body, Room
from tracebility_engine.engine import DiskFailed, EngineError
from tracebility_engine.execution import Answer, ClientGone, Statements
from tracebility_engine.host import EngineHost, Stuck
from tracebility_engine.log import log
from tracebility_engine.settings import FrontSettings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_OPEN_PATHS = frozenset({"/ping", "/replicas_status"})
# Smaller answers are not compressed.
MIN_COMPRESSED_BYTES = 1024
# A form holds a statement and parameters, never data.
MAX_FORM_BYTES = 16 << 20
EXIT_STUCK = 70
EXIT_DISK_FAILED = 74
_READ_ERROR_S = 1.0
_MAINTENANCE_S = 5
# Seconds without an insert after which memory is given back: the next statement pays some 20 ms for it, once.
_QUIET_S = 30


class Front:
    """Runs the statement of each request on the engine and sends its answer."""

    def __init__(self, settings: FrontSettings, host: EngineHost, spool_dir: Path) -> None:
        self._settings = settings
        self._host = host
        self._statements = Statements(host, settings.owner_pass)
        self._room = Room()
        self._spool_dir = spool_dir

    async def maintain(self) -> None:
        """Until cancelled: end sessions whose time is over, look after the disk, and give memory back once a busy time
        has passed.
        """
        quiet_s, trimmed_after, inserts = 0, -1, 0
        while True:
            await asyncio.sleep(_MAINTENANCE_S)
            quiet_s = quiet_s + _MAINTENANCE_S if inserts == self._statements.inserts else 0
            inserts = self._statements.inserts
            try:
                with _ends_where_the_disk_failed():
                    await self._host.check_disk()
                await self._statements.close_idle_sessions()
                # Memory that the start and migrations took is given back in the first quiet round.
                if quiet_s >= (_QUIET_S if trimmed_after >= 0 else _MAINTENANCE_S) and trimmed_after != inserts:
                    await self._host.give_memory_back()
                    trimmed_after = inserts
            except (EngineError, OSError) as error:  # such as out of memory: the next round tries again
                log("maintenance", level="error", detail=str(error))

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        if path in _OPEN_PATHS or (
            path == "/" and method in {"GET", "HEAD"} and b"query=" not in scope["query_string"]
        ):
            await _send_whole(send, 200, [(b"Content-Type", b"text/html; charset=UTF-8")], b"Ok.\n")
        elif path == "/proof" and method == "GET" and self._settings.proof_key:
            nonce = dict(request.query_parameters(scope["query_string"])).get("nonce", "")
            signed = hmac.new(self._settings.proof_key.encode(), nonce.encode(), "sha256").hexdigest()
            await _send_whole(send, 200, [(b"Content-Type", b"text/plain; charset=UTF-8")], signed.encode())
        elif path != "/" or method not in {"GET", "POST", "PUT"}:
            await _send_whole(send, 404, [], b"There is no such handler; statements go to / by POST or GET.\n")
        else:
            with suppress(ClientGone):
                await self._statement(scope, receive, send)

    async def _statement(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        url = request.query_parameters(scope["query_string"])
        query_id = dict(url).get("query_id", "")
        began: list[bytes] = []
        body: Body | None = None
        try:
            user = request.authenticate(headers, dict(url), self._settings)
            body = Body(self._room, self._spool_dir, codecs.decoder(headers.get("content-encoding", "")))
            await _collect(receive, body)
            form: dict[str, str] = {}
            if request.is_form(headers.get("content-type", "")):
                form = request.form_fields(headers["content-type"], body.head(MAX_FORM_BYTES))
                body.close()
                body = Body(self._room, self._spool_dir, None)
            asked = request.read(scope["method"], url, headers, form, user)
            query_id = asked.query_id
            with _ends_where_the_disk_failed():
                await self._answer(asked, body, headers, receive, send, began)
        except EngineError as error:
            await self._fail(error, query_id, send, began)
        except Stuck:
            log("stuck", level="error", detail="killed queries do not end; exiting, to be restarted")
            os._exit(EXIT_STUCK)
        finally:
            if body is not None:
                body.close()

    async def _answer(
        self,
        asked: request.Request,
        body: Body,
        headers: dict[str, str],
        receive: Receive,
        send: Send,
        began: list[bytes],
    ) -> None:
        gone = asyncio.Event()
        watch = asyncio.ensure_future(_watch(receive, gone))
        try:
            async with AsyncExitStack() as running:
                answer = await running.enter_async_context(self._statements.run(asked, body, gone))
                body.close()
                if answer.rest is None:
                    await running.aclose()
                await self._send(asked, answer, headers.get("accept-encoding", ""), send, began, gone, running)
        finally:
            watch.cancel()

    async def _send(
        self,
        asked: request.Request,
        answer: Answer,
        accepted: str,
        send: Send,
        began: list[bytes],
        gone: asyncio.Event,
        running: AsyncExitStack,
    ) -> None:
        head = answers.common_headers(asked.query_id, self._host.engine.timezone)
        head += answers.format_headers(answer.format)
        head.append(answer.summary.header())
        whole = answer.rest is None
        found = None
        if asked.compress_answer and not (whole and len(answer.body) < MIN_COMPRESSED_BYTES):
            found = codecs.encoder(accepted)
        if found is not None:
            head.append((b"Content-Encoding", found[0].encode()))
        encoder = found[1] if found is not None else None
        if answer.rest is None:
            data = answer.body if encoder is None else encoder.feed(answer.body) + encoder.finish()
            await _send_whole(send, 200, head, data)
            return
        tag = answers.new_tag()
        head.append((b"X-ClickHouse-Exception-Tag", tag))
        await send({"type": "http.response.start", "status": 200, "headers": head})
        began.append(tag)
        chunk = answer.body
        try:
            while chunk:
                data = chunk if encoder is None else encoder.feed(chunk)
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                if gone.is_set():
                    raise ClientGone
                chunk = await answer.rest()
        except EngineError as error:
            block = answers.error_in_stream(tag, answers.error_text(error, self._host.engine.version))
            data = block if encoder is None else encoder.feed(block) + encoder.finish()
            await send({"type": "http.response.body", "body": data, "more_body": True})
            # The connection is then reset. Some clients drop unread data at a reset, so wait: clients that know the
            # error block close the connection themselves once they have read it.
            with suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), _READ_ERROR_S)
            raise
        # A client may send its session's next statement the moment it has the last byte of this.
        await running.aclose()
        await send(
            {"type": "http.response.body", "body": b"" if encoder is None else encoder.finish(), "more_body": False}
        )

    async def _fail(self, error: EngineError, query_id: str, send: Send, began: list[bytes]) -> None:
        if began:
            # Rows were already sent. Ending without the last chunk tells every client that the answer is incomplete.
            return
        head = answers.common_headers(query_id, self._host.engine.timezone)
        head.append((b"Content-Type", b"text/plain; charset=UTF-8"))
        head.append((b"X-ClickHouse-Exception-Code", str(error.code).encode()))
        if error.code == request.AUTHENTICATION_FAILED:
            head.append((b"WWW-Authenticate", b'Basic realm="ClickHouse server HTTP API"'))
        await _send_whole(send, answers.status_of(error), head, answers.error_text(error, self._host.engine.version))


@contextmanager
def _ends_where_the_disk_failed() -> Iterator[None]:
    try:
        yield
    except DiskFailed:
        log("disk", level="error", detail="a write failed, is the disk full? Exiting, to be restarted")
        os._exit(EXIT_DISK_FAILED)


async def _collect(receive: Receive, body: Body) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body.feed(message.get("body", b""))
        if not message.get("more_body", False):
            body.finish()
            return


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


async def _send_whole(send: Send, status: int, headers: list[answers.Header], body: bytes) -> None:
    head = [*headers, (b"Content-Length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
