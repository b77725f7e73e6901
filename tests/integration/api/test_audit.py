"""Every route that changes something leaves its event: walked from the app's own routes."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from tracebility.api.app import routes

CHANGING = {"POST", "PUT", "PATCH", "DELETE"}
# How each is called, and the event that it leaves: in the org's trail, or, of plans, in the installation's own.
CALLS: dict[tuple[str, str], tuple[Any, str]] = {
    ("PUT", "/v1/admin/plans/{name}"): (
        {"rate": None, "meters": None, "retention_days": 5, "eval_concurrency": None},
        "plan.changed",
    ),
    ("POST", "/v1/admin/orgs"): ({"name": "walked"}, "org.created"),
    ("PATCH", "/v1/admin/orgs/{org_id}"): ({"plan": "team"}, "org.plan_changed"),
    ("POST", "/v1/admin/shards/moves"): ({"org_id": ..., "shards": [3, 4]}, "shard.split"),
    ("POST", "/v1/orgs/{org_id}/workspaces"): ({"name": "walked"}, "workspace.created"),
    ("POST", "/v1/workspaces/{workspace_id}/projects"): ({"name": "walked"}, "project.created"),
    ("POST", "/v1/projects/{project_id}/keys"): ({"name": "walked", "scopes": ["read"]}, "api_key.created"),
    ("DELETE", "/v1/projects/{project_id}/keys/{public_id}"): (None, "api_key.revoked"),
    ("POST", "/v1/projects/{project_id}/keys/{public_id}/rotate"): ({}, "api_key.rotated"),
    ("PATCH", "/v1/projects/{project_id}"): ({"retention_days": 5}, "project.retention_changed"),
    ("DELETE", "/v1/admin/orgs/{org_id}"): (None, "deletion.requested"),
    ("DELETE", "/v1/projects/{project_id}"): (None, "deletion.requested"),
    ("DELETE", "/v1/projects/{project_id}/runs/{run_id}"): (None, "deletion.requested"),
    ("POST", "/v1/orgs/{org_id}/deletions"): ({"user_id": "walker"}, "deletion.requested"),
}
# A question that takes a POST: nothing is changed by it.
ASKING = {("POST", "/v1/admin/shards/plan")}
TARGETS = {
    "plan": "name",
    "org": "org_id",
    "workspace": "workspace_id",
    "project": "project_id",
    "api_key": "public_id",
    "run": "run_id",
    "user": "user_id",
}


def changing_routes() -> list[tuple[str, str]]:
    found = {
        (method, route.path)  # type: ignore[attr-defined]
        for route in routes()
        for method in route.methods  # type: ignore[attr-defined]
        if method in CHANGING and route.path.startswith("/v1/")  # type: ignore[attr-defined]
    }
    return sorted(found - ASKING)


def test_every_route_that_changes_something_is_in_the_table() -> None:
    assert changing_routes() == sorted(CALLS)


@pytest.mark.parametrize(("method", "path"), changing_routes())
async def test_a_route_that_changes_something_leaves_its_event(
    api: httpx.AsyncClient, operator: Any, operator_key: str, two_orgs: Any, plan_name: str, trail: Any,
    method: str, path: str,
) -> None:  # fmt: skip
    mine, _ = two_orgs
    body, event_type = CALLS[method, path]
    ids = {
        "org_id": mine.org_id,
        "workspace_id": mine.workspace_id,
        "project_id": mine.project_id,
        "public_id": mine.context.key_id,
        "name": plan_name,
        "run_id": "0" * 31 + "1",
        "user_id": "walker",
    }
    if body and "org_id" in body:
        body = body | {"org_id": str(mine.org_id)}
    sent = {} if body is None else {"json": body}
    answer = await api.request(method, path.format(**ids), headers=operator, **sent)
    assert answer.is_success, answer.text
    org_id: UUID | None = mine.org_id
    if event_type == "plan.changed":
        org_id = None
    elif event_type == "org.created":
        org_id = UUID(answer.json()["org_id"])
    event = (await trail.of(org_id, event_type))[-1]
    assert (event["actor_type"], event["actor_id"]) == ("operator", operator_key.split("_")[1])
    made = answer.json() if answer.content and event_type != "api_key.rotated" else {}
    expected = {name: str(value) for name, value in (ids | made).items()}
    assert event["target_id"] == expected[TARGETS[event["target_type"]]]
