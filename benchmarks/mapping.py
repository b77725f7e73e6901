"""Measures the cost of mapping by dialect: CPU microseconds per span to map and encode a batch, without stores.

    .venv/bin/python -m benchmarks.mapping [--spans N] [--rounds N] [--loads mix,plain,...]

The table also shows the cost of parsing the same bodies with protobuf's parser (upb). The cheapest round counts.
"""

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.harness.payload import Request

from tracebility.ids import uuid7
from tracebility.wire.conventions import RuleTable
from tracebility.wire.envelope import Envelope, Header
from tracebility.wire.pricing import PriceTable
from tracebility.worker import mapping, memory
from tracebility.worker.attribute_names import AttributeNames
from tracebility.worker.batch import Batch
from tracebility.worker.columns import meter_block, span_block

from . import loads, report

MODULE = "benchmarks.mapping"
POOL = 66


class Mapping:
    """The worker's code from envelopes to blocks. All benchmarks call it through this class."""

    def __init__(self) -> None:
        self._names, self._prices = AttributeNames(RuleTable()), PriceTable()

    def map(self, envelopes: list[Envelope]) -> Batch:
        """Map all spans of ``envelopes`` into one batch."""
        batch = Batch(self._names, self._prices)
        for envelope in envelopes:
            mapping.add(batch, envelope)
        mapping.map_pending(batch)
        assert not batch.refused, batch.refused[0]
        return batch

    def encode(self, batch: Batch) -> tuple[Any, Any]:
        """Encode the blocks of ``span`` and ``billing_meter``."""
        return span_block(batch), meter_block(batch)


class Feed:
    """Envelopes of fresh traces, spread over orgs."""

    def __init__(self, pool: list[Request], orgs: int = 4) -> None:
        self._pool = pool
        self._numbers = np.random.default_rng(5)
        self._orgs = [tuple(uuid4() for _ in range(3)) for _ in range(orgs)]

    def take(self, spans: int) -> list[Envelope]:
        """Make envelopes with at least ``spans`` spans together."""
        made: list[Envelope] = []
        while spans > 0:
            request = self._pool[len(made) % len(self._pool)]
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


def measure(load: str, spans: int, rounds: int) -> tuple[str, int, float, float, float, float]:
    """The row of ``load``: bytes, then microseconds per span to parse, map, encode, and map and encode together."""
    feed, worker = Feed(loads.requests_of(load, POOL)), Mapping()
    costs: list[tuple[float, float, float]] = []
    for _ in range(rounds + 1):  # the first round is a warm-up
        envelopes = feed.take(spans)
        count = sum(envelope.header.items for envelope in envelopes)
        parse, _ = _cpu_us(lambda: [ExportTraceServiceRequest.FromString(one.body) for one in envelopes])  # noqa: B023
        mapped, batch = _cpu_us(lambda: worker.map(envelopes))  # noqa: B023
        encoded, _ = _cpu_us(lambda: worker.encode(batch))  # noqa: B023
        costs.append((parse / count, mapped / count, encoded / count))
    parse, mapped, encoded = min(costs[1:], key=lambda one: one[1] + one[2])
    size = sum(len(one.body) for one in envelopes) / count
    return load, round(size), parse, mapped, encoded, mapped + encoded


def _cpu_us(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = work()
    return (time.process_time() - began) * 1e6, result


def main() -> None:
    parser = report.parser(MODULE, __doc__)
    parser.add_argument("--spans", type=int, default=10_000, help="of a batch (default: 10000)")
    parser.add_argument("--rounds", type=int, default=5, help="batches of each load (default: 5)")
    parser.add_argument("--loads", default=",".join(loads.LOADS), help="which, with commas between (default: all)")
    arguments = parser.parse_args()
    memory.keep_freed_pages()
    memory.disable_automatic_gc()
    found = []
    for load in arguments.loads.split(","):
        found.append(measure(load, arguments.spans, arguments.rounds))
        print(*(f"{value:.1f}" if isinstance(value, float) else value for value in found[-1]), flush=True)
    columns = ("load", "bytes a span", "upb parse", "map", "encode", "map and encode")
    text = f"CPU microseconds a span, the cheapest of {arguments.rounds} batches of {arguments.spans:,} spans.\n\n"
    report.publish("mapping", "Mapping alone", text + report.table(columns, found), module=MODULE)


if __name__ == "__main__":
    main()
