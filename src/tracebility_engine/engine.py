"""The engine in this process: one handle per request, opened with the request's settings and closed after it.

A handle is a session of its own and costs 0.3 ms; a fresh one cannot carry another request's settings. Calls block and
release the interpreter lock, so they run on threads; only :meth:`Handle.kill` may be called while another call runs.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

# The engine's Python package imports pyarrow when it is there: 43 MB that nothing here uses.
sys.modules.setdefault("pyarrow", None)  # type: ignore[arg-type]
from chdb import _chdb  # noqa: E402

_CODE = re.compile(r"Code: (\d+)\.")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LOGICAL_ERROR: Final = 49
_STAGING: Final = b"_incoming_rows"
_FAILED_WRITES: Final = "SELECT value FROM system.events WHERE event = 'WriteBufferFromFileDescriptorWriteFailed'"


class EngineError(Exception):
    """The engine refused or stopped a statement. ``code`` is ClickHouse's number, the text is the engine's own."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class DiskFailed(Exception):
    """A write to disk failed, so later writes may be incomplete. Only a new process helps."""


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT of data: ``text`` without FORMAT and data, and the table and columns it names, as written."""

    text: bytes
    table: bytes
    columns: tuple[bytes, ...]
    format: str


class Engine:
    """The engine on one data directory. One process may own a directory; see :mod:`.lock`."""

    def __init__(self, data_dir: Path, config_file: Path) -> None:
        self._source = f"{data_dir}?config-file={quote(str(config_file))}"
        self._lock = Lock()
        # Open handles, the next one included. While there is one, the engine lives, with the policies it started with.
        self.handles = 0
        self._control = self.open()
        self.version, self.timezone = self._control.rows("SELECT version(), timezone()")[0]

    def open(self, database: str = "") -> "Handle":
        """A fresh session, in ``database`` when that is given."""
        try:
            connection = _chdb.connect(self._source)  # type: ignore[attr-defined]
        except RuntimeError as error:
            raise _translated(error) from None
        with self._lock:
            self.handles += 1
        handle = Handle(connection, self)
        try:
            if database:
                handle.use(database)
        except EngineError:
            handle.close()
            raise
        return handle

    def forget(self) -> None:
        """Count a closed handle."""
        with self._lock:
            self.handles -= 1

    def kill(self, mark: str) -> None:
        """End the query whose text carries ``mark``; it fails with code 394 where it runs."""
        self.open_and_run(f"KILL QUERY WHERE query LIKE '/*{mark}*/%' ASYNC")

    def open_and_run(self, statement: str) -> None:
        """Run one statement on a session of its own."""
        handle = self.open()
        try:
            handle.run(statement)
        finally:
            handle.close()

    def ask(self, statement: str) -> list[list[str]]:
        """The answer to a small query of this process itself."""
        handle = self.open()
        try:
            return handle.rows(statement)
        finally:
            handle.close()

    def check_disk(self) -> None:
        """As `Handle.check_disk`, on a session of its own."""
        handle = self.open()
        try:
            handle.check_disk()
        finally:
            handle.close()

    def close(self) -> None:
        """Stop the engine: running merges end, parts on disk stay as they are."""
        self._control.close()


class Result:
    """A whole answer."""

    __slots__ = ("body", "elapsed_ns", "read_bytes", "read_rows", "rows", "written_bytes", "written_rows")

    def __init__(self, result: Any) -> None:
        self.body: bytes = result.bytes()
        self.rows: int = result.rows_read()
        self.read_rows: int = result.storage_rows_read()
        self.read_bytes: int = result.storage_bytes_read()
        self.written_rows: int = result.rows_written()
        self.written_bytes: int = result.bytes_written()
        self.elapsed_ns = int(result.elapsed() * 1e9)


class Handle:
    """One session. Every statement carries the handle's mark, by which it is found and killed."""

    def __init__(self, connection: Any, engine: Engine) -> None:
        self._connection = connection
        self._engine = engine
        self.mark = uuid4().hex
        self._prefix = f"/*{self.mark}*/ ".encode()
        self.closed = False
        self._stream: Stream | None = None

    def use(self, database: str) -> None:
        """Make ``database`` the current one."""
        self.run(f"USE {quoted_name(database)}")

    def set(self, settings: Mapping[str, str]) -> None:
        """Apply settings to the session. Names are checked, values quoted: neither can carry a statement."""
        if settings:
            self.run("SET " + ", ".join(f"{_checked(name)} = {quoted_text(value)}" for name, value in settings.items()))

    def reset(self, names: list[str]) -> None:
        """Give settings their defaults back."""
        if names:
            self.run("SET " + ", ".join(f"{_checked(name)} = DEFAULT" for name in names))

    def run(
        self, statement: str | bytes, fmt: str = "TabSeparated", parameters: Mapping[str, str] | None = None
    ) -> Result:
        """Run a statement and keep its whole answer."""
        try:
            return Result(self._connection.query(self._marked(statement), fmt, params=dict(parameters or {})))
        except RuntimeError as error:
            raise _translated(error) from None

    def rows(self, statement: str) -> list[list[str]]:
        """A small answer as text; for this process's own questions, whose answers need no unescaping."""
        return [line.split("\t") for line in self.run(statement).body.decode().splitlines()]

    def check_disk(self) -> None:
        """Check that no write of the engine has failed since its start.

        The engine goes on where a write fails, and says that all went well: it puts parts with empty files in place, of
        an insert or, worse, of a merge, whose sources it deletes half a minute later. But it counts such writes. A
        process that ends is safe: the next one finds the broken parts, sets them aside, and has the sources back.

        Raises:
            DiskFailed: a write failed.
        """
        if self.rows(_FAILED_WRITES):
            raise DiskFailed

    def stream(self, statement: bytes, fmt: str, parameters: Mapping[str, str]) -> "Stream":
        """Run a query whose answer is fetched chunk by chunk; the engine waits while nobody fetches."""
        try:
            result = self._connection.send_query(self._marked(statement), fmt, params=dict(parameters))
        except RuntimeError as error:
            raise _translated(error) from None
        self._stream = Stream(self._connection, result)
        return self._stream

    def insert(self, insert: Insert, chunks: Iterator[bytes]) -> tuple[int, int]:
        """Insert what ``chunks`` hold and give the rows and bytes written. Anything raised leaves nothing behind.

        The engine's streaming insert hides every error that comes when a part is made (disk full, too many parts, a
        constraint) and answers that all was written. So it only fills a table in memory, and a statement of its own,
        which does not hide them, moves the rows on; the counts of both are compared.
        """
        columns = b", ".join(insert.columns)
        listed = b"(" + columns + b")" if columns else b""
        self.run(self._staging_table(insert.table))
        try:
            staged = self._stage(b"INSERT INTO " + _STAGING + b" " + listed, insert.format, chunks)
            moved = self.run(insert.text + b" SELECT " + (columns or b"*") + b" FROM " + _STAGING)
            if moved.written_rows != staged:
                raise EngineError(
                    LOGICAL_ERROR,
                    f"Code: {LOGICAL_ERROR}. DB::Exception: {staged} rows came and {moved.written_rows} were written. "
                    "(LOGICAL_ERROR)",
                )
            return moved.written_rows, moved.written_bytes
        finally:
            if not self.closed:
                self.run(b"DROP TEMPORARY TABLE IF EXISTS " + _STAGING)

    def _staging_table(self, table: bytes) -> str:
        """A table in memory with the columns that may be written to ``table``, and their defaults."""
        described = self.run(b"DESCRIBE TABLE " + table, "JSONCompactEachRow").body.splitlines()
        columns = [
            f"{quoted_name(name)} {kind}" + (f" DEFAULT {default}" if default_kind == "DEFAULT" else "")
            for name, kind, default_kind, default, *_ in map(json.loads, described)
            if default_kind in {"", "DEFAULT"}
        ]
        return f"CREATE TEMPORARY TABLE {_STAGING.decode()} ({', '.join(columns)}) ENGINE = Memory"

    def _stage(self, statement: bytes, fmt: str, chunks: Iterator[bytes]) -> int:
        connection = self._connection
        try:
            inserter = connection.send_insert(self._marked(statement).decode(), fmt)
        except RuntimeError as error:
            raise _translated(error) from None
        done = False
        try:
            for chunk in chunks:
                connection.insert_append(inserter, chunk)
            done = True
            rows: int = connection.insert_done(inserter).rows_written()
            return rows
        except RuntimeError as error:
            raise _translated(error) from None
        finally:
            if not done:
                _quietly(connection.insert_cancel, inserter)

    def kill(self) -> None:
        """End what runs on this handle, from another thread."""
        self._engine.kill(self.mark)

    def end_stream(self) -> None:
        """End what is still being computed of a streamed answer."""
        if self._stream is not None and not self._stream.over:
            # Cancelling alone waits for the block in work, which may be the last of a long query.
            self.kill()
            self._stream.close()
        self._stream = None

    def close(self) -> None:
        """Close the session, and end what runs on it."""
        self.end_stream()
        self.closed = True
        _quietly(self._connection.close)
        self._engine.forget()

    def _marked(self, statement: str | bytes) -> bytes:
        return self._prefix + (statement.encode() if isinstance(statement, str) else statement)


class Stream:
    """An answer that is still being computed."""

    def __init__(self, connection: Any, result: Any) -> None:
        self._connection = connection
        self._result = result
        self.over = False
        self.rows = 0
        self.read_rows = 0
        self.read_bytes = 0

    def fetch(self) -> bytes:
        """The next chunk; empty when there is no more."""
        if self.over:
            return b""
        try:
            chunk = self._connection.streaming_fetch_result(self._result)
        except RuntimeError as error:
            self.over = True
            raise _translated(error) from None
        if chunk is None or chunk.rows_read() == 0:
            self.over = True
            return b""
        self.rows += chunk.rows_read()
        self.read_rows = max(self.read_rows, chunk.storage_rows_read())
        self.read_bytes = max(self.read_bytes, chunk.storage_bytes_read())
        body: bytes = chunk.bytes()
        return body

    def close(self) -> None:
        """Cancel what is left. Waits for the block that is being computed."""
        if not self.over:
            self.over = True
            _quietly(self._connection.streaming_cancel_query, self._result)


def quoted_text(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\0", "\\0") + "'"


def quoted_name(name: str) -> str:
    """An identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise EngineError(115, f"Code: 115. DB::Exception: Unknown setting {name!r}. (UNKNOWN_SETTING)")
    return name


def _translated(error: RuntimeError) -> EngineError:
    text = str(error)
    found = _CODE.search(text)
    return EngineError(int(found[1]) if found else LOGICAL_ERROR, text)


def _quietly(call: Any, *arguments: Any) -> None:
    """Suppress errors while cleaning up after a failure: they add nothing."""
    try:
        call(*arguments)
    except RuntimeError:
        return
