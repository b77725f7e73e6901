"""Deletions over the API: who may ask, what is refused from then on, and how it is followed."""

from typing import Any
from uuid import uuid4

import httpx
import pytest


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
        return (await api.get("/v1/projects", headers=mine.headers())).status_code == 403

    await within_a_second(refused)
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


async def test_a_project_is_told_how_long_it_keeps_its_data(api: httpx.AsyncClient, two_orgs: Any, trail: Any) -> None:
    mine, _ = two_orgs
    path = f"/v1/projects/{mine.project_id}"
    for days, shown in ((7, 7), (7, 7), (None, None)):
        answer = await api.patch(path, json={"retention_days": days}, headers=mine.headers())
        assert (answer.status_code, answer.json()["retention_days"]) == (200, shown)
    assert (await api.patch(path, json={}, headers=mine.headers())).json()["retention_days"] is None
    refused = await api.patch(path, json={"retention_days": 0}, headers=mine.headers())
    assert (refused.status_code, refused.json()["detail"].partition(":")[0]) == (422, "retention_days")
    told = await trail.of(mine.org_id, "project.retention_changed")
    assert [event["details"] for event in told] == [{"old": None, "new": 7}, {"old": 7, "new": None}]
