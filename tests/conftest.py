"""What all tests share: one set of embedded stores, one whole installation, and tenants of a test's own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 20.0
POLL_S = 0.05
TRACEBILITY = Path(sys.executable).parent / "tracebility"


@dataclass(frozen=True)
class StoresUnderTest:
    """How to reach the embedded stores of this test run: real ones, migrated, shared by all tests."""

    pg_dsn: str
    redis_url: str
    clickhouse_url: str
    clickhouse_reader_url: str
    data_dir: Path
    ready: dict[str, Any]


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoresUnderTest]:
    """The three stores, started once per test run. Tests make rows of their own tenants and never empty a table."""
    with running("--only-stores", data_dir=tmp_path_factory.mktemp("stores")) as ready:
        yield StoresUnderTest(
            ready["pg_dsn"],
            ready["redis_url"],
            ready["clickhouse_url"],
            ready["clickhouse_reader_url"],
            Path(ready["data_dir"]),
            ready,
        )


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A whole ``tracebility up``, started once per test run on a free port: the content of its ready file."""
    with running("--port", "0", data_dir=tmp_path_factory.mktemp("installation")) as ready:
        yield ready


class running:
    """``tracebility up`` with ``arguments`` for the length of a ``with``; gives the content of the ready file."""

    def __init__(self, *arguments: str, data_dir: Path) -> None:
        self._arguments = arguments
        self._data_dir = data_dir
        self._log = data_dir.with_name(f"{data_dir.name}.log")

    def __enter__(self) -> dict[str, Any]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("TRACEBILITY_")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [TRACEBILITY, "up", "--data-dir", self._data_dir, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=outside,
                start_new_session=True,
            )
        ready = self._data_dir / "ready.json"
        deadline = time.monotonic() + START_DEADLINE_S
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                pytest.fail(f"tracebility up did not become ready:\n{self._log.read_text(errors='replace')}")
            time.sleep(POLL_S)
        document: dict[str, Any] = json.loads(ready.read_text())
        return document

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
