"""From the key of a request to the tenant it speaks for: a bounded cache of this process, before Redis and Postgres.

Every refusal is the same `Unauthenticated`. A malformed key costs no look-up, an unknown one costs one every few
seconds, and with Postgres away the keys this process knows go on for a while. What changes is told to `changed`; from
then on no record from before the change is used, wherever it comes from, this cache, Redis or a look-up under way.
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

# A revoked key is refused after this at the latest; jitter keeps the look-ups of many keys apart.
TTL_S = 3.5
TTL_JITTER_S = 1.0
NEGATIVE_TTL_S = 5.0

# How long a known key goes on when Postgres does not answer: past a restart, a failover, an upgrade.
GRACE_S = 15 * 60.0

# A look-up that takes longer counts as Postgres being away.
LOOKUP_TIMEOUT_S = 2.0

# While Postgres is away, one look-up in this long finds out whether it is back; the others do not wait for it.

# Look-ups at once, so that a flood of made-up keys waits in line and does not look like Postgres being away.
LOOKUPS = 8

# Keys held at once, known and unknown ones apart, so that a flood of made-up keys displaces no real one.
KNOWN_KEYS = 50_000
UNKNOWN_KEYS = 50_000

# The kinds of changes that a key's record depends on.
_OF_RECORDS = frozenset({"api_key", "org", "plan"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the control plane holds about a key. An operator's key has no org."""

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
    revs: tuple[int, int, int] = (0, 0, 0)  # the latest changes of the key, its org and its plan that this knows of


class KeyStore(Protocol):
    """Where keys are looked up."""

    async def key_by_public_id(self, public_id: PublicKeyId) -> KeyRecord | None:
        """The record of ``public_id``, revoked and expired ones included.

        Raises:
            StoreUnavailable: when the store does not answer.
        """


class Change(NamedTuple):
    """A key, an org, a plan or where an org queues is not what it was. Of two changes of the same one the later has the
    higher number.
    """

    rev: int
    kind: str  # "api_key" | "org" | "plan" | "shard_map"
    id: str


# What may change of a key's record: (kind, id), and the latest change of it that the record knows of.
_Known = tuple[tuple[tuple[str, str], int], ...]


@dataclass(slots=True)
class _Entry:
    record: KeyRecord
    fetched_at: float
    fresh_until: float
    knows: _Known


def _knows(record: KeyRecord) -> _Known:
    told = (("api_key", record.public_id), ("org", str(record.org_id)), ("plan", record.plan))
    return tuple(zip(told, record.revs, strict=True))


# Stands in for the record of a key that there is not, so that the answer takes as long as for one that there is.
_NOBODY = KeyRecord(PublicKeyId(""), None, None, None, "", frozenset(), None, None, keys.NO_HASH)
_NO_ENTRY = _Entry(_NOBODY, 0.0, 0.0, _knows(_NOBODY))


class Resolver:
    """Keys to tenants, for one process."""

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
        self._away_until = 0.0
        self.used: set[PublicKeyId] = set()  # keys that were let in and not written down yet

    async def resolve(self, authorization: str, x_api_key: str) -> TenantContext:
        """The tenant of the key in these two headers; either may be empty.

        Raises:
            Unauthenticated: when there is no key, or it is not a valid one.
            Forbidden: when it is valid and speaks for no project.
            Overloaded: when Postgres is away and this process has not seen the key.
        """
        return tenant_of(await self.principal(authorization, x_api_key))

    async def principal(self, authorization: str, x_api_key: str) -> KeyRecord:
        """The valid key in these two headers, an operator's included.

        Raises:
            Unauthenticated: when there is no key, or it is not a valid one.
            Overloaded: when Postgres is away and this process has not seen the key.
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
        """Use no record of before ``change`` any more."""
        if change.kind not in _OF_RECORDS:
            return
        now = self._clock()
        at = (change.kind, change.id)
        if self._changes.get(at, (0, 0.0))[0] < change.rev:
            self._changes[at] = (change.rev, now)
            self._changes.move_to_end(at)
            if change.kind == "api_key":
                self._unknown.pop(PublicKeyId(change.id), None)
        # Past the grace nothing of before is used anyway.
        while self._changes and next(iter(self._changes.values()))[1] < now - GRACE_S:
            self._changes.popitem(last=False)

    def is_outdated(self, record: KeyRecord) -> bool:
        """Whether something has changed that ``record`` does not know of."""
        return self._is_outdated(_knows(record))

    def _is_outdated(self, knows: _Known) -> bool:
        return any(self._changes.get(at, (0, 0.0))[0] > rev for at, rev in knows)

    def _expired(self, record: KeyRecord) -> bool:
        return record.expires_at is not None and record.expires_at.timestamp() <= self._now()

    async def _record(self, public_id: PublicKeyId) -> KeyRecord | None:
        now = self._clock()
        entry, unknown_until = self._known.get(public_id), self._unknown.get(public_id, 0.0)
        if self._is_outdated((entry or _NO_ENTRY).knows):
            entry = None
        if entry is not None and now < entry.fresh_until:
            self._known.move_to_end(public_id)
            return entry.record
        if unknown_until > now:
            self._unknown.move_to_end(public_id)
            return None
        in_grace = entry is not None and now < entry.fetched_at + GRACE_S
        try:
            if now < self._away_until:
                raise StoreUnavailable("postgres", "did not answer a moment ago")
            return await self._looked_up(public_id)
        except StoreUnavailable as error:
            if entry is not None and in_grace:
                return entry.record
            raise Overloaded("Keys cannot be looked up right now, and this one was not seen before.") from error

    async def _looked_up(self, public_id: PublicKeyId) -> KeyRecord | None:
        """One look-up a key at a time, however many requests wait for it."""
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
                    heard = self._changes.get(("api_key", public_id))
                    record = await self._store.key_by_public_id(public_id)
                    # Read before it was made, or changed, and heard of after: who asks since then is told what is so.
                    if record is None and self._changes.get(("api_key", public_id)) == heard:
                        break
                    if record is not None and not self.is_outdated(record):
                        break
        except (StoreUnavailable, TimeoutError) as error:
            self._away_until = self._clock() + STORE_RETRY_S
            raise StoreUnavailable("postgres", "the key could not be looked up") from error
        now = self._clock()
        self._away_until = 0.0
        if record is None:
            self._known.pop(public_id, None)
            _keep(self._unknown, public_id, now + NEGATIVE_TTL_S, UNKNOWN_KEYS)
        else:
            fresh_until = now + TTL_S + random.random() * TTL_JITTER_S  # noqa: S311  (spreads load, guards nothing)
            self._unknown.pop(public_id, None)
            _keep(self._known, public_id, _Entry(record, now, fresh_until, _knows(record)), KNOWN_KEYS)
        return record


def parsed_key(authorization: str, x_api_key: str) -> keys.ParsedKey | None:
    """The well-formed key in these headers: Bearer, Basic (public id and whole key), or x-api-key.

    Credentials that are no key of ours, such as those a proxy adds for itself, are ignored. None without a key, and
    when there are two different ones. A header that was sent twice holds both values with a comma between them.
    """
    offered = [_offered(value) for value in authorization.split(",")] + [
        value.strip() for value in x_api_key.split(",")
    ]
    found = {key for value in offered if (key := keys.parse(value)) is not None}
    return found.pop() if len(found) == 1 else None


def _offered(authorization: str) -> str:
    """What could be a key in a value of ``Authorization``."""
    scheme, _, credentials = authorization.strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return credentials.strip()
        case "basic":
            return _basic(credentials.strip())
    return ""


def _basic(credentials: str) -> str:
    """The key in Basic credentials: Langfuse's clients send ``tb_<public_id>`` as user, the whole key as password."""
    try:
        user, _, password = b64decode(credentials, validate=True).decode("ascii").partition(":")
    except ValueError:
        return ""
    return password if user and user == password.rpartition("_")[0] else ""


def tenant_of(record: KeyRecord) -> TenantContext:
    """The tenant that a valid key speaks for.

    Raises:
        Forbidden: when it is an operator's, or of a whole org: neither names a project.
        Suspended: when its org is.
    """
    if record.org_id is None or record.workspace_id is None or record.project_id is None:
        raise Forbidden("This key speaks for no project.", hint="Use a key that was made for a project.")
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
