"""The control plane: another org's ids are as good as none, and asking for one is kept where the asker's admins see it.

Each route is called with tenant A's key and tenant B's ids, and must answer as for ids that nobody has, whatever else
is wrong with the request.
"""

import itertools
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import APIRoute
from tests.harness.trail import refusals_written

from tracebility.api.app import routes
from tracebility.api.service import ApiServices
from tracebility.audit.events import AuditWriter
from tracebility.tenant import keys

OPERATORS_ONLY = {
    ("GET", "/v1/admin/orgs"),
    ("POST", "/v1/admin/orgs"),
    ("PATCH", "/v1/admin/orgs/{org_id}"),
    ("GET", "/v1/admin/shards"),
    ("POST", "/v1/admin/shards/plan"),
    ("POST", "/v1/admin/shards/moves"),
    ("DELETE", "/v1/admin/orgs/{org_id}"),
    ("GET", "/v1/admin/plans"),
    ("PUT", "/v1/admin/plans/{name}"),
}
# Every id that an address of an admin's names, and what its kind is called in the trail.
NAMED = {"org_id": "org", "workspace_id": "workspace", "project_id": "project", "job_id": "deletion"}
BODIES = (b"", b"{", b'{"name": 5}', b'{"name": "x", "scopes": ["read"]}', b"{}", b"x" * 70_000)


def control_routes() -> list[tuple[str, str]]:
    found = [
        (method, route.path)
        for route in routes()
        if isinstance(route, APIRoute) and route.path.startswith("/v1/")
        for method in route.methods
    ]
    return sorted(route for route in found if route not in OPERATORS_ONLY and route[1] != "/v1/projects")


def ids_of(tenant: Any) -> dict[str, str]:
    context = tenant.context
    return {
        "org_id": str(context.org_id),
        "workspace_id": str(context.workspace_id),
        "project_id": str(context.project_id),
        "public_id": context.key_id,
        "run_id": "r",
        "job_id": str(context.org_id),  # of the one deletion that `a_deletion` gives it
    }


async def a_deletion(control: Any, tenant: Any) -> None:
    """A deletion of an org, under the org's own id."""
    org_id = tenant.org_id
    await control.execute("insert_deletion", org_id, "user", org_id, None, "someone", "operator", "cli:test")


def nobodys_ids() -> dict[str, str]:
    fresh = {name: str(uuid4()) for name in NAMED}
    return fresh | {"public_id": keys.generate().public_id, "run_id": "r"}


def said(answer: httpx.Response) -> tuple[int, dict[str, str], str]:
    """All of an answer but the date, `instance` and the request's id; the body's members in the order as sent."""
    body = {name: value for name, value in answer.json().items() if name != "instance"}
    may_differ = ("date", "content-length", "x-request-id")
    headers = {name: value for name, value in answer.headers.items() if name not in may_differ}
    return answer.status_code, headers, json.dumps(body)


async def denials(control: Any, org_id: Any) -> list[tuple[str, str]]:
    await refusals_written()
    rows = await control.fetch(
        "SELECT * FROM audit_log WHERE org_id = $1 AND event_type = 'access.denied' ORDER BY seq", org_id
    )
    return [(row["target_type"], row["target_id"]) for row in rows]


def test_there_are_routes_to_call() -> None:
    assert len(control_routes()) >= 9


@pytest.mark.parametrize(("method", "path"), control_routes())
async def test_another_orgs_ids_are_answered_as_nobodys_whatever_the_body(
    api: httpx.AsyncClient, two_orgs: Any, control: Any, method: str, path: str
) -> None:
    mine, other = two_orgs
    await a_deletion(control, other)
    types: tuple[dict[str, str], ...] = ({"content-type": "application/json"}, {"content-type": "text/plain"}, {})
    answers = []
    for ids, sent, body in itertools.product(
        (ids_of(other), nobodys_ids(), dict.fromkeys(ids_of(other), "x")), types, BODIES
    ):
        where = path.format(**ids) + "?limit=nonsense&cursor=x"
        answers.append(await api.request(method, where, content=body, headers=mine.headers() | sent))
    first = said(answers[0])
    assert first[0] == 404
    assert [said(answer) for answer in answers] == [first] * len(answers)
    [name] = [name for name in NAMED if f"{{{name}}}" in path]
    assert await denials(control, mine.org_id) == [(NAMED[name], ids_of(other)[name])] * len(types) * len(BODIES)
    assert await denials(control, other.org_id) == []
    named = await control.fetchval("SELECT count(*) FROM audit_log WHERE org_id = $1", other.org_id)
    assert named == 0, "the other org's trail must not tell that anyone asked"


@pytest.mark.parametrize(("method", "path"), sorted(control_routes() + list(OPERATORS_ONLY)))
async def test_without_a_valid_key_nothing_is_told(
    api: httpx.AsyncClient, two_orgs: Any, method: str, path: str
) -> None:
    bare = said(await api.get("/v1/projects"))
    for ids in (ids_of(two_orgs[0]), nobodys_ids()):
        for key in ({}, {"x-api-key": keys.generate().key}, {"authorization": "Bearer nonsense"}):
            answer = await api.request(method, path.format(**ids, name="free"), content=b"{", headers=key)
            assert said(answer) == bare
    assert bare[0] == 401


async def test_another_orgs_key_under_an_own_project_is_answered_as_nobodys(
    api: httpx.AsyncClient, two_orgs: Any, control: Any
) -> None:
    mine, other = two_orgs
    path = f"/v1/projects/{mine.project_id}/keys"
    for call in (
        lambda key: api.delete(f"{path}/{key}", headers=mine.headers()),
        lambda key: api.post(f"{path}/{key}/rotate", content=b"{", headers=mine.headers()),
    ):
        answers = [said(await call(key)) for key in (other.context.key_id, keys.generate().public_id, "x")]
        assert answers == [answers[0]] * 3
        assert answers[0][0] == 404
    assert await denials(control, mine.org_id) == [("api_key", other.context.key_id)] * 2
    assert await denials(control, other.org_id) == []
    assert (await api.get("/v1/projects", headers=other.headers())).status_code == 200


async def test_an_operators_key_under_a_project_is_answered_as_nobodys(
    api: httpx.AsyncClient, two_orgs: Any, operator_key: str
) -> None:
    mine, _ = two_orgs
    path = f"/v1/projects/{mine.project_id}/keys/{operator_key.split('_')[1]}"
    assert (await api.delete(path, headers=mine.headers())).status_code == 404


@pytest.mark.parametrize(("method", "path"), sorted(OPERATORS_ONLY))
async def test_what_only_operators_may_tells_tenants_nothing_about_ids(
    api: httpx.AsyncClient, two_orgs: Any, control: Any, method: str, path: str
) -> None:
    """Who may not do it to their own is told so; of what another has, first of all, that it is not there."""
    mine, other = two_orgs
    own, others, nobodys = [
        [
            said(await api.request(method, path.format(**ids, name=name), content=body, headers=mine.headers()))
            for body in BODIES
        ]
        for ids, name in ((ids_of(mine), "free"), (ids_of(other), "free"), (nobodys_ids(), "no-such-plan"))
    ]
    assert own == [own[0]] * len(own)
    assert own[0][0] == 403
    assert others == nobodys == [others[0]] * len(others)
    names_an_org = "{org_id}" in path
    assert others[0] == own[0] if not names_an_org else others[0][0] == 404
    assert await denials(control, mine.org_id) == [("org", str(other.org_id))] * (len(BODIES) if names_an_org else 0)


async def test_a_reader_that_asks_for_another_orgs_project_leaves_a_line_and_for_its_own_orgs_none(
    api: httpx.AsyncClient, two_orgs: Any, control: Any
) -> None:
    mine, other = two_orgs
    second = uuid4()
    await control.execute("insert_project", second, mine.workspace_id, "second")
    key = keys.generate()
    await control.execute(
        "insert_key", key.public_id, mine.org_id, mine.workspace_id, mine.project_id, "t", key.secret_hash, ["read"]
    )
    for project in (second, other.project_id):
        answer = await api.get(f"/v1/projects/{project}/runs", headers={"x-api-key": key.key})
        assert answer.status_code == 404
    assert await denials(control, mine.org_id) == [("project", str(other.project_id))]
    actor = await control.fetchrow(
        "SELECT actor_type, actor_id FROM audit_log WHERE org_id = $1 AND event_type = 'access.denied'", mine.org_id
    )
    assert tuple(actor.values()) == ("api_key", key.public_id)


async def test_an_answer_does_not_change_when_a_denial_cannot_be_written(
    api: httpx.AsyncClient, two_orgs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = two_orgs
    missing = said(await api.get(f"/v1/admin/orgs/{uuid4()}", headers=mine.headers()))

    async def fails(*_: object) -> None:
        raise RuntimeError("the trail is away")

    monkeypatch.setattr(AuditWriter, "record", fails)
    for path in (f"/v1/admin/orgs/{other.org_id}", f"/v1/projects/{other.project_id}/runs"):
        assert said(await api.get(path, headers=mine.headers())) == missing


async def test_what_a_key_may_see_is_looked_up_once(
    api: httpx.AsyncClient, two_orgs: Any, services: ApiServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose an id is that was refused is asked only then."""
    mine, _ = two_orgs
    await api.get(f"/v1/admin/orgs/{mine.org_id}", headers=mine.headers())  # the key is known now
    asked: list[str] = []
    for name in ("fetch", "fetchrow", "fetchval", "execute"):
        own = getattr(services.control, name)
        monkeypatch.setattr(services.control, name, lambda sql, *args, own=own: (asked.append(sql), own(sql, *args))[1])
    assert (await api.get(f"/v1/admin/orgs/{mine.org_id}", headers=mine.headers())).status_code == 200
    assert (await api.get(f"/v1/projects/{mine.project_id}/runs", headers=mine.headers())).status_code == 200
    assert [sql for sql in asked if sql != "tenant_changes"] == ["named_org", "read_org"]
