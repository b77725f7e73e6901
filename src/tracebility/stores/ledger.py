"""The books of an org, read from the queue's server and the data plane, and whether they balance."""

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

# In flight envelopes that are asked for at once: an id is 36 characters of a request.
IDS_A_QUESTION = 5_000


class Dropped(msgspec.Struct, frozen=True):
    """Items that were dropped after they had been accepted, and why."""

    reason: str
    count: int


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """Items, each envelope once. ``distinct``: how many different ones were stored, which is what is billed."""

    accepted: int
    stored: int
    dropped: list[Dropped]
    dead: int
    in_flight: int
    distinct: int
    balanced: bool


class OrgRows(Protocol):
    """The data plane, seen through one org."""

    async def rows(self, name: Any, **parameters: object) -> list[dict[str, Any]]:
        """The rows of a named query."""


class RawRows:
    """The data plane as its owner sees it, asked about one org: for commands and the operator."""

    def __init__(self, engine: Engine, org_id: OrgId) -> None:
        self._engine = engine
        self._org_id = org_id

    async def rows(self, name: str, **parameters: object) -> list[dict[str, Any]]:
        """The rows of a named query."""
        return (await self._engine.query(query(name), {**parameters, "org": str(self._org_id)})).dicts()


class OrgQueue:
    """The queue's server, asked about one org's books."""

    def __init__(self, queue: Queue, org_id: OrgId) -> None:
        self._queue = queue
        self._org_id = org_id

    async def accepted(self) -> int:
        """Items that were accepted, ever."""
        return await self._queue.accepted(ALL_STREAMS, self._org_id)

    async def in_flight(self) -> dict[UUID, int]:
        """Envelopes that are in a stream, and the items of each."""
        return await self._queue.in_flight(ALL_STREAMS, self._org_id)


async def ledger(queue: OrgQueue, data_plane: OrgRows) -> Ledger:
    """The books of the org that both were made for.

    They are read while envelopes move. What was in flight and has an outcome by now is counted by its outcome, so the
    sum is of all that was accepted when flight was read, and of some that was accepted after: it lies between what was
    accepted before and after the reading, or the books are wrong.

    Raises:
        StoreUnavailable: when a store is away.
    """
    accepted_before = await queue.accepted()
    in_flight = await queue.in_flight()
    outcomes = await data_plane.rows("outcomes_of_org")
    arrived = await _arrived(data_plane, in_flight)
    still = sum(items for envelope_id, items in in_flight.items() if envelope_id not in arrived)
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


async def _arrived(data_plane: OrgRows, in_flight: dict[UUID, int]) -> set[UUID]:
    ids = sorted(map(str, in_flight))
    questions = [ids[start : start + IDS_A_QUESTION] for start in range(0, len(ids), IDS_A_QUESTION)]
    answers = await asyncio.gather(*(data_plane.rows("outcomes_among", ids=some) for some in questions))
    return {UUID(str(row["envelope_id"])) for rows in answers for row in rows}


def _items(rows: Iterable[dict[str, Any]]) -> int:
    return sum(int(row["items"]) for row in rows)
