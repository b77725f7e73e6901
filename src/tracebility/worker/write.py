"""A batch into the engine: spans, then the rows of their runs, then the meter; all of it may be done again safely.

Nothing here gives up on data that the engine might still take: while it is away or busy, the batch is held and tried
again. Only an envelope whose rows the engine calls wrong is given back, alone, as a `Refusal`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar
from uuid import UUID

import structlog

from tracebility.errors import StoreUnavailable
from tracebility.failpoints import failpoint
from tracebility.stores.clickhouse import BAD_DATA, Engine, EngineRejected
from tracebility.stores.queries import query
from tracebility.stores.redis import Entry
from tracebility.wire.conventions import RuleTable
from tracebility.wire.envelope import Envelope
from tracebility.wire.pricing import PriceTable
from tracebility.worker import rows
from tracebility.worker.batch import Batch
from tracebility.worker.columns import Block, meter_block, span_block
from tracebility.worker.metrics import WorkerMetrics
from tracebility.worker.outcomes import Outcome, known_before, outcome_block
from tracebility.worker.plain_columns import map_waiting

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
# An id is about 45 bytes of a request, and servers take 1 MiB of what is no data.
TRACES_A_STATEMENT = 5_000
# A recompute that fails so often while the engine answers other things is tried in halves, down to the run at fault.
RECOMPUTE_TRIES = 4
# What an engine says of a statement may quote all of its parameters.
REASON_CHARS = 500

# No recompute asks for what an earlier one asked for: to remember the answers costs a microsecond a span.
_RECOMPUTE_SETTINGS = {"use_query_condition_cache": "0"}

T = TypeVar("T")
log = structlog.get_logger()


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


@dataclass(frozen=True, slots=True)
class Sealed:
    """A batch as it goes to the engine."""

    spans: Block | None
    meter: Block
    traces: list[str]
    orgs: list[str]


class Stopped(Exception):
    """The worker is to end while a store is away; what it holds stays pending in the queue."""


class Writer:
    """Writes batches in order; while the runs of one are computed, the spans of the next are inserted."""

    def __init__(self, engine: Engine, metrics: WorkerMetrics, stop: asyncio.Event) -> None:
        self._engine = engine
        self._metrics = metrics
        self._stop = stop
        self._spans_turn, self._runs_turn = asyncio.Lock(), asyncio.Lock()
        self._recompute_settings = _RECOMPUTE_SETTINGS if _is_since(engine.version, (25, 3)) else {}
        self._table = RuleTable()
        self._prices = PriceTable()

    def new_work(self) -> Work:
        """An empty batch."""
        return Work(Batch(self._table, self._prices))

    def seal(self, work: Work) -> None:
        """Turn the rows into blocks. They are dropped then: in bad weather the blocks may have to wait for long."""
        batch = work.batch
        if work.sealed is None and len(batch):
            with self._metrics.stage_seconds.labels("map").time():
                map_waiting(batch)
            work.refused += batch.refused
            if len(batch):
                with self._metrics.stage_seconds.labels("encode").time():
                    work.sealed = Sealed(span_block(batch), meter_block(batch), batch.traces(), batch.orgs())
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
                await self._insert("spans", sealed.spans)
            failpoint("worker_after_span_insert")
            sealed = replace(sealed, spans=None)  # the largest of what is held, not needed again
            async with self._runs_turn:
                with self._metrics.stage_seconds.labels("runs").time():
                    for start in range(0, len(sealed.traces), TRACES_A_STATEMENT):
                        await self._recompute(sealed.traces[start : start + TRACES_A_STATEMENT], sealed.orgs)
                failpoint("worker_after_run_insert")
                await self._insert("meter", sealed.meter)
        except EngineRejected as error:
            refused = {refusal.held.entry.id for refusal in refusals}
            held = [one for one in work.held if one.entry.id not in refused]
            return refusals + await self._write_halves(held, f"ClickHouse refused its rows: {_brief(error)}")
        failpoint("worker_after_meter_insert_before_ack")
        return refusals

    async def known(self, outcomes: Sequence[Outcome]) -> set[UUID]:
        """As `known_before`.

        Raises:
            Stopped: as `write`.
        """
        return await self._until_answered(lambda: known_before(self._engine, outcomes))

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
            await self._until_answered(lambda: self._put(block))

    async def _write_halves(self, held: Sequence[Held], reason: str) -> list[Refusal]:
        if len(held) == 1:
            return [Refusal(held[0], reason)]
        middle = len(held) // 2
        refusals: list[Refusal] = []
        for half in (held[:middle], held[middle:]):
            work = self.new_work()
            for one in half:
                rows.add(work.batch, one.envelope)
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
            await self._until_answered(lambda: self._put(block), given_up=BAD_DATA)

    async def _put(self, block: Block) -> None:
        await self._engine.insert_native(block.table, block.names, block.rows, block.data)

    async def _recompute(self, traces: Sequence[str], orgs: Sequence[str]) -> None:
        tries = 0
        while True:
            version = (await self._until_answered(lambda: self._engine.query(query("engine_clock")))).rows[0][0]
            try:
                await self._engine.execute(
                    query("recompute_runs"),
                    {"traces": list(traces), "orgs": list(orgs), "version": version},
                    self._recompute_settings,
                )
                return
            except StoreUnavailable as error:
                tries += 1
                reason: Exception = error
                in_halves = tries >= RECOMPUTE_TRIES and await self._answers()
            except EngineRejected as error:
                # Of anything but the data, such as a table that a migration is swapping, the next try may know nothing.
                tries += 1
                reason = error
                in_halves = error.code in BAD_DATA
            if in_halves:
                await self._recompute_halves(traces, orgs, reason)
                return
            await self._wait(tries, reason)

    async def _recompute_halves(self, traces: Sequence[str], orgs: Sequence[str], error: Exception) -> None:
        """Spare the others when one run cannot be computed: the spans are stored, and its next span tries again."""
        if len(traces) == 1:
            self._metrics.stale_runs.inc()
            log.error("run not computed", trace_id=traces[0], reason=_brief(error))
            return
        middle = len(traces) // 2
        await self._recompute(traces[:middle], orgs)
        await self._recompute(traces[middle:], orgs)

    async def _answers(self) -> bool:
        try:
            await self._engine.ping()
        except (StoreUnavailable, EngineRejected):
            return False
        return True

    async def _until_answered(self, call: Callable[[], Awaitable[T]], given_up: Collection[int] = ()) -> T:
        """What ``call`` answers, however long that takes; only a rejection by a code of ``given_up`` ends it.

        An engine that cannot start a thread or open a file rejects whatever it is asked, by codes that nobody can list.
        """
        tries = 0
        while True:
            try:
                return await call()
            except (StoreUnavailable, EngineRejected) as error:
                if isinstance(error, EngineRejected) and error.code in given_up:
                    raise
                tries += 1
                await self._wait(tries, error)

    async def _wait(self, tries: int, error: Exception) -> None:
        self._metrics.waits.labels("clickhouse").inc()
        if tries == 1 or tries % 20 == 0:
            log.warning("engine does not take the batch; holding it", tries=tries, reason=_brief(error))
        await pause(self._stop, min(FIRST_WAIT_S * 2 ** min(tries - 1, 10), LONGEST_WAIT_S))
        if self._stop.is_set():
            raise Stopped


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for ``seconds``, or until ``stop`` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


def _refusals(work: Work) -> list[Refusal]:
    """The entries whose envelopes could not be read when they were mapped."""
    why = dict(work.refused)
    return [
        Refusal(one, f"cannot be read: {type(error).__name__}: {error}")
        for one in work.held
        if (error := why.get(one.envelope.header.id)) is not None
    ]


def _is_since(version: str, release: tuple[int, int]) -> bool:
    parts = version.split(".")
    return len(parts) > 1 and tuple(int(part) for part in parts[:2] if part.isdigit()) >= release


def _brief(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= REASON_CHARS else f"{text[:REASON_CHARS]} ... ({len(text)} characters)"
