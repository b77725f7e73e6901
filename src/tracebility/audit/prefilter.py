"""A fast first pass over all audit chains, which selects those that need full verification.

A chain is intact when each event's hash follows from the event before it, the last event matches the chain's head row,
and ClickHouse has exactly the same events. All other chains go to `verify`, including those with events that were
relayed during this pass.
"""

import secrets
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from uuid import UUID

from tracebility.audit import chain_store
from tracebility.audit.chain import GENESIS_HASH, Link
from tracebility.audit.chain_store import ChainEvent
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres

_MODULUS = 1 << 128


@dataclass(slots=True)
class _ChainState:
    """The state of one chain during the pass. Each sum is a keyed hash over the events in that store, in any order."""

    seq: int = 0
    hash: str = GENESIS_HASH
    is_linked: bool = True
    has_head: bool = False
    postgres_sum: int = 0
    clickhouse_sum: int = 0

    def append(self, link: Link) -> None:
        """Add the chain's next event in PostgreSQL."""
        self.is_linked = self.is_linked and link.seq == self.seq + 1 and link.follows(self.hash)
        self.seq, self.hash = link.seq, link.hash

    @property
    def is_intact(self) -> bool:
        return self.is_linked and self.has_head and self.postgres_sum == self.clickhouse_sum


async def suspect_chains(control: Postgres, engine: Engine) -> list[UUID]:
    """Return the chains that are not provably intact. Time O(events); memory O(chains) and one page of events.

    Raises:
        StoreUnavailable: when either store is unavailable.
    """
    # A fresh random key each pass, so that an attacker cannot choose rows whose sum matches.
    key = secrets.token_bytes(16)
    chains: dict[UUID, _ChainState] = {}
    since_us = chain_store.horizon_us()
    async for page in chain_store.event_pages(control):
        for event in page:
            chain = chains.setdefault(event.link.chain, _ChainState())
            chain.append(event.link)
            if _is_relayed(event, since_us):
                chain.postgres_sum = (chain.postgres_sum + _keyed_hash(event.link, key)) % _MODULUS
    async for org_id, seq, hash in chain_store.heads(control):
        chain = chains.setdefault(org_id, _ChainState(is_linked=False))
        chain.has_head = True
        chain.is_linked = chain.is_linked and (seq, hash) == (chain.seq, chain.hash)
    async for copies in chain_store.copy_pages(engine):
        for copy in copies:
            chain = chains.setdefault(copy.link.chain, _ChainState(is_linked=False))
            chain.clickhouse_sum = (chain.clickhouse_sum + _keyed_hash(copy.link, key)) % _MODULUS
    return sorted(org_id for org_id, chain in chains.items() if not chain.is_intact)


def _is_relayed(event: ChainEvent, since_us: int) -> bool:
    return not event.waiting and event.link.event_time_us >= since_us


def _keyed_hash(link: Link, key: bytes) -> int:
    fields: tuple[Any, ...] = (
        link.event_id, link.event_time_us, link.event_type, link.org_id, link.actor_type, link.actor_id,
        link.target_type, link.target_id, link.details, link.seq, link.hash,
    )  # fmt: skip
    return int.from_bytes(blake2b(repr(fields).encode(), digest_size=16, key=key).digest(), "big")
