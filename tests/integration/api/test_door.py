"""Who may ask for what, and how refusals are said."""

import json
import re
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tracebility.api import cursor
from tracebility.api.app import routes

PROBLEM = "application/problem+json"


def sameness(answer: httpx.Response) -> tuple[Any, ...]:
    """What may not differ between two refusals: everything but the date, `instance` and the request's id."""
    body = answer.json()
    body.pop("instance")
    may_differ = ("date", "content-length", "x-request-id")
    headers = {name: value for name, value in answer.headers.items() if name not in may_differ}
    return answer.status_code, headers, body


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer tb_AAAAAAAAAAAA_" + "A" * 43},
        {"x-api-key": "nonsense"},
        {"authorization": "Digest abc"},
    ],
)
async def test_without_a_valid_key_every_route_says_the_same(api: httpx.AsyncClient, headers: dict[str, str]) -> None:
    bare = await api.get("/v1/projects")
    for path in ("/v1/projects", f"/v1/projects/{uuid4()}/runs", "/v1/projects/x/runs/y?limit=nonsense"):
        answer = await api.get(path, headers=headers)
        assert sameness(answer) == sameness(bare)
    assert bare.status_code == 401
    assert bare.headers["content-type"] == PROBLEM
    assert "www-authenticate" in bare.headers


async def test_a_header_sent_twice_with_two_keys_is_no_key(api: httpx.AsyncClient, tenants: Any) -> None:
    """As where spans are sent: two readers of one request must not see two tenants."""
    mine, other = (writer.tenant for writer in tenants)
    for name, prefix in (("authorization", "Bearer "), ("x-api-key", "")):
        headers = [(name, prefix + mine.key), (name, prefix + other.key)]
        assert (await api.get("/v1/projects", headers=headers)).status_code == 401
        assert "Forget the key" not in (await api.get("/", headers=headers)).text
        assert (await api.get("/v1/projects", headers=headers[:1] * 2)).status_code == 200


async def test_a_key_without_the_scope_is_forbidden_whatever_it_asks_for(
    api: httpx.AsyncClient, tenants: Any, key_with: Any
) -> None:
    headers = await key_with(tenants[0].tenant, "ingest:write")
    for path in ("/v1/projects", f"/v1/projects/{tenants[0].tenant.project_id}/runs", f"/v1/projects/{uuid4()}/runs/x"):
        answer = await api.get(path, headers=headers)
        assert answer.status_code == 403
        assert "read" in answer.json()["detail"]


async def test_another_tenants_ids_are_answered_as_missing_ones_before_anything_is_validated(
    api: httpx.AsyncClient, tenants: Any, key_with: Any
) -> None:
    mine, other = tenants
    await other.runs([{"run_id": "theirs"}])
    reader = await key_with(mine.tenant, "read")
    foreign = other.tenant.project_id
    for headers in (mine.tenant.headers(), reader):
        said = [
            sameness(await api.get(path, headers=headers))
            for path in (
                f"/v1/projects/{foreign}/runs",
                f"/v1/projects/{foreign}/runs?limit=nonsense&from=yesterday&cursor=x",
                f"/v1/projects/{foreign}/runs/theirs",
                f"/v1/projects/{mine.tenant.project_id}/runs/theirs",
                f"/v1/projects/{uuid4()}/runs",
                f"/v1/projects/{uuid4()}/runs/theirs",
                "/v1/projects/not-a-uuid/runs",
                f"/v1/projects/{{{mine.tenant.project_id}}}/runs",
                f"/v1/projects/{str(mine.tenant.project_id).replace('-', '')}/runs",
                "/v1/no/such/route",
            )
        ]
        assert said[0][0] == 404
        assert all(answer == said[0] for answer in said)


async def test_a_key_reads_its_project_and_an_admins_key_every_project_of_its_org(
    api: httpx.AsyncClient, tenants: Any, control: Any, key_with: Any
) -> None:
    tenant = tenants[0].tenant
    second = uuid4()
    await control.execute("insert_project", second, tenant.workspace_id, "second")
    reader = await key_with(tenant, "read")
    own = await api.get("/v1/projects", headers=reader)
    assert [project["id"] for project in own.json()["items"]] == [str(tenant.project_id)]
    assert (await api.get(f"/v1/projects/{second}/runs", headers=reader)).status_code == 404

    listed: list[str] = []
    parameters: dict[str, Any] = {"limit": 1}
    while True:
        page = (await api.get("/v1/projects", params=parameters, headers=tenant.headers())).json()
        listed += [project["id"] for project in page["items"]]
        if page["next_cursor"] is None:
            break
        parameters["cursor"] = page["next_cursor"]
    assert listed == [str(tenant.project_id), str(second)]
    assert (await api.get(f"/v1/projects/{second}/runs", headers=tenant.headers())).status_code == 200


@pytest.mark.parametrize(
    ("parameters", "status", "named"),
    [
        ({"limit": "0"}, 422, "limit"),
        ({"limit": "201"}, 422, "limit"),
        ({"limit": "many"}, 422, "limit"),
        ({"from": "yesterday"}, 422, "from"),
        ({"to": "2026-03-01"}, 422, "to"),
        ({"from": "2026-03-02T00:00:00Z", "to": "2026-03-01T00:00:00Z"}, 422, "from"),
        ({"cursor": "nonsense"}, 400, "cursor"),
        ({"cursor": ""}, 400, "cursor"),
    ],
)
async def test_a_parameter_that_is_not_acceptable_is_named(
    api: httpx.AsyncClient, tenants: Any, parameters: dict[str, str], status: int, named: str
) -> None:
    tenant = tenants[0].tenant
    answer = await api.get(f"/v1/projects/{tenant.project_id}/runs", params=parameters, headers=tenant.headers())
    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:tracebility:error:")
    assert problem["detail"].startswith(f"{named}:")
    assert problem["hint"]


async def test_every_route_refuses_a_query_parameter_that_it_does_not_have(
    api: httpx.AsyncClient, tenants: Any, control: Any, operator: Any, trail: Any
) -> None:
    """Ignored, `?user_id=` would answer every run as if they were the user's, or change what was not meant."""
    tenant = tenants[0].tenant
    await control.execute("insert_deletion", tenant.org_id, "user", tenant.org_id, None, "someone", "operator", "test")
    ids = {
        "org_id": tenant.org_id, "workspace_id": tenant.workspace_id, "project_id": tenant.project_id, "run_id": "r",
        "public_id": tenant.context.key_id, "job_id": tenant.org_id, "name": "free",
    }  # fmt: skip
    before = await trail.length()
    for route in routes():
        for method in route.methods:
            holder = tenant.headers() if "/admin/" not in route.path else operator
            path = route.path.format(**ids)
            answer = await api.request(method, path, params={"user_id": "x"}, headers=holder)
            assert (answer.status_code, answer.json()["detail"]) == (
                422,
                "user_id: is not a query parameter of this route.",
            ), path
    assert await trail.length() == before
    runs = f"/v1/projects/{tenant.project_id}/runs"
    twice = await api.get(f"{runs}?limit=1&limit=2", headers=tenant.headers())
    assert (twice.status_code, twice.json()["detail"]) == (422, "limit: is given more than once.")
    assert "cursor, from, limit, to" in (await api.get(f"{runs}?x=1", headers=tenant.headers())).json()["hint"]


async def test_every_answer_has_a_request_id(api: httpx.AsyncClient, tenants: Any) -> None:
    for path in ("/v1/projects", "/healthz", "/", "/no/such"):
        made = {(await api.get(path)).headers["x-request-id"] for _ in range(2)}
        assert len(made) == 2
        given = await api.get(path, headers={"x-request-id": "ingress-7.A:b_c"})
        assert given.headers.get_list("x-request-id") == ["ingress-7.A:b_c"]
    refused = await api.get("/v1/projects", headers={"x-request-id": 'a"b<c>'})
    assert refused.headers["x-request-id"] != 'a"b<c>'


async def test_a_cursor_fits_no_other_project(api: httpx.AsyncClient, tenants: Any) -> None:
    for writer in tenants:
        await writer.runs({"run_id": f"{n}"} for n in range(3))
    mine, other = (writer.tenant for writer in tenants)
    first = await api.get(f"/v1/projects/{mine.project_id}/runs", params={"limit": 1}, headers=mine.headers())
    cursor = first.json()["next_cursor"]
    for path, headers in (
        (f"/v1/projects/{other.project_id}/runs", other.headers()),
        ("/v1/projects", mine.headers()),
    ):
        assert (await api.get(path, params={"cursor": cursor}, headers=headers)).status_code == 400


@pytest.mark.parametrize(
    "place",
    [
        b"",
        bytes(10),
        bytes(24),
        bytes(24) + b"\xff",
        b"\x7f" + b"\xff" * 23,
        b"\xff" * 24,
        b"\x80" + bytes(7) + b"\x7f" + b"\xff" * 7 + b"\x80" + bytes(7),
        bytes(24) + b"a\x00\t\n\\'\"{b}",
    ],
)
async def test_a_forged_cursor_is_refused_or_names_a_place_and_never_breaks_anything(
    api: httpx.AsyncClient, tenants: Any, place: bytes
) -> None:
    """Its check value is keyed by ids that the client knows, so a client can seal what it likes."""
    tenant = tenants[0].tenant
    for path, owner in (
        (f"/v1/projects/{tenant.project_id}/runs", b"runs" + tenant.org_id.bytes + tenant.project_id.bytes),
        ("/v1/projects", b"projects" + tenant.org_id.bytes),
    ):
        forged = cursor.seal(place, owner)
        answer = await api.get(path, params={"cursor": forged}, headers=tenant.headers())
        assert answer.status_code in (200, 400), answer.text
        assert answer.status_code == 200 or answer.json()["detail"].startswith("cursor:")


async def test_other_methods_are_refused_with_those_that_are_taken(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/projects")
    assert (answer.status_code, answer.headers["allow"], answer.headers["content-type"]) == (
        405,
        "GET, HEAD",
        PROBLEM,
    )


async def test_head_is_answered_as_get_is_without_the_body(api: httpx.AsyncClient, tenants: Any) -> None:
    tenant = tenants[0].tenant
    await tenants[0].runs([{"run_id": "r"}])
    runs = f"/v1/projects/{tenant.project_id}/runs"
    for path in ("/", "/v1/projects", runs, f"{runs}/r", f"{runs}/missing", "/openapi.json", "/healthz", "/no/such"):
        headers = tenant.headers() | {"x-request-id": "same"}
        whole = await api.get(path, headers=headers)
        head = await api.head(path, headers=headers)
        assert (head.status_code, head.content, head.headers) == (whole.status_code, b"", whole.headers)
    assert (await api.head(runs)).status_code == 401
    assert (await api.head("/session")).headers["allow"] == "POST"


async def test_no_cache_on_the_way_may_keep_an_answer(api: httpx.AsyncClient, tenants: Any) -> None:
    tenant = tenants[0].tenant
    for path in ("/v1/projects", f"/v1/projects/{tenant.project_id}/runs", "/v1/projects/x/runs", "/"):
        answer = await api.get(path, headers=tenant.headers())
        assert answer.headers["cache-control"] == "private, no-store"
        assert answer.headers["vary"] == "Authorization"


async def test_the_description_has_every_route_and_everything_it_refers_to(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    assert {"/v1/traces", "/v1/runs", "/v1/projects", "/", "/metrics", "/openapi.json"} <= set(document["paths"])
    for kind, name in set(re.findall(r'"#/components/(\w+)/(\w+)"', json.dumps(document))):
        assert name in document["components"][kind]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            assert bool(operation.get("security")) == path.startswith("/v1/")


async def test_every_answer_is_as_the_description_says(api: httpx.AsyncClient, tenants: Any) -> None:
    document = (await api.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    tenant = tenants[0].tenant
    await tenants[0].runs([{"run_id": "r"}])
    await tenants[0].spans([{"span_id": "s"}])
    for path in ("/v1/projects", "/v1/projects/{project_id}/runs", "/v1/projects/{project_id}/runs/{run_id}"):
        described = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        answer = await api.get(path.format(project_id=tenant.project_id, run_id="r"), headers=tenant.headers())
        assert answer.status_code == 200
        assert_fits(answer.json(), described, document)


async def test_the_control_planes_bodies_and_answers_are_described(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, plan_name: str
) -> None:
    document = (await api.get("/openapi.json")).json()
    mine, _ = two_orgs
    ids = {"org_id": mine.org_id, "workspace_id": mine.workspace_id, "project_id": mine.project_id, "name": plan_name}
    bodies: dict[tuple[str, str], Any] = {
        ("put", "/v1/admin/plans/{name}"): dict.fromkeys(("rate", "meters", "retention_days", "eval_concurrency")),
        ("get", "/v1/admin/plans"): None,
        ("post", "/v1/admin/orgs"): {"name": "described"},
        ("get", "/v1/admin/orgs"): None,
        ("get", "/v1/admin/orgs/{org_id}"): None,
        ("patch", "/v1/admin/orgs/{org_id}"): {"retention_days": 5},
        ("get", "/v1/admin/orgs/{org_id}/quotas"): None,
        ("post", "/v1/orgs/{org_id}/workspaces"): {"name": "described"},
        ("post", "/v1/workspaces/{workspace_id}/projects"): {"name": "described"},
        ("get", "/v1/projects/{project_id}/keys"): None,
        ("post", "/v1/projects/{project_id}/keys"): {"name": "described", "scopes": ["read"]},
        ("post", "/v1/projects/{project_id}/keys/{public_id}/rotate"): {"overlap_s": 5},
    }
    for (method, path), body in bodies.items():
        operation = document["paths"][path][method]
        if body is not None:
            taken = operation["requestBody"]["content"]["application/json"]["schema"]
            schema = document["components"]["schemas"][taken["$ref"].rpartition("/")[2]]
            assert set(body) <= set(schema["properties"])
            assert schema["additionalProperties"] is False
        answer = await api.request(
            method, path.format(**ids, public_id=mine.context.key_id), headers=operator,
            **({} if body is None else {"json": body}),
        )  # fmt: skip
        [status] = [status for status in operation["responses"] if status != "default"]
        assert (status, answer.status_code) == (str(answer.status_code), answer.status_code), answer.text
        described = operation["responses"][status]["content"]["application/json"]["schema"]
        assert_fits(answer.json(), described, document)


def assert_fits(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    """Objects have exactly the described members, and lists hold what is described."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if isinstance(value, dict) and "properties" in schema:
        assert set(value) == set(schema["properties"])
        for name, member in value.items():
            assert_fits(member, schema["properties"][name], document)
    elif isinstance(value, list):
        for item in value:
            assert_fits(item, schema["items"], document)
