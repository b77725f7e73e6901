"""Tests whether the time of a refusal reveals that a key's public id exists.

    .venv/bin/python -m benchmarks.refused_keys [--requests N]

Sends to a whole installation on one connection, in random order, the public id of a real key with a wrong secret and a
public id that does not exist. Applies Welch's t-test to all times, and to times cropped at several percentiles, as
dudect does (Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?", DATE 2017): |t| above 4.5 would be a
leak. A valid key is sent too; its time may differ.
"""

import asyncio
import socket
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from tests.harness.installation import Installation

from tracebility.tenant import keys

from . import report
from .revocation import call

MODULE = "benchmarks.refused_keys"
TELLS = 4.5
CROPS = (100, 99, 95, 90, 75, 50, 25, 10)  # percentiles

Times = npt.NDArray[np.float64]


class Asker:
    """A connection that sends empty requests and times the answers."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._host = f"{place.hostname}:{place.port}"
        self._connection = socket.create_connection((place.hostname, place.port))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, key: str) -> tuple[int, float]:
        """The status, and the duration in microseconds."""
        request = (
            f"POST /v1/traces HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
        ).encode()
        began = time.perf_counter_ns()
        self._connection.sendall(request)
        answer = self._connection.recv(65_536)
        took = (time.perf_counter_ns() - began) / 1000
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
        while len(body) < length:
            body += self._connection.recv(65_536)
        return int(head.split(b" ", 2)[1]), took


def of_another_secret(key: str) -> str:
    """A well-formed key with the same public id and another secret."""
    _, public_id, secret = key.split("_")
    unchecked = f"{keys.PREFIX}_{public_id}_{secret[-keys.CHECKSUM_CHARS - 1 :: -1]}"
    return unchecked + keys.checksum(unchecked)


def welch(one: Times, other: Times) -> float:
    """Welch's t statistic."""
    spread = one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)
    return float((one.mean() - other.mean()) / np.sqrt(spread))


def measure(url: str, real: str, count: int) -> None:
    """Measure, then print and publish the table."""
    kinds = {"real id, other secret": of_another_secret(real), "id never made": keys.generate().key, "let in": real}
    names = list(kinds)
    chance = np.random.default_rng(7)
    asker = Asker(url)
    for key in kinds.values():
        for _ in range(500):
            asker.ask(key)
    took: dict[str, list[float]] = {name: [] for name in names}
    statuses: dict[str, set[int]] = {name: set() for name in names}
    # A tenth of the requests are admitted: they stand for other traffic.
    for number, place in enumerate(chance.choice(3, size=count * 2, p=(0.45, 0.45, 0.1))):
        status, us = asker.ask(kinds[names[place]])
        took[names[place]].append(us)
        statuses[names[place]].add(status)
        if number % 20_000 == 0:
            print(f"{number:,} of {count * 2:,}", flush=True)
    times = {name: np.array(some) for name, some in took.items()}
    one, two = times[names[0]], times[names[1]]
    rows: list[tuple[object, ...]] = [
        (name, len(some), ", ".join(map(str, sorted(statuses[name]))), float(np.median(some)), float(some.mean()))
        for name, some in times.items()
    ]
    text = report.table(("key", "requests", "status", "median us", "mean us"), rows)
    both = np.concatenate([one, two])
    cropped: list[tuple[object, ...]] = []
    for crop in CROPS:
        edge = np.percentile(both, crop)
        low, high = one[one <= edge], two[two <= edge]
        cropped.append((f"{crop} %", float(low.mean() - high.mean()), welch(low, high)))
    text += "\n\n" + report.table(("fastest", "difference us", "t"), cropped)
    worst = max(abs(float(str(row[2]))) for row in cropped)
    text += f"\n\nLargest |t| {worst:.1f}: the time {'TELLS' if worst > TELLS else 'does not tell'} (from {TELLS} on)."
    report.publish("refused_keys", "What the time of a refusal tells", text, module=MODULE)


async def main() -> None:
    parser = report.parser(MODULE, __doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="of each kind, about (default: 100,000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracebility-refused-") as folder:
        async with Installation(Path(folder)) as installation:
            ready = installation.ready
            org = await asyncio.to_thread(call, ready, "POST", "/v1/admin/orgs", {"name": "keys", "plan": "internal"})
            await asyncio.to_thread(measure, ready["url"], org["api_key"], arguments.requests)


if __name__ == "__main__":
    asyncio.run(main())
