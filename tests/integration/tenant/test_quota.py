"""The hot counter of a quota beside a model of it: reserved, kept, lost, given back and settled in any order."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from tracebility.errors import QuotaExceeded, StoreUnavailable
from tracebility.ids import OrgId, ProjectId, PublicKeyId, WorkspaceId
from tracebility.stores import redis_control
from tracebility.tenant.admission import Admission, Admitted
from tracebility.tenant.context import Allowance, MeterLimit, Scope, TenantContext, sealed_context
from tracebility.tenant.quota import BYTES, SLOT_US, SPANS, Claim, QuotaMeter, Usage, usage_key

PERIOD = "2026-11"
START_SLOT = 29_900_000


def a_tenant(spans: int | None = None, size: int | None = None) -> TenantContext:
    """An org of its own, with these hard limits."""
    return sealed_context(
        OrgId(uuid4()),
        WorkspaceId(uuid4()),
        ProjectId(uuid4()),
        "plan",
        frozenset({Scope.INGEST_WRITE}),
        PublicKeyId("key"),
        Allowance(meters={SPANS: MeterLimit(spans, None), BYTES: MeterLimit(size, None)}),
    )


def a_claim(spans: int, size: int = 0, slot: int = START_SLOT, body: str = "") -> Claim:
    return Claim(slot * SLOT_US + 1, PERIOD, body or uuid4().hex, {SPANS: spans, BYTES: size})


class Settled:
    """A `UsageStore`: what the last settlement said."""

    def __init__(self, usage: Usage | None = None) -> None:
        self.usage_now = usage or Usage(0, {})
        self.asked = 0

    async def usage(self, org_id: OrgId, period: str) -> Usage:
        self.asked += 1
        return self.usage_now


async def counted(store: redis_control.RedisControl, tenant: TenantContext, meter: str = SPANS) -> int:
    return int(await store.command("HGET", usage_key(tenant.org_id, PERIOD), meter))


async def test_concurrent_senders_get_in_up_to_the_limit_and_not_one_more(
    hot_store: redis_control.RedisControl, stores: Any
) -> None:
    tenant = a_tenant(spans=5_000)
    others = [await redis_control.connect(stores.redis_url) for _ in range(3)]
    doors = [Admission(store, Settled()) for store in (hot_store, *others)]

    async def send(nth: int) -> int:
        let_in = 0
        for _ in range(60):
            with suppress(QuotaExceeded):
                let_in += (await doors[nth % len(doors)].admit(tenant, a_claim(7 + nth))).claim.quantities[SPANS]
        return let_in

    total = sum(await asyncio.gather(*(send(nth) for nth in range(16))))
    for store in others:
        await store.close()
    assert 5_000 - 7 < total <= 5_000
    assert await counted(hot_store, tenant) == total


async def test_a_request_gets_in_with_all_its_meters_or_none(hot_store: redis_control.RedisControl) -> None:
    tenant = a_tenant(spans=100, size=1_000)
    door = Admission(hot_store, Settled())
    await door.admit(tenant, a_claim(10, 900))
    with pytest.raises(QuotaExceeded) as refused:
        await door.admit(tenant, a_claim(10, 101))
    assert refused.value.members == {
        "meter": BYTES, "limit": 1_000, "used": 900, "period": PERIOD, "resets_at": "2026-12-01T00:00:00Z"
    }  # fmt: skip
    assert (await counted(hot_store, tenant), await counted(hot_store, tenant, BYTES)) == (10, 900)
    await door.admit(tenant, a_claim(90, 100))


async def test_a_limit_of_nought_refuses_everything_and_none_refuses_nothing(
    hot_store: redis_control.RedisControl,
) -> None:
    door = Admission(hot_store, Settled())
    with pytest.raises(QuotaExceeded):
        await door.admit(a_tenant(spans=0), a_claim(1))
    assert (await door.admit(a_tenant(), a_claim(1 << 40))).used[SPANS] == 1 << 40


async def flag(store: redis_control.RedisControl, tenant: TenantContext) -> bytes | None:
    said: bytes | None = await store.command("GET", f"quota:over:{tenant.org_id}:{PERIOD}")
    return said


async def test_the_request_that_reaches_the_limit_raises_the_flag_and_those_behind_it_keep_it_up(
    hot_store: redis_control.RedisControl,
) -> None:
    tenant, door = a_tenant(spans=10, size=100), Admission(hot_store, Settled())
    await door.admit(tenant, a_claim(9, 99))
    assert await flag(hot_store, tenant) is None
    await door.admit(tenant, a_claim(0, 1))
    assert await flag(hot_store, tenant) == BYTES.encode()
    await hot_store.command("DEL", f"quota:over:{tenant.org_id}:{PERIOD}")
    with pytest.raises(QuotaExceeded):
        await door.admit(tenant, a_claim(1, 1))
    assert await flag(hot_store, tenant) == BYTES.encode()


async def test_one_request_that_is_too_large_raises_no_flag(hot_store: redis_control.RedisControl) -> None:
    """By the flag others' envelopes are dropped: those of an org that has room are not."""
    tenant, door = a_tenant(spans=1_000), Admission(hot_store, Settled())
    await door.admit(tenant, a_claim(10))
    with pytest.raises(QuotaExceeded):
        await door.admit(tenant, a_claim(991))
    assert await flag(hot_store, tenant) is None


async def test_a_body_that_was_kept_is_let_in_again_and_not_counted(hot_store: redis_control.RedisControl) -> None:
    tenant, claim = a_tenant(spans=10), a_claim(10)
    door = Admission(hot_store, Settled())
    door.keep(await door.admit(tenant, claim))
    again = await door.admit(tenant, claim)
    assert again.is_same
    assert await counted(hot_store, tenant) == 10


async def test_a_body_whose_first_attempt_died_is_taken_over_not_charged_again(
    hot_store: redis_control.RedisControl,
) -> None:
    tenant, claim = a_tenant(spans=10), a_claim(10)
    door = Admission(hot_store, Settled())
    died = await door.admit(tenant, claim)
    second = await door.admit(tenant, claim)
    assert not second.is_same
    await door.give_back(died)  # the first was not dead, only slow, and failed: the second holds it now
    assert await counted(hot_store, tenant) == 10
    await door.give_back(second)
    assert await counted(hot_store, tenant) == 0


async def test_what_was_settled_away_is_reserved_anew_if_there_is_room(hot_store: redis_control.RedisControl) -> None:
    tenant, door, body = a_tenant(spans=100), Admission(hot_store, Settled()), uuid4().hex
    await door.admit(tenant, a_claim(60, body=body))  # and dies
    await QuotaMeter(hot_store).settle(tenant.org_id, PERIOD, Usage(START_SLOT, {SPANS: 0}))
    await door.admit(tenant, a_claim(40, slot=START_SLOT + 1))
    assert (await door.admit(tenant, a_claim(60, slot=START_SLOT + 1, body=body))).used[SPANS] == 100
    await QuotaMeter(hot_store).settle(tenant.org_id, PERIOD, Usage(START_SLOT + 1, {SPANS: 40}))
    await door.admit(tenant, a_claim(60, slot=START_SLOT + 2))
    with pytest.raises(QuotaExceeded):
        await door.admit(tenant, a_claim(60, slot=START_SLOT + 2, body=body))
    assert await counted(hot_store, tenant) == 100


async def test_what_was_settled_away_is_not_given_back(hot_store: redis_control.RedisControl) -> None:
    tenant, door = a_tenant(spans=100), Admission(hot_store, Settled())
    late = await door.admit(tenant, a_claim(60))
    await QuotaMeter(hot_store).settle(tenant.org_id, PERIOD, Usage(START_SLOT, {SPANS: 40}))
    await door.give_back(late)
    assert await counted(hot_store, tenant) == 40


async def test_what_is_taken_over_is_counted_with_the_stamp_of_who_took_it(
    hot_store: redis_control.RedisControl,
) -> None:
    """Else the first settlement between the two stamps forgets what is under way."""
    tenant, door, body = a_tenant(spans=100), Admission(hot_store, Settled()), uuid4().hex
    await door.admit(tenant, a_claim(60, body=body))  # and dies
    second = await door.admit(tenant, a_claim(60, slot=START_SLOT + 20, body=body))
    await QuotaMeter(hot_store).settle(tenant.org_id, PERIOD, Usage(START_SLOT + 10, {SPANS: 0}))
    assert await counted(hot_store, tenant) == 60
    await door.give_back(second)
    assert await counted(hot_store, tenant) == 0


async def test_usage_that_redis_forgot_is_filled_in_once_from_the_control_plane(
    hot_store: redis_control.RedisControl,
) -> None:
    tenant = a_tenant(spans=100)
    settled = Settled(Usage(START_SLOT - 2, {SPANS: 95}))
    door = Admission(hot_store, settled)
    with pytest.raises(QuotaExceeded):
        await door.admit(tenant, a_claim(6))
    assert (await door.admit(tenant, a_claim(5))).used[SPANS] == 100
    assert settled.asked == 1


class Flapping:
    """A `ControlStore` that is away when told."""

    def __init__(self, store: redis_control.RedisControl) -> None:
        self.store = store
        self.is_away = False

    async def run(self, *call: Any) -> Any:
        if self.is_away:
            raise StoreUnavailable("redis", "away")
        return await self.store.run(*call)

    async def command(self, *command: Any) -> Any:
        return await self.store.command(*command)

    def put(self, key: str, value: str | bytes, life_ms: int) -> None:
        self.store.put(key, value, life_ms)


async def test_a_redis_that_comes_and_goes_lends_once_until_what_it_lent_is_settled(
    hot_store: redis_control.RedisControl,
) -> None:
    tenant, flapping = a_tenant(spans=1_000), Flapping(hot_store)
    door = Admission(flapping, Settled())
    for slot in range(START_SLOT, START_SLOT + 4):
        flapping.is_away = False
        await door.admit(tenant, a_claim(1, slot=slot))
        flapping.is_away = True
        if slot < START_SLOT + 2:
            assert (await door.admit(tenant, a_claim(5, slot=slot))).is_degraded
        else:
            with pytest.raises(QuotaExceeded):
                await door.admit(tenant, a_claim(1, slot=slot))
    flapping.is_away = False
    for watermark in (START_SLOT, START_SLOT + 1):
        await QuotaMeter(hot_store).settle(tenant.org_id, PERIOD, Usage(watermark, {SPANS: 12}))
        flapping.is_away = False
        await door.admit(tenant, a_claim(1, slot=START_SLOT + 4))
        flapping.is_away = True
        if watermark == START_SLOT:  # a part of what was lent is settled, not all of it
            with pytest.raises(QuotaExceeded):
                await door.admit(tenant, a_claim(10, slot=START_SLOT + 4))
    assert (await door.admit(tenant, a_claim(10, slot=START_SLOT + 4))).is_degraded


@dataclass(eq=False)
class Request:
    """What the model knows of one that was let in."""

    admitted: Admitted
    spans: int
    slot: int  # that it is stamped with
    counted_in: int
    body: str


class QuotaMachine(RuleBasedStateMachine):
    """One org. The data plane holds what was stored; the counter must be that up to the watermark, and what was let in
    after it, whatever dies, comes late, or settles twice.
    """

    store: redis_control.RedisControl
    loop: asyncio.AbstractEventLoop
    under_way = Bundle("under_way")
    dead = Bundle("dead")

    def __init__(self) -> None:
        super().__init__()
        self.tenant = a_tenant(spans=1_000)
        self.door, self.meter = Admission(self.store, Settled()), QuotaMeter(self.store)
        self.slot = START_SLOT
        self.watermark = 0
        self.base = 0  # what the data plane had up to the watermark when it was summed
        self.after: list[Request] = []  # let in, and counted in a slot after the watermark
        self.stored: list[Request] = []
        self.sums: list[tuple[int, int]] = []

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    @property
    def used(self) -> int:
        return self.base + sum(request.spans for request in self.after)

    @rule(target=under_way, spans=st.integers(1, 400), late=st.integers(0, 1))
    def ask(self, spans: int, late: int) -> Request | None:
        slot, body = self.slot - late, uuid4().hex
        try:
            admitted = self.run(self.door.admit(self.tenant, a_claim(spans, slot=slot, body=body)))
        except QuotaExceeded as refusal:
            said = refusal.members["used"]
            assert (said, self.used + spans > 1_000) == (self.used, True)
            return None
        assert self.used + spans <= 1_000
        request = Request(admitted, spans, slot, max(slot, self.watermark + 1), body)
        self.after.append(request)
        return request

    @rule(target=dead, request=consumes(under_way))
    def die(self, request: Request | None) -> Request | None:
        return request

    @rule(target=under_way, request=consumes(dead), is_only_slow=st.booleans())
    def send_it_again(self, request: Request | None, is_only_slow: bool) -> Request | None:
        if request is None:
            return None
        claim = a_claim(request.spans, slot=self.slot, body=request.body)
        is_counted = request in self.after
        has_room = is_counted or self.used + request.spans <= 1_000
        try:
            admitted = self.run(self.door.admit(self.tenant, claim))
        except QuotaExceeded:
            assert not has_room
            return None
        assert has_room
        if is_counted:
            self.after.remove(request)
        if is_only_slow:
            self.run(self.door.give_back(request.admitted))
        again = Request(admitted, request.spans, self.slot, max(self.slot, self.watermark + 1), request.body)
        self.after.append(again)
        return again

    @rule(request=consumes(under_way))
    def store_it(self, request: Request | None) -> None:
        if request is not None:
            self.stored.append(request)

    @rule(request=consumes(under_way))
    def fail(self, request: Request | None) -> None:
        if request is not None:
            self.run(self.door.give_back(request.admitted))
            if request in self.after:
                self.after.remove(request)

    @rule(slots=st.integers(1, 3))
    def time_passes(self, slots: int) -> None:
        self.slot += slots

    @rule(back=st.integers(0, 2))
    def sum_up(self, back: int) -> None:
        """The reconciler takes a watermark and a sum; it may die, or be stopped for long, before it settles."""
        watermark = self.slot - 1 - back
        self.sums.append((watermark, sum(request.spans for request in self.stored if request.slot <= watermark)))

    @precondition(lambda self: self.sums)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        watermark, used = self.sums[data.draw(st.integers(0, len(self.sums) - 1))]
        moved = self.run(self.meter.settle(self.tenant.org_id, PERIOD, Usage(watermark, {SPANS: used})))
        assert moved == (watermark > self.watermark)
        if moved:
            self.watermark, self.base = watermark, used
            self.after = [request for request in self.after if request.counted_in > watermark]

    @invariant()
    def the_counter_is_what_it_should_be(self) -> None:
        said = self.run(self.store.command("HGET", usage_key(self.tenant.org_id, PERIOD), SPANS))
        assert int(said or 0) == self.used


@pytest.mark.hypothesis
def test_whatever_happens_the_counter_is_what_it_should_be(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_control, "DEADLINE_S", 30.0)  # what a busy machine lends is another test's
    with asyncio.Runner() as runner:
        QuotaMachine.loop = runner.get_loop()
        QuotaMachine.store = runner.run(redis_control.connect(stores.redis_url))
        try:
            machine = QuotaMachine.TestCase
            machine.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=30)
            machine().runTest()
        finally:
            runner.run(QuotaMachine.store.close())
