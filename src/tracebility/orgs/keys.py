"""Keys of a project, and of operators: made, listed without their secrets, replaced by a new one, revoked."""

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
LAST_YEAR = 2261  # times are nanoseconds since 1970 in 64 bits elsewhere


ExpiresAt = Annotated[datetime, Meta(tz=True, description="RFC 3339 with a zone, in the future.")]


class KeyRate(msgspec.Struct, forbid_unknown_fields=True):
    """A lower limit than the org's, for one key."""

    requests_per_s: RequestsPerS
    burst: Burst | None = None

    def __post_init__(self) -> None:
        if self.burst is None:
            self.burst = self.requests_per_s


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """A key to be made."""

    name: str
    scopes: Annotated[list[str], Meta(description="Some of: ingest:write, read, admin.")]
    expires_at: ExpiresAt | None = None
    rate: KeyRate | None = None

    def __post_init__(self) -> None:
        must_be_name(self.name)
        if not self.scopes or not set(self.scopes) <= set(TENANT_SCOPES):
            raise ValueError(f"scopes: takes at least one of {', '.join(TENANT_SCOPES)}")


class NewOperatorKey(msgspec.Struct, forbid_unknown_fields=True):
    """A key of no org and for all orgs, to be made."""

    name: str
    expires_at: ExpiresAt | None = None

    def __post_init__(self) -> None:
        must_be_name(self.name)


class Rotation(msgspec.Struct, forbid_unknown_fields=True):
    """How long the old key goes on beside the new one."""

    overlap_s: Annotated[int, Meta(ge=0, le=LONGEST_OVERLAP_S)] = DEFAULT_OVERLAP_S


class MadeKey(msgspec.Struct, kw_only=True):
    """A key just made, shown once."""

    public_id: str
    key: str

    def __repr__(self) -> str:
        return f"MadeKey({self.public_id})"  # never the secret


class RotatedKey(msgspec.Struct, kw_only=True):
    """The new key, shown once, and when the old one ends."""

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
    """A key of ``place``.

    Raises:
        NotFound: when the project or its org was deleted meanwhile.
        Unprocessable: when it would have ended by ``now``.
        Forbidden: when it may more than ``may_give``.
    """
    _must_be_givable(new.scopes, may_give)
    _must_be_ahead(new.expires_at, now)
    await hold_place(transaction, place.org_id, place.project_id)
    return await _insert(transaction, actor, place, new, in_order(new.scopes), new.rate)


async def create_operator_key(transaction: Transaction, actor: Actor, new: NewOperatorKey, now: datetime) -> MadeKey:
    """A key that may all that operators may, and nothing of a tenant's.

    Raises:
        Unprocessable: when it would have ended by ``now``.
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
    """A new key in the place of ``public_id``, which ends ``overlap_s`` from now at the latest.

    Asked for again, as by a client that lost the answer, it makes another, which ends when the first one does: not with
    the old key. The old key's end does not move back.

    Now is by the store's clock, behind the lock: of two at once that end the key, the second must find it ended.

    Raises:
        NotFound: when there is no such key, or what it is of was deleted.
        KeyEnded: when it is revoked or expired.
        Forbidden: when it may more than ``may_give``: who rotates it would hold more than before.
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
    """End ``public_id`` for good; False when it was revoked before, or there is none."""
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
        raise unacceptable("expires_at", f"takes a time in the future, before the year {LAST_YEAR + 1}")


def _must_be_givable(scopes: Sequence[str], may_give: frozenset[Scope]) -> None:
    """Nobody hands out more than they may."""
    for scope in in_order(scopes):
        if scope not in may_give:
            raise Forbidden(
                f"This key lacks the scope '{scope}', so it cannot give it to another.",
                hint=f"Use a key that has the scope '{scope}'.",
            )


def in_order(scopes: Sequence[str]) -> list[str]:
    """Each of ``scopes`` once, in the order in which they are always shown."""
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
