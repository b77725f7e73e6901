"""A cluster of three nodes, started from each server program that is here: the wheel's Valkey, and redis-server."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from tracebility.embedded.binaries import valkey_server
from tracebility.embedded.installation import free_port
from tracebility.embedded.valkey import Valkey
from tracebility.stores import redis_control
from tracebility.stores.queue import Queue, connect_queue
from tracebility.stores.redis_transport import SLOTS

PASSWORD = "secret"
NODES = 3
DEADLINE_S = 60.0

PROGRAMS = {"valkey": str(valkey_server())} | {name: path for name in ("redis-server",) if (path := shutil.which(name))}


@dataclass
class Cluster:
    """Three nodes, each with a third of the slots, and their log as the product has it."""

    ports: list[int]
    nodes: list[Any]  # a plain client of each
    processes: list[subprocess.Popen[bytes]]

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.ports[0]}/0"

    async def holder(self, key: str) -> int:
        """Which node holds the slot of ``key``."""
        for first, last, (_, port, *_), *_ in await self.nodes[0].execute_command("CLUSTER SLOTS"):
            if first <= key_slot(key.encode()) <= last:
                return self.ports.index(port)
        raise AssertionError("nobody holds it")

    async def begin_move(self, slot: int, source: int, target: int) -> None:
        """From here on keys of ``slot`` may be on either node: what the source has not, it sends to the target."""
        ids = [await node.execute_command("CLUSTER MYID") for node in self.nodes]
        await self.nodes[target].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
        await self.nodes[source].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])

    async def move_keys(self, slot: int, source: int, target: int, most: int = 1000) -> None:
        """Move so many keys of a slot under way."""
        for key in await self.nodes[source].execute_command("CLUSTER GETKEYSINSLOT", slot, most):
            await self.nodes[source].execute_command(
                "MIGRATE", "127.0.0.1", self.ports[target], key, 0, 5000, "AUTH", PASSWORD
            )

    async def end_move(self, slot: int, target: int) -> None:
        """Every node knows the new holder."""
        new = await self.nodes[target].execute_command("CLUSTER MYID")
        for node in [self.nodes[target], *self.nodes]:
            await node.execute_command("CLUSTER SETSLOT", slot, "NODE", new)


async def _ok(nodes: list[Any]) -> bool:
    try:
        return all([b"cluster_state:ok" in await node.execute_command("CLUSTER INFO") for node in nodes])
    except (RedisError, OSError):
        return False


async def _answers(node: Any) -> bool:
    try:
        return bool(await node.execute_command("PING"))
    except (RedisError, OSError):
        return False


def _ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return sorted(found)


@pytest.fixture(scope="session", params=sorted(PROGRAMS))
async def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """The nodes, until every one of them says that all slots are held."""
    folder: Path = tmp_path_factory.mktemp(f"cluster-{request.param}")
    # Beside the port of its clients, each node has one on which they talk with one another.
    taken = _ports(2 * NODES)
    ports, between = taken[:NODES], taken[NODES:]
    processes = []
    for port, bus in zip(ports, between, strict=True):
        settings = Valkey(folder / str(port), folder / f"{port}.sock", PASSWORD).program().argv[1]
        options = ["--bind", "127.0.0.1", "--port", str(port), "--cluster-port", str(bus)]
        options += ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
        command = [PROGRAMS[request.param], settings, *options]
        processes.append(subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL))  # noqa: ASYNC220
    nodes: list[Any] = [Redis(port=port, password=PASSWORD) for port in ports]
    try:
        for node in nodes:
            node.response_callbacks.clear()
        async with asyncio.timeout(DEADLINE_S):
            for nth, (node, process) in enumerate(zip(nodes, processes, strict=True)):
                while not await _answers(node):
                    assert process.poll() is None, "a node did not start"
                    await asyncio.sleep(0.05)
                first, last = SLOTS * nth // NODES, SLOTS * (nth + 1) // NODES - 1
                await node.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
                await node.execute_command("CLUSTER SET-CONFIG-EPOCH", nth + 1)
                if nth:
                    await node.execute_command("CLUSTER MEET", "127.0.0.1", ports[0], between[0])
            while not await _ok(nodes):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield Cluster(ports, nodes, processes)
    finally:
        for node in nodes:
            await node.aclose()
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(DEADLINE_S)


@pytest.fixture
async def queue(cluster: Cluster) -> AsyncIterator[Queue]:
    """The queue, on the cluster."""
    opened = await connect_queue(cluster.url)
    yield opened
    await opened.close()


@pytest.fixture
async def hot_store(cluster: Cluster) -> AsyncIterator[redis_control.RedisControl]:
    """The control role, on the cluster."""
    opened = await redis_control.connect(cluster.url)
    yield opened
    await opened.close()
