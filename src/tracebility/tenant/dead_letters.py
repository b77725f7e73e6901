"""How much an org may have in the dead letters: they lie in Redis, in everybody's memory, until somebody looks at them.

What was accepted is never thrown away, so an org that has more than its share is refused at the door instead (503). In
its dead letters is nothing but what was in the queue before: the share may be passed by what waits there, and memory
is not. The door's flag is set by whoever buries, kept up by the operator, and goes by itself when nobody does.
"""

from functools import lru_cache
from uuid import UUID

from tracebility.ids import OrgId
from tracebility.tenant.redis_keys import key
from tracebility.tenant.scripts import FLAG, HotStore

# Hundreds of envelopes as clients send them; a queue of 1 GiB has room for this of several orgs.
MOST_BYTES = 64 << 20

# One and a half of the operator's periods.
FLAG_LIFE_MS = 90_000


@lru_cache(maxsize=10_000)
def flag_key(org_id: OrgId) -> str:
    """What says that an org has more dead letters than its share."""
    return key(org_id, "dead_letters")


async def refuse_if_over(hot: HotStore, org_id: UUID, held_bytes: int) -> bool:
    """Have every door refuse an org that has more than its share, for a while; whether it has.

    Raises:
        StoreUnavailable: when it is unknown whether the doors were told.
    """
    if held_bytes <= MOST_BYTES:
        return False
    await hot.run(FLAG, [flag_key(OrgId(org_id))], [held_bytes, FLAG_LIFE_MS])
    return True
