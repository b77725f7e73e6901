"""Reads the ledger of an org from Redis and ClickHouse, and checks that it balances."""

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol
from uuid import UUID

import msgspec

from tracebility.ids import OrgId
from tracebility.stores.clickhouse import Engine
from tracebility.stores.queries import query
from tracebility.stores.queue import Queue
from tracebility.tenant.ledger import DEAD, DROPPED, STORED
from tracebility.tenant.shard_router import ALL_STREAMS

# In-flight envelopes per outcome query; an id takes 36 characters of the request.
IDS_PER_QUERY = 5_000


class Dropped(msgspec.Struct, frozen=True):
    """Accepted items that were dropped for one reason."""

    reason: str
    count: int


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger in items, each envelope counted once. ``distinct``: different items stored, which are billed."""

    accepted: int
    stored: int
    dropped: list[Dropped]
    dead: int
    in_flight: int
    distinct: int
    balanced: bool


class OrgRows(Protocol):
    """Runs named ClickHouse queries for one org."""

    async def rows(self, name: Any, **parameters: object) -> list[dict[str, Any]]:
        """Return the rows of a named query."""


class RawRows:
    """Queries for one org with the raw client, for commands and the operator."""

    def __init__(self, engine: Engine, org_id: OrgId) -> None:
        self._engine = engine
        self._org_id = org_id

    async def rows(self, name: str, **parameters: object) -> list[dict[str, Any]]:
        """Return the rows of a named query."""
        return (await self._engine.query(query(name), {**parameters, "org": str(self._org_id)})).dicts()


class OrgQueue:
    """The Redis part of one org's ledger."""

    def __init__(self, queue: Queue, org_id: OrgId) -> None:
        self._queue = queue
        self._org_id = org_id

    async def accepted(self) -> int:
        """Return all items ever accepted."""
        return await self._queue.accepted(ALL_STREAMS, self._org_id)

    async def in_flight(self) -> dict[UUID, int]:
        """Return the envelopes in streams, with the number of items of each."""
        return await self._queue.in_flight(ALL_STREAMS, self._org_id)


async def ledger(queue: OrgQueue, data_plane: OrgRows) -> Ledger:
    """Read the ledger of the org that ``queue`` and ``data_plane`` are scoped to.

    Envelopes move while the ledger is read. An envelope that was in flight and has an outcome by now counts by its
    outcome. So the sum must lie between the accepted items before and after the reading; otherwise the ledger is wrong.

    Raises:
        StoreUnavailable: when a store is unavailable.
    """
    accepted_before = await queue.accepted()
    in_flight = await queue.in_flight()
    outcomes = await data_plane.rows("outcomes_of_org")
    have_outcome = await _with_outcome(data_plane, in_flight)
    still = sum(items for envelope_id, items in in_flight.items() if envelope_id not in have_outcome)
    accepted = await queue.accepted()
    [distinct] = await data_plane.rows("distinct_of_org")
    by_outcome = {name: [row for row in outcomes if row["outcome"] == name] for name in (STORED, DROPPED, DEAD)}
    total = still + sum(int(row["items"]) for row in outcomes)
    return Ledger(
        accepted=accepted,
        stored=_items(by_outcome[STORED]),
        dropped=[Dropped(row["reason"], int(row["items"])) for row in by_outcome[DROPPED]],
        dead=_items(by_outcome[DEAD]),
        in_flight=still,
        distinct=int(distinct["items"]),
        balanced=accepted_before <= total <= accepted,
    )


async def _with_outcome(data_plane: OrgRows, in_flight: dict[UUID, int]) -> set[UUID]:
    ids = sorted(map(str, in_flight))
    batches = [ids[start : start + IDS_PER_QUERY] for start in range(0, len(ids), IDS_PER_QUERY)]
    answers = await asyncio.gather(*(data_plane.rows("outcomes_among", ids=some) for some in batches))
    return {UUID(str(row["envelope_id"])) for rows in answers for row in rows}


def _items(rows: Iterable[dict[str, Any]]) -> int:
    return sum(int(row["items"]) for row in rows)
