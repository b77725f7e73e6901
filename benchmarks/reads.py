"""(e) Measures the duration of reads as the project's own data grows, and as the data of 200 other tenants grows.

Real spans are sent to the edge; the engine then multiplies them, with new ids, tenants and times. Durations are
measured over HTTP to the last byte of the answer, one request at a time on one connection.
"""

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import matplotlib
import numpy as np
from clickhouse_connect.driver.client import Client
from tests.harness.auditor import Auditor
from tests.harness.installation import Installation
from tests.harness.load import Load
from tests.harness.payload import Request

from . import report
from .multiply import Multiplier

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

SEED_SPANS = 20_000
BIG_TRACE_SPANS = 1_000
REPEATS = 60
WARM_UP = 5
PERCENTILES = (50, 95)

# The query of a seven-day dashboard. No route has it yet, so it goes to the engine as the reader user.
SEVEN_DAYS = """
    SELECT
        toStartOfHour(start_time) AS hour,
        quantiles(0.5, 0.95, 0.99)(dateDiff('us', start_time, end_time)) AS latency,
        sum(total_tokens) AS tokens, sum(cost) AS cost
    FROM span
    WHERE org_id = {org:UUID} AND project_id = {project:UUID} AND kind = 'llm' AND start_time >= now() - INTERVAL 7 DAY
    GROUP BY hour ORDER BY hour
"""
READS = ("50 newest runs", "a run of 1,000 spans", "7 days: p50/p95/p99, tokens, cost")


@dataclass
class Size:
    """A size of the store, and the milliseconds of reads at each of `PERCENTILES`, by read."""

    own: int
    others: int
    took_ms: dict[str, tuple[float, ...]]


async def run(installation: Installation, pool: list[Request], scale: int) -> None:
    """Grow the store to ``scale`` spans in steps, measure at each, print and publish."""
    ready = installation.ready
    load = Load(ready["url"], installation.headers(), pool, connections=4, retry=True)
    await load.run(requests=SEED_SPANS // pool[0].size)
    await Auditor(ready, installation.data_dir / "spool").settle(load.ledger, org_id=ready["org_id"])
    half = scale // 2
    steps = [
        (0, max(half // 25, SEED_SPANS)), (0, half // 5), (0, half),
        (half // 25, 0), (half // 5, 0), (half - SEED_SPANS, 0),
    ]  # fmt: skip
    sizes: list[Size] = []
    with clickhouse_connect.get_client(dsn=ready["clickhouse_url"], send_receive_timeout=3600) as engine:
        multiplier = Multiplier(engine, ready["org_id"], ready["workspace_id"], ready["project_id"])
        big_run = await asyncio.to_thread(multiplier.big_trace, BIG_TRACE_SPANS)
        own, others = SEED_SPANS + BIG_TRACE_SPANS, 0
        reader = Reader(ready, big_run)
        for all_own, all_others in [(own, others), *steps]:
            if sizes and all_own <= own and all_others <= others:
                continue  # at a small scale the seed is larger already
            began = time.monotonic()
            if all_own > own:
                own += await asyncio.to_thread(multiplier.grow_own, all_own - own)
            if all_others > others:
                others += await asyncio.to_thread(multiplier.grow_others, all_others - others)
            await _merged(engine)
            grown_s = time.monotonic() - began
            took = await asyncio.to_thread(reader.measure)
            sizes.append(Size(own, others, took))
            shown = ", ".join(f"{name} {' / '.join(f'{ms:.0f}' for ms in took[name])} ms" for name in READS)
            print(f"own {own:,} others {others:,} (grown in {grown_s:.0f} s): {shown}", flush=True)
    _publish(sizes, scale)


class Reader:
    """Times the three reads, each many times."""

    def __init__(self, ready: dict[str, Any], big_run: str) -> None:
        parts = urlsplit(ready["url"])
        assert parts.port is not None
        self._address = ("127.0.0.1", parts.port)
        self._headers = {"authorization": f"Bearer {ready['api_key']}"}
        self._project = f"/v1/projects/{ready['project_id']}"
        self._big_run = big_run
        reader = ready.get("clickhouse_reader_url") or ready["clickhouse_url"]
        self._engine = clickhouse_connect.get_client(dsn=reader)
        self._settings = {"SQL_tracebility_org": ready["org_id"], "readonly": "1"}
        self._parameters = {"org": ready["org_id"], "project": ready["project_id"]}

    def measure(self) -> dict[str, tuple[float, ...]]:
        """Milliseconds at each percentile, by read."""
        newest, one_run = f"{self._project}/runs?limit=50", f"{self._project}/runs/{self._big_run}"
        # A new connection for each measurement: the server closes idle ones while the data grows.
        with contextlib.closing(http.client.HTTPConnection(*self._address, timeout=60)) as connection:
            get = partial(self._get, connection)
            assert len(json.loads(get(newest))["items"]) == 50
            assert json.loads(get(one_run))["span_count"] == BIG_TRACE_SPANS
            reads: tuple[Callable[[], object], ...] = (partial(get, newest), partial(get, one_run), self._seven_days)
            return {name: _timed(read) for name, read in zip(READS, reads, strict=True)}

    def _seven_days(self) -> None:
        answer = self._engine.query(SEVEN_DAYS, parameters=self._parameters, settings=self._settings)
        assert answer.row_count > 0

    def _get(self, connection: http.client.HTTPConnection, path: str) -> bytes:
        """Read the whole answer, without parsing it: a client's own time does not count."""
        connection.request("GET", path, headers=self._headers)
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return body


def _timed(read: Callable[[], object]) -> tuple[float, ...]:
    times = []
    for number in range(WARM_UP + REPEATS):
        began = time.perf_counter()
        read()
        if number >= WARM_UP:
            times.append(1000 * (time.perf_counter() - began))
    return tuple(float(np.percentile(times, p)) for p in PERCENTILES)


async def _merged(engine: Client, deadline_s: float = 300.0) -> None:
    end, quiet = time.monotonic() + deadline_s, 0
    while quiet < 10 and time.monotonic() < end:
        quiet = quiet + 1 if engine.command("SELECT count() FROM system.merges") == 0 else 0
        await asyncio.sleep(0.2)


def _publish(sizes: list[Size], scale: int) -> None:
    columns = ["own spans", "others' spans", *(f"{name}, p50 / p95 ms" for name in READS)]
    rows = [(s.own, s.others, *(" / ".join(f"{ms:.0f}" for ms in s.took_ms[name]) for name in READS)) for s in sizes]
    report.PICTURES.mkdir(parents=True, exist_ok=True)
    picture = report.PICTURES / "reads.svg"
    figure, panes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for pane, grows in zip(panes, ("own", "others"), strict=True):
        if grows == "own":
            chosen = [size for size in sizes if size.others == sizes[-1].others]
            xs = [size.own for size in chosen]
        else:
            chosen = [size for size in sizes if size.own == sizes[0].own and size.others]
            xs = [size.others for size in chosen]
        for name in READS:
            pane.plot(xs, [s.took_ms[name][1] for s in chosen], marker="o", markersize=3, label=name)
        pane.set(
            xscale="log",
            xlabel=f"spans of {'the project itself' if grows == 'own' else 'other tenants'}",
            ylim=(0, None),
        )
        pane.xaxis.set_minor_formatter(NullFormatter())
        pane.grid(alpha=0.3)
    panes[0].set_ylabel("p95, ms")
    panes[1].legend(fontsize=8, frameon=False)
    figure.savefig(picture)
    text = (
        f"Up to {scale:,} spans of 2 KB, half of them of 200 other tenants, {REPEATS} reads each after a warm-up.\n\n"
        f"{report.table(columns, rows)}\n\n![p95 of reads as data grows](pictures/reads.svg)"
    )
    report.publish("reads", "Reads as data grows", text)
