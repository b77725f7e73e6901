"""Key look-ups for the resolver: in PostgreSQL, with a cache in Redis."""

from collections.abc import Callable

import msgspec

from tracebility.errors import StoreUnavailable
from tracebility.ids import OrgId, ProjectId, PublicKeyId, WorkspaceId
from tracebility.stores.postgres import Postgres, Row
from tracebility.stores.redis_control import RedisControl
from tracebility.tenant.context import Allowance, MeterLimit, Rate, Scope
from tracebility.tenant.redis_keys import shared_key
from tracebility.tenant.resolver import KeyRecord, KeyStore

# Use does not extend it. The resolver ignores cached records that are older than a known change.
LIFE_MS = 60_000


class PostgresKeys:
    """The resolver's `KeyStore`."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def key_by_public_id(self, public_id: PublicKeyId) -> KeyRecord | None:
        """Return the key's record, even if it is revoked or expired."""
        row = await self._postgres.fetchrow("key_by_public_id", public_id)
        if row is None:
            return None
        return KeyRecord(
            public_id=PublicKeyId(row["public_id"]),
            org_id=OrgId(row["org_id"]) if row["org_id"] else None,
            workspace_id=WorkspaceId(row["workspace_id"]) if row["workspace_id"] else None,
            project_id=ProjectId(row["project_id"]) if row["project_id"] else None,
            plan=row["plan"],
            scopes=frozenset(Scope(scope) for scope in row["scopes"]),
            expires_at=row["expires_at"],
            revoked_at=row["revoked_at"],
            secret_hash=row["secret_hash"],
            suspended=row["suspended"],
            allowance=_allowance(row),
            revs=(row["key_rev"], row["org_rev"], row["plan_rev"]),
        )


class CachedKeys:
    """A cache in Redis in front of another `KeyStore`. Records hold the hash of the secret, never the secret."""

    def __init__(self, behind: KeyStore, hot: RedisControl, is_outdated: Callable[[KeyRecord], bool]) -> None:
        self._behind = behind
        self._hot = hot
        self._is_outdated = is_outdated

    async def key_by_public_id(self, public_id: PublicKeyId) -> KeyRecord | None:
        """Return a record that is at most a minute old and not older than any known change of the key."""
        at = shared_key("api_key", public_id)
        try:
            kept = await self._hot.command("GET", at)
        except StoreUnavailable:
            kept = None
        if kept is not None:
            record = _readable(kept)
            if record is not None and record.public_id == public_id and not self._is_outdated(record):
                return record
        found = await self._behind.key_by_public_id(public_id)
        if found is not None:
            self._hot.put(at, _encode(found), LIFE_MS)
        return found


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(KeyRecord).decode


def _readable(kept: bytes) -> KeyRecord | None:
    """Decode a cached record; None if it is invalid, for example from another version."""
    try:
        return _decode(kept)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None


def _allowance(row: Row) -> Allowance:
    return Allowance(
        rate=_rate(row["requests_per_s"], row["burst"]),
        key_rate=_rate(row["key_requests_per_s"], row["key_burst"]),
        meters={meter: MeterLimit(hard, soft) for meter, (hard, soft) in row["meters"].items()},
    )


def _rate(requests_per_s: int | None, burst: int | None) -> Rate | None:
    """Build a rate; the default burst is one second of requests."""
    return None if requests_per_s is None else Rate(requests_per_s, burst or requests_per_s)
