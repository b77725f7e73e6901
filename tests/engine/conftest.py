"""One engine process for the tests of this folder, and the unmodified clients of it."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import clickhouse_connect
import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.client import Client

OWNER_PASSWORD = 'owner\'s "pass" wörd'
READER_PASSWORD = "reader"
PASSWORDS = {"tracebility": OWNER_PASSWORD, "tracebility_reader": READER_PASSWORD}


@dataclass
class FrontProcess:
    """A running engine process."""

    data_dir: Path
    environment: dict[str, str] = field(default_factory=dict)
    preface: str = ""  # Python that runs in it first: bounds that no test has the time for are lowered so.
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    def start(self) -> "FrontProcess":
        """Start it and wait until it says that it is ready."""
        main = "import sys\nfrom tracebility_engine.__main__ import main\nsys.exit(main())"
        code = ["-c", f"{self.preface}\n{main}"] if self.preface else ["-m", "tracebility_engine"]
        command = [sys.executable, *code, "--data-dir", str(self.data_dir)]
        environment = os.environ | {
            "TRACEBILITY_FRONT_OWNER_PASSWORD": OWNER_PASSWORD,
            "TRACEBILITY_FRONT_READER_PASSWORD": READER_PASSWORD,
        }
        with (self.data_dir.parent / f"{self.data_dir.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env=environment | self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait()}"
        self.port = int(json.loads(line)["port"])
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self) -> int:
        """Ask it to end, and give its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=10)

    def client(self, user: str = "tracebility", **options: Any) -> Client:
        """A synchronous client, as its users get it."""
        return clickhouse_connect.get_client(
            **{"host": "127.0.0.1", "port": self.port, "username": user, "password": PASSWORDS[user]}
            | {"database": "tracebility"}
            | options
        )

    async def async_client(self, user: str = "tracebility", **options: Any) -> AsyncClient:
        """An asynchronous client, as its users get it."""
        return await clickhouse_connect.get_async_client(
            **{"host": "127.0.0.1", "port": self.port, "username": user, "password": PASSWORDS[user]}
            | {"database": "tracebility", "autogenerate_session_id": False}
            | options
        )


@pytest.fixture(scope="session")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontProcess]:
    front = FrontProcess(tmp_path_factory.mktemp("front") / "data").start()
    yield front
    assert front.stop() == 0


@pytest.fixture
def own_front(tmp_path: Path) -> Iterator[FrontProcess]:
    """A process of the test's own, which it may end as it likes."""
    front = FrontProcess(tmp_path / "data").start()
    yield front
    front.kill()


@pytest.fixture(scope="session")
def owner(front: FrontProcess) -> Iterator[Client]:
    client = front.client()
    yield client
    client.close()


@pytest.fixture(scope="session")
async def async_owner(front: FrontProcess) -> AsyncIterator[AsyncClient]:
    client = await front.async_client()
    yield client
    await client.close()


@pytest.fixture
def table(owner: Client) -> Iterator[Callable[[str], str]]:
    """Makes tables of the test's own: columns in, name out."""
    made: list[str] = []

    def make(columns: str, engine: str = "MergeTree ORDER BY tuple()") -> str:
        name = f"t_{uuid4().hex[:12]}"
        owner.command(f"CREATE TABLE {name} ({columns}) ENGINE = {engine}")
        made.append(name)
        return name

    yield make
    for name in made:
        owner.command(f"DROP TABLE IF EXISTS {name}")
