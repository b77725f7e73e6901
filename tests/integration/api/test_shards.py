"""The routes of shards: what operators see and do, and what a wrong request is told."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tracebility.tenant.shard_router import shard_of

MOVES = "/v1/admin/shards/moves"


async def test_an_org_is_moved_and_seen_where_it_is(
    api: httpx.AsyncClient, operator: dict[str, str], operator_key: str, two_orgs: Any, trail: Any
) -> None:
    org = two_orgs[0].org_id
    body = {"org_id": str(org), "shards": [9, 2], "reason": "loud"}
    answer = await api.post(MOVES, headers=operator, json=body)
    assert answer.status_code == 200, answer.text
    moved = answer.json()
    assert (moved["before"], moved["after"], moved["state"], moved["dry_run"]) == (
        [shard_of(org)],
        [2, 9],
        "split",
        False,
    )
    status = (await api.get("/v1/admin/shards", headers=operator)).json()
    assert [shard["shard"] for shard in status["shards"]] == list(range(16))
    assert status["epoch"] >= moved["epoch"]
    [placed] = [one for one in status["placed"] if one["org_id"] == str(org)]
    actor = f"operator:{operator_key.split('_')[1]}"
    assert (placed["shards"], placed["moved_by"], placed["reason"]) == ([2, 9], actor, "loud")
    [event] = await trail.of(org, "shard.split")
    assert (event["details"]["before"], event["details"]["after"]) == ([shard_of(org)], [2, 9])


async def test_a_second_move_is_too_soon_unless_forced(
    api: httpx.AsyncClient, operator: dict[str, str], two_orgs: Any
) -> None:
    body = {"org_id": str(two_orgs[0].org_id), "shards": [2, 9]}
    await api.post(MOVES, headers=operator, json=body)
    again = body | {"shards": [4, 5]}
    refused = await api.post(MOVES, headers=operator, json=again)
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:tracebility:error:moved-lately")
    assert 880 < int(refused.headers["retry-after"]) <= 900
    forced = await api.post(MOVES, headers=operator, json=again | {"force": True})
    assert forced.json()["after"] == [4, 5]


async def test_a_dry_run_tells_the_skew_and_changes_nothing(
    api: httpx.AsyncClient, operator: dict[str, str], two_orgs: Any, trail: Any
) -> None:
    org = two_orgs[0].org_id
    answer = await api.post(MOVES, headers=operator, json={"org_id": str(org), "shards": [2, 9], "dry_run": True})
    would = answer.json()
    assert (would["after"], would["epoch"], would["dry_run"]) == ([2, 9], None, True)
    assert would["skew_before"] >= 1
    assert would["skew_after"] >= 1
    assert await trail.of(org, "shard.split") == []


async def test_a_plan_is_proposed_and_changes_nothing(
    api: httpx.AsyncClient, operator: dict[str, str], control: Any
) -> None:
    rows = await control.fetchval("SELECT count(*) FROM shard_map")
    plan = (await api.post("/v1/admin/shards/plan", headers=operator)).json()
    assert set(plan) == {"skew_before", "skew_after", "moves", "held"}
    assert plan["skew_after"] <= plan["skew_before"]
    assert await control.fetchval("SELECT count(*) FROM shard_map") == rows


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"shards": []}, 422, "shards:"),
        ({"shards": [16]}, 422, "shards[0]:"),
        ({"shards": [-1]}, 422, "shards[0]:"),
        ({"shards": ["1"]}, 422, "shards[0]:"),
        ({"shards": [1, 1]}, 422, "shards:"),
        ({"shards": None}, 422, "shards:"),
        ({"shards": list(range(16)) * 2}, 422, "shards:"),
        ({"org_id": "x"}, 422, "org_id:"),
        ({"org_id": str(uuid4())}, 404, "Nothing is stored"),
        ({"dry_run": 1}, 422, "dry_run:"),
        ({"reason": "x" * 201}, 422, "reason:"),
        ({"reason": "\0"}, 422, "reason:"),
        ({"weight": 1}, 422, "weight:"),
    ],
)
async def test_what_cannot_be_done_is_named(
    api: httpx.AsyncClient, operator: dict[str, str], two_orgs: Any, trail: Any, changes: Any, status: int, words: str
) -> None:
    org = two_orgs[0].org_id
    body = {"org_id": str(org), "shards": [2, 9]} | changes
    answer = await api.post(MOVES, headers=operator, json=body)
    assert (answer.status_code, answer.json()["detail"].startswith(words)) == (status, True), answer.text
    assert await trail.of(org, "shard.split", "shard.moved") == []


async def test_tenants_see_nothing_of_shards(api: httpx.AsyncClient, two_orgs: Any) -> None:
    for method, path in (("GET", ""), ("POST", "/plan"), ("POST", "/moves")):
        answer = await api.request(method, f"/v1/admin/shards{path}", headers=two_orgs[0].headers())
        assert answer.status_code == 403
