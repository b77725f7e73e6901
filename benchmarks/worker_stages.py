"""What a span costs the worker, stage by stage: CPU microseconds of its own process, and of the engine where one runs.

    python -m benchmarks.worker_stages [--data-dir DIR] [--batches N] [--orgs N]

Without ``--data-dir`` only the worker's own stages are measured: reading the protobuf, mapping, encoding. With the data
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
from uuid import UUID, uuid4

import numpy as np
import psutil
from tests.harness.payload import requests

from tracebility.ids import uuid7
from tracebility.stores import clickhouse
from tracebility.stores.queries import query
from tracebility.wire import otlp
from tracebility.wire.conventions import RuleTable
from tracebility.wire.envelope import Envelope, Header
from tracebility.wire.pricing import PriceTable
from tracebility.worker import memory, rows
from tracebility.worker.batch import Batch
from tracebility.worker.columns import meter_block, span_block
from tracebility.worker.consumer import BATCH_ROWS
from tracebility.worker.plain_columns import map_waiting
from tracebility.worker.runs import TRACES_A_STATEMENT

POOL = 40


@dataclass
class Stages:
    """Microseconds a span, by stage."""

    spans: int
    cpu: dict[str, float] = field(default_factory=dict)

    def measure(self, stage: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        self.cpu[stage] = (time.process_time() - began) / self.spans * 1e6
        return result


class Feed:
    """Envelopes of fresh traces, spread over orgs."""

    def __init__(self, orgs: int) -> None:
        self._pool = requests(POOL)
        self._numbers = np.random.default_rng(5)
        self._orgs = [tuple(uuid4() for _ in range(3)) for _ in range(orgs)]

    def take(self, spans: int) -> list[Envelope]:
        made: list[Envelope] = []
        while spans > 0:
            request = self._pool[len(made) % POOL]
            request.renew(self._numbers)
            spans -= request.size
            made.append(_envelope(bytes(request.view), request.size, *self._orgs[len(made) % len(self._orgs)]))
        return made


def _envelope(body: bytes, items: int, org_id: UUID, workspace_id: UUID, project_id: UUID) -> Envelope:
    header = Header(
        id=uuid7(),
        org_id=org_id,
        workspace_id=workspace_id,
        project_id=project_id,
        key_id="bench",
        accepted_at_us=time.time_ns() // 1000,
        period=time.strftime("%Y-%m"),
        source="otlp",
        content_type="protobuf",
        content_encoding="identity",
        items=items,
        bytes=len(body),
    )
    return Envelope(header, body)


def own_stages(envelopes: list[Envelope], table: RuleTable, prices: PriceTable) -> tuple[Stages, Batch, Any, Any]:
    """Parse, map and encode one batch. Mapping includes parsing; parsing alone is measured beside it."""
    stages = Stages(sum(envelope.header.items for envelope in envelopes))
    batch = Batch(table, prices)
    stages.measure("parse", lambda: [otlp.decode(one.body, one.header.content_type) for one in envelopes])
    stages.measure("parse and map", lambda: ([rows.add(batch, one) for one in envelopes], map_waiting(batch)))
    spans = stages.measure("encode spans", lambda: span_block(batch))
    meter = stages.measure("encode meter", lambda: meter_block(batch))
    return stages, batch, spans, meter


async def engine_stages(
    stages: Stages, batch: Batch, blocks: Any, engine: clickhouse.Engine, process: psutil.Process
) -> None:
    """The same batch into the engine: what that costs the engine's process and this one's."""
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
    for start in range(0, len(traces), TRACES_A_STATEMENT):
        part = {"traces": traces[start : start + TRACES_A_STATEMENT], "orgs": orgs, "apart": [], "version": version}
        await measure("runs", engine.execute(query("recompute_runs"), part))
    await measure("meter", engine.insert_native(*meter))


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--data-dir", type=Path)
    options.add_argument("--batches", type=int, default=5)
    options.add_argument("--orgs", type=int, default=4)
    chosen = options.parse_args()
    memory.keep_freed_pages()
    memory.look_for_circles_only_when_asked()
    table, prices, feed = RuleTable(), PriceTable(), Feed(chosen.orgs)
    engine = process = None
    if chosen.data_dir:
        ready = json.loads((chosen.data_dir / "ready.json").read_text())
        engine = await clickhouse.connect(ready["clickhouse_url"])
        process = psutil.Process(ready["pids"]["clickhouse"])
    for number in range(chosen.batches):
        stages, batch, spans, meter = own_stages(feed.take(BATCH_ROWS), table, prices)
        stored = 0
        if engine is not None and process is not None:
            stored = (await engine.query("SELECT count() FROM span")).rows[0][0]
            await engine_stages(stages, batch, (spans, meter), engine, process)
        said = "  ".join(f"{stage} {cost:.1f}" for stage, cost in stages.cpu.items())
        print(f"batch {number}: {stages.spans} spans, {stored} stored before; microseconds a span: {said}", flush=True)
    if engine is not None:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
