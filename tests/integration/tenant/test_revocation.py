"""Who is let in, beside a model of it: keys, orgs and plans change while processes look keys up from their caches.

The model is a history of worlds, one after each change. A process may answer by any world since it last heard of
changes, never by one that was over for longer than `SOON_S`, and never by one before a world it has answered by.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule

from tracebility.audit.events import SYSTEM
from tracebility.errors import Suspended, Unauthenticated
from tracebility.ids import OrgId, PublicKeyId
from tracebility.orgs import keys as control_keys
from tracebility.orgs import orgs, plans
from tracebility.stores import postgres, redis_control
from tracebility.stores.changes import POLL_S, Changes
from tracebility.stores.keys import CachedKeys, PostgresKeys, _encode
from tracebility.tenant import keys, resolver
from tracebility.tenant.limits import Limits, MeterLimits, Meters
from tracebility.tenant.redis_keys import shared_key
from tracebility.tenant.resolver import KeyRecord, Resolver

# The promise for what nobody announces, and for a key that was looked up before it was made.
SOON_S = 5.0

# The model's clock is ahead of the store's, which may think that a key is alive when the model knows that it has ended.
AHEAD_S = 3_600

REFUSED, SUSPENDED = "refused", "suspended"
Answer = str | int  # of who is let in: the spans that the plan allows


@dataclass(frozen=True)
class Standing:
    """What is so of a key that was made."""

    expires_at: float | None = None
    is_revoked: bool = False
    would_expire_at: float | None = None  # if it had not been rotated: what it is replaced by lasts for as long


@dataclass(frozen=True)
class World:
    """What is so after a change, and since when."""

    since: float
    is_suspended: bool
    plan: str
    spans: Mapping[str, int]  # by plan
    keys: Mapping[PublicKeyId, Standing]

    def answer(self, key: PublicKeyId, now: float) -> Answer:
        standing = self.keys.get(key)
        if standing is None or standing.is_revoked:
            return REFUSED
        if standing.expires_at is not None and standing.expires_at <= now:
            return REFUSED
        return SUSPENDED if self.is_suspended else self.spans[self.plan]


class SlowPostgres(PostgresKeys):
    """Where its answers can be held on their way."""

    def __init__(self, control: postgres.Postgres) -> None:
        super().__init__(control)
        self.has_read, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    async def key_by_public_id(self, public_id: PublicKeyId) -> KeyRecord | None:
        record = await super().key_by_public_id(public_id)
        self.has_read.set()
        await self.may_answer.wait()
        return record


@dataclass(eq=False)
class Process:
    """One process: its resolver, and how it hears of changes."""

    resolver: Resolver
    store: SlowPostgres
    changes: Changes
    listens: bool = True
    asked_at: float = 0.0
    heard: int = 0  # the world it last heard of
    answered_by: dict[PublicKeyId, int] = field(default_factory=dict)


class RevocationMachine(RuleBasedStateMachine):
    """One org, some processes, one Redis between them, and a clock of the test's own."""

    control: postgres.Postgres
    hot: redis_control.RedisControl
    redis_url: str
    loop: asyncio.AbstractEventLoop
    processes = Bundle("processes")
    known = Bundle("known")  # keys, made or not yet
    read = Bundle("read")  # records on their way to Redis

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    @initialize(target=known)
    def make_org(self) -> str:
        self.now = float(int(time.time()) + AHEAD_S)
        self.everyone: list[Process] = []
        self.plans = [f"p{uuid4().hex[:16]}" for _ in range(2)]
        for spans, plan in enumerate(self.plans):
            self.run(self.put_plan(plan, spans))
        made = self.run(self.make(self.plans[0]))
        self.org_id, self.place = OrgId(made.org_id), (made.org_id, made.workspace_id, made.project_id)
        parsed = keys.parse(made.api_key)
        assert parsed is not None
        self.worlds = [
            World(
                self.now,
                False,
                self.plans[0],
                dict(zip(self.plans, range(2), strict=True)),
                {parsed.public_id: Standing()},
            )
        ]
        return made.api_key  # type: ignore[no-any-return]

    # --- what is done to keys, org and plans; whether anyone is told ---

    @rule(key=known, announced=st.booleans(), life_s=st.none() | st.integers(1, 30))
    def make_key(self, key: str, announced: bool, life_s: int | None) -> None:
        if public_id(key) in self.world.keys:
            return
        expires_at = None if life_s is None else self.now + life_s
        self.run(self.insert_key(key, expires_at))
        standing = Standing(expires_at, would_expire_at=expires_at)
        self.becomes(announced, keys={**self.world.keys, public_id(key): standing})

    @rule(key=known, announced=st.booleans())
    def revoke(self, key: str, announced: bool) -> None:
        if self.run(self.change(control_keys.revoke_key, public_id(key))):
            standing = replace(self.world.keys[public_id(key)], is_revoked=True)
            self.becomes(announced, keys={**self.world.keys, public_id(key): standing})

    @rule(target=known, key=known, announced=st.booleans(), overlap_s=st.integers(0, 20))
    def rotate(self, key: str, announced: bool, overlap_s: int) -> str:
        old = self.world.keys.get(public_id(key))
        if old is None or old.is_revoked:
            return key
        by_the_store = int(self.now - time.time()) + overlap_s
        rotated = self.run(self.change(control_keys.rotate_key, public_id(key), control_keys.Rotation(by_the_store)))
        ends_at = datetime.fromisoformat(rotated.old_expires_at).timestamp()
        self.becomes(
            announced,
            keys={
                **self.world.keys,
                public_id(key): replace(old, expires_at=ends_at),
                PublicKeyId(rotated.public_id): replace(old, expires_at=old.would_expire_at),
            },
        )
        return rotated.key  # type: ignore[no-any-return]

    @rule(announced=st.booleans())
    def suspend_or_resume(self, announced: bool) -> None:
        is_suspended = not self.world.is_suspended
        self.run(self.change_org(orgs.OrgChanges(suspended=is_suspended)))
        self.becomes(announced, is_suspended=is_suspended)

    @rule(announced=st.booleans())
    def change_plan(self, announced: bool) -> None:
        [other] = [plan for plan in self.plans if plan != self.world.plan]
        self.run(self.change_org(orgs.OrgChanges(plan=other)))
        self.becomes(announced, plan=other)

    @rule(announced=st.booleans(), spans=st.integers(0, 1_000))
    def change_what_the_plan_allows(self, announced: bool, spans: int) -> None:
        self.run(self.put_plan(self.world.plan, spans))
        self.becomes(announced, spans={**self.world.spans, self.world.plan: spans})

    # --- processes, and what they hear ---

    @precondition(lambda self: len(self.everyone) < 4)
    @rule(target=processes)
    def start(self) -> Process:
        store = SlowPostgres(self.control)
        resolver: Resolver
        resolver = Resolver(
            CachedKeys(store, self.hot, lambda record: resolver.is_outdated(record)),
            clock=lambda: self.now,
            now=lambda: self.now,
        )
        process = Process(resolver, store, Changes(self.control, self.redis_url, resolver.changed))
        self.everyone.append(process)
        self.hear(process)
        return process

    @rule(process=processes)
    def lose_or_find_the_announcements(self, process: Process) -> None:
        process.listens = not process.listens
        if process.listens:
            self.hear(process)

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            for process in self.everyone:
                if self.now >= process.asked_at + POLL_S:
                    self.hear(process)

    # --- the cache between them ---

    @rule(key=known)
    def redis_forgets(self, key: str) -> None:
        self.run(self.hot.command("DEL", shared_key("api_key", public_id(key))))

    @rule(target=read, key=known)
    def read_for_redis(self, key: str) -> KeyRecord | None:
        return self.run(PostgresKeys(self.control).key_by_public_id(public_id(key)))  # type: ignore[no-any-return]

    @rule(record=read)
    def write_back_late(self, record: KeyRecord | None) -> None:
        if record is not None:
            self.run(self.hot.command("SET", shared_key("api_key", record.public_id), _encode(record)))

    # --- the promise ---

    @rule(target=known)
    def make_up_a_key(self) -> str:
        return keys.generate().key

    @rule(process=processes, key=known)
    def look_up(self, process: Process, key: str) -> None:
        since = self.oldest_allowed(process, key)
        self.must_be_of(self.run(self.answer(process, key)), since, process, key)

    @rule(key=known)
    def everyone_looks_up(self, key: str) -> None:
        for process in self.everyone:
            self.look_up(process, key)

    @rule(process=processes, key=known, announced=st.booleans(), data=st.data())
    def look_up_while_it_changes(self, process: Process, key: str, announced: bool, data: st.DataObject) -> None:
        """It was read before, and comes after, and what it says may be the end of the key, or the beginning."""
        since = self.oldest_allowed(process, key)
        process.store.has_read.clear()
        process.store.may_answer.clear()
        asking = self.loop.create_task(self.answer(process, key))
        self.run(first_of(asking, process.store.has_read.wait()))
        if public_id(key) not in self.world.keys:
            self.make_key(key, announced, None)
        else:
            data.draw(st.sampled_from([self.revoke, self.suspend]))(key, announced)
        # Who asks now waits for the same look-up, and is told of the world as it is now.
        since_then = self.oldest_allowed(process, key)
        asking_later = self.loop.create_task(self.answer(process, key))
        self.run(asyncio.sleep(0))
        process.store.may_answer.set()
        self.must_be_of(self.run(asking), since, process, key)
        self.must_be_of(self.run(asking_later), since_then, process, key)

    def suspend(self, key: str, announced: bool) -> None:
        self.suspend_or_resume(announced)

    def oldest_allowed(self, process: Process, key: str) -> int:
        """Of all worlds, the first that ``process`` may still answer by."""
        over_for_long = [at for at, later in enumerate(self.worlds[1:]) if later.since < self.now - SOON_S]
        return max(process.heard, len(over_for_long), process.answered_by.get(public_id(key), 0))

    def must_be_of(self, answer: Answer, since: int, process: Process, key: str) -> None:
        allowed = {at: self.worlds[at].answer(public_id(key), self.now) for at in range(since, len(self.worlds))}
        assert answer in allowed.values()
        process.answered_by[public_id(key)] = next(at for at, said in allowed.items() if said == answer)

    # --- how it is done ---

    @property
    def world(self) -> World:
        return self.worlds[-1]

    def becomes(self, announced: bool, **changes: Any) -> None:
        self.worlds.append(replace(self.world, since=self.now, **changes))
        for process in self.everyone:
            if announced and process.listens:
                self.hear(process)

    def hear(self, process: Process) -> None:
        self.run(process.changes.poll())
        process.asked_at, process.heard = self.now, len(self.worlds) - 1

    async def answer(self, process: Process, key: str) -> Answer:
        try:
            tenant = await process.resolver.resolve(f"Bearer {key}", "")
        except Unauthenticated:
            return REFUSED
        except Suspended:
            return SUSPENDED
        spans = tenant.allowance.meters["spans"].hard
        assert spans is not None
        return spans

    async def change(self, act: Any, *arguments: Any) -> Any:
        async with self.control.transaction() as transaction:
            return await act(transaction, SYSTEM, *arguments)

    async def make(self, plan: str) -> orgs.MadeOrg:
        new = orgs.NewOrg(f"org {uuid4()}", plan)
        return await self.change(orgs.create_org, new, datetime.now(UTC))  # type: ignore[no-any-return]

    async def change_org(self, changes: orgs.OrgChanges) -> None:
        await self.change(orgs.change_org, self.org_id, changes, datetime.now(UTC))

    async def put_plan(self, plan: str, spans: int) -> None:
        limits = Limits(None, Meters(spans=MeterLimits(hard=spans)), None, None)
        await self.change(plans.put_plan, plan, limits)

    async def insert_key(self, key: str, expires_at: float | None) -> None:
        parsed = keys.parse(key)
        assert parsed is not None
        ends = None if expires_at is None else datetime.fromtimestamp(expires_at, UTC)
        arguments = (*self.place, "key", parsed.secret_hash, ["read"], ends, None, None)
        await self.control.execute("insert_key_of_project", parsed.public_id, *arguments)


def public_id(key: str) -> PublicKeyId:
    parsed = keys.parse(key)
    assert parsed is not None
    return parsed.public_id


async def first_of(asking: "asyncio.Task[Answer]", reading: Any) -> None:
    waiting = asyncio.ensure_future(reading)
    await asyncio.wait([asking, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


@pytest.mark.hypothesis
def test_who_is_let_in_is_as_the_model_has_it(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "LOOKUP_TIMEOUT_S", 60.0)  # by the real clock, which is not the test's
    with asyncio.Runner() as runner:
        RevocationMachine.loop = runner.get_loop()
        RevocationMachine.redis_url = stores.redis_url
        RevocationMachine.control = runner.run(postgres.connect(stores.pg_dsn))
        RevocationMachine.hot = runner.run(redis_control.connect(stores.redis_url))
        try:
            machine = RevocationMachine.TestCase
            machine.settings = settings(stateful_step_count=40)
            machine().runTest()
        finally:
            runner.run(RevocationMachine.hot.close())
            runner.run(RevocationMachine.control.close())
