"""Measures the cost of a span in each stage of the worker: CPU microseconds of its process, and of a running engine.

    .venv/bin/python -m benchmarks.worker_stages [--data-dir DIR] [--load NAME] [--batches N] [--orgs N]

Without ``--data-dir`` only the worker's own stages are measured: mapping and encoding. With the data
directory of a running ``tracebility up --only-stores``, batches also go into its engine, stage by stage, and the table
shows how the cost of a recompute grows with what is stored.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tracebility.stores import clickhouse
from tracebility.stores.queries import query
from tracebility.wire.envelope import Envelope
from tracebility.worker import memory
from tracebility.worker.batch import Batch
from tracebility.worker.batch_bounds import MAX_ROWS
from tracebility.worker.runs import TRACES_PER_STATEMENT

from . import loads
from .mapping import Feed, Mapping

POOL = 40


@dataclass
class Stages:
    """CPU microseconds per span, by stage."""

    spans: int
    cpu: dict[str, float] = field(default_factory=dict)

    def measure(self, stage: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        self.cpu[stage] = (time.process_time() - began) / self.spans * 1e6
        return result


def own_stages(envelopes: list[Envelope], worker: Mapping) -> tuple[Stages, Batch, Any]:
    """Map and encode one batch."""
    stages = Stages(sum(envelope.header.items for envelope in envelopes))
    batch = stages.measure("map", lambda: worker.map(envelopes))
    return stages, batch, stages.measure("encode", lambda: worker.encode(batch))


async def engine_stages(
    stages: Stages, batch: Batch, blocks: Any, engine: clickhouse.Engine, process: psutil.Process
) -> None:
    """Write the same batch to the engine: the cost for the engine's process and for this one."""
    spans, meter = blocks
    traces, orgs = batch.traces(), batch.orgs()

    async def measure(stage: str, work: Any) -> Any:
        own, far = time.process_time(), sum(process.cpu_times()[:2])
        result = await work
        near = (time.process_time() - own) / stages.spans * 1e6
        beyond = (sum(process.cpu_times()[:2]) - far) / stages.spans * 1e6
        stages.cpu[f"{stage}, client"] = stages.cpu.get(f"{stage}, client", 0) + near
        stages.cpu[f"{stage}, engine"] = stages.cpu.get(f"{stage}, engine", 0) + beyond
        return result

    await measure("spans", engine.insert_native(*spans))
    version = (await engine.query(query("engine_clock"))).rows[0][0]
    for start in range(0, len(traces), TRACES_PER_STATEMENT):
        part = {"traces": traces[start : start + TRACES_PER_STATEMENT], "orgs": orgs, "apart": [], "version": version}
        await measure("runs", engine.execute(query("recompute_runs"), part))
    await measure("meter", engine.insert_native(*meter))


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--data-dir", type=Path)
    options.add_argument("--load", default=loads.MIX, choices=loads.LOADS)
    options.add_argument("--batches", type=int, default=5)
    options.add_argument("--orgs", type=int, default=4)
    chosen = options.parse_args()
    memory.keep_freed_pages()
    memory.disable_automatic_gc()
    worker, feed = Mapping(), Feed(loads.requests_of(chosen.load, POOL), chosen.orgs)
    engine = process = None
    if chosen.data_dir:
        ready = json.loads((chosen.data_dir / "ready.json").read_text())
        engine = await clickhouse.connect(ready["clickhouse_url"])
        process = psutil.Process(ready["pids"]["clickhouse"])
    for number in range(chosen.batches):
        stages, batch, blocks = own_stages(feed.take(MAX_ROWS), worker)
        stored = 0
        if engine is not None and process is not None:
            stored = (await engine.query("SELECT count() FROM span")).rows[0][0]
            await engine_stages(stages, batch, blocks, engine, process)
        said = "  ".join(f"{stage} {cost:.1f}" for stage, cost in stages.cpu.items())
        print(f"batch {number}: {stages.spans} spans, {stored} stored before; microseconds a span: {said}", flush=True)
    if engine is not None:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
