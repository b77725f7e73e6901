"""Recognise a request body that was sent before, so that a resend is answered without being enqueued or charged again.

An accepted body leaves a mark in Redis for ten minutes. A mark is valid only while the data it stands for still exists:
whatever removes an org's data (deletion, retention, dropping dead letters) invalidates all older marks of that org.
"""

from collections.abc import Iterable
from functools import lru_cache
from uuid import UUID

from blake3 import blake3

from tracebility.ids import OrgId
from tracebility.tenant.redis_keys import key
from tracebility.tenant.scripts import REMOVED, HotStore

MARK_LIFE_MS = 10 * 60 * 1000
# The note of a removal must outlive every mark that is older: a mark is written a few seconds after its admission.
REMOVAL_LIFE_MS = MARK_LIFE_MS + 60_000
DIGEST_BYTES = 20

_MARK = "kept"


def digest(*context: object, body: bytes) -> str:
    """A digest of ``body`` and of what else must be equal for two requests to count as the same.

    Cryptographic, because clients choose the bytes: with another hash they can make many bodies of one digest, of which
    all but one would be accepted and never stored. BLAKE3 takes 18 us for 100 KB, SHA-256 59 us, BLAKE2b 160 us.
    """
    state = blake3("|".join(map(str, (*context, len(body)))).encode() + b"\n")
    state.update(body)
    return state.hexdigest(DIGEST_BYTES)


def mark_key(org_id: OrgId, body_digest: str) -> str:
    """The Redis key of a body's mark."""
    return key(org_id, "body", body_digest)


@lru_cache(maxsize=10_000)
def removal_key(org_id: OrgId) -> str:
    """The Redis key that holds the time of the last removal of an org's data."""
    return key(org_id, "removed")


def mark(admitted_at_us: int) -> str:
    """The value of a mark: the body was admitted at this time of Redis' clock, and was kept. `admit.lua` reads it."""
    return f"{_MARK}|{admitted_at_us}"


async def invalidate_marks(hot: HotStore, orgs: Iterable[UUID]) -> None:
    """From now on treat every body that these orgs sent until now as new. Call it after removing data.

    Raises:
        StoreUnavailable: when Redis does not answer.
    """
    for org_id in orgs:
        await hot.run(REMOVED, [removal_key(OrgId(org_id))], [REMOVAL_LIFE_MS])
