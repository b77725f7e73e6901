"""Measures the time to queryable of a quiet org while another org of the same shard floods it.

    .venv/bin/python -m benchmarks.cotenant [--seconds N] [--load NAME] [--flood-spans N]

Runs a whole installation. The quiet org sends a few small requests a second, first alone, then beside the flood. The
table also shows how much the flood stored and how much it left in the queue: it is a flood only if it sends more than
the worker can take.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import uvloop
from tests.harness.auditor import Auditor
from tests.harness.installation import Installation
from tests.harness.load import Load

from tracebility.embedded.supervisor import default_workers
from tracebility.ids import OrgId
from tracebility.tenant.shard_router import shard_of

from . import loads, report
from .end_to_end import CONNECTIONS, time_to_queryable
from .revocation import call

MODULE = "benchmarks.cotenant"
QUIET_REQUESTS_PER_S, QUIET_SPANS = 10, 5
# The edge answers 503 when the queue is full. The flood retries until accepted, as exporters do.
FLOOD_CONNECTIONS = 32
FLOOD_REQUESTS = 132
BEFORE_S = 5.0  # time for the flood to fill the queue


def two_of_one_shard(ready: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Create two orgs that share a shard."""
    of_shard: dict[int, dict[str, Any]] = {}
    while True:
        number = len(of_shard)
        org = call(ready, "POST", "/v1/admin/orgs", {"name": f"co-tenant {number}", "plan": "internal"})
        other = of_shard.setdefault(shard_of(OrgId(UUID(org["org_id"]))), org)
        if other is not org:
            return other, org


async def measure(installation: Installation, seconds: float, load: str, flood_spans: int) -> None:
    """Measure, then print and publish the table."""
    ready = installation.ready
    quiet, loud = await asyncio.to_thread(two_of_one_shard, ready)
    pool = loads.requests_of(load, CONNECTIONS, tenant="quiet", spans=QUIET_SPANS)

    async def found_after() -> dict[str, float]:
        return await time_to_queryable(ready | quiet, quiet["api_key"], pool, QUIET_REQUESTS_PER_S, seconds)

    await found_after()  # not measured: warms up with the first inserts and merges
    alone = await found_after()
    print(f"alone: {alone}", flush=True)
    headers = {"authorization": f"Bearer {loud['api_key']}"}
    flood_pool = loads.requests_of(load, FLOOD_REQUESTS, tenant="loud", spans=flood_spans)
    flood = Load(ready["url"], headers, flood_pool, connections=FLOOD_CONNECTIONS, retry=True)
    began = time.perf_counter()
    flooding = asyncio.create_task(flood.run())
    await asyncio.sleep(BEFORE_S)
    beside = await found_after()
    print(f"beside the flood: {beside}", flush=True)
    sent_s = time.perf_counter() - began
    waiting = await asyncio.to_thread(Auditor(ready, installation.data_dir / "spool").in_flight)
    flood.stop()
    await flooding
    bound = 2 * alone["p99"] + 1000
    text = report.table(
        ("the quiet org", "p50 ms", "p95 ms", "p99 ms", "requests"),
        [
            (name, float(had["p50"]), float(had["p95"]), float(had["p99"]), int(had["requests"]))
            for name, had in (("alone", alone), ("beside the flood", beside))
        ],
    )
    text += (
        f"\n\nLoad `{load}`. Promised: p99 within 2 x {alone['p99']:.0f} + 1,000 = {bound:,.0f} ms. The flood had "
        f"{flood.acknowledged / sent_s:,.0f} spans/s acknowledged, {waiting:,} envelopes of it waited at the end."
    )
    report.publish("cotenant", "A quiet org beside one that floods its shard", text, module=MODULE)


async def main() -> None:
    parser = report.parser(MODULE, __doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two measurements (default: 20)")
    parser.add_argument("--load", default=loads.MIX, choices=loads.LOADS, help="what both send (default: mix)")
    parser.add_argument(
        "--flood-spans", type=int, default=50, help="of each request of the flood, 2 KB each (default: 50)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracebility-cotenant-") as folder:
        async with Installation(Path(folder), workers=default_workers()) as installation:
            await measure(installation, arguments.seconds, arguments.load, arguments.flood_spans)


if __name__ == "__main__":
    uvloop.run(main())
