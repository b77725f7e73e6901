"""The one way to a key of the control role in Redis: the org first, as its hash tag, and every part behind its length.

So no part can be read as two, no key of one org is another's, and all keys of an org are in one slot of a cluster. The
streams of the queue have names of their own (`shards`).
"""

from tracebility.ids import OrgId

PREFIX = "tracebility"


def key(org_id: OrgId, kind: str, *parts: str) -> str:
    """The key of ``kind`` for an org: ``tracebility:{<org>}:<kind>:<length>.<part>...``."""
    return f"{PREFIX}:{{{org_id}}}:{kind}{_spelled(parts)}"


def shared_key(kind: str, *parts: str) -> str:
    """A key that belongs to no org, such as one that is looked up before the org is known."""
    return f"{PREFIX}:{kind}{_spelled(parts)}"


def stream_key(stream: str, kind: str, *parts: str) -> str:
    """A key that is kept with a stream: in its slot, so that one step may change both."""
    return f"{PREFIX}:{{{stream}}}:{kind}{_spelled(parts)}"


def over_flag(org_id: OrgId, period: str) -> str:
    """The flag that says that an org is over its quota; the specification gives its name."""
    return f"quota:over:{org_id}:{period}"


def patterns_of_org(org_id: OrgId) -> tuple[str, ...]:
    """What all keys of the control role that belong to an org look like, as SCAN has it: ``{`` is no sign of those."""
    return f"{PREFIX}:{{{org_id}}}:*", over_flag(org_id, "*")


def _spelled(parts: tuple[str, ...]) -> str:
    return "".join(f":{len(part)}.{part}" for part in parts)
