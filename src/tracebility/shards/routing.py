"""Keeps a process's copy of the shard map current, and measures the load of orgs from the ledger."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

import structlog

from tracebility.ids import OrgId
from tracebility.retry import STORE_RETRY_S
from tracebility.stores.postgres import Postgres, Row, Statements
from tracebility.stores.queue.entries import Depth
from tracebility.tenant.quota import SPANS
from tracebility.tenant.resolver import Change
from tracebility.tenant.shard_router import Placement, ShardRouter, overflow_of, shard_of, stream_of

CHANGE = "shard_map"

# The map is reloaded this often without a notification, because a process may have been cut off from PostgreSQL for
# longer than changes are kept.
RELOAD_S = 300.0

# An org's load is measured over this many hours, including the current one, to smooth bursts.
LOAD_HOURS = 3
# Only the orgs with the most usage are measured; the others do not affect the balance.
MAX_ORGS = 5_000
COUNTERS_PER_ROUND_TRIP = 1_000

_log = structlog.get_logger()


class ShardQueue(Protocol):
    """The part of the queue that shard operations need: the raw queue, or the scoped access of operators' requests."""

    async def depths(self, streams: Sequence[str]) -> dict[str, Depth]:
        """Return the depth of each stream."""

    async def envelopes_in_flight(self, books: Sequence[tuple[str, UUID]]) -> list[int]:
        """Return for each (stream, org) the number of envelopes in flight."""

    async def accepted_in(self, books: Sequence[tuple[str, UUID]], hours: Iterable[int]) -> list[int]:
        """Return for each (stream, org) the items accepted in ``hours`` (since 1970)."""


class MapKeeper:
    """Keeps one router's copy of the map current."""

    def __init__(self, postgres: Postgres, router: ShardRouter) -> None:
        self._postgres = postgres
        self._router = router
        self._heard = 0
        self._changed = asyncio.Event()

    def changed(self, change: Change) -> None:
        """Take note of a change; changes of other kinds and repeated ones are ignored."""
        if change.kind == CHANGE and change.rev > self._heard:
            self._heard = change.rev
            self._changed.set()

    async def learn(self) -> None:
        """Load changes that are newer than the copy.

        Raises:
            StoreUnavailable: when PostgreSQL does not answer.
        """
        self._router.learn(await placements(self._postgres, self._router.epoch))

    async def run(self) -> None:
        """Keep the copy current until cancelled. Without PostgreSQL, the router continues with the copy it has."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RELOAD_S):
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self.learn()
            except Exception as error:  # noqa: BLE001  (the next attempt may succeed)
                _log.warning(
                    "the shard map cannot be loaded; continuing with the previous one",
                    reason=str(error) or type(error).__name__,
                )
                self._changed.set()
                await asyncio.sleep(STORE_RETRY_S)


@asynccontextmanager
async def routing(postgres: Postgres) -> AsyncIterator[tuple[ShardRouter, MapKeeper]]:
    """Provide a router with the current map, and the keeper that must receive changes while the block runs.

    Raises:
        StoreUnavailable: when PostgreSQL does not answer.
    """
    router = ShardRouter()
    keeper = MapKeeper(postgres, router)
    await keeper.learn()
    keeping = asyncio.create_task(keeper.run())
    try:
        yield router, keeper
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


async def placements(control: Statements, after_epoch: int = 0) -> list[Placement]:
    """Return the current placements that changed after an epoch."""
    return [placement(row) for row in await control.fetch("shard_map_since", after_epoch)]


def placement(row: Row) -> Placement:
    """Convert a row of the shard map."""
    return Placement(row["epoch"], OrgId(row["org_id"]), tuple(row["shards"]), row["state"])


async def org_loads(control: Statements, queue: ShardQueue, now: datetime) -> dict[OrgId, int]:
    """Return the items that each org sent in the last `LOAD_HOURS`, from the ledger, without orgs that sent nothing.

    Reads at most `MAX_ORGS` orgs, each on all shards it was ever on: a few thousand small reads.

    Raises:
        StoreUnavailable: when a store is unavailable.
    """
    orgs = [row["id"] for row in await control.fetch("orgs_by_usage", SPANS, _periods(now), MAX_ORGS)]
    ever: Mapping[UUID, Sequence[int]] = {
        row["org_id"]: row["shards"] for row in await control.fetch("shards_ever_of_orgs")
    }
    books = [
        (stream, org_id)
        for org_id in orgs
        for shard in sorted({shard_of(OrgId(org_id)), *ever.get(org_id, ())})
        for stream in (stream_of(shard), overflow_of(shard))
    ]
    this_hour = int(now.timestamp()) // 3600
    hours = range(this_hour - LOAD_HOURS + 1, this_hour + 1)
    loads: dict[OrgId, int] = {}
    for start in range(0, len(books), COUNTERS_PER_ROUND_TRIP):
        some = books[start : start + COUNTERS_PER_ROUND_TRIP]
        for (_, org_id), items in zip(some, await queue.accepted_in(some, hours), strict=True):
            if items:
                loads[OrgId(org_id)] = loads.get(OrgId(org_id), 0) + items
    return loads


def _periods(now: datetime) -> list[str]:
    """Return the month of ``now`` and the previous one, because early in a month the new one has little usage."""
    at = now.astimezone(UTC)
    before = at.replace(year=at.year - 1, month=12, day=1) if at.month == 1 else at.replace(month=at.month - 1, day=1)
    return [f"{at:%Y-%m}", f"{before:%Y-%m}"]
