"""Workspaces and projects: made by admins of the org and by operators, each name once."""

import asyncio
from typing import Any

import httpx
import pytest


def ways(tenant: Any) -> list[str]:
    return [f"/v1/orgs/{tenant.org_id}/workspaces", f"/v1/workspaces/{tenant.workspace_id}/projects"]


async def test_an_admin_and_an_operator_make_a_workspace_and_a_project_in_it(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, trail: Any
) -> None:
    mine, _ = two_orgs
    for name, headers in (("by admin", mine.headers()), ("by operator", operator)):
        made = await api.post(f"/v1/orgs/{mine.org_id}/workspaces", json={"name": name}, headers=headers)
        workspace = made.json()
        assert (made.status_code, workspace["name"], workspace["org_id"]) == (201, name, str(mine.org_id))
        assert workspace["id"] == workspace["workspace_id"]
        made = await api.post(f"/v1/workspaces/{workspace['id']}/projects", json={"name": name}, headers=headers)
        project = made.json()
        assert (made.status_code, project["name"], project["workspace_id"]) == (201, name, workspace["id"])
        assert project["id"] == project["project_id"]
        assert (await api.get(f"/v1/projects/{project['id']}/runs", headers=mine.headers())).status_code == 200
    events = await trail.of(mine.org_id, "workspace.created", "project.created")
    assert [(event["event_type"], event["details"]["name"], event["actor_type"]) for event in events] == [
        ("workspace.created", "by admin", "api_key"),
        ("project.created", "by admin", "api_key"),
        ("workspace.created", "by operator", "operator"),
        ("project.created", "by operator", "operator"),
    ]


async def test_of_two_of_one_name_at_once_one_wins_and_leaves_one_event(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any
) -> None:
    mine, other = two_orgs
    for path, kind in zip(ways(mine), ("workspace.created", "project.created"), strict=True):
        answers = await asyncio.gather(
            *(api.post(path, json={"name": "one"}, headers=mine.headers()) for _ in range(5))
        )
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
        refused = next(answer for answer in answers if answer.status_code == 409).json()
        assert refused["type"] == "urn:tracebility:error:taken"
        assert len(await trail.of(mine.org_id, kind)) == 1
    for path in ways(other):
        assert (await api.post(path, json={"name": "one"}, headers=other.headers())).status_code == 201


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\0", "a\tb", "\x7f", "\x85", None, 5, [], {}])
async def test_a_name_that_is_not_acceptable_is_refused(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any, name: Any
) -> None:
    before = await trail.length()
    for path in ways(two_orgs[0]):
        answer = await api.post(path, json={"name": name}, headers=two_orgs[0].headers())
        assert (answer.status_code, answer.json()["detail"][:5]) == (422, "name:")
    assert await trail.length() == before


async def test_a_key_without_the_scope_makes_nothing(api: httpx.AsyncClient, two_orgs: Any, key_with: Any) -> None:
    headers = await key_with(two_orgs[0], "read", "ingest:write")
    for path in ways(two_orgs[0]) + ways(two_orgs[1]):
        answer = await api.post(path, json={"name": "x"}, headers=headers)
        assert (answer.status_code, "'admin'" in answer.json()["detail"]) == (403, True)


async def test_operators_and_admins_list_the_projects_of_an_org(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, key_with: Any, trail: Any
) -> None:
    mine, other = two_orgs
    made = await api.post(
        f"/v1/workspaces/{mine.workspace_id}/projects", json={"name": "second"}, headers=mine.headers()
    )
    path = f"/v1/admin/orgs/{mine.org_id}/projects"
    for holder in (operator, mine.headers()):
        first = (await api.get(path, params={"limit": 1}, headers=holder)).json()
        rest = (await api.get(path, params={"cursor": first["next_cursor"]}, headers=holder)).json()
        listed = first["items"] + rest["items"]
        assert [project["id"] for project in listed] == [str(mine.project_id), made.json()["project_id"]]
        assert {project["org_id"] for project in listed} == {str(mine.org_id)}
        assert rest["next_cursor"] is None
    assert [event["details"]["route"] for event in await trail.of(mine.org_id, "egress.read")] == [
        "/v1/admin/orgs/{org_id}/projects"
    ]
    assert (await api.get(path, headers=other.headers())).status_code == 404
    assert (await api.get(path, headers=await key_with(mine, "read"))).status_code == 403
