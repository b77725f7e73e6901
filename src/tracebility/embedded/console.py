"""Output of ``tracebility up``: the steps of the start, then the output of its children, prefixed with coloured names.

Writing never blocks, because a paused terminal or an unread pipe must not stop restarts. Lines that do not fit are
dropped and counted.
"""

import json
import os
import select
import sys
from collections.abc import Mapping
from typing import Any

from tracebility.embedded.process import LINE_BYTES

NAME_COLUMNS = 15
_COLOURS = {
    "postgres": 34, "valkey": 31, "clickhouse": 33, "ingest-api": 32, "ingest-worker": 35, "api": 36, "operator": 34,
    "up": 1,
}  # fmt: skip
_STORES = ("postgres", "valkey", "clickhouse")


class Console:
    """Standard output as text; with ``as_json`` as one JSON object per line."""

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self._descriptor = sys.stdout.fileno()
        self._colour = os.isatty(self._descriptor) and "NO_COLOR" not in os.environ
        self._json = as_json
        self._verbose = verbose
        self._stores_shown = False
        self._dropped = 0

    def step(self, text: str, seconds: float) -> None:
        """Print a finished step of the start."""
        if self._json:
            self._write(json.dumps({"step": text, "seconds": round(seconds, 3)}))
        else:
            self._write(f"{self._paint('✓', 32)} {text} {self._paint(f'({seconds:.1f} s)', 2)}")

    def line(self, name: str, line: str) -> None:
        """Print a line of output of a child, or of ``up`` itself."""
        if self._json:
            self._write(json.dumps({"name": name, "line": line}))
        elif self._verbose or self._stores_shown or name not in _STORES:
            self._write(f"{self._paint(f'{name:<{NAME_COLUMNS}}', _COLOURS.get(name.rstrip('-0123456789'), 0))} {line}")

    def show_stores(self) -> None:
        """Start to print the lines of the stores. During start and stop they are hidden, to keep the steps visible."""
        self._stores_shown = True

    def hide_stores(self) -> None:
        """Stop printing the lines of the stores."""
        self._stores_shown = False

    def text(self, text: str) -> None:
        """Print plain text; nothing with ``as_json``."""
        if not self._json:
            for line in text.splitlines():
                self._write(line)

    def document(self, document: Mapping[str, Any]) -> None:
        """Print a result as JSON; nothing without ``as_json``."""
        if self._json:
            self._write(json.dumps(document))

    def _paint(self, text: str, code: int) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour and code else text

    def _write(self, line: str) -> None:
        # A pipe that is ready takes PIPE_BUF (4096) bytes without blocking, so each write stays below that.
        if not select.select([], [self._descriptor], [], 0)[1]:
            self._dropped += 1
            return
        if self._dropped:
            line = f"... {self._dropped} lines dropped: this output was not read fast enough\n{line}"
            self._dropped = 0
        data = line.encode(errors="replace")[: LINE_BYTES + 90] + b"\n"
        try:
            os.write(self._descriptor, data)
        except OSError:  # The reader has closed the pipe. Continue: the stores and their data matter more than output.
            self._descriptor = os.open(os.devnull, os.O_WRONLY)
