"""A key writes into its own project, whatever the request says and whoever else sends the same."""

import asyncio
import json
from base64 import b64encode
from typing import Any
from uuid import uuid4

import pytest
from tests.harness.proxy import Proxy, Road

from tracebility.tenant.context import Scope
from tracebility.tenant.shard_router import shard_of, stream_of
from tracebility.wire.envelope import from_fields

RUN = {"id": str(uuid4()), "name": "n", "kind": "llm", "start_time": "2026-01-31T12:00:00Z"}


@pytest.fixture
async def two_orgs(new_tenant: Any) -> tuple[Any, Any]:
    return await new_tenant(Scope.INGEST_WRITE), await new_tenant(Scope.INGEST_WRITE)


async def test_nothing_in_a_request_leads_into_another_org(edge: Any, two_orgs: tuple[Any, Any]) -> None:
    attacker, victim = two_orgs
    claims = {
        "org_id": str(victim.org_id),
        "workspace_id": str(victim.workspace_id),
        "project_id": str(victim.project_id),
        "session_name": str(victim.project_id),
    }
    headers = {
        "content-type": "application/json",
        "x-org-id": str(victim.org_id),
        "x-tenant-id": str(victim.org_id),
        "x-project": str(victim.project_id),
        "langsmith-project": str(victim.project_id),
        "x-forwarded-for": "127.0.0.1",
    }
    mixed = b64encode(f"tb_{victim.key.split('_')[1]}:{attacker.key}".encode()).decode()
    for credentials, status in [
        ({"x-api-key": attacker.key}, 202),
        ({"authorization": f"Bearer {attacker.key}"}, 202),
        ({"x-api-key": attacker.key, "authorization": f"Bearer {victim.key}"}, 401),
        ({"authorization": f"Basic {mixed}"}, 401),
        ({"x-api-key": f"{attacker.key}, {victim.key}"}, 401),
    ]:
        body = json.dumps(RUN | claims | {"metadata": claims | {"sent with": str(credentials)}})
        answer = await edge.client.post(
            f"/v1/runs?project_id={victim.project_id}&api_key={victim.key}", content=body, headers=headers | credentials
        )
        assert answer.status_code == status
    assert await victim.envelopes() == []
    envelopes = await attacker.envelopes()
    assert len(envelopes) == 2
    for envelope in envelopes:
        header = envelope.header
        assert (header.org_id, header.workspace_id, header.project_id) == (
            attacker.org_id,
            attacker.workspace_id,
            attacker.project_id,
        )


async def test_two_orgs_that_send_the_same_at_once_keep_their_own(
    run_edge: Any, stores: Any, two_orgs: tuple[Any, Any]
) -> None:
    # An org that sends the same body twice is answered once; two orgs that do have nothing to do with each other.
    bodies = [json.dumps(RUN | {"id": str(uuid4())}) for _ in range(40)]
    async with Proxy.before(stores.redis_url) as road, run_edge(redis_url=road.through(stores.redis_url)) as edge:
        await asyncio.gather(*(edge.runs(org, body) for body in bodies[:20] for org in two_orgs))
        road.road = Road.CLOSED
        road.reset()
        await asyncio.gather(*(edge.runs(org, body) for body in bodies[20:] for org in two_orgs))
        road.clear()
        async with asyncio.timeout(30):
            while edge.metric("tracebility_spool_bytes"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    for org in two_orgs:
        envelopes = await org.envelopes()
        assert len(envelopes) == 40
        assert {envelope.header.project_id for envelope in envelopes} == {org.project_id}
        assert {envelope.header.key_id for envelope in envelopes} == {org.key.split("_")[1]}


async def test_an_envelope_is_in_the_stream_of_its_org_and_in_no_other(edge: Any, tenant: Any) -> None:
    await edge.runs(tenant, json.dumps(RUN))
    places = [
        shard
        for shard in range(16)
        for entry in await tenant.queue.range(stream_of(shard), count=10_000)
        if from_fields(entry.fields).header.org_id == tenant.org_id
    ]
    assert places == [shard_of(tenant.org_id)]
