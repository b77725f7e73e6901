"""Fixtures of several folders: an empty Redis by its roles, empty databases, and an operator as a process."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from tests.harness.databases import Databases, empty_databases

from tracebility.stores import redis_control
from tracebility.stores.queue import Queue


@pytest.fixture
def store(empty_hot_store: redis_control.RedisControl) -> redis_control.RedisControl:
    """The control role of a server in which nothing is."""
    return empty_hot_store


@pytest.fixture
def streams(empty_queue: Queue) -> Queue:
    """The queue there."""
    return empty_queue


@pytest.fixture
async def databases(stores: Any) -> AsyncIterator[Databases]:
    async with empty_databases(stores) as made:
        yield made


@pytest.fixture
def operator_process(stores: Any) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts an operator in a process of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(failpoint: str = "") -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACEBILITY_")}
        environment |= {
            "TRACEBILITY_PG_DSN": stores.pg_dsn,
            "TRACEBILITY_REDIS_URL": stores.redis_url,
            "TRACEBILITY_CLICKHOUSE_URL": stores.clickhouse_url,
            "TRACEBILITY_FAILPOINT": failpoint,
            "TRACEBILITY_PORT": "0",
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "tracebility.targets", "operator"], env=environment, stderr=subprocess.DEVNULL
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
