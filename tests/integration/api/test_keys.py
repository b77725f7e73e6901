"""Keys: given with at most what the giver may, shown once, replaced without a gap, refused once they have ended."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tracebility.errors import Unauthenticated
from tracebility.stores.changes import resolving

SCOPES = ["ingest:write", "read", "admin"]


def ahead(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def path_of(tenant: Any) -> str:
    return f"/v1/projects/{tenant.project_id}/keys"


async def make(api: httpx.AsyncClient, tenant: Any, headers: Any = None, **document: Any) -> dict[str, Any]:
    answer = await api.post(
        path_of(tenant), json={"name": "ci", "scopes": ["read"]} | document, headers=headers or tenant.headers()
    )
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def listed(api: httpx.AsyncClient, tenant: Any, public_id: str) -> dict[str, Any]:
    items = (await api.get(path_of(tenant), params={"limit": 200}, headers=tenant.headers())).json()["items"]
    [key] = [item for item in items if item["public_id"] == public_id]
    return dict(key)


async def works(api: httpx.AsyncClient, key: str) -> bool:
    answer = await api.get("/v1/projects", headers={"x-api-key": key})
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


async def test_a_new_key_works_and_its_secret_is_shown_once(
    api: httpx.AsyncClient, two_orgs: Any, control: Any, trail: Any
) -> None:
    mine, _ = two_orgs
    expires_at = ahead(3600)
    rate = {"requests_per_s": 5}
    made = await make(api, mine, scopes=["read", "admin", "read"], expires_at=expires_at, rate=rate)
    assert set(made) == {"public_id", "key"}
    assert await works(api, made["key"])
    page = await api.get(path_of(mine), headers=mine.headers())
    secret = made["key"].rpartition("_")[2]
    assert secret not in page.text
    shown = await listed(api, mine, made["public_id"])
    assert (shown["name"], shown["scopes"], shown["rate"]) == ("ci", ["read", "admin"], rate | {"burst": 5})
    assert datetime.fromisoformat(shown["expires_at"]) == datetime.fromisoformat(expires_at)
    assert shown["revoked_at"] is None
    [event] = await trail.of(mine.org_id, "api_key.created")
    assert (event["target_id"], event["details"]["scopes"]) == (made["public_id"], ["read", "admin"])
    assert (event["actor_type"], event["actor_id"]) == ("api_key", mine.context.key_id)
    assert secret not in str(dict(event))
    stored = await control.fetch("SELECT to_jsonb(api_key)::text FROM api_key WHERE org_id = $1", mine.org_id)
    assert secret not in str([row[0] for row in stored])


async def test_a_page_of_keys_ends_where_the_next_begins(api: httpx.AsyncClient, two_orgs: Any) -> None:
    mine, other = two_orgs
    made = [(await make(api, mine, name=f"k{n}"))["public_id"] for n in range(5)]
    seen: list[str] = []
    parameters: dict[str, Any] = {"limit": 2}
    while True:
        page = (await api.get(path_of(mine), params=parameters, headers=mine.headers())).json()
        seen += [key["public_id"] for key in page["items"]]
        if page["next_cursor"] is None:
            break
        parameters["cursor"] = page["next_cursor"]
    assert seen == [mine.context.key_id, *made]
    foreign = await api.get(path_of(other), params=parameters, headers=other.headers())
    assert foreign.status_code == 400


async def test_an_operator_makes_keys_of_any_org_and_no_operators(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any
) -> None:
    for tenant in two_orgs:
        made = await make(api, tenant, operator, scopes=SCOPES)
        assert await works(api, made["key"])
        for scopes in (["operator"], ["read", "operator"]):
            answer = await api.post(path_of(tenant), json={"name": "x", "scopes": scopes}, headers=operator)
            assert (answer.status_code, answer.json()["detail"][:7]) == (422, "scopes:")


async def test_nobody_gives_more_than_they_may(
    api: httpx.AsyncClient, two_orgs: Any, key_with: Any, trail: Any
) -> None:
    mine, _ = two_orgs
    narrow = await key_with(mine, "admin", "read")
    before = await trail.length()
    answer = await api.post(path_of(mine), json={"name": "x", "scopes": ["read", "ingest:write"]}, headers=narrow)
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:tracebility:error:forbidden")
    assert "'ingest:write'" in answer.json()["detail"]
    assert await trail.length() == before
    assert (await make(api, mine, narrow, scopes=["admin", "read"]))["key"]


async def test_nobody_rotates_their_way_to_more_than_they_may(
    api: httpx.AsyncClient, two_orgs: Any, key_with: Any
) -> None:
    """A new key takes over the old one's scopes, and is shown to whoever asked for it."""
    mine, _ = two_orgs
    narrow = await key_with(mine, "admin", "read")
    answer = await api.post(f"{path_of(mine)}/{mine.context.key_id}/rotate", headers=narrow)
    assert (answer.status_code, "'ingest:write'" in answer.json()["detail"]) == (403, True)
    assert await works(api, mine.key)


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"scopes": ["read"]}, "name"),
        ({"name": "", "scopes": ["read"]}, "name"),
        ({"name": "a\0", "scopes": ["read"]}, "name"),
        ({"name": "x" * 201, "scopes": ["read"]}, "name"),
        ({"name": "x"}, "scopes"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": None}, "scopes"),
        ({"name": "x", "scopes": "read"}, "scopes"),
        ({"name": "x", "scopes": ["write"]}, "scopes"),
        ({"name": "x", "scopes": ["read", "READ"]}, "scopes"),
        ({"name": "x", "scopes": ["read", 5]}, "scopes"),
        ({"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "scopes": ["read"], "expires_at": "2099-01-01T00:00:00"}, "expires_at"),
        ({"name": "x", "scopes": ["read"], "expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
        ({"name": "x", "scopes": ["read"], "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "x", "scopes": ["read"], "expires_at": 4_000_000_000}, "expires_at"),
        ({"name": "x", "scopes": ["read"], "rate": {}}, "rate.requests_per_s"),
        ({"name": "x", "scopes": ["read"], "rate": {"requests_per_s": 0}}, "rate.requests_per_s"),
        ({"name": "x", "scopes": ["read"], "rate": {"requests_per_s": 10**6 + 1}}, "rate.requests_per_s"),
        ({"name": "x", "scopes": ["read"], "rate": {"requests_per_s": 1, "burst": 10**7 + 1}}, "rate.burst"),
        ({"name": "x", "scopes": ["read"], "project": "y"}, "project"),
    ],
)
async def test_a_key_that_is_not_acceptable_is_not_made(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any, document: Any, named: str
) -> None:
    before = await trail.length()
    answer = await api.post(path_of(two_orgs[0]), json=document, headers=two_orgs[0].headers())
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"].partition(":")[0].partition("[")[0] == named
    assert await trail.length() == before


async def test_a_revoked_key_is_refused_within_a_second_and_revoking_it_again_changes_nothing(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any, control: Any, hot_store: Any, stores: Any, within_a_second: Any
) -> None:
    mine, _ = two_orgs
    made = await make(api, mine)
    async with resolving(control, hot_store, stores.redis_url) as elsewhere:
        await elsewhere.principal("", made["key"])
        assert await works(api, made["key"])
        for _ in range(2):
            answer = await api.delete(f"{path_of(mine)}/{made['public_id']}", headers=mine.headers())
            assert (answer.status_code, answer.content) == (204, b"")

        async def refused() -> bool:
            try:
                await elsewhere.principal("", made["key"])
            except Unauthenticated:
                return not await works(api, made["key"])
            return False

        await within_a_second(refused)
    assert (await listed(api, mine, made["public_id"]))["revoked_at"] is not None
    [event] = await trail.of(mine.org_id, "api_key.revoked")
    assert event["target_id"] == made["public_id"]


async def test_a_rotated_key_goes_on_for_the_overlap_and_its_successor_is_like_it(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any, control: Any
) -> None:
    mine, _ = two_orgs
    expires_at = ahead(86_400)
    rate = {"requests_per_s": 3, "burst": 4}
    made = await make(api, mine, name="ci", scopes=["read", "admin"], expires_at=expires_at, rate=rate)
    answer = await api.post(
        f"{path_of(mine)}/{made['public_id']}/rotate", json={"overlap_s": 60}, headers=mine.headers()
    )
    rotated = answer.json()
    assert (answer.status_code, set(rotated)) == (201, {"public_id", "key", "old_expires_at"})
    assert rotated["public_id"] == rotated["key"].split("_")[1] != made["public_id"]
    assert await works(api, made["key"])
    assert await works(api, rotated["key"])
    old, new = [await listed(api, mine, which["public_id"]) for which in (made, rotated)]
    assert old["expires_at"] == rotated["old_expires_at"]
    left = datetime.fromisoformat(rotated["old_expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)
    assert datetime.fromisoformat(new["expires_at"]) == datetime.fromisoformat(expires_at)
    same = ("name", "scopes", "rate", "revoked_at")
    assert [old[name] for name in same] == [new[name] for name in same] == ["ci", ["read", "admin"], rate, None]
    tuples = await control.fetch(
        "SELECT DISTINCT org_id, workspace_id, project_id FROM api_key WHERE public_id = ANY ($1)",
        [made["public_id"], rotated["public_id"]],
    )
    assert [tuple(row.values()) for row in tuples] == [(mine.org_id, mine.workspace_id, mine.project_id)]
    [event] = await trail.of(mine.org_id, "api_key.rotated")
    assert (event["target_id"], event["details"]["new_public_id"]) == (made["public_id"], rotated["public_id"])
    created = (await trail.of(mine.org_id, "api_key.created"))[-1]
    assert (created["target_id"], created["details"]["rotated_from"]) == (rotated["public_id"], made["public_id"])
    assert rotated["key"][-43:] not in str([dict(event), dict(created)])


@pytest.mark.parametrize("life_s", [None, 86_400], ids=["for ever", "a day"])
async def test_a_rotation_asked_for_again_makes_a_key_that_lasts_as_long_as_the_first(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any, life_s: int | None
) -> None:
    """The answer of the first was lost: nobody has its key."""
    mine, _ = two_orgs
    expires_at = None if life_s is None else ahead(life_s)
    made = await make(api, mine, expires_at=expires_at)
    path = f"{path_of(mine)}/{made['public_id']}/rotate"
    ends = []
    for overlap_s in (60, 3_600, 30):
        answer = await api.post(path, json={"overlap_s": overlap_s}, headers=mine.headers())
        assert answer.status_code == 201
        assert await works(api, answer.json()["key"])
        assert await works(api, made["key"])
        new = await listed(api, mine, answer.json()["public_id"])
        told = (await trail.of(mine.org_id, "api_key.created"))[-1]["details"]["expires_at"]
        assert new["expires_at"] == told
        if expires_at is None:
            assert told is None
        else:
            assert datetime.fromisoformat(told) == datetime.fromisoformat(expires_at)
        ends.append(datetime.fromisoformat(answer.json()["old_expires_at"]))
    assert ends[0] == ends[1] > ends[2]
    successor = await api.post(f"{path_of(mine)}/{new['public_id']}/rotate", headers=mine.headers())
    assert (await listed(api, mine, successor.json()["public_id"]))["expires_at"] == told


async def test_without_an_overlap_the_old_key_ends_now(
    api: httpx.AsyncClient, two_orgs: Any, within_a_second: Any
) -> None:
    mine, _ = two_orgs
    made = await make(api, mine)
    path = f"{path_of(mine)}/{made['public_id']}/rotate"
    rotated = (await api.post(path, json={"overlap_s": 0}, headers=mine.headers())).json()

    async def refused() -> bool:
        return not await works(api, made["key"])

    await within_a_second(refused)
    assert await works(api, rotated["key"])
    again = await api.post(path, json={"overlap_s": 0}, headers=mine.headers())
    assert (again.status_code, again.json()["type"]) == (409, "urn:tracebility:error:key-ended")


async def test_the_overlap_is_an_hour_unless_said_and_never_past_the_keys_own_end(
    api: httpx.AsyncClient, two_orgs: Any
) -> None:
    mine, _ = two_orgs
    week = {"json": {"overlap_s": 604_800}}
    for sent, least, most in (({}, 3590, 3600), ({"json": {}}, 3590, 3600), (week, 604_790, 604_800)):
        made = await make(api, mine)
        answer = await api.post(f"{path_of(mine)}/{made['public_id']}/rotate", headers=mine.headers(), **sent)  # type: ignore[arg-type]
        left = datetime.fromisoformat(answer.json()["old_expires_at"]) - datetime.now(UTC)
        assert least < left.total_seconds() <= most
    short = await make(api, mine, expires_at=ahead(30))
    answer = await api.post(f"{path_of(mine)}/{short['public_id']}/rotate", headers=mine.headers())
    assert answer.json()["old_expires_at"] == (await listed(api, mine, short["public_id"]))["expires_at"]
    assert datetime.fromisoformat(answer.json()["old_expires_at"]) - datetime.now(UTC) < timedelta(seconds=30)


@pytest.mark.parametrize("overlap_s", [-1, 604_801, 1.5, "60", None, True, 2**63])
async def test_an_overlap_that_is_not_acceptable_changes_nothing(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any, overlap_s: Any
) -> None:
    mine, _ = two_orgs
    before = await trail.length()
    path = f"{path_of(mine)}/{mine.context.key_id}/rotate"
    answer = await api.post(path, json={"overlap_s": overlap_s}, headers=mine.headers())
    assert (answer.status_code, answer.json()["detail"].partition(":")[0]) == (422, "overlap_s")
    assert await trail.length() == before


async def test_a_key_that_has_ended_is_not_rotated(
    api: httpx.AsyncClient, two_orgs: Any, control: Any, trail: Any
) -> None:
    mine, _ = two_orgs
    revoked, expired = await make(api, mine), await make(api, mine)
    await api.delete(f"{path_of(mine)}/{revoked['public_id']}", headers=mine.headers())
    await control.execute("expire_key", expired["public_id"], datetime.now(UTC) - timedelta(seconds=1))
    before = await trail.length()
    for ended in (revoked, expired):
        answer = await api.post(f"{path_of(mine)}/{ended['public_id']}/rotate", headers=mine.headers())
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:tracebility:error:key-ended")
    assert await trail.length() == before


async def test_a_rotation_that_waited_for_another_finds_the_key_ended(
    api: httpx.AsyncClient, two_orgs: Any, control: Any
) -> None:
    """It began before the key's end, and goes on after it."""
    mine, _ = two_orgs
    public_id = (await make(api, mine))["public_id"]
    async with control.transaction() as ahead_of_it:
        await ahead_of_it.fetchrow("lock_key", public_id)
        waiting = asyncio.create_task(api.post(f"{path_of(mine)}/{public_id}/rotate", headers=mine.headers()))
        await asyncio.sleep(0.5)
        await ahead_of_it.execute("expire_key", public_id, datetime.now(UTC))
    assert (await waiting).status_code == 409


async def test_of_rotations_at_once_that_end_the_key_one_wins(api: httpx.AsyncClient, two_orgs: Any) -> None:
    mine, _ = two_orgs
    for _ in range(5):
        made = await make(api, mine)
        path = f"{path_of(mine)}/{made['public_id']}/rotate"
        answers = await asyncio.gather(
            *(api.post(path, json={"overlap_s": 0}, headers=mine.headers()) for _ in range(8))
        )
        assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7


@pytest.mark.parametrize(
    "public_id", ["0fQz0aBcD1eF", "x", "%00", "a" * 13, "operator", "0192f0c1-5a3e-4c41-9d0a-1f2e3d4c5b6a"]
)
async def test_a_key_that_is_not_there_is_not_found(api: httpx.AsyncClient, two_orgs: Any, public_id: str) -> None:
    mine, _ = two_orgs
    assert (await api.delete(f"{path_of(mine)}/{public_id}", headers=mine.headers())).status_code == 404
    answer = await api.post(f"{path_of(mine)}/{public_id}/rotate", content=b"{", headers=mine.headers())
    assert answer.status_code == 404


async def test_a_key_of_another_project_of_the_org_is_not_under_this_one(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any
) -> None:
    """Nothing was denied: the admin may see that key where it is."""
    mine, _ = two_orgs
    second = await api.post(
        f"/v1/workspaces/{mine.workspace_id}/projects", json={"name": "second"}, headers=mine.headers()
    )
    path = f"/v1/projects/{second.json()['id']}/keys/{mine.context.key_id}"
    assert (await api.delete(path, headers=mine.headers())).status_code == 404
    assert await trail.of(mine.org_id, "access.denied") == []
    assert await works(api, mine.key)


async def test_other_methods_are_refused_with_all_that_are_taken(api: httpx.AsyncClient) -> None:
    answer = await api.delete(f"/v1/projects/{uuid4()}/keys")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
