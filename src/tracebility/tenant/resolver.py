"""Resolves the API key of a request to its tenant, with a bounded in-process cache in front of Redis and PostgreSQL.

Every refusal is the same `Unauthenticated`. A malformed key costs no look-up; an unknown key costs one every few
seconds; while PostgreSQL is unavailable, cached keys stay valid for `GRACE_S`. After `changed` is called, no record
from before that change is used, whether it comes from this cache, from Redis or from a look-up in progress.
"""

import asyncio
import random
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar

from tracebility.errors import Forbidden, Overloaded, StoreUnavailable, Suspended, Unauthenticated
from tracebility.ids import OrgId, ProjectId, PublicKeyId, WorkspaceId
from tracebility.retry import STORE_RETRY_S
from tracebility.tenant import keys
from tracebility.tenant.context import UNLIMITED, Allowance, Scope, TenantContext, sealed_context

# A revoked key is refused within TTL_S + TTL_JITTER_S. The jitter spreads the look-ups of many keys.
TTL_S = 3.5
TTL_JITTER_S = 1.0
NEGATIVE_TTL_S = 5.0

# How long a cached key stays valid while PostgreSQL is unavailable: enough for a restart, failover or upgrade.
GRACE_S = 15 * 60.0

# A slower look-up is treated as PostgreSQL being unavailable.
LOOKUP_TIMEOUT_S = 2.0

# Concurrent look-ups, so that a flood of invented keys queues instead of making PostgreSQL look unavailable.
LOOKUPS = 8

# Cached keys. Unknown keys have their own cache, so that a flood of invented keys evicts no valid one.
KNOWN_KEYS = 50_000
UNKNOWN_KEYS = 50_000

# Kinds of changes that affect a key's record.
_RECORD_KINDS = frozenset({"api_key", "org", "plan"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as stored in PostgreSQL. An operator's key has no org."""

    public_id: PublicKeyId
    org_id: OrgId | None
    workspace_id: WorkspaceId | None
    project_id: ProjectId | None
    plan: str
    scopes: frozenset[Scope]
    expires_at: datetime | None
    revoked_at: datetime | None
    secret_hash: bytes = field(repr=False)
    suspended: bool = False
    allowance: Allowance = UNLIMITED
    revs: tuple[int, int, int] = (0, 0, 0)  # revisions of the key, its org and its plan that this record includes


class KeyStore(Protocol):
    """Looks up keys."""

    async def key_by_public_id(self, public_id: PublicKeyId) -> KeyRecord | None:
        """Return the key's record, even if it is revoked or expired.

        Raises:
            StoreUnavailable: when the store does not answer.
        """


class Change(NamedTuple):
    """A change of a key, an org, a plan or an org's shards. ``rev`` grows with every change of the same object."""

    rev: int
    kind: str  # "api_key" | "org" | "plan" | "shard_map"
    id: str


# The objects that a key's record depends on, as ((kind, id), revision).
_Revisions = tuple[tuple[tuple[str, str], int], ...]


@dataclass(slots=True)
class _Entry:
    record: KeyRecord
    fetched_at: float
    fresh_until: float
    revisions: _Revisions


def _revisions(record: KeyRecord) -> _Revisions:
    told = (("api_key", record.public_id), ("org", str(record.org_id)), ("plan", record.plan))
    return tuple(zip(told, record.revs, strict=True))


# Used for a key that does not exist, so that refusing it takes as long as refusing an existing key.
_NO_KEY = KeyRecord(PublicKeyId(""), None, None, None, "", frozenset(), None, None, keys.NO_HASH)
_NO_ENTRY = _Entry(_NO_KEY, 0.0, 0.0, _revisions(_NO_KEY))


class Resolver:
    """Resolves keys to tenants, for one process."""

    def __init__(
        self,
        store: KeyStore,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._clock = clock
        self._now = now
        self._known: OrderedDict[PublicKeyId, _Entry] = OrderedDict()
        self._unknown: OrderedDict[PublicKeyId, float] = OrderedDict()
        self._changes: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._lookups: dict[PublicKeyId, asyncio.Future[KeyRecord | None]] = {}
        self._lookup_slots = asyncio.Semaphore(LOOKUPS)
        self._down_until = 0.0
        self.used: set[PublicKeyId] = set()  # keys used since the last write of last-used times

    async def resolve(self, authorization: str, x_api_key: str) -> TenantContext:
        """Return the tenant of the key in these two headers; either may be empty.

        Raises:
            Unauthenticated: when there is no key, or it is not valid.
            Forbidden: when the key is valid but belongs to no project.
            Overloaded: when PostgreSQL is unavailable and the key is not cached.
        """
        return tenant_of(await self.principal(authorization, x_api_key))

    async def principal(self, authorization: str, x_api_key: str) -> KeyRecord:
        """Return the valid key in these two headers, which may be an operator's.

        Raises:
            Unauthenticated: when there is no key, or it is not valid.
            Overloaded: when PostgreSQL is unavailable and the key is not cached.
        """
        parsed = parsed_key(authorization, x_api_key)
        if parsed is None:
            raise Unauthenticated
        record = await self._record(parsed.public_id)
        if not keys.matches(parsed, keys.NO_HASH if record is None else record.secret_hash):
            raise Unauthenticated
        if record is None or record.revoked_at is not None or self._expired(record):
            raise Unauthenticated
        self.used.add(record.public_id)
        return record

    def changed(self, change: Change) -> None:
        """Stop using records that are older than ``change``."""
        if change.kind not in _RECORD_KINDS:
            return
        now = self._clock()
        at = (change.kind, change.id)
        if self._changes.get(at, (0, 0.0))[0] < change.rev:
            self._changes[at] = (change.rev, now)
            self._changes.move_to_end(at)
            if change.kind == "api_key":
                self._unknown.pop(PublicKeyId(change.id), None)
        # Records older than the grace period are never used, so changes older than that can be forgotten.
        while self._changes and next(iter(self._changes.values()))[1] < now - GRACE_S:
            self._changes.popitem(last=False)

    def is_outdated(self, record: KeyRecord) -> bool:
        """Whether ``record`` is older than a known change."""
        return self._is_outdated(_revisions(record))

    def _is_outdated(self, revisions: _Revisions) -> bool:
        return any(self._changes.get(at, (0, 0.0))[0] > rev for at, rev in revisions)

    def _expired(self, record: KeyRecord) -> bool:
        return record.expires_at is not None and record.expires_at.timestamp() <= self._now()

    async def _record(self, public_id: PublicKeyId) -> KeyRecord | None:
        now = self._clock()
        entry, unknown_until = self._known.get(public_id), self._unknown.get(public_id, 0.0)
        if self._is_outdated((entry or _NO_ENTRY).revisions):
            entry = None
        if entry is not None and now < entry.fresh_until:
            self._known.move_to_end(public_id)
            return entry.record
        if unknown_until > now:
            self._unknown.move_to_end(public_id)
            return None
        in_grace = entry is not None and now < entry.fetched_at + GRACE_S
        try:
            if now < self._down_until:
                raise StoreUnavailable("postgres", "did not answer the last look-up")
            return await self._lookup(public_id)
        except StoreUnavailable as error:
            if entry is not None and in_grace:
                return entry.record
            raise Overloaded("API keys cannot be looked up right now, and this key is not cached.") from error

    async def _lookup(self, public_id: PublicKeyId) -> KeyRecord | None:
        """Look the key up once, even if many requests wait for the result."""
        lookup = self._lookups.get(public_id)
        if lookup is None:
            lookup = asyncio.ensure_future(self._fetch(public_id))
            self._lookups[public_id] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop(public_id, None))
        return await asyncio.shield(lookup)

    async def _fetch(self, public_id: PublicKeyId) -> KeyRecord | None:
        try:
            async with self._lookup_slots, asyncio.timeout(LOOKUP_TIMEOUT_S):
                while True:
                    last_change = self._changes.get(("api_key", public_id))
                    record = await self._store.key_by_public_id(public_id)
                    # Repeat the look-up if a change arrived while it ran: the result may be from before the change.
                    if record is None and self._changes.get(("api_key", public_id)) == last_change:
                        break
                    if record is not None and not self.is_outdated(record):
                        break
        except (StoreUnavailable, TimeoutError) as error:
            self._down_until = self._clock() + STORE_RETRY_S
            raise StoreUnavailable("postgres", "the key could not be looked up") from error
        now = self._clock()
        self._down_until = 0.0
        if record is None:
            self._known.pop(public_id, None)
            _keep(self._unknown, public_id, now + NEGATIVE_TTL_S, UNKNOWN_KEYS)
        else:
            fresh_until = now + TTL_S + random.random() * TTL_JITTER_S  # noqa: S311  (spreads load, guards nothing)
            self._unknown.pop(public_id, None)
            _keep(self._known, public_id, _Entry(record, now, fresh_until, _revisions(record)), KNOWN_KEYS)
        return record


def parsed_key(authorization: str, x_api_key: str) -> keys.ParsedKey | None:
    """Return the well-formed key in these headers: Bearer, Basic (public id and whole key), or x-api-key.

    Other credentials, such as those of a proxy, are ignored. None without a key, and with two different keys. A
    header that was sent twice holds both values separated by a comma.
    """
    offered = [_offered(value) for value in authorization.split(",")] + [
        value.strip() for value in x_api_key.split(",")
    ]
    found = {key for value in offered if (key := keys.parse(value)) is not None}
    return found.pop() if len(found) == 1 else None


def _offered(authorization: str) -> str:
    """Return the possible key in a value of ``Authorization``."""
    scheme, _, credentials = authorization.strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return credentials.strip()
        case "basic":
            return _basic(credentials.strip())
    return ""


def _basic(credentials: str) -> str:
    """Return the key in Basic credentials. Langfuse clients send ``tb_<public_id>`` as user and the key as password."""
    try:
        user, _, password = b64decode(credentials, validate=True).decode("ascii").partition(":")
    except ValueError:
        return ""
    return password if user and user == password.rpartition("_")[0] else ""


def tenant_of(record: KeyRecord) -> TenantContext:
    """Return the tenant of a valid key.

    Raises:
        Forbidden: when the key is an operator's or an org's, which have no project.
        Suspended: when its org is suspended.
    """
    if record.org_id is None or record.workspace_id is None or record.project_id is None:
        raise Forbidden("This key belongs to no project.", hint="Use a key that was created for a project.")
    if record.suspended:
        raise Suspended
    return sealed_context(
        org_id=record.org_id,
        workspace_id=record.workspace_id,
        project_id=record.project_id,
        plan=record.plan,
        scopes=record.scopes,
        key_id=record.public_id,
        allowance=record.allowance,
    )


def _keep(cache: OrderedDict[PublicKeyId, T], public_id: PublicKeyId, value: T, most: int) -> None:
    cache[public_id] = value
    cache.move_to_end(public_id)
    if len(cache) > most:
        cache.popitem(last=False)
