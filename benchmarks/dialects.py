"""Measures the cost of each dialect end to end: the mix, each recorded dialect alone, and the plain payload.

    .venv/bin/python -m benchmarks.dialects [--seconds N] [--loads mix,plain,...]

Each load gets an installation of its own. Ratios compare a load with the raw insert of the columns that it stored, in
the same run.
"""

import tempfile
from pathlib import Path

import uvloop
from tests.harness.installation import Installation

from tracebility.embedded.supervisor import default_workers

from . import loads, report
from .end_to_end import CONNECTIONS, Figures, figures, span_bytes

MODULE = "benchmarks.dialects"
POOL = 132  # a multiple of the number of dialects, so that the mix has equal shares


async def measure(names: list[str], seconds: float, folder: Path) -> list[tuple[str, float, Figures]]:
    """The figures of each load, with the average bytes of its spans."""
    found: list[tuple[str, float, Figures]] = []
    for name in names:
        pool = loads.requests_of(name, POOL, tenant="bench")
        print(f"load {name}", flush=True)
        async with Installation(folder / name, workers=default_workers()) as installation:
            found.append((name, span_bytes(pool), await figures(installation, pool, seconds)))
    return found


def text(found: list[tuple[str, float, Figures]]) -> str:
    """The table, and a sentence that sums it up."""
    rows = [
        (
            name, round(size), one.fast.queryable_per_s, one.raw_per_s, one.of_raw,
            one.fast.worker_us, one.fast.cpu_us_per_span["clickhouse"],
            sum(one.fast.cpu_us_per_span.values()), one.fast.cores_busy,
            one.soon["p50"], one.soon["p95"], one.soon["p99"],
        )
        for name, size, one in found
    ]  # fmt: skip
    columns = (
        "load", "bytes a span", "queryable spans/s", "raw insert/s", "ratio", "CPU µs a span: worker",
        "clickhouse", "all", "cores busy", "p50 ms", "p95 ms", "p99 ms",
    )  # fmt: skip
    return (
        f"{CONNECTIONS} connections, 50 spans a request. The last three columns are the time from a request's answer "
        "until its spans are found, at half of the rate. Where few cores are busy, other programs used the machine: "
        f"compare the CPU time then.\n\n{report.table(columns, rows)}"
    )


async def main() -> None:
    parser = report.parser(MODULE, __doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of full and of half load, each (default: 10)")
    parser.add_argument("--loads", default=",".join(loads.LOADS), help="which, with commas between (default: all)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracebility-dialects-") as folder:
        found = await measure(arguments.loads.split(","), arguments.seconds, Path(folder))
    report.publish("dialects", "Each dialect end to end", text(found), module=MODULE)


if __name__ == "__main__":
    uvloop.run(main())
