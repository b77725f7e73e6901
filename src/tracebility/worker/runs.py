"""The rows of runs, computed from all of their spans after every batch that touches them.

One run's size is nobody else's wait: a statement that takes long, or cannot be done, is looked into, and its large runs
are computed alone from then on, one at a time and not after every batch, while the others go on.
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
from tracebility.worker.large_runs import LEAST_SPANS, MOST_LARGE_RUNS, LargeRun, LargeRuns, RunKey, too_large
from tracebility.worker.metrics import WorkerMetrics

# An id is about 45 bytes of a request, and servers take 1 MiB of what is no data.
TRACES_A_STATEMENT = 5_000
# A recompute that fails so often while the engine does it for no traces is tried in halves, down to the run at fault.
RECOMPUTE_TRIES = 4
# A full batch of small runs takes a quarter of a second. What takes longer than this is looked into, and what takes
# longer than that is ended first. To look costs a fifth of a recompute, so it is not done for nothing: only after this,
# and before each statement for a while once there were large runs, of which more may come.
SLOW_S = 1.0
LONGEST_TOGETHER_S = 3
LOOK_FIRST_S = 60.0
NAP_S = 0.5

# No recompute asks for what an earlier one asked for: to remember the answers costs a microsecond a span.
_SETTINGS = {"use_query_condition_cache": "0"}
# Others have the second core meanwhile. Spans lie in the order that they are computed in, so small blocks are enough:
# 100,000 spans with a message of 16 KB each take 200 MB instead of more than 800, and the same time. What takes longer
# than its answer is waited for is ended.
_ALONE = {"max_threads": "1", "max_block_size": "1024", "max_execution_time": str(LONGEST_TIMEOUT_S - 5)}

log = structlog.get_logger()


class Runs:
    """Computes runs; what is too large for a batch in a task of its own."""

    def __init__(self, engine: Engine, metrics: WorkerMetrics, retry: EngineRetry) -> None:
        self._engine = engine
        self._metrics = metrics
        self._retry = retry
        self._settings = _SETTINGS if _is_since(engine.version, (25, 3)) else {}
        self._large = LargeRuns()
        self._alone: asyncio.Task[None] | None = None
        self._look_first_until = self._unbounded_until = 0.0

    async def recompute(self, traces: Sequence[str], orgs: Sequence[str]) -> None:
        """Compute the runs of ``traces`` in ``orgs``; the large ones among them later.

        Raises:
            Stopped: when the worker is to end before the engine has answered.
        """
        for start in range(0, len(traces), TRACES_A_STATEMENT):
            await self._recompute(traces[start : start + TRACES_A_STATEMENT], orgs)

    async def finish(self) -> None:
        """Compute the large runs that are behind, without waiting for their time: the worker is to end."""
        if self._alone is not None:
            await self._alone

    def close(self) -> None:
        """End, and say whose rows stay behind until their next span."""
        if self._alone is not None:
            self._alone.cancel()
        if behind := self._large.behind():
            self._metrics.stale_runs.inc(len(behind))
            log.warning("large runs not computed; their next spans will", runs=[run.key for run in behind[:20]])

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
                if is_bounded:  # a slow machine is not helped by what is begun and ended
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
        """Spare the others when one run cannot be computed. What fails again is halved at once."""
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
        """Whether there are large runs among ``traces`` that were not known yet. Computed ``took_s`` long, or not."""
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
            log.info("large runs are computed alone from now on", runs=found[:20])
        return bool(found)

    def _set_aside(self, key: RunKey, ended_at: float | None = None, took_s: float = 0.0) -> None:
        forgotten = self._large.add(key, ended_at, took_s)
        if forgotten is not None and forgotten.touched_at is not None:
            self._not_computed(forgotten, f"more than {MOST_LARGE_RUNS} runs are large")

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
        """Compute a run alone; the seconds that it took."""
        version = await self._clock()
        seen = run.touched_at  # what comes from here on may not be seen
        began = time.monotonic()
        try:
            await self._compute([run.key.trace], [run.key.org], [], version, _ALONE, LONGEST_TIMEOUT_S)
        except (StoreUnavailable, EngineRejected) as error:
            took_s = time.monotonic() - began
            if await self._can_compute():
                self._large.failed(run, time.monotonic(), took_s)
                self._not_computed(run, brief(error))
            else:  # the engine's fault, not the run's
                await self._retry.wait(RECOMPUTE_TRIES, error)
        else:
            took_s = time.monotonic() - began
            self._large.computed(run, seen, time.monotonic(), took_s)
        return took_s

    def _not_computed(self, run: LargeRun, reason: str) -> None:
        self._metrics.stale_runs.inc()
        log.error("run not computed", org_id=run.key.org, trace_id=run.key.trace, reason=reason)

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
        """Whether the engine can do what it is asked, but for what it is asked it for."""
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
