"""Measures what the admission checks (rate, duplicates, quota, ledger) cost the edge, against an edge without them.

    .venv/bin/python -m benchmarks.gates [--requests N] [--turns N]

Runs a whole installation and two more edges, which get requests in turns, so that changes of the machine's speed affect
both alike: 16 connections, requests of 50 spans of 2 KB, an org with a rate and quotas of spans and bytes. The worker
is stopped meanwhile. The figure is the CPU time of an edge per request, HTTP included.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import uvloop
from tests.harness.auditor import Auditor
from tests.harness.installation import Installation, until
from tests.harness.load import Load
from tests.harness.payload import Request, requests

from tracebility.embedded.installation import free_port
from tracebility.embedded.supervisor import default_workers
from tracebility.tenant.admission import Admitted
from tracebility.tenant.context import TenantContext

from . import report
from .edge import halted, worker_pids
from .meters import CpuMeter
from .revocation import call

MODULE = "benchmarks.gates"
CONNECTIONS = 16
PLAN = {
    "rate": {"requests_per_s": 100_000, "burst": 100_000},
    "meters": {"spans": {"hard": 10**11}, "bytes": {"hard": 10**15}},
    "retention_days": None,
    "eval_concurrency": None,
}


class NoGates:
    """Admits everything without any check."""

    def __init__(self, *_: Any) -> None:
        self.touched: set[str] = set()

    async def admit(self, tenant: TenantContext, claim: Any) -> Admitted:
        """Admit."""
        return Admitted(tenant, claim)

    async def count_request(self, tenant: TenantContext) -> None:
        """Admit."""

    def keep(self, admitted: Admitted) -> None:
        """Keep nothing."""

    async def give_back(self, admitted: Admitted) -> None:
        """Give nothing back, because nothing was reserved."""


WITHOUT = """
from benchmarks.gates import NoGates
from tracebility.ingest import service
from tracebility.targets import run
service.Admission = NoGates
run("ingest-api")
"""
COMMANDS = {"with": ["-m", "tracebility.targets", "ingest-api"], "without": ["-c", WITHOUT]}


@contextmanager
def edge(which: str, ready: dict[str, Any], folder: Path) -> Iterator[tuple[int, str]]:
    """Start an edge: its pid and its address."""
    port = free_port()
    environment = {
        "TRACEBILITY_PG_DSN": ready["pg_dsn"],
        "TRACEBILITY_REDIS_URL": ready["redis_url"],
        "TRACEBILITY_PORT": str(port),
        "TRACEBILITY_SPOOL_DIR": str(folder / which),
    }
    command = [sys.executable, *COMMANDS[which]]
    with subprocess.Popen(command, env=os.environ | environment) as process:
        try:
            yield process.pid, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def measure(installation: Installation, folder: Path, count: int, turns: int) -> None:
    """Measure, then print and publish the table."""
    ready = installation.ready
    await asyncio.to_thread(call, ready, "PUT", "/v1/admin/plans/bench", PLAN)
    org = await asyncio.to_thread(call, ready, "POST", "/v1/admin/orgs", {"name": "gates", "plan": "bench"})
    headers = {"authorization": f"Bearer {org['api_key']}"}
    auditor = Auditor(ready, installation.data_dir / "spool")
    pool = requests(64, tenant="gates")
    costs: dict[str, list[float]] = {"without": [], "with": []}
    with ExitStack() as stack:
        edges = {which: stack.enter_context(edge(which, ready, folder)) for which in costs}
        for pid, _ in edges.values():
            await until("the edge listens", lambda pid=pid: psutil.Process(pid).net_connections(kind="tcp"), 20)
        for number in range(turns + 1):
            for which, (pid, url) in sorted(edges.items(), reverse=bool(number % 2)):
                with halted(worker_pids(ready)):
                    cost = await turn(url, headers, pool, pid, count)
                await until("the worker drains", lambda: auditor.in_flight() == 0, 120)
                if number:  # warm-up, not measured
                    costs[which].append(cost)
    # The mean of many short turns: clock ticks average out, and changes of the machine's speed affect both edges.
    means = {which: statistics.mean(some) for which, some in costs.items()}
    extra = means["with"] - means["without"]
    text = report.table(
        ("edge", "CPU us a request", "least", "most"),
        [(f"{which} gates", means[which], min(some), max(some)) for which, some in costs.items()],
    )
    text += (
        f"\n\nThe gates: {extra:.0f} us a request of 50 spans, {extra / means['with']:.1%} of the edge's throughput."
    )
    report.publish("gates", "What the gates cost the edge", text, module=MODULE)


async def turn(url: str, headers: dict[str, str], pool: list[Request], pid: int, count: int) -> float:
    """Send one burst: microseconds of the edge's CPU per request."""
    load = Load(url, headers, pool, connections=CONNECTIONS)
    meter = CpuMeter({"edge": pid})
    await load.run(requests=count)
    assert load.ledger.statuses.keys() == {200}, str(load.ledger)
    return meter.seconds()["edge"] / len(load.ledger.sendings) * 1e6


async def main() -> None:
    parser = report.parser(MODULE, __doc__)
    parser.add_argument("--requests", type=int, default=400, help="a turn")
    parser.add_argument("--turns", type=int, default=40, help="of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracebility-gates-") as folder:
        async with Installation(Path(folder) / "up", workers=default_workers()) as installation:
            await measure(installation, Path(folder), arguments.requests, arguments.turns)


if __name__ == "__main__":
    uvloop.run(main())
