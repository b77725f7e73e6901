"""``make bench``: measures all figures, or those whose letters are given, each on a new installation."""

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from tests.harness.installation import Installation

from tracebility.embedded.supervisor import default_workers

from . import edge, end_to_end, loads, reads, report

POOL = 192  # different requests: at 100 KB each they do not fit into a compression window


Measure = Callable[[Installation], Awaitable[None]]


async def bench(letters: str, load: str, seconds: float, scale: int, folder: Path) -> None:
    """Run the measurements that ``letters`` name, each on an empty installation."""
    pool = loads.requests_of(load, POOL, tenant="bench")
    measures: list[tuple[str, Measure]] = [
        ("acd", lambda installation: end_to_end.run(installation, load, pool, seconds)),
        ("b", lambda installation: edge.run(installation, pool)),
        ("e", lambda installation: reads.run(installation, pool, scale)),
    ]
    for which, measure in measures:
        if set(which) & set(letters):
            async with Installation(folder / which, workers=default_workers()) as installation:
                await measure(installation)


def main() -> None:
    parser = report.parser("benchmarks", __doc__)
    parser.add_argument("--only", default="abcde", help="letters of what to measure (default: all)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load for (a) and (c)")
    parser.add_argument("--load", default=loads.MIX, choices=loads.LOADS, help="what is sent (default: mix)")
    parser.add_argument("--scale", type=int, default=1_000_000, help="most spans for (e)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracebility-bench-") as folder:
        uvloop.run(bench(arguments.only, arguments.load, arguments.seconds, arguments.scale, Path(folder)))


if __name__ == "__main__":
    main()
