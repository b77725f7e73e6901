"""What rate, sameness, quota and books cost a request: CPU of the edge with them, and with everything let in.

    python -m benchmarks.gates [--requests N] [--turns N]

An installation's stores, the edge's own code in this process, 16 requests at a time of 50 spans of 2 KB; turns with and
without the gates take turns, so that a machine whose speed changes tells no lies. HTTP is not part of it: the last
column adds what a request costs the server outside of this (docs/performance.md, the edge).
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import uvloop
from harness.installation import Installation
from harness.payload import requests

from tracebility.config import Settings
from tracebility.ids import OrgId, ProjectId, PublicKeyId, WorkspaceId
from tracebility.ingest.accept import Intake, Sent
from tracebility.ingest.service import open_services
from tracebility.tenant.admission import Admitted
from tracebility.tenant.context import Allowance, MeterLimit, Rate, Scope, TenantContext, sealed_context

CONCURRENCY = 16
# Of a request, outside of what is measured here: reading and answering HTTP, resolving the key.
HTTP_US = 200


class NoGates:
    """Lets everything in and asks nobody."""

    async def admit(self, tenant: TenantContext, claim: Any) -> Admitted:
        return Admitted(tenant, claim, is_degraded=False)

    async def count_request(self, tenant: TenantContext) -> None:
        return

    def keep(self, admitted: Admitted) -> None:
        return

    async def give_back(self, admitted: Admitted) -> None:
        return


async def measure(installation: Installation, count: int, turns: int) -> None:
    """Print the table."""
    ready = installation.ready
    settings = Settings(
        pg_dsn=ready["pg_dsn"], redis_url=ready["redis_url"], spool_dir=Path(tempfile.mkdtemp()) / "spool"
    )
    rate = Rate(100_000, 1_000_000)
    limits = {"spans": MeterLimit(10**12, 10**12), "bytes": MeterLimit(10**15, None)}
    tenant = sealed_context(
        OrgId(uuid4()), WorkspaceId(uuid4()), ProjectId(uuid4()), "bench", frozenset({Scope.INGEST_WRITE}),
        PublicKeyId("bench"), Allowance(rate, rate, limits),
    )  # fmt: skip
    numbers = np.random.default_rng(3)
    pool = requests(64, tenant="bench")
    async with open_services(settings) as services:
        intake = services.intake
        gates = {"with": intake._admission, "without": NoGates()}
        costs: dict[str, list[float]] = {"with": [], "without": []}
        for turn in range(turns * 2):
            which = ("with", "without")[turn % 2]
            intake._admission = gates[which]  # type: ignore[assignment]
            began = time.process_time()
            await _sent(intake, tenant, pool, numbers, count)
            costs[which].append((time.process_time() - began) / count * 1e6)
    medians = {which: statistics.median(some) for which, some in costs.items()}
    extra = medians["with"] - medians["without"]
    print(f"CPU of the edge a request: {medians['without']:.0f} us without gates, {medians['with']:.0f} us with them")
    print(
        f"gates: {extra:.0f} us, {extra / (medians['without'] + HTTP_US):.1%} of a request without them, HTTP included"
    )


async def _sent(intake: Intake, tenant: TenantContext, pool: Any, numbers: Any, count: int) -> None:
    waiting = iter(range(count))

    async def sender() -> None:
        for number in waiting:
            request = pool[number % len(pool)]
            request.renew(numbers)
            await intake.accept(tenant, Sent("otlp", "protobuf", "identity", bytes(request.view)))

    await asyncio.gather(*(sender() for _ in range(CONCURRENCY)))


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gates", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000, help="a turn")
    parser.add_argument("--turns", type=int, default=7, help="of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracebility-gates-") as folder:
        async with Installation(Path(folder), "--only-stores") as installation:
            await measure(installation, arguments.requests, arguments.turns)


if __name__ == "__main__":
    uvloop.run(main())
