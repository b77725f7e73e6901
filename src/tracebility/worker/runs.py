"""Recomputes the rows of runs from all of their spans, after every batch that touches them.

Large runs must not delay others: when a statement is slow or fails, its large runs are identified. From then on they
are computed alone, one at a time and less often, in a background task.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence

import structlog

from tracebility.errors import StoreUnavailable
from tracebility.retry import pause
from tracebility.stores.clickhouse import BAD_DATA, LONGEST_TIMEOUT_S, Engine, EngineRejected
from tracebility.stores.queries import query
from tracebility.worker.engine_retry import EngineRetry, Stopped, brief
from tracebility.worker.large_runs import LEAST_SPANS, MAX_LARGE_RUNS, LargeRun, LargeRuns, RunKey, too_large
from tracebility.worker.metrics import WorkerMetrics

# An id takes about 45 bytes of the request, and servers limit parameters to 1 MiB.
TRACES_PER_STATEMENT = 5_000
# A recompute that failed this often, while an empty one succeeds, is split in halves to find the run that causes it.
RECOMPUTE_TRIES = 4
# A full batch of small runs takes 0.25 s. A statement slower than SLOW_S is searched for large runs, and one slower
# than LONGEST_TOGETHER_S is cancelled first. The search costs a fifth of a recompute, so it runs only then, and before
# each statement for LOOK_FIRST_S after large runs were found.
SLOW_S = 1.0
LONGEST_TOGETHER_S = 3
LOOK_FIRST_S = 60.0
NAP_S = 0.5

# Recomputes never repeat a query condition, so the cache would only cost a microsecond per span.
_SETTINGS = {"use_query_condition_cache": "0"}
# One thread leaves the other cores to other work. Spans are stored in the order of computation, so small blocks
# suffice: 100,000 spans with a message of 16 KB each take 200 MB instead of more than 800, in the same time. The time
# limit is below the client's timeout.
_ALONE = {"max_threads": "1", "max_block_size": "1024", "max_execution_time": str(LONGEST_TIMEOUT_S - 5)}

log = structlog.get_logger()


class Runs:
    """Recomputes runs; large runs in a background task."""

    def __init__(self, engine: Engine, metrics: WorkerMetrics, retry: EngineRetry) -> None:
        self._engine = engine
        self._metrics = metrics
        self._retry = retry
        self._settings = _SETTINGS if _is_since(engine.version, (25, 3)) else {}
        self._large = LargeRuns()
        self._alone: asyncio.Task[None] | None = None
        self._look_first_until = self._unbounded_until = 0.0

    async def recompute(self, traces: Sequence[str], orgs: Sequence[str]) -> None:
        """Recompute the runs of ``traces`` in ``orgs``; large ones are only scheduled.

        Raises:
            Stopped: when the worker stops before the engine has answered.
        """
        for start in range(0, len(traces), TRACES_PER_STATEMENT):
            await self._recompute(traces[start : start + TRACES_PER_STATEMENT], orgs)

    async def finish(self) -> None:
        """Recompute all outdated large runs now, because the worker stops."""
        if self._alone is not None:
            await self._alone

    def close(self) -> None:
        """Stop, and log the runs whose rows stay outdated until their next span."""
        if self._alone is not None:
            self._alone.cancel()
        if behind := self._large.behind():
            self._metrics.stale_runs.inc(len(behind))
            log.warning("large runs stay outdated until their next span", runs=[run.key for run in behind[:20]])

    async def _recompute(self, traces: Sequence[str], orgs: Sequence[str], tries: int = 0) -> None:
        touched: set[RunKey] = set()
        while True:
            if time.monotonic() < self._look_first_until:
                await self._find_large(traces, orgs)
            apart = self._large.among(traces, orgs)
            self._touch(apart - touched)
            touched |= apart
            if len(apart) == len(traces) * len(orgs):
                return
            version = await self._clock()
            began = time.monotonic()
            is_bounded = tries == 0 and began >= self._unbounded_until
            bounds = {"max_execution_time": str(LONGEST_TOGETHER_S)} if is_bounded else {}
            try:
                await self._compute(traces, orgs, apart, version, bounds)
            except (StoreUnavailable, EngineRejected) as error:
                if await self._find_large(traces, orgs):
                    continue
                if is_bounded:  # on a slow machine, do not start statements only to cancel them
                    self._unbounded_until = time.monotonic() + LOOK_FIRST_S
                tries += 1
                is_bad = isinstance(error, EngineRejected) and error.code in BAD_DATA
                if is_bad or (tries >= RECOMPUTE_TRIES and await self._can_compute()):
                    await self._recompute_halves(traces, orgs)
                    return
                await self._retry.wait(tries, error)
            else:
                took_s = time.monotonic() - began
                if took_s > SLOW_S:
                    await self._find_large(traces, orgs, took_s)
                return

    async def _recompute_halves(self, traces: Sequence[str], orgs: Sequence[str]) -> None:
        """Recompute each half separately, so that one failing run does not stop the others. Splits failing halves
        again.
        """
        if len(traces) == 1:
            sizes = await self._retry.until_answered(lambda: self._sizes(traces, orgs, 1))
            for key, _ in sizes:
                self._set_aside(key)
            self._touch(self._large.among(traces, orgs))
            return
        middle = len(traces) // 2
        for half in (traces[:middle], traces[middle:]):
            await self._recompute(half, orgs, RECOMPUTE_TRIES - 1)

    async def _find_large(self, traces: Sequence[str], orgs: Sequence[str], took_s: float | None = None) -> bool:
        """Find new large runs among ``traces``; True if there are any. ``took_s``: duration of their recompute, if it
        succeeded.
        """
        try:
            sizes = await self._sizes(traces, orgs, LEAST_SPANS)
        except (StoreUnavailable, EngineRejected):
            return False
        now = time.monotonic()
        found = too_large(one for one in sizes if one[0] not in self._large)
        for key in found:
            self._set_aside(key) if took_s is None else self._set_aside(key, now, took_s)
        if found:
            self._look_first_until = now + LOOK_FIRST_S
            log.info("large runs are recomputed alone from now on", runs=found[:20])
        return bool(found)

    def _set_aside(self, key: RunKey, ended_at: float | None = None, took_s: float = 0.0) -> None:
        forgotten = self._large.add(key, ended_at, took_s)
        if forgotten is not None and forgotten.touched_at is not None:
            self._not_computed(forgotten, f"more than {MAX_LARGE_RUNS} runs are large")

    async def _sizes(self, traces: Sequence[str], orgs: Sequence[str], least: int) -> list[tuple[RunKey, int]]:
        found = await self._engine.query(
            query("run_sizes"), {"traces": list(traces), "orgs": list(orgs), "least": least}, self._settings
        )
        return [(RunKey(str(org), trace), spans) for org, trace, spans in found.rows]

    def _touch(self, keys: Collection[RunKey]) -> None:
        """Have these computed alone; new spans of them are stored."""
        self._large.touch(keys, time.monotonic())
        self._count_behind()
        if keys and (self._alone is None or self._alone.done()):
            if self._alone is not None:
                self._alone.result()  # nobody else would hear of what ended it
            self._alone = asyncio.create_task(self._compute_large())

    async def _compute_large(self) -> None:
        """One large run after the other, until none is behind; as much rest as work, for who shares the engine."""
        stop = self._retry.stop
        while (run := self._large.next(time.monotonic())) is not None:
            wait_s = run.due_at() - time.monotonic()
            if wait_s > 0 and not stop.is_set():
                await pause(stop, min(wait_s, NAP_S))
                continue
            try:
                took_s = await self._compute_one(run)
            except Stopped:
                return
            self._count_behind()
            if run.failures and stop.is_set():
                return
            await pause(stop, took_s)

    async def _compute_one(self, run: LargeRun) -> float:
        """Recompute a run alone, and return the seconds that it took."""
        version = await self._clock()
        seen = run.touched_at  # spans that arrive from here on may be missing in the result
        began = time.monotonic()
        try:
            await self._compute([run.key.trace], [run.key.org], [], version, _ALONE, LONGEST_TIMEOUT_S)
        except (StoreUnavailable, EngineRejected) as error:
            took_s = time.monotonic() - began
            if await self._can_compute():
                self._large.failed(run, time.monotonic(), took_s)
                self._not_computed(run, brief(error))
            else:  # the engine fails for all statements
                await self._retry.wait(RECOMPUTE_TRIES, error)
        else:
            took_s = time.monotonic() - began
            self._large.computed(run, seen, time.monotonic(), took_s)
        return took_s

    def _not_computed(self, run: LargeRun, reason: str) -> None:
        self._metrics.stale_runs.inc()
        log.error("a run could not be recomputed", org_id=run.key.org, trace_id=run.key.trace, reason=reason)

    async def _clock(self) -> int:
        return int((await self._retry.until_answered(lambda: self._engine.query(query("engine_clock")))).rows[0][0])

    async def _compute(
        self,
        traces: Sequence[str],
        orgs: Sequence[str],
        apart: Collection[RunKey],
        version: int,
        settings: Mapping[str, str],
        timeout_s: float | None = None,
    ) -> None:
        await self._engine.execute(
            query("recompute_runs"),
            {"traces": list(traces), "orgs": list(orgs), "apart": [tuple(key) for key in apart], "version": version},
            {**self._settings, **settings},
            timeout_s=timeout_s,
        )

    async def _can_compute(self) -> bool:
        """Whether the engine can run the statement at all, tried without traces."""
        try:
            await self._compute([], [], [], 0, {})
        except (StoreUnavailable, EngineRejected):
            return False
        return True

    def _count_behind(self) -> None:
        self._metrics.runs_behind.set(len(self._large.behind()))


def _is_since(version: str, release: tuple[int, int]) -> bool:
    parts = version.split(".")
    return len(parts) > 1 and tuple(int(part) for part in parts[:2] if part.isdigit()) >= release
