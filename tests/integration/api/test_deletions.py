"""Deletions over the API: who may ask, what is refused from then on, and how it is followed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tracebility.audit.events import Actor
from tracebility.deletion import requests
from tracebility.orgs.keys import revoke_key
from tracebility.orgs.projects import ProjectPlace
from tracebility.stores.postgres import Postgres
from tracebility.tenant import keys

ASKER = Actor("operator", "test")


@asynccontextmanager
async def being_deleted(control: Postgres, tenant: Any, kind: str) -> AsyncIterator[None]:
    """Whatever is asked for meanwhile comes while the transaction of a deletion is not at its end."""
    async with control.transaction() as transaction:
        now = datetime.now(UTC)
        if kind == "org":
            await requests.delete_org(transaction, ASKER, tenant.org_id, now)
        else:
            place = ProjectPlace(tenant.org_id, tenant.workspace_id, tenant.project_id)
            await requests.delete_project(transaction, ASKER, place, now)
        yield
        await asyncio.sleep(0.5)


async def test_a_deleted_org_is_refused_at_once_and_stays_visible_to_operators(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, within_a_second: Any
) -> None:
    mine, other = two_orgs
    path = f"/v1/admin/orgs/{mine.org_id}"
    assert (await api.get("/v1/projects", headers=mine.headers())).status_code == 200
    assert (await api.delete(path, headers=mine.headers())).status_code == 403
    asked = await api.delete(path, headers=operator)
    assert asked.status_code == 202
    job = asked.json()
    assert (job["kind"], job["state"], job["org_id"]) == ("org", "queued", str(mine.org_id))

    async def refused() -> bool:
        return (await api.get("/v1/projects", headers=mine.headers())).status_code == 401

    await within_a_second(refused)
    nobodys = await api.get("/v1/projects", headers={"x-api-key": keys.generate().key, "x-request-id": "same"})
    deleted = await api.get("/v1/projects", headers=mine.headers() | {"x-request-id": "same"})
    assert (deleted.text, deleted.headers) == (nobodys.text, nobodys.headers), "not: suspended, its data is kept"
    assert (await api.delete(path, headers=operator)).json()["job_id"] == job["job_id"]
    assert (await api.get(path, headers=operator)).json()["deleted_at"] is not None
    assert (await api.get(f"/v1/admin/deletions/{job['job_id']}", headers=operator)).json() == job
    assert (await api.get(f"{path}/deletions", headers=operator)).json()["items"] == [job]
    resumed = await api.patch(path, json={"suspended": False}, headers=operator)
    assert (resumed.status_code, resumed.json()["type"]) == (409, "urn:tracebility:error:being-deleted")
    made = await api.post(f"/v1/orgs/{mine.org_id}/workspaces", json={"name": "again"}, headers=operator)
    assert made.status_code == 409
    assert (await api.get("/v1/projects", headers=other.headers())).status_code == 200


async def test_a_deleted_project_is_gone_for_everyone_but_whoever_follows_its_end(
    api: httpx.AsyncClient, two_orgs: Any, key_with: Any, within_a_second: Any
) -> None:
    mine, _ = two_orgs
    sender = await key_with(mine, "ingest:write", "read")
    path = f"/v1/projects/{mine.project_id}"
    assert (await api.get(f"{path}/runs", headers=sender)).status_code == 200
    asked = await api.delete(path, headers=mine.headers())
    assert asked.status_code == 202
    job = asked.json()

    async def refused() -> bool:
        answers = [await api.get(f"{path}/runs", headers=one) for one in (sender, mine.headers())]
        return [answer.status_code for answer in answers] == [401, 403]

    await within_a_second(refused)
    for call in (api.get(f"{path}/keys", headers=mine.headers()), api.patch(path, json={}, headers=mine.headers())):
        assert (await call).status_code == 404
    assert (await api.delete(path, headers=mine.headers())).json()["job_id"] == job["job_id"]
    followed = await api.get(f"/v1/admin/deletions/{job['job_id']}", headers=mine.headers())
    assert followed.json() == job


@pytest.mark.parametrize("document", [{}, {"user_id": ""}, {"user_id": 5}, {"user_id": "a\0"}, {"user_id": "x" * 1025}])
async def test_a_user_that_is_none_is_named(api: httpx.AsyncClient, two_orgs: Any, document: dict[str, Any]) -> None:
    mine, _ = two_orgs
    answer = await api.post(f"/v1/orgs/{mine.org_id}/deletions", json=document, headers=mine.headers())
    assert (answer.status_code, answer.json()["detail"].partition(":")[0]) == (422, "user_id")


async def test_deletions_are_listed_newest_first_in_pages(api: httpx.AsyncClient, two_orgs: Any, key_with: Any) -> None:
    mine, other = two_orgs
    jobs = []
    for number in range(3):
        path = f"/v1/projects/{mine.project_id}/runs/{number:032x}"
        jobs.append((await api.delete(path, headers=mine.headers())).json())
        assert (await api.delete(path.upper().replace("/V1/PROJECTS", "/v1/projects").replace("/RUNS", "/runs"),
                                 headers=mine.headers())).json()["job_id"] == jobs[-1]["job_id"]  # fmt: skip
    path = f"/v1/admin/orgs/{mine.org_id}/deletions"
    first = (await api.get(path, params={"limit": 2}, headers=mine.headers())).json()
    rest = (await api.get(path, params={"cursor": first["next_cursor"]}, headers=mine.headers())).json()
    assert [job["id"] for job in first["items"] + rest["items"]] == [job["id"] for job in reversed(jobs)]
    assert rest["next_cursor"] is None
    assert (await api.get(path, headers=other.headers())).status_code == 404
    assert (await api.get(path, headers=await key_with(mine, "read"))).status_code == 403


@pytest.mark.parametrize("run_id", ["not-an-id", "r", "0" * 31, "0" * 33, "g" * 32, "0" * 32 + "%00", "0" * 5000])
async def test_a_run_that_cannot_be_is_not_confirmed_as_deleted(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any, run_id: str
) -> None:
    mine, _ = two_orgs
    path = f"/v1/projects/{mine.project_id}/runs"
    assert (await api.delete(f"{path}/{run_id}", headers=mine.headers())).status_code == 404
    assert await trail.of(mine.org_id, "deletion.requested") == []


async def test_only_admins_ask(api: httpx.AsyncClient, two_orgs: Any, key_with: Any) -> None:
    mine, _ = two_orgs
    weak = await key_with(mine, "ingest:write", "read")
    for answer in (
        await api.delete(f"/v1/projects/{mine.project_id}", headers=weak),
        await api.delete(f"/v1/projects/{mine.project_id}/runs/r", headers=weak),
        await api.post(f"/v1/orgs/{mine.org_id}/deletions", json={"user_id": "u"}, headers=weak),
        await api.get(f"/v1/admin/deletions/{uuid4()}", headers=weak),
    ):
        assert answer.status_code == 403


async def test_a_project_is_told_how_long_it_keeps_its_data(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, trail: Any
) -> None:
    mine, _ = two_orgs
    path = f"/v1/projects/{mine.project_id}"
    org = f"/v1/admin/orgs/{mine.org_id}"
    assert (await api.patch(org, json={"retention_days": 5}, headers=operator)).status_code == 200
    for days, kept in ((7, 5), (7, 5), (None, 5)):
        changed = (await api.patch(path, json={"retention_days": days}, headers=mine.headers())).json()
        assert (changed["retention_days"], changed["kept_days"]) == (days, kept)
    assert (await api.patch(path, json={}, headers=mine.headers())).json()["retention_days"] is None
    refused = await api.patch(path, json={"retention_days": 0}, headers=mine.headers())
    assert (refused.status_code, refused.json()["detail"].partition(":")[0]) == (422, "retention_days")
    told = await trail.of(mine.org_id, "project.retention_changed")
    assert [event["details"] for event in told] == [{"old": None, "new": 7}, {"old": 7, "new": None}]


@pytest.mark.parametrize("kind", ["project", "org"])
async def test_no_key_is_made_of_what_is_being_deleted(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, control: Postgres, kind: str
) -> None:
    mine, _ = two_orgs
    path = f"/v1/projects/{mine.project_id}/keys"
    asked = [
        (path, {"name": "late", "scopes": ["ingest:write", "read"]}),
        (f"{path}/{mine.context.key_id}/rotate", {"overlap_s": 0}),
    ]
    async with being_deleted(control, mine, kind):
        calls = [asyncio.create_task(api.post(at, json=document, headers=operator)) for at, document in asked]
        await asyncio.sleep(0)
    answers = await asyncio.gather(*calls)
    assert [(answer.status_code, answer.json()["type"]) for answer in answers] == [
        (404, "urn:tracebility:error:not-found")
    ] * 2
    keys = await control.fetch("SELECT public_id FROM api_key WHERE org_id = $1", mine.org_id)
    assert [key["public_id"] for key in keys] == [mine.context.key_id]


async def test_no_project_is_made_in_an_org_that_is_being_deleted(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, control: Postgres
) -> None:
    mine, _ = two_orgs
    path = f"/v1/workspaces/{mine.workspace_id}/projects"
    async with being_deleted(control, mine, "org"):
        late = asyncio.create_task(api.post(path, json={"name": "late"}, headers=operator))
        await asyncio.sleep(0)
    for answer in (await late, await api.post(path, json={"name": "later"}, headers=operator)):
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:tracebility:error:being-deleted")
    assert await control.fetchval("SELECT count(*) FROM project WHERE workspace_id = $1", mine.workspace_id) == 1


async def test_a_project_ends_while_its_keys_do(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, key_with: Any, control: Postgres, trail: Any
) -> None:
    """Whoever ends a single key has it, and then wants the head of the trail that the deletion would have by then."""
    mine, _ = two_orgs
    for _ in range(3):
        await key_with(mine, "read")
    rows = await control.fetch("SELECT public_id FROM api_key WHERE project_id = $1 ORDER BY 1", mine.project_id)
    ids = [row["public_id"] for row in rows]
    path = f"/v1/projects/{mine.project_id}"
    async with control.transaction() as ahead_of_it:
        await ahead_of_it.fetchrow("lock_key", ids[-1])
        ending = asyncio.create_task(api.delete(path, headers=operator))
        await asyncio.sleep(0.5)
        assert await revoke_key(ahead_of_it, ASKER, ids[-1])
    answer = await ending
    assert answer.status_code == 202, answer.text
    told = await trail.of(mine.org_id, "api_key.revoked")
    assert sorted(event["target_id"] for event in told) == ids
