"""Who a key speaks for, how often that is asked, and what holds while nobody can be asked."""

import asyncio
import random
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime
from hmac import compare_digest
from uuid import uuid4

import pytest

from tracebility.errors import Forbidden, Overloaded, StoreUnavailable, Unauthenticated
from tracebility.ids import OrgId, ProjectId, PublicKeyId, WorkspaceId
from tracebility.retry import STORE_RETRY_S
from tracebility.tenant import keys, resolver
from tracebility.tenant.context import Scope
from tracebility.tenant.resolver import Change, KeyRecord, Resolver


class ControlPlane:
    """Key records by hand, a clock by hand, and a count of the questions."""

    def __init__(self) -> None:
        self.records: dict[PublicKeyId, KeyRecord] = {}
        self.questions = 0
        self.asked = asyncio.Event()
        self.is_away = False
        self.answers_after: asyncio.Event | None = None
        self.now = 1000.0

    async def key_by_public_id(self, public_id: PublicKeyId) -> KeyRecord | None:
        self.questions += 1
        record = self.records.get(public_id)
        self.asked.set()
        if self.answers_after is not None:
            await self.answers_after.wait()
        if self.is_away:
            raise StoreUnavailable("postgres", "away")
        return record

    def add(self, **changes: object) -> keys.NewKey:
        key = keys.generate()
        fields: dict[str, object] = {
            "public_id": key.public_id,
            "org_id": OrgId(uuid4()),
            "workspace_id": WorkspaceId(uuid4()),
            "project_id": ProjectId(uuid4()),
            "plan": "free",
            "scopes": frozenset({Scope.INGEST_WRITE}),
            "expires_at": None,
            "revoked_at": None,
            "secret_hash": key.secret_hash,
        }
        self.records[key.public_id] = KeyRecord(**fields | changes)  # type: ignore[arg-type]
        return key


@pytest.fixture
def plane() -> ControlPlane:
    return ControlPlane()


@pytest.fixture
def resolve(plane: ControlPlane) -> Resolver:
    return Resolver(plane, clock=lambda: plane.now, now=lambda: plane.now)


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


async def test_all_ways_to_send_a_key_lead_to_the_same_tenant(plane: ControlPlane, resolve: Resolver) -> None:
    key = plane.add()
    ways = [
        (f"Bearer {key.key}", ""),
        (f"bearer  {key.key} ", ""),
        ("", key.key),
        (f"Bearer {key.key}", key.key),
        (basic(f"tb_{key.public_id}", key.key), ""),
        # A proxy in front has put its own credentials into the other header, or into the same one.
        ("Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln", key.key),
        (basic("proxy", "password"), key.key),
        (f"Bearer {key.key}", "another service's key"),
        (f"{basic('proxy', 'password')}, Bearer {key.key}", ""),
    ]
    tenants = {await resolve.resolve(*way) for way in ways}
    assert len(tenants) == 1
    tenant = tenants.pop()
    record = plane.records[key.public_id]
    assert (tenant.org_id, tenant.workspace_id, tenant.project_id) == (
        record.org_id,
        record.workspace_id,
        record.project_id,
    )
    assert plane.questions == 1


async def test_every_bad_key_is_refused_in_the_same_words(plane: ControlPlane, resolve: Resolver) -> None:
    key, other = plane.add(), plane.add()
    revoked = plane.add(revoked_at=datetime(2020, 1, 1, tzinfo=UTC))
    expired = plane.add(expires_at=datetime.fromtimestamp(plane.now, UTC))
    stranger = keys.generate()
    forged = f"tb_{key.public_id}_{keys.generate().key[-keys.SECRET_CHARS : -keys.CHECKSUM_CHARS]}"
    wrong_secret = forged + keys.checksum(forged)
    ways = [
        ("", ""),
        ("Bearer", ""),
        ("Bearer ", ""),
        ("Bearer \x00\xff", ""),
        ("Digest " + key.key, ""),
        (key.key, ""),
        ("Basic !!!", ""),
        ("Basic w6k6w6k=", ""),
        (basic("tb_someoneelse1", key.key), ""),
        (basic("", key.key), ""),
        (basic("tb", key.key), ""),
        (basic(key.key, key.key), ""),
        ("", "tb_x_y"),
        ("", stranger.key),
        ("", wrong_secret),
        ("", revoked.key),
        ("", expired.key),
        (f"Bearer {key.key}", other.key),
        (f"Bearer {key.key}, Bearer {other.key}", ""),
        (f"Bearer {stranger.key}", key.key),
        ("Bearer of bad news", "neither"),
    ]
    words = set()
    for way in ways:
        with pytest.raises(Unauthenticated) as refusal:
            await resolve.resolve(*way)
        words.add((str(refusal.value.body()), str(refusal.value.headers())))
    assert len(words) == 1


async def test_a_key_that_is_none_is_compared_as_long_as_one_that_is(
    plane: ControlPlane, resolve: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no clock tells a wrong secret from a public id that does not exist."""
    compared: list[tuple[bytes, bytes]] = []

    def noted(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare_digest(one, other)

    monkeypatch.setattr(keys.hmac, "compare_digest", noted)
    known, stranger = plane.add(), keys.generate()
    await resolve.resolve("", known.key)
    with pytest.raises(Unauthenticated):
        await resolve.resolve("", stranger.key)
    assert compared == [(known.secret_hash, known.secret_hash), (stranger.secret_hash, keys.NO_HASH)]


async def test_a_malformed_key_costs_no_look_up_and_an_unknown_one_costs_one(
    plane: ControlPlane, resolve: Resolver
) -> None:
    key = keys.generate().key
    for _ in range(5):
        for text in (key[:-1] + ("0" if key[-1] != "0" else "1"), "nonsense", key):
            with pytest.raises(Unauthenticated):
                await resolve.resolve("", text)
    assert plane.questions == 1
    plane.now += resolver.NEGATIVE_TTL_S
    with pytest.raises(Unauthenticated):
        await resolve.resolve("", key)
    assert plane.questions == 2


async def deleted(plane: ControlPlane, resolve: Resolver) -> keys.NewKey:
    """A key that was in use, is gone, and is refused."""
    key = plane.add()
    await resolve.resolve("", key.key)
    del plane.records[key.public_id]
    plane.now += 5.0
    with pytest.raises(Unauthenticated):
        await resolve.resolve("", key.key)
    return key


async def test_a_revoked_key_is_refused_within_five_seconds(plane: ControlPlane, resolve: Resolver) -> None:
    await deleted(plane, resolve)


async def test_a_key_in_use_does_not_stay_fresh_by_being_used(plane: ControlPlane, resolve: Resolver) -> None:
    key = plane.add()
    for _ in range(50):
        await resolve.resolve("", key.key)
        plane.now += 0.2
    assert plane.questions >= 2


async def test_many_requests_at_once_ask_once(plane: ControlPlane, resolve: Resolver) -> None:
    key = plane.add()
    plane.answers_after = asyncio.Event()
    waiting = [asyncio.create_task(resolve.resolve("", key.key)) for _ in range(50)]
    await plane.asked.wait()
    waiting[0].cancel()
    plane.answers_after.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert len(set(answers[1:])) == 1
    assert plane.questions == 1


async def test_who_asks_after_a_change_is_not_answered_by_a_look_up_of_before_it(
    plane: ControlPlane, resolve: Resolver
) -> None:
    """A revocation, and the making of a key: the look-up has read, the change is heard of, then someone else asks."""
    made, revoked = keys.generate(), plane.add()
    before = plane.records[revoked.public_id]
    working = replace(before, public_id=made.public_id, secret_hash=made.secret_hash)
    for rev, (key, after) in enumerate(
        [(revoked, replace(before, revoked_at=datetime(2020, 1, 1, tzinfo=UTC))), (made, working)], 1
    ):
        plane.asked, plane.answers_after = asyncio.Event(), asyncio.Event()
        early = asyncio.create_task(resolve.resolve("", key.key))
        await plane.asked.wait()
        plane.records[key.public_id] = replace(after, revs=(rev, 0, 0))
        resolve.changed(Change(rev, "api_key", key.public_id))
        late = asyncio.create_task(resolve.resolve("", key.key))
        plane.answers_after.set()
        answers = await asyncio.gather(early, late, return_exceptions=True)
        assert isinstance(answers[1], Unauthenticated) == (key is revoked)


async def test_a_key_that_was_refused_before_it_was_made_is_known_as_soon_as_that_is_heard_of(
    plane: ControlPlane, resolve: Resolver
) -> None:
    key = plane.add()
    made = plane.records.pop(key.public_id)
    with pytest.raises(Unauthenticated):
        await resolve.resolve(f"Bearer {key.key}", "")
    plane.records[key.public_id] = replace(made, revs=(1, 0, 0))
    with pytest.raises(Unauthenticated):  # nobody said so
        await resolve.resolve(f"Bearer {key.key}", "")
    resolve.changed(Change(1, "api_key", key.public_id))
    assert (await resolve.resolve(f"Bearer {key.key}", "")).key_id == key.public_id


async def test_known_keys_outlive_postgres_for_a_stated_grace(plane: ControlPlane, resolve: Resolver) -> None:
    known, unseen = plane.add(), plane.add()
    tenant = await resolve.resolve("", known.key)
    plane.is_away = True
    for _ in range(10):
        plane.now += resolver.GRACE_S / 12
        assert await resolve.resolve("", known.key) == tenant
    with pytest.raises(Overloaded) as refusal:
        await resolve.resolve("", unseen.key)
    assert refusal.value.retry_after_s
    plane.now += resolver.GRACE_S
    with pytest.raises(Overloaded):
        await resolve.resolve("", known.key)
    plane.is_away = False
    plane.now += STORE_RETRY_S
    assert await resolve.resolve("", known.key) == tenant


async def test_a_key_that_was_deleted_has_no_grace(plane: ControlPlane, resolve: Resolver) -> None:
    key = await deleted(plane, resolve)
    plane.is_away = True
    plane.now += resolver.NEGATIVE_TTL_S
    with pytest.raises(Overloaded):
        await resolve.resolve("", key.key)


async def test_while_postgres_is_away_it_is_asked_once_a_second(plane: ControlPlane, resolve: Resolver) -> None:
    known = plane.add()
    await resolve.resolve("", known.key)
    plane.is_away = True
    plane.now += 10
    for _ in range(100):
        await resolve.resolve("", known.key)
    assert plane.questions == 2


async def test_keys_of_no_project_are_known_and_may_not_ingest(plane: ControlPlane, resolve: Resolver) -> None:
    operator = plane.add(org_id=None, workspace_id=None, project_id=None, scopes=frozenset({Scope.OPERATOR}))
    of_org = plane.add(project_id=None, scopes=frozenset({Scope.ADMIN}))
    for key in (operator, of_org):
        with pytest.raises(Forbidden):
            await resolve.resolve("", key.key)
        assert (await resolve.principal("", key.key)).public_id == key.public_id


async def test_made_up_keys_displace_no_real_one(
    plane: ControlPlane, resolve: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "UNKNOWN_KEYS", 10)
    monkeypatch.setattr(resolver, "KNOWN_KEYS", 2)
    known = [plane.add() for _ in range(2)]
    for key in known:
        await resolve.resolve("", key.key)
    for _ in range(30):
        with pytest.raises(Unauthenticated):
            await resolve.resolve("", keys.generate().key)
    assert len(resolve._unknown) == 10
    asked = plane.questions
    for key in random.sample(known, 2):
        await resolve.resolve("", key.key)
    assert plane.questions == asked
    await resolve.resolve("", plane.add().key)
    assert len(resolve._known) == 2
