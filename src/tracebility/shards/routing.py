"""The shard map as a process has it, and what orgs send, by the books: what is routed by, what plans are made of."""

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

# A map that could not be read is asked for again after this; and once in so long without being told to, for a process
# that Postgres has been away from for longer than it keeps what changed.
UNASKED_S = 300.0

# Of how many hours, the current one included, an org's load is: long enough to pass over a burst.
LOAD_HOURS = 3
# How many orgs are looked at, those first that used the most: behind them nobody makes a shard hot.
MOST_ORGS = 5_000
BOOKS_A_ROUND_TRIP = 1_000

_log = structlog.get_logger()


class ShardQueue(Protocol):
    """What is asked of the queue about shards: the raw one, or what operators' requests have of it."""

    async def depths(self, streams: Sequence[str]) -> dict[str, Depth]:
        """How full each stream is."""

    async def envelopes_in_flight(self, books: Sequence[tuple[str, UUID]]) -> list[int]:
        """How many envelopes of an org are in a stream, for each of ``books``."""

    async def accepted_in(self, books: Sequence[tuple[str, UUID]], hours: Iterable[int]) -> list[int]:
        """Items that were accepted into a stream from an org in ``hours``, for each of ``books``."""


class MapKeeper:
    """Keeps one router's copy of the map."""

    def __init__(self, postgres: Postgres, router: ShardRouter) -> None:
        self._postgres = postgres
        self._router = router
        self._heard = 0
        self._changed = asyncio.Event()

    def changed(self, change: Change) -> None:
        """Hear of a change, of whatever kind and however often."""
        if change.kind == CHANGE and change.rev > self._heard:
            self._heard = change.rev
            self._changed.set()

    async def learn(self) -> None:
        """Read what is newer than the copy.

        Raises:
            StoreUnavailable: when the control plane does not answer.
        """
        self._router.learn(await placements(self._postgres, self._router.epoch))

    async def run(self) -> None:
        """Keep it for ever. Cancel it to end. With the control plane away, the router goes on with what it has."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(UNASKED_S):
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self.learn()
            except Exception as error:  # noqa: BLE001  (whatever it is, the next try may know nothing of it)
                _log.warning(
                    "the shard map cannot be read; going on with the one of before",
                    reason=str(error) or type(error).__name__,
                )
                self._changed.set()
                await asyncio.sleep(STORE_RETRY_S)


@asynccontextmanager
async def routing(postgres: Postgres) -> AsyncIterator[tuple[ShardRouter, MapKeeper]]:
    """A router that knows the map, and what must be told of changes for it to go on so until the end of the block.

    Raises:
        StoreUnavailable: when the control plane does not answer.
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
    """What stands in the map of what changed after an epoch."""
    return [placement(row) for row in await control.fetch("shard_map_since", after_epoch)]


def placement(row: Row) -> Placement:
    """A row of the map."""
    return Placement(row["epoch"], OrgId(row["org_id"]), tuple(row["shards"]), row["state"])


async def org_loads(control: Statements, queue: ShardQueue, now: datetime) -> dict[OrgId, int]:
    """Items that each org sent in the last hours, by the books; only orgs that sent something.

    Looks at `MOST_ORGS` at most, and of each only where the map ever had it: a few thousand small reads.

    Raises:
        StoreUnavailable: when a store is away.
    """
    orgs = [row["id"] for row in await control.fetch("orgs_by_usage", SPANS, _periods(now), MOST_ORGS)]
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
    for start in range(0, len(books), BOOKS_A_ROUND_TRIP):
        some = books[start : start + BOOKS_A_ROUND_TRIP]
        for (_, org_id), items in zip(some, await queue.accepted_in(some, hours), strict=True):
            if items:
                loads[OrgId(org_id)] = loads.get(OrgId(org_id), 0) + items
    return loads


def _periods(now: datetime) -> list[str]:
    """The month of ``now`` and the one before: on the first of a month, usage of the new one tells little."""
    at = now.astimezone(UTC)
    before = at.replace(year=at.year - 1, month=12, day=1) if at.month == 1 else at.replace(month=at.month - 1, day=1)
    return [f"{at:%Y-%m}", f"{before:%Y-%m}"]
