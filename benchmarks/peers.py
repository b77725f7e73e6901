"""(f) Sends the same load to peers in their default configuration, each in its own environment under ``.bench/``.

Durable means: still stored after ``kill -9`` of the server right after the last answer. Queryable means: counted as a
row in the peer's own store.
"""

import asyncio
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import uvloop
from tests.harness.auditor import Auditor
from tests.harness.installation import Installation, until
from tests.harness.load import Load
from tests.harness.payload import SPANS_A_REQUEST, Request, requests

from tracebility.embedded.installation import free_port

from . import ROOT, end_to_end, report

ENVIRONMENTS = ROOT / ".bench"
START_DEADLINE_S = 180.0
DRAIN_DEADLINE_S = 900.0
QUIET_S = 20.0  # without a new row for this long, no more are expected
LOAD_S = 20.0
POOL = 192  # different requests: at 100 KB each they do not fit into a compression window
WARM_UP_REQUESTS = 20  # its first requests import code and prepare statements


@dataclass(frozen=True)
class Peer:
    """A product in one configuration."""

    name: str
    package: str
    argv: tuple[str, ...]  # {port}, {grpc} and {dir} are filled in
    database: str  # SQLite file in {dir}
    connections: int
    headers: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


_MLFLOW = ("mlflow", "server", "--host", "127.0.0.1", "--port", "{port}", "--backend-store-uri", "sqlite:///{dir}/db")
_EXPERIMENT = {"x-mlflow-experiment-id": "0"}
_NO_PHONE = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PHOENIX_TELEMETRY_ENABLED": "false"}
PEERS = (
    Peer(
        "Phoenix", "arize-phoenix", ("phoenix", "serve"), "phoenix.db", 8,
        environment={
            "PHOENIX_WORKING_DIR": "{dir}", "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": "{port}", "PHOENIX_GRPC_PORT": "{grpc}",
        },
    ),
    Peer("MLflow", "mlflow", _MLFLOW, "db", 8, headers=_EXPERIMENT),
    Peer("MLflow, one worker", "mlflow", (*_MLFLOW, "--workers", "1"), "db", 1, headers=_EXPERIMENT),
)  # fmt: skip


@dataclass
class Figures:
    """The figures of one peer."""

    peer: str
    version: str
    acknowledged_per_s: float
    queryable_per_s: float
    p99_ms: float
    disk_bytes: float  # per span
    lost_percent: float  # of acknowledged spans, after kill -9 at the last answer


def install(package: str) -> Path:
    """The environment with ``package``, created if missing."""
    folder = ENVIRONMENTS / package
    if not (folder / "installed").exists():
        print(f"installing {package} into {folder} ...", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", package]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{package} cannot be installed:\n{done.stderr}")
        (folder / "installed").touch()
    return folder / "bin"


class Server:
    """A running peer with an empty data folder."""

    def __init__(self, peer: Peer, folder: Path) -> None:
        self.peer, self.folder = peer, folder
        self.port, self.grpc = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @classmethod
    @asynccontextmanager
    async def running(cls, peer: Peer) -> "AsyncIterator[Server]":
        """Start an empty server, and kill and remove it at the end."""
        with tempfile.TemporaryDirectory(prefix="peer-") as name:
            server = cls(peer, Path(name))
            try:
                await server.start()
                yield server
            finally:
                server.kill()

    async def start(self) -> None:
        binaries = install(self.peer.package)
        fill = {"port": str(self.port), "grpc": str(self.grpc), "dir": str(self.folder)}
        argv = [part.format_map(fill) for part in self.peer.argv]
        own = {name: value.format_map(fill) for name, value in self.peer.environment.items()}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it only forks
                [str(binaries / argv[0]), *argv[1:]],
                env={**os.environ, **_NO_PHONE, "PATH": f"{binaries}:{os.environ['PATH']}", **own},
                cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        await until(f"{self.peer.name} listens", self._listens, START_DEADLINE_S)
        await until(f"{self.peer.name} has its tables", lambda: self.spans() == 0, START_DEADLINE_S)

    def spans(self) -> int:
        """Rows in the server's table of spans; -1 while there is no table."""
        try:
            with closing(sqlite3.connect(f"file:{self.folder / self.peer.database}?mode=ro", uri=True)) as database:
                return int(database.execute("SELECT count(*) FROM spans").fetchone()[0])
        except sqlite3.OperationalError:
            return -1

    def disk_bytes(self) -> int:
        """Bytes of all files of the server, after a checkpoint of its write-ahead log."""
        path = self.folder / self.peer.database
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.stat().st_size

    def kill(self) -> None:
        """``kill -9`` the server and its descendants."""
        if self._process is None:
            return
        family = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for process in family:
            process.send_signal(signal.SIGKILL)
        self._process.wait()
        psutil.wait_procs(family, timeout=10)
        self._process = None

    def version(self) -> str:
        python = ENVIRONMENTS / self.peer.package / "bin" / "python"
        code = f"import importlib.metadata as m; print(m.version({self.peer.package!r}))"
        return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


async def measure(peer: Peer, seconds: float) -> Figures:
    """Measure rates and disk in one run, and the spans that survive ``kill -9`` in another."""
    pool = requests(POOL)
    async with Server.running(peer) as server:
        load = await _warm(server, pool)
        warm, disk = load.acknowledged, server.disk_bytes()
        began = time.perf_counter()
        ledger = await load.run(seconds=seconds)
        sent, acknowledged_s = load.acknowledged - warm, time.perf_counter() - began
        stored, queryable_s = await _drained(server, load.acknowledged, began)
        installed = server.version()
        server.kill()
        disk = server.disk_bytes() - disk
        p99_ms = float(np.percentile(ledger.latencies()[WARM_UP_REQUESTS:], 99) * 1000)
    rates = (sent / acknowledged_s, (stored - warm) / queryable_s)
    per_span = disk / max(stored - warm, 1)
    async with Server.running(peer) as server:
        load = await _warm(server, pool)
        await load.run(seconds=min(seconds, 5))
        server.kill()
        lost = 1 - server.spans() / load.acknowledged
    return Figures(peer.name, installed, *rates, p99_ms, per_span, 100 * lost)


async def _warm(server: Server, pool: list[Request]) -> Load:
    load = Load(server.url, server.peer.headers, pool, connections=server.peer.connections, deadline_s=120)
    await load.run(requests=WARM_UP_REQUESTS)
    await _drained(server, load.acknowledged, time.perf_counter())
    return load


async def _drained(server: Server, due: int, began: float) -> tuple[int, float]:
    stored, at = 0, time.perf_counter()
    while time.perf_counter() - began < DRAIN_DEADLINE_S and time.perf_counter() - at < QUIET_S:
        now = server.spans()
        if now != stored:
            stored, at = now, time.perf_counter()
        if stored >= due:
            break
        await asyncio.sleep(0.25)
    return stored, at - began


async def measure_ours(seconds: float) -> Figures:
    """Measure this product in the same run."""
    pool = requests(POOL)
    with tempfile.TemporaryDirectory(prefix="ours-") as name:
        async with Installation(Path(name) / "rates") as installation:
            fast = await end_to_end.sustained(installation, pool, seconds)
            disk = await end_to_end.disk_bytes_per_span(installation.ready)
        async with Installation(Path(name) / "kill") as installation:
            ready = installation.ready
            load = Load(ready["url"], installation.headers(), pool, connections=8)
            await load.run(seconds=min(seconds, 5))
            installation.kill_everything()
            await installation.start()
            auditor = Auditor(installation.ready, installation.data_dir / "spool")
            await auditor.settle(load.ledger, org_id=ready["org_id"])
            verdict = await auditor.audit(load.ledger, org_id=ready["org_id"])
    return Figures(
        "tracebility", version("tracebility"), fast.acknowledged_per_s, fast.queryable_per_s, fast.p99_ms,
        sum(size for size, _ in disk.values()), 100 * verdict.lost / verdict.acknowledged,
    )  # fmt: skip


def text(figures: list[Figures]) -> str:
    """The table: rates, and the ratio of the first row's figures to each peer's."""
    columns = (
        "",
        "version",
        "acknowledged/s",
        "queryable/s",
        "ratio",
        "p99 answer ms",
        "disk bytes/span",
        "ratio",
        "lost %",
    )
    ours = figures[0]
    rows = [
        (
            f.peer, f.version, f.acknowledged_per_s, f.queryable_per_s, ours.queryable_per_s / f.queryable_per_s,
            f.p99_ms, f.disk_bytes, f.disk_bytes / ours.disk_bytes, f.lost_percent,
        )
        for f in figures
    ]  # fmt: skip
    return (
        f"Requests of {SPANS_A_REQUEST} spans of 2 KB, the load on the same cores. *Acknowledged* is what was answered "
        "2xx while the load ran; *queryable* is what the store counts, over the time until the last was there; *lost* "
        "are acknowledged spans that are gone after `kill -9` of everything at the last answer.\n\n"
        + report.table(columns, rows)
    )


def main() -> None:
    parser = report.parser("benchmarks.peers", __doc__)
    parser.add_argument("--seconds", type=float, default=LOAD_S, help="of load for each")
    arguments = parser.parse_args()
    figures = [uvloop.run(measure_ours(arguments.seconds))]
    print(figures[0], flush=True)
    for peer in PEERS:
        figures.append(uvloop.run(measure(peer, arguments.seconds)))
        print(figures[-1], flush=True)
    report.publish("peers", "Peers under the same load", text(figures), module="benchmarks.peers")


if __name__ == "__main__":
    main()
