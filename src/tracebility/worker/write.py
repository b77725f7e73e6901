"""Writes a batch to the engine: spans, then the rows of their runs, then the meter. Every step may be repeated safely.

While the engine is unavailable or overloaded, the batch is held and retried. When the engine rejects rows as bad data,
the envelope that they came from is isolated and returned as a `Refusal`.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from tracebility.failpoints import failpoint
from tracebility.stores.clickhouse import BAD_DATA, Engine, EngineRejected
from tracebility.stores.queue.entries import Entry
from tracebility.wire.conventions import RuleTable
from tracebility.wire.envelope import Envelope
from tracebility.wire.pricing import PriceTable
from tracebility.worker import mapping
from tracebility.worker.attribute_names import AttributeNames
from tracebility.worker.batch import Batch
from tracebility.worker.batch_bounds import BatchBounds
from tracebility.worker.columns import Block, meter_block, span_block
from tracebility.worker.engine_retry import EngineRetry, brief
from tracebility.worker.mapping import map_pending
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.outcomes import Outcome, envelopes_with_outcome, outcome_block
from tracebility.worker.runs import Runs


@dataclass(frozen=True, slots=True)
class Held:
    """An entry that this worker has claimed and not yet acknowledged."""

    stream: str
    entry: Entry
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Refusal:
    """An entry that cannot be stored, however often it is retried."""

    held: Held
    reason: str


@dataclass(slots=True)
class Work:
    """An open batch and its entries."""

    batch: Batch
    held: list[Held] = field(default_factory=list)
    dropped: list[Outcome] = field(default_factory=list)  # entries that are not to be stored
    opened_at: float = field(default_factory=time.monotonic)
    refused: list[tuple[UUID, Exception]] = field(default_factory=list)  # envelopes that cannot be read
    sealed: "Sealed | None" = None
    mapping_s: float = 0.0  # time spent on mapping its rows


@dataclass(frozen=True, slots=True, eq=False)
class Sealed:
    """An encoded batch. ``spans`` is None once they are stored."""

    spans: Block | None
    rows: int
    meter: Block
    traces: list[str]
    orgs: list[str]


class Writer:
    """Writes batches. One batch inserts its spans while the runs of others are recomputed."""

    def __init__(self, engine: Engine, metrics: WorkerMetrics, stop: asyncio.Event) -> None:
        self._engine = engine
        self._metrics = metrics
        self._retry = EngineRetry(metrics, stop)
        self._runs = Runs(engine, metrics, self._retry)
        self._spans_turn, self._runs_turn = asyncio.Lock(), asyncio.Lock()
        self._names = AttributeNames(RuleTable())
        self._prices = PriceTable()
        self._bounds = BatchBounds()
        self._stored: list[Sealed] = []  # batches with stored spans that still wait for runs and meter

    def is_full(self, work: Work) -> bool:
        """Whether ``work`` must be written before more is added."""
        return self._bounds.is_full(len(work.batch), work.batch.bytes, work.mapping_s)

    def new_work(self) -> Work:
        """An empty batch."""
        return Work(Batch(self._names, self._prices))

    def seal(self, work: Work) -> None:
        """Encode the rows and release them, because the encoded blocks may wait for long during an outage."""
        batch = work.batch
        if work.sealed is None and (len(batch) or batch.refused):
            with self._metrics.stage_seconds.labels("map").time():
                map_pending(batch)
            work.refused += batch.refused
            if len(batch):
                with self._metrics.stage_seconds.labels("encode").time():
                    spans = span_block(batch)
                    work.sealed = Sealed(spans, spans.rows, meter_block(batch), batch.traces(), batch.orgs())
            work.batch = self.new_work().batch

    async def write(self, work: Work) -> list[Refusal]:
        """Write ``work`` and return the entries that could not be stored.

        Raises:
            Stopped: when the worker stops before the engine has confirmed. No entry may be acknowledged then.
        """
        self.seal(work)
        sealed = work.sealed
        refusals = _refusals(work)
        if sealed is None:
            return refusals
        work.sealed = None
        try:
            async with self._spans_turn:
                began = time.monotonic()
                await self._insert("spans", sealed.spans)
                self._bounds.inserted(sealed.rows, time.monotonic() - began)
            failpoint("worker_after_span_insert")
            # Release the spans: they take most of the memory and are not needed again.
            await self._write_runs(replace(sealed, spans=None))
        except EngineRejected as error:
            refused = {refusal.held.entry.id for refusal in refusals}
            held = [one for one in work.held if one.entry.id not in refused]
            return refusals + await self._write_halves(held, f"ClickHouse refused its rows: {brief(error)}")
        failpoint("worker_after_meter_insert_before_ack")
        return refusals

    async def known(self, outcomes: Sequence[Outcome]) -> set[UUID]:
        """As `envelopes_with_outcome`.

        Raises:
            Stopped: as `write`.
        """
        return await self._retry.until_answered(lambda: envelopes_with_outcome(self._engine, outcomes))

    async def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes of envelopes.

        Raises:
            Stopped: as `write`.
        """
        if not outcomes:
            return
        block = outcome_block(outcomes)
        with self._metrics.stage_seconds.labels("outcomes").time():
            # No client data is in an outcome, so a rejection by the engine is no reason to give up: retry until stored.
            await self._retry.until_answered(lambda: self._put(block))

    async def finish(self) -> None:
        """Recompute the large runs that were postponed. Call this once all batches are written and the worker stops."""
        await self._runs.finish()

    def close(self) -> None:
        """Cancel postponed recomputes. A run that was not recomputed is recomputed with its next span."""
        self._runs.close()

    async def _write_runs(self, sealed: Sealed) -> None:
        """Recompute the runs of a batch whose spans are stored, and write its meter, together with all waiting batches.

        A recompute costs the engine 140 ms of CPU, whatever the number of runs.

        Raises:
            EngineRejected, Stopped: as `_insert`, for this batch only.
        """
        self._stored.append(sealed)
        try:
            async with self._runs_turn:
                if any(one is sealed for one in self._stored):  # else it was written together with another batch
                    await self._write_stored(sealed)
        finally:
            self._stored = [one for one in self._stored if one is not sealed]

    async def _write_stored(self, sealed: Sealed) -> None:
        together = list(self._stored)
        try:
            await self._write_together(together)
        except EngineRejected:
            if len(together) == 1:
                raise
            together = [sealed]
            await self._write_together(together)
        self._stored = [one for one in self._stored if not any(one is written for written in together)]

    async def _write_together(self, group: Sequence[Sealed]) -> None:
        traces = sorted({trace for one in group for trace in one.traces})
        orgs = sorted({org for one in group for org in one.orgs})
        with self._metrics.stage_seconds.labels("runs").time():
            await self._runs.recompute(traces, orgs)
        failpoint("worker_after_run_insert")
        first = group[0].meter
        rows, data = sum(one.meter.rows for one in group), b"".join(one.meter.data for one in group)
        await self._insert("meter", first._replace(rows=rows, data=data))

    async def _write_halves(self, held: Sequence[Held], reason: str) -> list[Refusal]:
        """Map and write each half of the entries again, to isolate those that the engine rejects."""
        if len(held) == 1:
            return [Refusal(held[0], reason)]
        middle = len(held) // 2
        refusals: list[Refusal] = []
        for half in (held[:middle], held[middle:]):
            work = self.new_work()
            for one in half:
                mapping.add(work.batch, one.envelope)
                work.held.append(one)
            refusals += await self.write(work)
        return refusals

    async def _insert(self, stage: str, block: Block | None) -> None:
        """Insert rows that hold client data.

        Raises:
            EngineRejected: when the engine rejects the rows with a code of `BAD_DATA`.
        """
        if block is None:
            return
        with self._metrics.stage_seconds.labels(stage).time():
            await self._retry.until_answered(lambda: self._put(block), given_up=BAD_DATA)

    async def _put(self, block: Block) -> None:
        await self._engine.insert_native(block.table, block.names, block.rows, block.data)


def _refusals(work: Work) -> list[Refusal]:
    """Refusals of the entries whose envelopes could not be read during mapping."""
    why = dict(work.refused)
    return [
        Refusal(one, f"cannot be read: {type(error).__name__}: {error}")
        for one in work.held
        if (error := why.get(one.envelope.header.id)) is not None
    ]
