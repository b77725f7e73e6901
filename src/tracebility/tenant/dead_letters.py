"""The limit on an org's dead letters, which stay in Redis memory until an operator replays or drops them.

Accepted data is never discarded, so an org over the limit is refused at ingest (503). Dead letters were in the queue
before, so envelopes still queued may exceed the limit without using more memory. Workers set the refusal flag, the
operator renews it, and it expires otherwise.
"""

from functools import lru_cache
from uuid import UUID

from tracebility.ids import OrgId
from tracebility.tenant.redis_keys import key
from tracebility.tenant.scripts import SET_FLAG, ControlStore

# Hundreds of typical envelopes. A queue of 1 GiB has room for several orgs at this limit.
MAX_BYTES = 64 << 20

# 1.5 periods of the operator's loop.
FLAG_LIFE_MS = 90_000


@lru_cache(maxsize=10_000)
def flag_key(org_id: OrgId) -> str:
    """Key of the flag that makes ingest refuse an org because of its dead letters."""
    return key(org_id, "dead_letters")


async def refuse_if_over(hot: ControlStore, org_id: UUID, held_bytes: int) -> bool:
    """Set the refusal flag if the org's dead letters exceed ``MAX_BYTES``. Returns whether they do.

    Raises:
        StoreUnavailable: when it is unknown whether the flag was set.
    """
    if held_bytes <= MAX_BYTES:
        return False
    await hot.run(SET_FLAG, [flag_key(OrgId(org_id))], [held_bytes, FLAG_LIFE_MS])
    return True
