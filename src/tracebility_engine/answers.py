"""The parts of an answer beside its rows: status, headers, content type, and the block for an error in mid-stream."""

import json
import secrets
from dataclasses import dataclass

from tracebility_engine.engine import EngineError

Header = tuple[bytes, bytes]

# HTTP statuses of ClickHouse's error codes, as its server maps them; every other code is 500.
_STATUS = {
    194: 401,
    **dict.fromkeys((192, 193, 516, 497, 511), 403),
    **dict.fromkeys((6, 26, 27, 36, 38, 41, 42, 43, 44, 53, 62, 69, 70, 72, 130, 131, 271, 456, 457), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 81, 115, 141, 372), 404),
    159: 408,
    307: 413,
    48: 501,
    202: 503,
    373: 500,
}
_TYPES = {
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "ArrowStream": "application/octet-stream",
    "Arrow": "application/octet-stream",
}


@dataclass(slots=True)
class Summary:
    """Rows and bytes that a statement read and wrote."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    elapsed_ns: int = 0

    def header(self) -> Header:
        values = {
            "read_rows": self.read_rows,
            "read_bytes": self.read_bytes,
            "written_rows": self.written_rows,
            "written_bytes": self.written_bytes,
            "total_rows_to_read": 0,
            "result_rows": self.result_rows,
            "result_bytes": 0,
            "elapsed_ns": self.elapsed_ns,
        }
        return b"X-ClickHouse-Summary", json.dumps({name: str(value) for name, value in values.items()}).encode()


def status_of(error: EngineError) -> int:
    """The HTTP status of an engine's code."""
    return _STATUS.get(error.code, 500)


def common_headers(query_id: str, timezone: str) -> list[Header]:
    """Headers of every answer to a statement."""
    return [
        (b"X-ClickHouse-Query-Id", _plain(query_id)),
        (b"X-ClickHouse-Timezone", timezone.encode()),
        (b"X-ClickHouse-Server-Display-Name", b"tracebility"),
        (b"Cache-Control", b"no-store"),
    ]


def format_headers(fmt: str) -> list[Header]:
    """Headers that name the format; empty without a format."""
    if not fmt:
        return [(b"Content-Type", b"text/plain; charset=UTF-8")]
    return [
        (b"X-ClickHouse-Format", fmt.encode()),
        (b"Content-Type", _TYPES.get(fmt, "text/plain; charset=UTF-8").encode()),
    ]


def new_tag() -> bytes:
    """A random tag that marks an error block in the middle of the data."""
    return secrets.token_hex(8).encode()


def error_text(error: EngineError, version: str) -> bytes:
    """The body of an error, ended as the server ends it."""
    text = error.text.rstrip()
    if "(version " not in text:
        text = f"{text} (version {version})"
    return text.encode("utf-8", "replace") + b"\n"


def error_in_stream(tag: bytes, text: bytes) -> bytes:
    """The error block that ends an answer of which rows were already sent."""
    return b"\r\n__exception__\r\n%b\r\n%b%d %b\r\n__exception__\r\n" % (tag, text, len(text), tag)


def _plain(value: str) -> bytes:
    return value.encode("latin-1", "replace").replace(b"\r", b" ").replace(b"\n", b" ")
