"""Measures how long a worker takes to reclaim the pending entries of a dead one, by number of entries.

    .venv/bin/python -m benchmarks.claims [--largest N]

Runs on a Valkey as `tracebility up` starts it. One stream holds entries of 100 bytes that are pending for a dead
consumer; a thousandth of them were deleted meanwhile. They are reclaimed with the worker's code, but not mapped or
written.
"""

import tempfile
import time
from pathlib import Path
from uuid import uuid4

import uvloop
from tests.harness import streams as raw_streams
from tests.harness.installation import Installation

from tracebility.stores.queue import Queue, connect_queue
from tracebility.telemetry import Metrics
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.reclaim import claim, claimable_groups

from . import report

MODULE = "benchmarks.claims"
SMALLEST = 10_000
STEP = 10_000


async def taken_over(queue: Queue, count: int) -> tuple[float, int, int]:
    """Reclaim ``count`` entries: seconds, reclaimed entries, and entries reported as lost."""
    stream = f"bench:{uuid4().hex}"
    await queue.ensure_group([stream])
    for _ in range(count // STEP):
        ids = [
            one
            for one in await raw_streams.append(queue, [(stream, {"b": b"x" * 100})] * STEP)
            if isinstance(one, bytes)
        ]
        await queue.read([stream], "dead", STEP)
        await raw_streams.delete(queue, stream, ids[:: STEP // 10])
    metrics = WorkerMetrics(Metrics())
    held: set[bytes] = set()
    began = time.perf_counter()

    def is_held(_: str, entry_id: bytes) -> bool:
        return entry_id in held

    async for group in claimable_groups(queue, [stream], 0, is_held):
        held.update(entry.id for entry, _ in await claim(queue, "alive", metrics, 0, group))
    seconds = time.perf_counter() - began
    await queue._pipeline([("UNLINK", stream)])
    return seconds, len(held), int(metrics.lost._value.get())


async def main() -> None:
    parser = report.parser(MODULE, __doc__)
    parser.add_argument("--largest", type=int, default=1_000_000, help="entries of the last row (default: 1,000,000)")
    arguments = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory(prefix="tracebility-claims-") as folder:
        async with Installation(Path(folder), "--only-stores") as installation:
            queue = await connect_queue(installation.ready["redis_url"])
            count = SMALLEST
            while count <= arguments.largest:
                seconds, taken, lost = await taken_over(queue, count)
                rows.append((count, taken, lost, seconds, seconds / count * 1e6))
                print(rows[-1], flush=True)
                count *= 10
            await queue.close()
    text = report.table(("pending", "taken over", "told as lost", "seconds", "us an entry"), rows)
    report.publish("claims", "Taking over what a dead worker left", text, module=MODULE)


if __name__ == "__main__":
    uvloop.run(main())
