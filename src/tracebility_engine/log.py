"""Logs one JSON line per event to standard error, in the form of every target, without their packages."""

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
    with suppress(OSError):  # such as a full disk: logging must not stop the work
        sys.stderr.write(json.dumps(line) + "\n")
        sys.stderr.flush()


def capture_logging() -> None:
    """Log the HTTP server's records in the same form."""
    logging.basicConfig(handlers=[_Lines()], level=logging.WARNING, force=True)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        # An answer that fails in mid-stream ends like this on purpose: see app.py.
        if "without completing response" not in text:
            log("server", level=record.levelname.lower(), detail=text)
