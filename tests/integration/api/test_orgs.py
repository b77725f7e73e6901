"""Orgs: usable in one call, steered by operators, seen by their own admins and nobody else."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tracebility.errors import StoreUnavailable
from tracebility.stores.changes import resolving
from tracebility.stores.redis_control import RedisControl
from tracebility.tenant.resolver import Resolver


async def make(api: httpx.AsyncClient, operator: Any, **document: Any) -> dict[str, Any]:
    answer = await api.post("/v1/admin/orgs", json={"name": "Acme"} | document, headers=operator)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def patch(api: httpx.AsyncClient, headers: Any, org_id: Any, **changes: Any) -> httpx.Response:
    return await api.patch(f"/v1/admin/orgs/{org_id}", json=changes, headers=headers)


async def test_an_org_is_usable_after_one_call(
    api: httpx.AsyncClient, operator: Any, services: Any, trail: Any, control: Any
) -> None:
    made = await make(api, operator)
    assert set(made) == {"org_id", "workspace_id", "project_id", "api_key"}
    context = await services.resolver.resolve("", made["api_key"])
    assert (str(context.org_id), str(context.workspace_id), str(context.project_id)) == (
        made["org_id"],
        made["workspace_id"],
        made["project_id"],
    )
    assert (context.plan, context.scopes) == ("free", {"ingest:write", "read", "admin"})
    [project] = (await api.get("/v1/projects", headers={"x-api-key": made["api_key"]})).json()["items"]
    assert (project["id"], project["name"], project["workspace_name"]) == (made["project_id"], "default", "default")
    events = await control.fetch("SELECT * FROM audit_log WHERE org_id = $1 ORDER BY seq", UUID(made["org_id"]))
    assert [event["event_type"] for event in events] == [
        "org.created",
        "workspace.created",
        "project.created",
        "api_key.created",
    ]
    assert events[0]["details"] == {"name": "Acme", "plan": "free"}
    assert all(made["api_key"][-43:] not in str(dict(event)) for event in events)


async def test_an_org_is_seen_by_operators_and_its_own_admins(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, key_with: Any
) -> None:
    mine, other = two_orgs
    path = f"/v1/admin/orgs/{mine.org_id}"
    seen = (await api.get(path, headers=mine.headers())).json()
    assert seen == (await api.get(path, headers=operator)).json()
    assert {name: seen[name] for name in ("id", "org_id", "plan", "suspended", "suspended_at", "retention_days")} == {
        "id": str(mine.org_id),
        "org_id": str(mine.org_id),
        "plan": "internal",
        "suspended": False,
        "suspended_at": None,
        "retention_days": None,
    }
    assert (await api.get(path, headers=other.headers())).status_code == 404
    reader = await key_with(mine, "read", "ingest:write")
    refused = await api.get(path, headers=reader)
    assert (refused.status_code, "'admin'" in refused.json()["detail"]) == (403, True)


async def test_every_org_is_listed_once_in_pages_of_any_size(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any
) -> None:
    listed: list[str] = []
    parameters: dict[str, Any] = {"limit": 3}
    while True:
        page = (await api.get("/v1/admin/orgs", params=parameters, headers=operator)).json()
        listed += [org["id"] for org in page["items"]]
        assert len(page["items"]) <= 3
        if page["next_cursor"] is None:
            break
        parameters["cursor"] = page["next_cursor"]
    assert len(listed) == len(set(listed))
    assert listed[-2:] == [str(tenant.org_id) for tenant in two_orgs]
    for cursor in ("", "x", parameters.get("cursor", "y")[:-1]):
        refused = await api.get("/v1/admin/orgs", params={"cursor": cursor}, headers=operator)
        assert (refused.status_code, refused.json()["detail"][:7]) == (400, "cursor:")


async def test_what_is_changed_is_shown_and_written_down(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, trail: Any, operator_key: str
) -> None:
    org_id = two_orgs[0].org_id
    changed = await patch(api, operator, org_id, plan="team", suspended=True, retention_days=9)
    assert changed.status_code == 200
    shown = changed.json()
    assert (shown["plan"], shown["suspended"], shown["retention_days"]) == ("team", True, 9)
    assert datetime.fromisoformat(shown["suspended_at"]) <= datetime.now(UTC)
    assert (await api.get(f"/v1/admin/orgs/{org_id}", headers=operator)).json() == shown
    back = (await patch(api, operator, org_id, suspended=False, retention_days=None)).json()
    assert (back["plan"], back["suspended"], back["suspended_at"], back["retention_days"]) == (
        "team",
        False,
        None,
        None,
    )

    kinds = ("org.plan_changed", "org.suspended", "org.resumed", "org.retention_changed")
    events = await trail.of(org_id, *kinds)
    assert [(event["event_type"], event["details"]) for event in events] == [
        ("org.plan_changed", {"old": "internal", "new": "team"}),
        ("org.suspended", {}),
        ("org.retention_changed", {"old": None, "new": 9}),
        ("org.resumed", {}),
        ("org.retention_changed", {"old": 9, "new": None}),
    ]
    assert {(event["actor_type"], event["actor_id"], event["target_id"]) for event in events} == {
        ("operator", operator_key.split("_")[1], str(org_id))
    }


@pytest.mark.parametrize("changes", [{}, {"plan": "internal"}, {"suspended": False}, {"retention_days": None}])
async def test_what_is_so_already_changes_nothing_and_leaves_no_event(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, trail: Any, control: Any, changes: Any
) -> None:
    org_id = two_orgs[0].org_id
    before = await trail.length(), await control.fetchval("SELECT rev FROM org WHERE id = $1", org_id)
    answer = await patch(api, operator, org_id, **changes)
    assert (answer.status_code, answer.json()["plan"]) == (200, "internal")
    assert before == (await trail.length(), await control.fetchval("SELECT rev FROM org WHERE id = $1", org_id))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"plan": "no-such-plan"}, "plan"),
        ({"plan": "a\0b"}, "plan"),
        ({"plan": None}, "plan"),
        ({"plan": 5}, "plan"),
        ({"suspended": None}, "suspended"),
        ({"suspended": "yes"}, "suspended"),
        ({"suspended": 1}, "suspended"),
        ({"retention_days": 0}, "retention_days"),
        ({"retention_days": -1}, "retention_days"),
        ({"retention_days": 1.5}, "retention_days"),
        ({"retention_days": 2**53}, "retention_days"),
        ({"name": "other"}, "name"),
        ({"suspended": True, "plan": "no-such-plan"}, "plan"),
        ({"suspended": True, "retention_days": 0}, "retention_days"),
    ],
)
async def test_a_change_that_is_not_acceptable_is_named_and_nothing_is_half_done(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, trail: Any, changes: Any, named: str
) -> None:
    org_id = two_orgs[0].org_id
    before = await trail.length(), (await api.get(f"/v1/admin/orgs/{org_id}", headers=operator)).json()
    answer = await patch(api, operator, org_id, **changes)
    assert (answer.status_code, answer.json()["detail"].partition(":")[0]) == (422, named)
    assert before == (await trail.length(), (await api.get(f"/v1/admin/orgs/{org_id}", headers=operator)).json())


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": " \u00a0"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\u2028b"}, "name"),
        ({"name": None}, "name"),
        ({"name": ["a"]}, "name"),
        ({"name": "a", "plan": "no-such-plan"}, "plan"),
        ({"name": "a", "plan": "Free"}, "plan"),
        ({"name": "a", "plan": None}, "plan"),
        ({"name": "a", "owner": "b"}, "owner"),
    ],
)
async def test_an_org_that_is_not_acceptable_is_not_made(
    api: httpx.AsyncClient, operator: Any, control: Any, document: Any, named: str
) -> None:
    before = await control.fetchval("SELECT count(*) FROM org")
    answer = await api.post("/v1/admin/orgs", json=document, headers=operator)
    assert (answer.status_code, answer.json()["detail"].partition(":")[0]) == (422, named)
    assert await control.fetchval("SELECT count(*) FROM org") == before


@pytest.mark.parametrize("text", ['{"name": "a\\ud800"}', '{"name": "\\udfff b"}', '{"name": "a\\ud800b and more"}'])
async def test_half_a_character_is_no_json(api: httpx.AsyncClient, operator: Any, text: str) -> None:
    sent = operator | {"content-type": "application/json"}
    assert (await api.post("/v1/admin/orgs", content=text, headers=sent)).status_code == 400


@pytest.mark.parametrize("name", ["x" * 200, "Łódź & Søn", "日本", "a' OR 1=1 --", "<script>", "👩‍👩‍👧"])
async def test_a_name_people_can_read_is_kept_as_it_is(api: httpx.AsyncClient, operator: Any, name: str) -> None:
    made = await make(api, operator, name=name)
    assert (await api.get(f"/v1/admin/orgs/{made['org_id']}", headers=operator)).json()["name"] == name


async def test_only_operators_make_and_change_orgs(api: httpx.AsyncClient, two_orgs: Any) -> None:
    mine, other = two_orgs
    for org_id in (other.org_id, uuid4(), "x"):
        for method in ("PATCH", "DELETE"):
            answer = await api.request(method, f"/v1/admin/orgs/{org_id}", headers=mine.headers(), content=b"{")
            assert answer.status_code == 404, "never 403, which would tell that there is one"
    for method, path in (
        ("GET", "/v1/admin/orgs"),
        ("POST", "/v1/admin/orgs"),
        ("GET", "/v1/admin/plans"),
        ("PUT", "/v1/admin/plans/free"),
        ("PATCH", f"/v1/admin/orgs/{mine.org_id}"),
        ("DELETE", f"/v1/admin/orgs/{mine.org_id}"),
    ):
        answer = await api.request(method, path, headers=mine.headers(), content=b"{")
        assert (answer.status_code, "'operator'" in answer.json()["detail"]) == (403, True), path


@pytest.mark.parametrize(
    "org_id", ["0192f0c1-5a3e-4c41-9d0a-1f2e3d4c5b6a", "x", "{0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a}", "%00", "-1"]
)
async def test_an_org_that_is_not_there_is_not_found_whatever_the_body(
    api: httpx.AsyncClient, operator: Any, org_id: str
) -> None:
    assert (await api.patch(f"/v1/admin/orgs/{org_id}", content=b"{", headers=operator)).status_code == 404
    assert (await api.get(f"/v1/admin/orgs/{org_id}/quotas", headers=operator)).status_code == 404


async def test_the_keys_of_a_suspended_org_are_refused_at_every_door_and_operators_are_not(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, within_a_second: Any
) -> None:
    mine, _ = two_orgs
    assert (await api.get("/v1/projects", headers=mine.headers())).status_code == 200
    await patch(api, operator, mine.org_id, suspended=True)

    async def refused() -> bool:
        return (await api.get("/v1/projects", headers=mine.headers())).status_code == 403

    await within_a_second(refused)
    for method, path in (
        ("GET", "/v1/projects"),
        ("GET", f"/v1/projects/{mine.project_id}/runs"),
        ("GET", f"/v1/admin/orgs/{mine.org_id}"),
        ("GET", f"/v1/admin/orgs/{mine.org_id}/quotas"),
        ("GET", "/v1/admin/orgs"),
        ("POST", f"/v1/orgs/{mine.org_id}/workspaces"),
        ("POST", f"/v1/workspaces/{mine.workspace_id}/projects"),
        ("GET", f"/v1/projects/{mine.project_id}/keys"),
        ("POST", f"/v1/projects/{mine.project_id}/keys"),
        ("DELETE", f"/v1/projects/{mine.project_id}/keys/{mine.context.key_id}"),
    ):
        answer = await api.request(method, path, headers=mine.headers())
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:tracebility:error:suspended"), path
    assert (await api.get(f"/v1/projects/{mine.project_id}/keys", headers=operator)).status_code == 200
    await patch(api, operator, mine.org_id, suspended=False)

    async def let_in() -> bool:
        return (await api.get("/v1/projects", headers=mine.headers())).status_code == 200

    await within_a_second(let_in)


async def test_another_process_knows_a_suspension_and_a_plan_within_a_second(
    api: httpx.AsyncClient,
    operator: Any,
    two_orgs: Any,
    control: Any,
    hot_store: Any,
    stores: Any,
    within_a_second: Any,
) -> None:
    mine, other = two_orgs
    async with resolving(control, hot_store, stores.redis_url) as elsewhere:

        async def plan() -> str:
            return (await elsewhere.principal("", mine.key)).plan

        async def suspended(resolver: Resolver = elsewhere) -> bool:
            return (await resolver.principal("", mine.key)).suspended

        assert (await plan(), await suspended()) == ("internal", False)
        await patch(api, operator, mine.org_id, plan="team")

        async def on_team() -> bool:
            return await plan() == "team"

        await within_a_second(on_team)
        await patch(api, operator, mine.org_id, suspended=True)
        await within_a_second(suspended)
        assert not (await elsewhere.principal("", other.key)).suspended


async def test_quotas_are_those_of_the_month_and_zero_where_nothing_was_summed(
    api: httpx.AsyncClient, operator: Any, plan_name: str, control: Any
) -> None:
    limits = {"rate": None, "meters": {"spans": {"hard": 100, "soft": 80}}, "retention_days": None}
    put = await api.put(f"/v1/admin/plans/{plan_name}", json=limits | {"eval_concurrency": None}, headers=operator)
    assert put.status_code == 200
    made = await make(api, operator, plan=plan_name)
    path = f"/v1/admin/orgs/{made['org_id']}/quotas"
    now = datetime.now(UTC)
    following = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    ends = {"resets_at": f"{following:%Y-%m-%dT%H:%M:%SZ}"}
    nothing = {"used": 0, "as_of": None} | ends
    expected = {
        "plan": plan_name,
        "period": f"{now:%Y-%m}",
        "meters": [
            {"meter": "spans", "hard_limit": 100, "soft_limit": 80} | nothing,
            {"meter": "bytes", "hard_limit": None, "soft_limit": None} | nothing,
        ],
    }
    assert (await api.get(path, headers=operator)).json() == expected
    org_id, month = UUID(made["org_id"]), f"{now:%Y-%m}"
    for period, used in ((month, 42), ("2020-01", 7)):
        await control.execute(
            "INSERT INTO quota_period (org_id, period, meter, used_amount, watermark) VALUES ($1, $2, 'spans', $3, $4)",
            *(org_id, period, used, datetime(2023, 3, 28, 10, 40, tzinfo=UTC)),
        )
    await control.execute("INSERT INTO quota_period (org_id, period, meter) VALUES ($1, $2, 'bytes')", org_id, month)
    expected["meters"][0] |= {"used": 42, "as_of": "2023-03-28T10:40:00.000000Z"}  # type: ignore[index, operator]
    assert (await api.get(path, headers={"x-api-key": made["api_key"]})).json() == expected


async def test_with_redis_away_a_change_is_committed_and_answered(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise StoreUnavailable("redis", "away")

    monkeypatch.setattr(RedisControl, "command", away)
    assert (await patch(api, operator, two_orgs[0].org_id, plan="team")).json()["plan"] == "team"


async def test_a_change_whose_event_cannot_be_written_is_not_made(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracebility.audit.events import AuditWriter

    async def fails(*_: object) -> None:
        raise RuntimeError("no room in the trail")

    monkeypatch.setattr(AuditWriter, "record", fails)
    assert (await patch(api, operator, two_orgs[0].org_id, plan="team")).status_code == 500
    monkeypatch.undo()
    assert (await api.get(f"/v1/admin/orgs/{two_orgs[0].org_id}", headers=operator)).json()["plan"] == "internal"


async def test_changes_at_once_tell_a_true_story(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, trail: Any
) -> None:
    """Each event's old value is what the one before it left."""
    org_id = two_orgs[0].org_id
    await asyncio.gather(*(patch(api, operator, org_id, retention_days=days) for days in range(1, 9)))
    events = await trail.of(org_id, "org.retention_changed")
    assert [event["details"]["old"] for event in events] == [
        None,
        *(event["details"]["new"] for event in events[:-1]),
    ]
