"""Which chains of the audit trail need a closer look: a first one at all of them, in pages over all orgs.

A chain is beyond suspicion when each of its events stands on the one before, the last is its head's, and the data plane
has the same events, word for word. All else is for `verify` to judge: what was relayed while this looked, and what is
not as it was written.
"""

import secrets
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from uuid import UUID

from tracebility.audit import chain_store
from tracebility.audit.chain import NOTHING_BEFORE, Link
from tracebility.audit.chain_store import Written
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres

_MODULUS = 1 << 128


@dataclass(slots=True)
class _Seen:
    """What was seen of a chain. ``here`` and ``there`` are sums over its events in either store: the same for the same
    events, in whatever order.
    """

    seq: int = 0
    hash: str = NOTHING_BEFORE
    is_sound: bool = True
    has_head: bool = False
    here: int = 0
    there: int = 0

    def goes_on(self, link: Link) -> None:
        """Its next event in the control plane."""
        self.is_sound = self.is_sound and link.seq == self.seq + 1 and link.follows(self.hash)
        self.seq, self.hash = link.seq, link.hash

    @property
    def is_beyond_suspicion(self) -> bool:
        return self.is_sound and self.has_head and self.here == self.there


async def suspects(control: Postgres, engine: Engine) -> list[UUID]:
    """The chains that are not beyond suspicion. O(events), of which a page is in memory, and O(chains).

    Raises:
        StoreUnavailable: when a store is away.
    """
    # A key of this look's own: whoever writes rows cannot choose them so that their sum is right.
    key = secrets.token_bytes(16)
    seen: dict[UUID, _Seen] = {}
    since_us = chain_store.horizon_us()
    async for page in chain_store.written(control):
        for one in page:
            chain = seen.setdefault(one.link.chain, _Seen())
            chain.goes_on(one.link)
            if _is_relayed(one, since_us):
                chain.here = (chain.here + _number(one.link, key)) % _MODULUS
    async for org_id, seq, hash in chain_store.heads(control):
        chain = seen.setdefault(org_id, _Seen(is_sound=False))
        chain.has_head = True
        chain.is_sound = chain.is_sound and (seq, hash) == (chain.seq, chain.hash)
    async for copies in chain_store.copies(engine):
        for copy in copies:
            chain = seen.setdefault(copy.link.chain, _Seen(is_sound=False))
            chain.there = (chain.there + _number(copy.link, key)) % _MODULUS
    return sorted(chain for chain, one in seen.items() if not one.is_beyond_suspicion)


def _is_relayed(one: Written, since_us: int) -> bool:
    return not one.waiting and one.link.event_time_us >= since_us


def _number(link: Link, key: bytes) -> int:
    fields: tuple[Any, ...] = (
        link.event_id, link.event_time_us, link.event_type, link.org_id, link.actor_type, link.actor_id,
        link.target_type, link.target_id, link.details, link.seq, link.hash,
    )  # fmt: skip
    return int.from_bytes(blake2b(repr(fields).encode(), digest_size=16, key=key).digest(), "big")
