"""(b) Compares the edge with a minimal server: read the body, parse the protobuf, XADD with fsync, answer.

Both write to the same Valkey, in turns, while the worker is stopped so that it takes no CPU. Rates are per second of
the server's own CPU time, which other processes hardly affect; the rate by wall clock is shown too.
"""

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import redis
import uvloop
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from redis import asyncio as redis_async
from tests.harness.auditor import Auditor
from tests.harness.installation import Installation, until
from tests.harness.load import Load
from tests.harness.payload import Request

from tracebility.embedded.installation import free_port

from . import report
from .meters import CpuMeter

CONNECTIONS = 16
REQUESTS = 2500  # of 100 KB: well below the queue's memory bound while the worker is stopped
TURNS = 3
STREAM = "reference:read-parse-xadd"


class Reference:
    """The minimal server. Concurrent requests share a pipeline, as in the edge."""

    def __init__(self, url: str) -> None:
        self._queue = redis_async.Redis.from_url(url)
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def __call__(self, scope: dict[str, object], receive: object, send: object) -> None:
        assert callable(receive)
        assert callable(send)
        if scope["type"] != "http":
            return
        chunks = []
        while True:
            event = await receive()
            chunks.append(event["body"])
            if not event["more_body"]:
                break
        body = b"".join(chunks)
        ExportTraceServiceRequest.FromString(body)
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((body, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await done
        headers = [(b"content-type", b"application/x-protobuf"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            pipeline = self._queue.pipeline(transaction=False)
            for body, _ in batch:
                pipeline.xadd(STREAM, {"b": body})
            await pipeline.execute()
            for _, done in batch:
                done.set_result(None)


@dataclass(frozen=True)
class Turn:
    """Spans per second of the server's CPU time, and of wall time."""

    per_cpu_s: float
    per_s: float


async def turn(url: str, headers: dict[str, str], pool: list[Request], pid: int) -> Turn:
    """Send one burst to a server."""
    load = Load(url, headers, pool, connections=CONNECTIONS)
    await load.run(requests=100)
    warm = load.acknowledged
    meter = CpuMeter({"server": pid})
    await load.run(requests=REQUESTS)
    spans, elapsed_s, cpu_s = load.acknowledged - warm, meter.elapsed_s(), meter.seconds()["server"]
    assert load.ledger.statuses.keys() == {200}, str(load.ledger)
    return Turn(spans / cpu_s, spans / elapsed_s)


async def run(installation: Installation, pool: list[Request]) -> None:
    """Measure both servers in turns, then print and publish."""
    ready, port = installation.ready, free_port()
    auditor = Auditor(ready, installation.data_dir / "spool")
    server = _start(port, ready["redis_url"])
    turns: dict[str, list[Turn]] = {"edge": [], "reference": []}
    try:
        await until("the reference listens", lambda: psutil.Process(server.pid).net_connections(kind="tcp"), 20)
        for _ in range(TURNS):
            turns["reference"].append(await turn(f"http://127.0.0.1:{port}", {}, pool, server.pid))
            with redis.Redis.from_url(ready["redis_url"]) as queue:
                queue.unlink(STREAM)
            with halted(worker_pids(ready)):
                edge = await turn(ready["url"], installation.headers(), pool, ready["pids"]["ingest-api"])
            turns["edge"].append(edge)
            await until("the worker drains", lambda: auditor.in_flight() == 0, 120)
    finally:
        server.kill()
        server.wait()
    best = {name: _median(each) for name, each in turns.items()}
    ratio = best["edge"].per_cpu_s / best["reference"].per_cpu_s
    print(f"edge {best}, ratio per CPU second {ratio:.2f}", flush=True)
    rows = [
        ("ingest-api", best["edge"].per_cpu_s, best["edge"].per_s, ratio),
        ("read, parse, XADD, answer", best["reference"].per_cpu_s, best["reference"].per_s, 1.0),
    ]
    text = f"Median of {TURNS} turns of {REQUESTS:,} requests.\n\n" + report.table(
        ("server", "spans per CPU second", "spans/s", "ratio"), rows
    )
    report.publish("edge", "The edge beside a bare server", text)


def _median(turns: list[Turn]) -> Turn:
    return Turn(statistics.median(t.per_cpu_s for t in turns), statistics.median(t.per_s for t in turns))


@contextlib.contextmanager
def halted(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def worker_pids(ready: Mapping[str, Any]) -> list[int]:
    """Every worker process of an installation."""
    return [pid for name, pid in ready["pids"].items() if name.startswith("ingest-worker")]


def _start(port: int, redis_url: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "REFERENCE_REDIS_URL": redis_url}
    return subprocess.Popen([sys.executable, "-m", "benchmarks.edge", str(port)], env=environment)


def serve(port: int) -> None:
    """Run the minimal server on ``port``, with the same HTTP server and parser as the edge."""
    import uvicorn

    async def main() -> None:
        app = Reference(os.environ["REFERENCE_REDIS_URL"])
        options = {"http": "httptools", "ws": "none", "lifespan": "off", "log_config": None, "access_log": False}
        config = uvicorn.Config(app, host="127.0.0.1", port=port, server_header=False, **options)  # type: ignore[arg-type]
        await uvicorn.Server(config).serve()

    uvloop.run(main())


if __name__ == "__main__":
    serve(int(sys.argv[1]))
