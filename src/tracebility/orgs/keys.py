"""Creates, rotates and revokes the keys of projects and operators."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from tracebility.audit.events import Actor, AuditWriter, Event, EventType
from tracebility.errors import Forbidden, KeyEnded, NotFound
from tracebility.ids import PublicKeyId
from tracebility.orgs.projects import ProjectPlace, hold_place
from tracebility.stores.postgres import Row, Transaction
from tracebility.tenant import keys
from tracebility.tenant.context import TENANT_SCOPES, Scope
from tracebility.tenant.limits import Burst, RequestsPerS
from tracebility.validation import must_be_name, stamp, unacceptable

LONGEST_OVERLAP_S = 7 * 86_400
DEFAULT_OVERLAP_S = 3_600
LAST_YEAR = 2261  # the limit of 64-bit nanoseconds since 1970


ExpiresAt = Annotated[datetime, Meta(tz=True, description="RFC 3339 with a zone, in the future.")]


class KeyRate(msgspec.Struct, forbid_unknown_fields=True):
    """A rate limit for one key, in addition to the org's."""

    requests_per_s: RequestsPerS
    burst: Burst | None = None

    def __post_init__(self) -> None:
        if self.burst is None:
            self.burst = self.requests_per_s


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """Request to create a key of a project."""

    name: str
    scopes: Annotated[list[str], Meta(description="Some of: ingest:write, read, admin.")]
    expires_at: ExpiresAt | None = None
    rate: KeyRate | None = None

    def __post_init__(self) -> None:
        must_be_name(self.name)
        if not self.scopes or not set(self.scopes) <= set(TENANT_SCOPES):
            raise ValueError(f"scopes: must contain at least one of {', '.join(TENANT_SCOPES)}, and nothing else")


class NewOperatorKey(msgspec.Struct, forbid_unknown_fields=True):
    """Request to create an operator key, which belongs to no org."""

    name: str
    expires_at: ExpiresAt | None = None

    def __post_init__(self) -> None:
        must_be_name(self.name)


class Rotation(msgspec.Struct, forbid_unknown_fields=True):
    """Request to rotate a key. ``overlap_s``: how long the old key stays valid."""

    overlap_s: Annotated[int, Meta(ge=0, le=LONGEST_OVERLAP_S)] = DEFAULT_OVERLAP_S


class MadeKey(msgspec.Struct, kw_only=True):
    """A new key; its secret is shown only here."""

    public_id: str
    key: str

    def __repr__(self) -> str:
        return f"MadeKey({self.public_id})"  # never the secret


class RotatedKey(msgspec.Struct, kw_only=True):
    """The new key, shown only here, and the expiry of the old key."""

    public_id: str
    key: str
    old_expires_at: str | None

    def __repr__(self) -> str:
        return f"RotatedKey({self.public_id})"  # never the secret


class ShownKey(msgspec.Struct, kw_only=True):
    """A key without its secret."""

    public_id: str
    name: str
    scopes: list[str]
    created_at: str | None
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    rate: KeyRate | None


async def create_key(
    transaction: Transaction,
    actor: Actor,
    place: ProjectPlace,
    new: NewKey,
    now: datetime,
    may_give: frozenset[Scope] = frozenset(Scope),
) -> MadeKey:
    """Create a key of the project ``place``.

    Raises:
        NotFound: when the project or its org was deleted meanwhile.
        Unprocessable: when the key would be expired at ``now``.
        Forbidden: when the key would have scopes outside ``may_give``.
    """
    _must_be_givable(new.scopes, may_give)
    _must_be_ahead(new.expires_at, now)
    await hold_place(transaction, place.org_id, place.project_id)
    return await _insert(transaction, actor, place, new, in_order(new.scopes), new.rate)


async def create_operator_key(transaction: Transaction, actor: Actor, new: NewOperatorKey, now: datetime) -> MadeKey:
    """Create an operator key.

    Raises:
        Unprocessable: when the key would be expired at ``now``.
    """
    _must_be_ahead(new.expires_at, now)
    return await _insert(transaction, actor, None, new, [Scope.OPERATOR.value], None)


async def _insert(
    transaction: Transaction,
    actor: Actor,
    place: ProjectPlace | None,
    new: NewKey | NewOperatorKey,
    scopes: list[str],
    rate: KeyRate | None,
) -> MadeKey:
    made = keys.generate()
    org_id, workspace_id, project_id = place or (None, None, None)
    limit = (None, None) if rate is None else (rate.requests_per_s, rate.burst)
    where = (org_id, workspace_id, project_id)
    await transaction.execute(
        "insert_key_of_project", made.public_id, *where, new.name, made.secret_hash, scopes, new.expires_at, *limit
    )
    details = {
        "name": new.name,
        "project_id": project_id and str(project_id),
        "scopes": scopes,
        "expires_at": stamp(new.expires_at),
        "requests_per_s": limit[0],
        "burst": limit[1],
    }
    await AuditWriter().record(
        transaction, Event(EventType.API_KEY_CREATED, org_id, actor, "api_key", made.public_id, details)
    )
    return MadeKey(public_id=made.public_id, key=made.key)


async def rotate_key(
    transaction: Transaction,
    actor: Actor,
    public_id: PublicKeyId,
    rotation: Rotation,
    may_give: frozenset[Scope] = frozenset(Scope),
) -> RotatedKey:
    """Create a successor of key ``public_id``, which expires after ``overlap_s`` at the latest.

    A repeated call, from a client that lost the answer, creates another successor with the same expiry as the first.
    The expiry of the old key is never postponed. PostgreSQL's clock is read after the lock, so that of two concurrent
    rotations with overlap 0 the second finds the key expired.

    Raises:
        NotFound: when there is no such key, or its project or org was deleted.
        KeyEnded: when the key is revoked or expired.
        Forbidden: when the key has scopes outside ``may_give``, which the caller would gain.
    """
    place = await transaction.fetchrow("place_of_key", public_id)
    if place is None:
        raise NotFound
    await hold_place(transaction, place["org_id"], place["project_id"])
    old = await transaction.fetchrow("lock_key", public_id)
    if old is None:
        raise NotFound
    _must_be_givable(old["scopes"], may_give)
    now: datetime = await transaction.fetchval("moment")
    expires_at: datetime | None = old["expires_at"]
    if old["revoked_at"] is not None or (expires_at is not None and expires_at <= now):
        raise KeyEnded
    made = keys.generate()
    lasts_until: datetime | None = await transaction.fetchval(
        "insert_successor_key", public_id, made.public_id, made.secret_hash
    )
    ends_at = now + timedelta(seconds=rotation.overlap_s)
    if expires_at is not None:
        ends_at = min(ends_at, expires_at)
    await transaction.execute("end_rotated_key", public_id, ends_at)
    rotated = {
        "new_public_id": made.public_id,
        "old_expires_at": stamp(expires_at),
        "new_expires_at": stamp(ends_at),
        "overlap_s": rotation.overlap_s,
    }
    created = {
        "name": old["name"],
        "project_id": old["project_id"] and str(old["project_id"]),
        "scopes": list(old["scopes"]),
        "expires_at": stamp(lasts_until),
        "requests_per_s": old["requests_per_s"],
        "burst": old["burst"],
        "rotated_from": public_id,
    }
    for kind, target, details in (
        (EventType.API_KEY_ROTATED, public_id, rotated),
        (EventType.API_KEY_CREATED, made.public_id, created),
    ):
        await AuditWriter().record(transaction, Event(kind, old["org_id"], actor, "api_key", target, details))
    return RotatedKey(public_id=made.public_id, key=made.key, old_expires_at=stamp(ends_at))


async def revoke_key(transaction: Transaction, actor: Actor, public_id: PublicKeyId) -> bool:
    """Revoke a key; False when it is already revoked or does not exist."""
    ended = await transaction.fetchrow("revoke_key", public_id)
    if ended is None:
        return False
    details = {"name": ended["name"], "project_id": ended["project_id"] and str(ended["project_id"])}
    await AuditWriter().record(
        transaction, Event(EventType.API_KEY_REVOKED, ended["org_id"], actor, "api_key", public_id, details)
    )
    return True


def _must_be_ahead(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and (expires_at.year > LAST_YEAR or expires_at <= now):
        raise unacceptable("expires_at", f"must be a time in the future, before the year {LAST_YEAR + 1}")


def _must_be_givable(scopes: Sequence[str], may_give: frozenset[Scope]) -> None:
    """Refuse scopes that the caller does not have."""
    for scope in in_order(scopes):
        if scope not in may_give:
            raise Forbidden(
                f"This key lacks the scope '{scope}', so it cannot give it to another.",
                hint=f"Use a key that has the scope '{scope}'.",
            )


def in_order(scopes: Sequence[str]) -> list[str]:
    """Return ``scopes`` without duplicates, in display order."""
    return [scope.value for scope in Scope if scope in scopes]


def shape_key(row: Row) -> ShownKey:
    """A row of ``read_keys_of_project``."""
    return ShownKey(
        public_id=row["public_id"],
        name=row["name"],
        scopes=in_order(row["scopes"]),
        created_at=stamp(row["created_at"]),
        expires_at=stamp(row["expires_at"]),
        revoked_at=stamp(row["revoked_at"]),
        last_used_at=stamp(row["last_used_at"]),
        rate=None if row["requests_per_s"] is None else KeyRate(row["requests_per_s"], row["burst"]),
    )
