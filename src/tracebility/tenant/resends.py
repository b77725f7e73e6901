"""Recognises a request body that was sent before, so that a resend is answered without being enqueued or charged again.

An accepted body leaves a mark in Redis for ten minutes. A mark is valid only while the data it stands for still exists:
whatever removes an org's data (deletion, retention, dropping dead letters) invalidates all older marks of that org.
"""

from collections.abc import Iterable
from functools import lru_cache
from uuid import UUID

from blake3 import blake3

from tracebility.ids import OrgId
from tracebility.tenant.redis_keys import key
from tracebility.tenant.scripts import REMOVED, ControlStore

MARK_LIFE_MS = 10 * 60 * 1000
# The note of a removal must outlive every mark that is older: a mark is written a few seconds after its admission.
REMOVAL_LIFE_MS = MARK_LIFE_MS + 60_000
DIGEST_BYTES = 20

_MARK = "kept"


def digest(*context: object, body: bytes) -> str:
    """Return a digest of ``body`` and of the ``context`` that must also be equal for a resend.

    Cryptographic, because clients choose the bytes: with another hash they can make many bodies of one digest, of which
    all but one would be accepted and never stored. BLAKE3 takes 18 us for 100 KB, SHA-256 59 us, BLAKE2b 160 us.
    """
    state = blake3("|".join(map(str, (*context, len(body)))).encode() + b"\n")
    state.update(body)
    return state.hexdigest(DIGEST_BYTES)


def mark_key(org_id: OrgId, body_digest: str) -> str:
    """Redis key of a body's mark."""
    return key(org_id, "body", body_digest)


@lru_cache(maxsize=10_000)
def removal_key(org_id: OrgId) -> str:
    """Redis key of the time at which an org's data was last removed."""
    return key(org_id, "removed")


def mark(admitted_at_us: int) -> str:
    """Return the mark of a stored body, with its time of admission by Redis' clock. `admit.lua` reads it."""
    return f"{_MARK}|{admitted_at_us}"


async def invalidate_marks(hot: ControlStore, orgs: Iterable[UUID]) -> None:
    """Treat every body that these orgs sent before now as new. Call this after removing data.

    Raises:
        StoreUnavailable: when Redis does not answer.
    """
    for org_id in orgs:
        await hot.run(REMOVED, [removal_key(OrgId(org_id))], [REMOVAL_LIFE_MS])
