"""Measures how long a revoked key is still admitted at 1,000 requests/s, with and without pub/sub.

    .venv/bin/python -m benchmarks.revocation [--keys N] [--rate N]

Runs a whole installation. Each key sends small requests until it is refused. The figure is the time from the answer of
`DELETE` to the sending of the last admitted request, or 0. It is measured again with pub/sub forbidden and all
subscriptions closed, so that processes learn of the revocation only by polling.
"""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import numpy as np
import redis
import uvloop
from tests.harness.installation import Installation
from tests.harness.load import Load, Outcome
from tests.harness.payload import requests

from . import report

MODULE = "benchmarks.revocation"
CONNECTIONS = 16
LOADED_S = (0.4, 2.4)  # before the revocation: a random point between two polls of the processes
GIVE_UP_S = 10.0


def call(ready: dict[str, Any], method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send a request with the operator's key: the JSON of the answer, None if it is empty."""
    headers = {"authorization": f"Bearer {ready['operator_key']}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urlopen(HttpRequest(ready["url"] + path, data, headers, method=method), timeout=10) as answer:
        return json.loads(answer.read() or b"null")


async def let_in_for(ready: dict[str, Any], rate: float, chance: np.random.Generator) -> tuple[float, float]:
    """Seconds that one key was admitted after its revocation, and the requests per second that it sent."""
    keys = f"/v1/projects/{ready['project_id']}/keys"
    made = await asyncio.to_thread(call, ready, "POST", keys, {"name": "bench", "scopes": ["ingest:write"]})
    pool = requests(CONNECTIONS, tenant="bench", spans=1)
    load = Load(
        ready["url"], {"x-api-key": made["key"]}, pool, connections=CONNECTIONS, requests_per_s=rate, deadline_s=5
    )
    began = time.perf_counter()
    sending = asyncio.create_task(load.run(seconds=GIVE_UP_S))
    await asyncio.sleep(chance.uniform(*LOADED_S))
    sent = len(load.ledger.sendings) / (time.perf_counter() - began)
    await asyncio.to_thread(call, ready, "DELETE", f"{keys}/{made['public_id']}")
    revoked = time.perf_counter()
    while not load.ledger.statuses[401]:
        await asyncio.sleep(0.01)
        assert not sending.done(), "it is let in still"
    await asyncio.sleep(1.0)  # further processes that may still admit the key
    load.stop()
    ledger = await sending
    late = [one.began - revoked for one in ledger.sendings if one.outcome is Outcome.ACKNOWLEDGED]
    return max(0.0, *late), sent


def silence(redis_url: str) -> None:
    """Forbid subscriptions, and close all existing ones."""
    with redis.Redis.from_url(redis_url) as store:
        store.execute_command("ACL", "SETUSER", "default", "-subscribe", "-publish")
        store.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


async def measure(installation: Installation, count: int, rate: float) -> None:
    """Measure, then print and publish the table."""
    chance = np.random.default_rng(11)
    rows: list[tuple[object, ...]] = []
    for pubsub in ("up", "dead"):
        if pubsub == "dead":
            silence(installation.ready["redis_url"])
        found = []
        for number in range(count):
            found.append(await let_in_for(installation.ready, rate, chance))
            print(f"pub/sub {pubsub}: key {number + 1} of {count}, let in for {found[-1][0] * 1e3:.0f} ms", flush=True)
        late_ms = [seconds * 1e3 for seconds, _ in found]
        rows.append(
            (
                pubsub,
                count,
                float(np.median([sent for _, sent in found])),
                *(float(np.percentile(late_ms, p)) for p in (50, 99)),
                max(late_ms),
            )
        )
    text = report.table(("pub/sub", "keys", "requests/s", "p50 ms", "p99 ms", "most ms"), rows)
    report.publish("revocation", "How long a revoked key gets in", text, module=MODULE)


async def main() -> None:
    parser = report.parser(MODULE, __doc__)
    parser.add_argument("--keys", type=int, default=30, help="to revoke, each way (default: 30)")
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second of the key (default: 1000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracebility-revocation-") as folder:
        async with Installation(Path(folder)) as installation:
            await measure(installation, arguments.keys, arguments.rate)


if __name__ == "__main__":
    uvloop.run(main())
