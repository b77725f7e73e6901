"""What stands between a key and the queue: rate, sameness, quota; and what holds while Redis is away."""

import asyncio
import json
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from tests.harness.proxy import Proxy, Road

from tracebility.errors import Overloaded
from tracebility.stores import postgres
from tracebility.stores.queue import Queue, connect_queue
from tracebility.stores.redis_control import RedisControl
from tracebility.tenant import keys
from tracebility.tenant.context import Scope
from tracebility.tenant.dead_letters import flag_key
from tracebility.tenant.quota import LOCAL_MAX, SPANS
from tracebility.tenant.resends import digest, invalidate_marks
from tracebility.tenant.shard_router import overflow_of, shard_of
from tracebility.wire.envelope import from_fields


def runs(count: int) -> bytes:
    made = [
        {"id": str(uuid4()), "name": "n", "kind": "llm", "start_time": "2026-01-31T12:00:00Z"} for _ in range(count)
    ]
    return json.dumps({"runs": made}).encode()


@pytest.fixture
def limited(new_tenant: Any, control: postgres.Postgres) -> Any:
    """Makes a tenant whose plan has these limits."""

    async def make(*, spans: int | None = None, size: int | None = None, rate: tuple[int, int] | None = None) -> Any:
        tenant = await new_tenant(Scope.INGEST_WRITE)
        plan = f"p{uuid4().hex[:12]}"
        await control.execute(
            "INSERT INTO plan (name, requests_per_s, burst) VALUES ($1, $2, $3)", plan, *(rate or (None, None))
        )
        for meter, hard in ((SPANS, spans), ("bytes", size)):
            if hard is not None:
                await control.execute("INSERT INTO plan_meter_limit VALUES ($1, $2, $3, NULL)", plan, meter, hard)
        await control.execute("UPDATE org SET plan = $2 WHERE id = $1", tenant.org_id, plan)
        return tenant

    return make


async def kept(tenant: Any) -> int:
    return sum(envelope.header.items for envelope in await tenant.envelopes())


async def test_a_request_that_crosses_the_quota_is_refused_whole(edge: Any, limited: Any) -> None:
    tenant = await limited(spans=10)
    first = await edge.runs(tenant, runs(8))
    assert (first.status_code, first.headers["x-quota-spans-limit"], first.headers["x-quota-spans-remaining"]) == (
        202, "10", "2"
    )  # fmt: skip
    refused = await edge.runs(tenant, runs(3))
    assert refused.status_code == 402
    assert refused.headers["content-type"] == "application/problem+json"
    document = refused.json()
    assert {name: document[name] for name in ("meter", "limit", "used")} == {"meter": "spans", "limit": 10, "used": 8}
    assert (len(document["period"]), document["resets_at"][8:]) == (7, "01T00:00:00Z")
    assert (await edge.runs(tenant, runs(2))).status_code == 202
    assert (await edge.runs(tenant, runs(1))).status_code == 402
    assert await kept(tenant) == 10


async def test_items_that_are_refused_for_themselves_are_not_counted(edge: Any, limited: Any) -> None:
    tenant = await limited(spans=3)
    document = json.loads(runs(2))
    document["runs"].insert(1, {"id": "no", "name": 7})
    answer = await edge.runs(tenant, json.dumps(document))
    assert (answer.status_code, answer.json()["accepted"], len(answer.json()["rejected"])) == (202, 2, 1)
    assert answer.headers["x-quota-spans-remaining"] == "1"
    assert (await edge.runs(tenant, b'{"runs": []}')).status_code == 202


async def test_bytes_are_a_meter_too(edge: Any, limited: Any) -> None:
    tenant, body = await limited(size=1_000), runs(3)
    assert (await edge.runs(tenant, body)).headers["x-quota-bytes-remaining"] == str(1_000 - len(body))
    refused = await edge.runs(tenant, runs(30))
    assert (refused.status_code, refused.json()["meter"]) == (402, "bytes")


async def test_the_same_body_is_answered_as_before_also_at_the_limit(edge: Any, limited: Any, control: Any) -> None:
    tenant, body = await limited(spans=5), runs(5)
    first, again = await edge.runs(tenant, body), await edge.runs(tenant, body)
    assert (first.status_code, first.content) == (again.status_code, again.content) == (202, first.content)
    assert await kept(tenant) == 5
    assert (await edge.runs(tenant, runs(1))).status_code == 402


async def test_the_same_body_for_another_project_is_another_one(
    edge: Any, new_tenant: Any, control: postgres.Postgres
) -> None:
    tenant, body = await new_tenant(Scope.INGEST_WRITE), runs(2)
    project, key = uuid4(), keys.generate()
    await control.execute("insert_project", project, tenant.workspace_id, "another")
    place = (tenant.org_id, tenant.workspace_id, project)
    await control.execute("insert_key", key.public_id, *place, "key", key.secret_hash, ["ingest:write"])
    for sender in (tenant, replace(tenant, key=key.key)):
        assert (await edge.runs(sender, body)).status_code == 202
    assert await kept(tenant) == 4


async def test_the_same_body_is_new_once_data_of_its_org_was_removed(
    edge: Any, limited: Any, hot_store: RedisControl
) -> None:
    tenant, other, body = await limited(spans=10), await limited(spans=10), runs(5)
    for sender in (tenant, other):
        assert (await edge.runs(sender, body)).status_code == 202
    await invalidate_marks(hot_store, [tenant.org_id])
    for _ in range(3):
        for sender in (tenant, other):
            assert (await edge.runs(sender, body)).status_code == 202
    assert (await kept(tenant), await kept(other)) == (10, 5), "stored once more, then recognised again"


def test_only_equal_bodies_of_equal_items_for_the_same_place_have_the_same_digest() -> None:
    assert digest("a", 1, body=b"x") == digest("a", 1, body=b"x")
    different = [("a", 1, b"x"), ("a", 2, b"x"), ("b", 1, b"x"), ("a", 1, b"y"), ("a", 1, b"x\n"), ("a", 1, b"")]
    assert len({digest(*context, body=body) for *context, body in different}) == len(different)


async def test_what_could_not_be_kept_is_given_back(edge: Any, limited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant, body = await limited(spans=5), runs(5)

    async def nowhere(*_: Any) -> None:
        raise Overloaded("Neither the queue nor the disk.")

    with monkeypatch.context() as patch:
        patch.setattr(edge.services.intake._enqueuer, "keep", nowhere)
        assert (await edge.runs(tenant, body)).status_code == 503
    assert (await edge.runs(tenant, runs(5))).status_code == 202
    assert await kept(tenant) == 5


async def test_an_org_of_which_too_much_could_not_be_stored_is_refused_and_nobody_else(
    edge: Any, limited: Any, hot_store: RedisControl
) -> None:
    tenant, other, body = await limited(spans=5), await limited(spans=5), runs(2)
    assert (await edge.runs(tenant, body)).status_code == 202
    await hot_store.command("SET", flag_key(tenant.org_id), "1")
    refused = await edge.runs(tenant, runs(3))
    assert (refused.status_code, refused.headers["retry-after"], refused.json()["type"]) == (
        503, "2", "urn:tracebility:error:overloaded"
    )  # fmt: skip
    assert "could not be stored" in refused.json()["detail"]
    assert (await edge.runs(tenant, body)).status_code == 202, "it was kept before"
    assert (await edge.runs(other, body)).status_code == 202
    await hot_store.command("DEL", flag_key(tenant.org_id))
    assert (await edge.runs(tenant, runs(3))).status_code == 202, "nothing of it was counted"
    assert await kept(tenant) == 5


async def test_requests_over_the_rate_are_told_when_to_come_again(edge: Any, limited: Any) -> None:
    tenant = await limited(rate=(1, 3))
    answers = await asyncio.gather(*(edge.runs(tenant, runs(1)) for _ in range(10)))
    let_in = [answer for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert 3 <= len(let_in) <= 4
    assert len(let_in) + len(refused) == 10
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"org";q=3;w=3'}
    assert sorted(answer.headers["ratelimit"] for answer in let_in)[:3] == ['"org";r=0', '"org";r=1', '"org";r=2']
    for answer in refused:
        assert answer.headers["ratelimit"].startswith('"org";r=0;t=')
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        assert answer.json()["type"].endswith("rate-limited")
    assert await kept(tenant) == len(let_in)


async def test_a_key_may_be_limited_more_closely_than_its_org(
    edge: Any, limited: Any, control: postgres.Postgres
) -> None:
    tenant = await limited(rate=(100, 100))
    await control.execute("UPDATE api_key SET requests_per_s = 1, burst = 2 WHERE org_id = $1", tenant.org_id)
    answers = await asyncio.gather(*(edge.runs(tenant, runs(1)) for _ in range(6)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert 3 <= len(refused) <= 4
    assert refused[0].headers["ratelimit-policy"] == '"key";q=2;w=2'


@pytest.mark.parametrize("body", [b"not json", b'{"runs": []}', b'{"runs": [{"id": 1}]}'])
async def test_requests_of_which_nothing_is_kept_count_too(edge: Any, limited: Any, body: bytes) -> None:
    tenant = await limited(rate=(1, 2))
    statuses = [(await edge.runs(tenant, body)).status_code for _ in range(5)]
    assert statuses[0] in (400, 202, 422)
    assert statuses[-1] == 429


async def test_with_redis_away_limits_are_this_process_s_own(
    run_edge: Any, stores: Any, limited: Any, empty_redis_url: str
) -> None:
    fast, small = await limited(rate=(1, 2)), await limited(spans=1_000)
    async with (
        Proxy.before(stores.redis_url) as road,
        run_edge(redis_url=road.through(stores.redis_url), redis_stream_url=empty_redis_url) as edge,
    ):
        fast.queue = small.queue = await connect_queue(empty_redis_url)
        assert (await edge.runs(small, runs(1))).headers["x-quota-spans-remaining"] == "999"
        road.road = Road.CLOSED
        road.reset()
        # A hundredth of the plan is lent, and what is let in so says of itself that it is.
        assert (await edge.runs(small, runs(10))).headers["x-degraded"] == "rate, quota"
        assert (await edge.runs(small, runs(1))).status_code == 402
        assert [envelope.header.degraded for envelope in await small.envelopes()] == [False, True]
        statuses = [(await edge.runs(fast, runs(1))).status_code for _ in range(5)]
        assert statuses[0] == 202
        assert statuses[-1] == 429
        await small.queue.close()
    assert LOCAL_MAX[SPANS] == 10_000


async def test_who_was_over_the_quota_stays_over_it_while_redis_is_away(
    run_edge: Any, stores: Any, limited: Any, empty_redis_url: str
) -> None:
    tenant = await limited(spans=1_000)
    async with (
        Proxy.before(stores.redis_url) as road,
        run_edge(redis_url=road.through(stores.redis_url), redis_stream_url=empty_redis_url) as edge,
    ):
        assert (await edge.runs(tenant, runs(1_000))).status_code == 202
        road.road = Road.CLOSED
        road.reset()
        assert (await edge.runs(tenant, runs(1))).status_code == 402


async def test_what_an_org_has_too_much_of_waits_beside_its_shard(
    edge: Any, new_tenant: Any, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody drains here, so what is in flight stays."""
    monkeypatch.setattr("tracebility.ingest.enqueue.MAX_IN_FLIGHT", 20)
    monkeypatch.setattr("tracebility.stores.queue.producer.DEPTH_KNOWN_S", 60.0)
    flooding, other = await new_tenant(Scope.INGEST_WRITE), await new_tenant(Scope.INGEST_WRITE)
    for _ in range(30):
        assert (await edge.runs(flooding, runs(1))).status_code == 202
    assert (await edge.runs(other, runs(1))).status_code == 202
    assert await kept(flooding) == 21
    assert await kept(other) == 1
    overflow = overflow_of(shard_of(flooding.org_id))
    entries = [from_fields(entry.fields) for entry in await queue.range(overflow, count=1000)]
    assert sum(entry.header.org_id == flooding.org_id for entry in entries) == 9
