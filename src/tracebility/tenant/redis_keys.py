"""Builds all Redis keys of the control role. The org id is the hash tag, and each part is prefixed with its length.

The length prefix keeps keys unambiguous, so that no two orgs share a key; the hash tag puts all keys of an org in one
cluster slot. The queue's stream names are in `shard_router`.
"""

from tracebility.ids import OrgId

PREFIX = "tracebility"


def key(org_id: OrgId, kind: str, *parts: str) -> str:
    """Key of ``kind`` for an org: ``tracebility:{<org>}:<kind>:<length>.<part>...``."""
    return f"{PREFIX}:{{{org_id}}}:{kind}{_spelled(parts)}"


def shared_key(kind: str, *parts: str) -> str:
    """Key without an org, for data that is read before the org is known or that covers all orgs."""
    return f"{PREFIX}:{kind}{_spelled(parts)}"


def stream_key(stream: str, kind: str, *parts: str) -> str:
    """Key in the same cluster slot as ``stream``, so that one script can change both."""
    return f"{PREFIX}:{{{stream}}}:{kind}{_spelled(parts)}"


def over_flag(org_id: OrgId, period: str) -> str:
    """Key of the flag that an org is over its quota. Its name is part of the specification."""
    return f"quota:over:{org_id}:{period}"


def patterns_of_org(org_id: OrgId) -> tuple[str, ...]:
    """SCAN patterns that match all control-role keys of an org (``{`` is literal in SCAN patterns)."""
    return f"{PREFIX}:{{{org_id}}}:*", over_flag(org_id, "*")


def _spelled(parts: tuple[str, ...]) -> str:
    return "".join(f":{len(part)}.{part}" for part in parts)
