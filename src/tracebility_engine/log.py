"""One JSON line an event on standard error, as every target writes them; without the packages those need."""

import json
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime


def log(event: str, *, level: str = "info", **fields: str | int | float) -> None:
    """Write one line. Secrets and statements never reach it."""
    line = {
        "target": "clickhouse",
        **fields,
        "event": event,
        "level": level,
        "timestamp": datetime.now(UTC).isoformat(),
    }
    with suppress(OSError):  # such as of a full disk: no reason to leave undone what is told of
        sys.stderr.write(json.dumps(line) + "\n")
        sys.stderr.flush()


def capture_logging() -> None:
    """Turn what the HTTP server logs into the same lines."""
    logging.basicConfig(handlers=[_Lines()], level=logging.WARNING, force=True)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        # How an answer that failed in mid-stream ends, on purpose: see app.py.
        if "without completing response" not in text:
            log("server", level=record.levelname.lower(), detail=text)
