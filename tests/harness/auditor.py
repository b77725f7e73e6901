"""The other side of the books: what is stored, compared with what clients were told.

Acknowledged = stored, each once; not acknowledged = stored at most once; every span is metered once; every run counts
its spans; nobody's rows carry another tenant's canary. Reads the stores by themselves, never through the product.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clickhouse_connect
import numpy as np
import numpy.typing as npt
import redis
from clickhouse_connect.driver.client import Client
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tracebility.tenant.shard_router import DEAD_LETTER_STREAM, OVERFLOW_STREAMS, SHARD_STREAMS
from tracebility.wire.envelope import from_fields

from .load import Ledger, Outcome
from .payload import CANARY_KEY, canary_of

DRAIN_DEADLINE_S = 90.0
POLL_S = 0.25

Ids = npt.NDArray[np.uint64]
Say = Callable[[str], None] | None

# Rows of one org, as a reader sees them: the newest version of each.
_SPANS = """
    SELECT reinterpretAsUInt64(reverse(unhex(span_id))) AS id FROM span FINAL WHERE org_id = {org:UUID}
"""
_CANARIES = """
    SELECT countIf(attributes[{key:String}] != {canary:String}) AS foreign FROM span FINAL WHERE org_id = {org:UUID}
"""
_METERED = """
    SELECT
        count() AS rows,
        uniqExact(event_id) AS events,
        sum(qty) AS quantity,
        countIf(event_id NOT IN (SELECT event_id FROM span FINAL WHERE org_id = {org:UUID})) AS without_span
    FROM billing_meter FINAL
    WHERE org_id = {org:UUID} AND meter = {meter:String}
"""
_RUNS = """
    SELECT
        countIf(runs.n = 0) AS missing,
        countIf(runs.n > 1) AS doubled,
        countIf(runs.n = 1 AND runs.spans != spans.n) AS miscounted,
        countIf(spans.n = 0) AS without_spans
    FROM
        (
            SELECT project_id, trace_id AS id, count() AS n FROM span FINAL
            WHERE org_id = {org:UUID} GROUP BY 1, 2
        ) AS spans
        FULL OUTER JOIN
        (
            SELECT project_id, run_id AS id, count() AS n, any(span_count) AS spans FROM run FINAL
            WHERE org_id = {org:UUID} GROUP BY 1, 2
        ) AS runs
        ON spans.project_id = runs.project_id AND spans.id = runs.id
"""


@dataclass
class Verdict:
    """What the books say. ``problems`` is empty when they balance."""

    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    stored: int = 0
    dead: int = 0
    lost: int = 0  # acknowledged, and neither stored nor among the dead letters
    doubled: int = 0  # more rows than ids
    metered: int = 0  # spans
    refused_but_stored: int = 0
    invented: int = 0  # stored, and never sent
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        names = ("acknowledged", "refused", "unknown", "stored", "dead", "lost", "doubled")
        line = " ".join(f"{name} {getattr(self, name):,}" for name in names)
        return line + "".join(f"\n  WRONG: {problem}" for problem in self.problems)


class Auditor:
    """Reads the stores that a ready file names, as their owner."""

    def __init__(self, ready: Mapping[str, Any], spool: Path | None = None) -> None:
        self._ready = dict(ready)
        self._spool = spool

    def engine(self) -> Client:
        """A connection of the owner to the engine."""
        return clickhouse_connect.get_client(dsn=self._ready["clickhouse_url"])

    def queue(self) -> redis.Redis:
        """A connection to the queue."""
        return redis.Redis.from_url(self._ready["redis_url"])

    def in_flight(self) -> int:
        """Entries on the shards' streams and bytes in the disk buffer: 0 when all was drained."""
        return self.queued() + self.spooled()

    def queued(self) -> int:
        """Entries on the shards' streams."""
        with self.queue() as queue:
            return sum(int(queue.xlen(stream)) for stream in (*SHARD_STREAMS, *OVERFLOW_STREAMS))

    def spooled(self) -> int:
        """Bytes in the disk buffer."""
        return spooled_bytes(self._spool) if self._spool else 0

    def dead_letters(self) -> Ids:
        """Ids of the spans in the dead-letter stream."""
        with self.queue() as queue:
            entries = queue.xrange(DEAD_LETTER_STREAM)
        ids: list[int] = []
        for _, fields in entries:
            request = ExportTraceServiceRequest.FromString(from_fields(fields).body)
            ids += (
                int.from_bytes(span.span_id)
                for block in request.resource_spans
                for scope in block.scope_spans
                for span in scope.spans
            )
        return np.array(ids, np.uint64)

    async def settle(
        self, ledger: Ledger, *, org_id: str, deadline_s: float = DRAIN_DEADLINE_S, say: Say = None
    ) -> None:
        """Wait until all that was acknowledged can be found and nothing is in flight; give up quietly at the deadline.

        Giving up is not judged here: `audit` will name what is missing.
        """
        due = np.unique(ledger.spans(Outcome.ACKNOWLEDGED))
        end = time.monotonic() + deadline_s
        told = -1
        while time.monotonic() < end:
            try:
                in_flight = await asyncio.to_thread(self.in_flight)
                if in_flight == 0:
                    found = np.concatenate([await asyncio.to_thread(self._stored, org_id), self.dead_letters()])
                    if np.isin(due, found).all():
                        return
                if say is not None and in_flight != told:
                    say(f"draining, {in_flight:,} in flight")
                    told = in_flight
            except (OSError, redis.RedisError, clickhouse_connect.driver.exceptions.Error):
                pass  # a store is on its way back
            await asyncio.sleep(POLL_S)

    async def audit(self, ledger: Ledger, *, org_id: str, tenant: str = "", meter_rows: bool = True) -> Verdict:
        """Compare. ``tenant`` is what the load's canary was made from."""
        return await asyncio.to_thread(self._audit, ledger, org_id, tenant, meter_rows)

    def _stored(self, org_id: str) -> Ids:
        with self.engine() as engine:
            return _column(engine, _SPANS, {"org": org_id})

    def _audit(self, ledger: Ledger, org_id: str, tenant: str, meter_rows: bool) -> Verdict:
        told = {outcome: np.unique(ledger.spans(outcome)) for outcome in Outcome}  # a span may be sent more than once
        acknowledged, refused, unknown = (told[outcome] for outcome in Outcome)
        parameters = {"org": org_id}
        with self.engine() as engine:
            rows = _column(engine, _SPANS, parameters)
            stored = np.unique(rows)
            dead = np.unique(self.dead_letters())
            verdict = Verdict(
                acknowledged=len(acknowledged), refused=len(refused), unknown=len(unknown),
                stored=len(rows), dead=len(dead),
                lost=_absent(acknowledged, np.concatenate([stored, dead])),
                doubled=len(rows) - len(stored),
                refused_but_stored=len(refused) - _absent(refused, stored),
                invented=_absent(stored, np.concatenate([acknowledged, refused, unknown])),
            )  # fmt: skip
            wrong = verdict.problems
            for name in ("lost", "doubled", "invented"):
                if count := getattr(verdict, name):
                    wrong.append(f"{count:,} spans {name}")
            if wrong and self.in_flight():
                wrong.append(
                    f"not drained: {self.queued():,} entries queued, {self.spooled():,} bytes in the disk buffer"
                )
            keys = {**parameters, "key": CANARY_KEY, "canary": canary_of(tenant)}
            if foreign := _row(engine, _CANARIES, keys)["foreign"]:
                wrong.append(f"{foreign:,} rows without the tenant's own canary")
            wanted = {"rows": len(stored), "events": len(stored), "without_span": 0}
            for meter in ("spans", "bytes") if meter_rows else ():
                found = _row(engine, _METERED, {**parameters, "meter": meter})
                for name, right in wanted.items():
                    if found[name] != right:
                        wrong.append(f"meter {meter}: {name} {found[name]:,}, should be {right:,}")
                if meter == "spans":
                    verdict.metered = found["quantity"]
                    if verdict.metered != len(stored):
                        wrong.append(f"{verdict.metered:,} spans metered, {len(stored):,} stored")
            wrong += [f"{count:,} runs {name}" for name, count in _row(engine, _RUNS, parameters).items() if count]
        return verdict


def spooled_bytes(folder: Path) -> int:
    """Bytes that wait in a disk buffer."""
    return sum(path.stat().st_size for path in folder.glob("*.spool"))


def _absent(ids: Ids, elsewhere: Ids) -> int:
    return int((~np.isin(ids, elsewhere)).sum())


def _column(engine: Client, sql: str, parameters: dict[str, Any]) -> Ids:
    return np.asarray(engine.query_np(sql, parameters=parameters), np.uint64).ravel()


def _row(engine: Client, sql: str, parameters: dict[str, Any]) -> dict[str, int]:
    row = engine.query(sql, parameters=parameters).first_item
    assert row is not None
    return row
