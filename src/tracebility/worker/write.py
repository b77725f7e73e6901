"""A batch into the engine: spans, then the rows of their runs, then the meter; all of it may be done again safely.

Nothing here gives up on data that the engine might still take: while it is away or busy, the batch is held and tried
again. Only an envelope whose rows the engine calls wrong is given back, alone, as a `Refusal`.
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
from tracebility.worker.batch import Batch
from tracebility.worker.batch_bounds import BatchBounds
from tracebility.worker.columns import Block, meter_block, span_block
from tracebility.worker.engine_retry import EngineRetry, brief
from tracebility.worker.mapping import map_pending
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.outcomes import Outcome, envelopes_with_outcome, outcome_block
from tracebility.worker.runs import Runs
from tracebility.worker.span_reader import AttributeNames


@dataclass(frozen=True, slots=True)
class Held:
    """An entry in this worker's hands."""

    stream: str
    entry: Entry
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Refusal:
    """An entry that can never be stored as it is."""

    held: Held
    reason: str


@dataclass(slots=True)
class Work:
    """A batch under way and the entries it is made of."""

    batch: Batch
    held: list[Held] = field(default_factory=list)
    dropped: list[Outcome] = field(default_factory=list)  # entries that are not to be stored
    opened_at: float = field(default_factory=time.monotonic)
    refused: list[tuple[UUID, Exception]] = field(default_factory=list)  # envelopes that cannot be read
    sealed: "Sealed | None" = None
    mapping_s: float = 0.0  # that mapping its rows took


@dataclass(frozen=True, slots=True, eq=False)
class Sealed:
    """A batch as it goes to the engine."""

    spans: Block | None
    rows: int
    meter: Block
    traces: list[str]
    orgs: list[str]


class Writer:
    """Writes batches. While the runs of some are computed, the spans of the next are inserted."""

    def __init__(self, engine: Engine, metrics: WorkerMetrics, stop: asyncio.Event) -> None:
        self._engine = engine
        self._metrics = metrics
        self._retry = EngineRetry(metrics, stop)
        self._runs = Runs(engine, metrics, self._retry)
        self._spans_turn, self._runs_turn = asyncio.Lock(), asyncio.Lock()
        self._names = AttributeNames(RuleTable())
        self._prices = PriceTable()
        self._bounds = BatchBounds()
        self._stored: list[Sealed] = []  # batches whose spans are stored, and neither runs nor meter

    def is_full(self, work: Work) -> bool:
        """Whether ``work`` is to be written before anything is added to it."""
        return self._bounds.is_full(len(work.batch), work.batch.bytes, work.mapping_s)

    def new_work(self) -> Work:
        """An empty batch."""
        return Work(Batch(self._names, self._prices))

    def seal(self, work: Work) -> None:
        """Turn the rows into blocks. They are dropped then: in bad weather the blocks may have to wait for long."""
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
        """Write ``work``; the entries of it that the engine will not have.

        Raises:
            Stopped: when the worker is to end before the engine has answered. Nothing may be acknowledged then.
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
            # The spans are the largest of what is held, and not needed again.
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
        """Write what became of envelopes.

        Raises:
            Stopped: as `write`.
        """
        if not outcomes:
            return
        block = outcome_block(outcomes)
        with self._metrics.stage_seconds.labels("outcomes").time():
            # This program made every word of it: nobody's data is wrong when the engine will not have it.
            await self._retry.until_answered(lambda: self._put(block))

    async def finish(self) -> None:
        """Compute the runs that were left for later, when all that there was is written and the worker is to end."""
        await self._runs.finish()

    def close(self) -> None:
        """End what is under way; a run that was not computed is computed with its next span."""
        self._runs.close()

    async def _write_runs(self, sealed: Sealed) -> None:
        """Recompute the runs of a batch whose spans are stored, and meter it; with all others that wait for that too.

        The engine takes 140 ms of CPU for a recompute whatever its number of runs.

        Raises:
            EngineRejected, Stopped: as `_insert`, of this batch alone.
        """
        self._stored.append(sealed)
        try:
            async with self._runs_turn:
                if any(one is sealed for one in self._stored):  # else another batch's turn included it
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
        """Insert rows of envelopes.

        Raises:
            EngineRejected: when the engine calls the rows wrong, for one of `BAD_DATA`.
        """
        if block is None:
            return
        with self._metrics.stage_seconds.labels(stage).time():
            await self._retry.until_answered(lambda: self._put(block), given_up=BAD_DATA)

    async def _put(self, block: Block) -> None:
        await self._engine.insert_native(block.table, block.names, block.rows, block.data)


def _refusals(work: Work) -> list[Refusal]:
    """The entries whose envelopes could not be read when they were mapped."""
    why = dict(work.refused)
    return [
        Refusal(one, f"cannot be read: {type(error).__name__}: {error}")
        for one in work.held
        if (error := why.get(one.envelope.header.id)) is not None
    ]
