"""One statement from request to answer: on a handle of its own, on a thread, with an end when the client leaves.

A read ends when its client leaves or its deadline passes; a write runs to its end, as on a server.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tracebility_engine.answers import Summary
from tracebility_engine.body import Body
from tracebility_engine.engine import Engine, EngineError, Handle, Insert, Stream
from tracebility_engine.host import EngineHost, Stuck
from tracebility_engine.request import Request
from tracebility_engine.server_config import READER_SETTINGS
from tracebility_engine.sessions import Session
from tracebility_engine.statement import (
    MAX_STATEMENT_BYTES,
    STREAMED_VERBS,
    Statement,
    check_reader,
    check_tenant,
    parse,
)

_T = TypeVar("_T")

# Concurrent statements, including those that wait for a thread. More are refused with TOO_MANY_SIMULTANEOUS_QUERIES.
MAX_STATEMENTS = 256
# Time limit of a read without max_execution_time.
DEFAULT_READ_S = 300.0
# The engine checks its own limit between blocks. When it is exceeded by this much, the query is killed.
DEADLINE_GRACE_S = 5.0
# A killed query that has not ended after this counts as stuck, with its thread.
KILL_PATIENCE_S = 10.0
_KILL_EVERY_S = 0.25
# Threads held by queries that do not end. Past this the process ends, and its supervisor starts it again.
MAX_STUCK = 4
# An answer asked for whole (wait_end_of_query) is kept so far, so that an error still has a status of its own.
MAX_WHOLE_ANSWER_BYTES = 32 << 20

# Formats whose chunks are an answer when put together; every other repeats its head in each chunk.
_JOINABLE = frozenset(
    [
        "native",
        "rowbinary",
        "tabseparated",
        "tsv",
        "tabseparatedraw",
        "tsvraw",
        "csv",
        "jsoneachrow",
        "jsonlines",
        "ndjson",
        "jsoncompacteachrow",
    ]
)
# The clients' first question. A server would answer with what a read-only user may change; the engine cannot know.
_SETTINGS_QUESTION = b"SELECT name, value, readonly FROM system.settings"
_CHANGEABLE = ", ".join(f"'{name}'" for name in READER_SETTINGS)
_SETTINGS_ANSWER = (
    f"SELECT name, value, if(name IN ({_CHANGEABLE}), 0, readonly) AS readonly FROM system.settings".encode()  # noqa: S608
)


class ClientGone(Exception):
    """The client has closed the connection."""


@dataclass(slots=True)
class Answer:
    """The start of an answer. ``rest`` gives what follows ``body``, and nothing when that is over.

    A statement that has no rows to answer has no ``format``: clients tell by it.
    """

    format: str
    summary: Summary
    body: bytes = b""
    rest: Callable[[], Awaitable[bytes]] | None = None


@dataclass(slots=True)
class _Run:
    """A handle, and the time limit of the statement on it."""

    handle: Handle
    pool: ThreadPoolExecutor
    gone: asyncio.Event
    ends_with_client: bool
    deadline: float
    session: Session | None = None
    left_behind: Future[object] | None = field(default=None)


class Statements:
    """Runs statements on the engine of a host."""

    def __init__(self, host: EngineHost, owner_pass: str) -> None:
        self._host = host
        self._owner_pass = owner_pass
        self._sessions = host.sessions
        self._running = 0
        self.inserts = 0
        self._stuck = 0

    @asynccontextmanager
    async def run(self, request: Request, body: Body, gone: asyncio.Event) -> AsyncIterator[Answer]:
        """Run the request's statement; what is not yet fetched of its answer ends with the context.

        Raises:
            EngineError: the engine, or this interface, refuses.
            ClientGone: ``gone`` was set before the answer began.
        """
        source = _source(request, body)
        statement = parse(source)
        _check(request, statement, len(request.query) + body.size)
        if self._running >= MAX_STATEMENTS:
            raise EngineError(
                202, "Code: 202. DB::Exception: Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES)"
            )
        if statement.verb == "INSERT":
            self._host.check_room(body.size)
        self._running += 1
        try:
            tenant_bound = request.is_reader or request.tenant is not None
            async with (
                self._host.use(changes_tables=statement.changes_tables, sees_all=not tenant_bound) as engine,
                self._session_of(engine, request, statement, gone) as run,
            ):
                if statement.data_at >= 0:
                    self.inserts += 1
                    yield await self._insert(run, request, statement, _data(source, body, statement.data_at, request))
                elif _streams(request, statement):
                    yield await self._streamed(run, request, statement)
                else:
                    yield await self._whole(run, request, statement)
        finally:
            self._running -= 1

    async def close_idle_sessions(self) -> None:
        """Close expired sessions."""
        for handle in self._sessions.take_expired():
            await asyncio.get_running_loop().run_in_executor(self._host.closing, handle.close)

    async def _insert(self, run: _Run, request: Request, statement: Statement, data: Iterator[bytes]) -> Answer:
        if statement.format == "Values" and request.parameters:
            # Only a statement takes parameters, an insert's data does not.
            text = statement.text + b" VALUES " + b"".join(data)
            result = await self._call(run, lambda: run.handle.run(text, "TabSeparated", request.parameters))
            written = result.written_rows, result.written_bytes
        else:
            insert = Insert(statement.text, statement.table, statement.columns, statement.format)
            written = await self._call(run, lambda: run.handle.insert(insert, data))
        return Answer("", Summary(written_rows=written[0], written_bytes=written[1]))

    async def _whole(self, run: _Run, request: Request, statement: Statement) -> Answer:
        text = _text(request, statement)
        fmt = _format(request, statement)
        result = await self._call(run, lambda: run.handle.run(text, fmt, request.parameters))
        summary = Summary(
            result.read_rows,
            result.read_bytes,
            result.written_rows,
            result.written_bytes,
            result.rows,
            result.elapsed_ns,
        )
        return Answer(fmt if statement.reads_only or result.body else "", summary, result.body)

    async def _streamed(self, run: _Run, request: Request, statement: Statement) -> Answer:
        text = _text(request, statement)
        fmt = _format(request, statement)
        began = time.monotonic_ns()
        stream: Stream = await self._call(run, lambda: run.handle.stream(text, fmt, request.parameters))
        limit = MAX_WHOLE_ANSWER_BYTES if request.wait_end else 0
        parts: list[bytes] = []
        size = 0
        chunk = await self._call(run, stream.fetch)
        while chunk:
            parts.append(chunk)
            size += len(chunk)
            if size > limit:
                break
            chunk = await self._call(run, stream.fetch)
        summary = Summary(stream.read_rows, stream.read_bytes, 0, 0, stream.rows, time.monotonic_ns() - began)
        rest = (lambda: self._call(run, stream.fetch)) if chunk else None
        return Answer(fmt, summary, b"".join(parts), rest)

    @asynccontextmanager
    async def _session_of(
        self, engine: Engine, request: Request, statement: Statement, gone: asyncio.Event
    ) -> AsyncIterator[_Run]:
        pool = self._host.reads if statement.reads_only else self._host.writes
        session: Session | None = None
        if request.session_id and not request.readonly and request.tenant is None:
            await self.close_idle_sessions()
            session = self._sessions.enter(request.session_id, must_exist=request.session_check)
        loop = asyncio.get_running_loop()
        run: _Run | None = None
        try:
            settings = self._settings(request, statement)
            handle = await loop.run_in_executor(pool, _prepare, engine, session, request.database, settings)
            deadline = time.monotonic() + _read_seconds(settings) if statement.reads_only else float("inf")
            run = _Run(handle, pool, gone, statement.reads_only, deadline, session)
            yield run
        finally:
            if session is not None:
                if statement.verb == "SET":
                    session.applied = {}
                if run is not None and run.left_behind is not None:
                    session.handle = None
            if run is not None and run.left_behind is not None:
                run.left_behind.add_done_callback(lambda _: self._host.closing.submit(run.handle.close))
            elif run is not None:
                end = run.handle.close if session is None else run.handle.end_stream
                await loop.run_in_executor(self._host.closing, end)
            if session is not None:
                self._sessions.leave(session, request.session_s)

    def _settings(self, request: Request, statement: Statement) -> dict[str, str]:
        settings = dict(request.settings)
        if statement.reads_only:
            settings.setdefault("max_execution_time", str(int(DEFAULT_READ_S)))
        settings["log_comment"] = self._owner_pass if request.tenant is None else request.tenant
        if request.readonly:
            settings["readonly"] = str(request.readonly)
        return settings

    async def _call(self, run: _Run, call: Callable[[], _T]) -> _T:
        """Run a blocking call; end it when the client leaves or the deadline passes, if it is one that may be ended."""
        work = run.pool.submit(call if run.ends_with_client else lambda: _written(run.handle, call))
        future = asyncio.wrap_future(work)
        future.add_done_callback(_seen)
        leaves = asyncio.ensure_future(run.gone.wait())
        try:
            if not run.ends_with_client:
                return await asyncio.shield(future)
            waits: set[asyncio.Future[object]] = {future, leaves}  # type: ignore[arg-type]
            await asyncio.wait(
                waits, timeout=max(0.0, run.deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if work.done():
                return work.result()
            await self._end(run, work)
            if run.gone.is_set():
                raise ClientGone
            raise EngineError(
                159, "Code: 159. DB::Exception: Timeout exceeded: the deadline of the request. (TIMEOUT_EXCEEDED)"
            )
        finally:
            leaves.cancel()
            if not work.done() and not work.cancel():
                run.left_behind = work  # type: ignore[assignment]

    async def _end(self, run: _Run, work: "Future[_T]") -> None:
        if not work.cancel():
            await self._kill_until(run, work)

    async def _kill_until(self, run: _Run, work: "Future[_T]") -> None:
        """Kill the query until ``work`` ends; more than once, as at first the engine may not have it in its list."""
        loop = asyncio.get_running_loop()
        patience = time.monotonic() + KILL_PATIENCE_S
        while not work.done() and time.monotonic() < patience:
            await loop.run_in_executor(self._host.control, run.handle.kill)
            ended = asyncio.wrap_future(work)
            ended.add_done_callback(_seen)
            await asyncio.wait({ended}, timeout=_KILL_EVERY_S)
        if not work.done():
            self._stuck += 1
            work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._came_loose))
            if self._stuck >= MAX_STUCK:
                raise Stuck

    def _came_loose(self) -> None:
        self._stuck -= 1


def _written(handle: Handle, call: Callable[[], _T]) -> _T:
    """What ``call`` gives, once it is known that all of it is on disk."""
    result = call()
    handle.check_disk()
    return result


def _seen(future: "asyncio.Future[_T]") -> None:
    """The outcome is read from the thread's own future; this copy of it must not be reported as unread."""
    if not future.cancelled():
        future.exception()


def _prepare(engine: Engine, session: Session | None, database: str, settings: dict[str, str]) -> Handle:
    """A handle with the request's settings; on a session's handle, those of the request before are taken back."""
    if session is None or session.handle is None or session.handle.closed:
        handle = engine.open(database)
        try:
            handle.set(settings)
        except EngineError:
            handle.close()
            raise
    else:
        handle = session.handle
        handle.use(database)
        handle.reset([name for name in session.applied if name not in settings])
        handle.set({name: value for name, value in settings.items() if session.applied.get(name) != value})
    if session is not None:
        session.handle = handle
        session.applied = settings
    return handle


def _check(request: Request, statement: Statement, size: int) -> None:
    if statement.data_at < 0 and size > MAX_STATEMENT_BYTES:
        raise EngineError(
            62, f"Code: 62. DB::Exception: The statement is longer than {MAX_STATEMENT_BYTES} bytes. (SYNTAX_ERROR)"
        )
    if request.tenant is not None:
        check_tenant(statement.text)
    if request.is_reader:
        check_reader(statement.text)


def _source(request: Request, body: Body) -> bytes:
    """The statement, and the first of the data behind it."""
    head = body.head(MAX_STATEMENT_BYTES)
    return request.query + b"\n" + head if request.query and head else request.query or head


def _data(source: bytes, body: Body, data_at: int, request: Request) -> Iterator[bytes]:
    """The data of an insert: what is left of the statement's parameter, then the body."""
    in_body = data_at - (len(request.query) + 1 if request.query else 0)
    if in_body < 0 and body.size and data_at < len(request.query):
        yield source[data_at : len(request.query) + 1]
    elif in_body < 0 and not body.size:
        yield source[data_at:]
    yield from body.pieces(max(0, in_body))


def _format(request: Request, statement: Statement) -> str:
    return statement.format or request.default_format


def _streams(request: Request, statement: Statement) -> bool:
    """Whether the engine gives the answer in chunks that can be sent as they come."""
    return (
        statement.reads_only and statement.verb in STREAMED_VERBS and _format(request, statement).lower() in _JOINABLE
    )


def _text(request: Request, statement: Statement) -> bytes:
    if request.is_reader and statement.text.startswith(_SETTINGS_QUESTION):
        return _SETTINGS_ANSWER + statement.text.removeprefix(_SETTINGS_QUESTION)
    return statement.text


def _read_seconds(settings: dict[str, str]) -> float:
    try:
        seconds = float(settings["max_execution_time"])
    except ValueError:
        seconds = DEFAULT_READ_S
    return (seconds or 24 * 3600.0) + DEADLINE_GRACE_S
