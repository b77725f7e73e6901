"""A trail that somebody changed in its store takes no more events: what would need one is refused, in plain words."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tracebility.ids import uuid7
from tracebility.stores.postgres import Postgres

# What a superuser of the control plane writes behind the last event, the chain's triggers being off.
FORGE = """
INSERT INTO audit_log
    (event_id, event_time, event_type, org_id, actor_type, actor_id, target_type, target_id, seq, hash)
SELECT $1, now(), 'access.denied', org_id, 'api_key', 'x', 'project', 'y', seq + 1, sha256('forged')
FROM audit_head WHERE org_id = $2
"""


async def tamper(control: Postgres, sql: str, *arguments: object) -> None:
    async with control.transaction() as transaction:
        await transaction.execute("ALTER TABLE audit_log DISABLE TRIGGER ALL")
        await transaction.execute(sql, *arguments)
        await transaction.execute("ALTER TABLE audit_log ENABLE TRIGGER ALL")


@pytest.fixture
async def tampered(api: httpx.AsyncClient, two_orgs: Any, control: Postgres) -> AsyncIterator[Any]:
    """An org in whose trail an event is forged, for as long as the test takes."""
    mine, forged = two_orgs[0], uuid7()
    made = await api.post(
        f"/v1/projects/{mine.project_id}/keys", json={"name": "ci", "scopes": ["read"]}, headers=mine.headers()
    )
    assert made.status_code == 201
    await tamper(control, FORGE, forged, mine.org_id)
    yield mine
    await tamper(control, "DELETE FROM audit_log WHERE event_id = $1", forged)


CHANGES: list[tuple[str, str, Any]] = [
    ("DELETE", "/v1/projects/{project_id}/keys/{public_id}", None),
    ("POST", "/v1/projects/{project_id}/keys", {"name": "another", "scopes": ["read"]}),
    ("PATCH", "/v1/projects/{project_id}", {"retention_days": 5}),
    ("DELETE", "/v1/admin/orgs/{org_id}", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
async def test_nothing_is_changed_and_the_answer_says_why(
    api: httpx.AsyncClient, operator: Any, tampered: Any, trail: Any, method: str, path: str, body: Any
) -> None:
    before = await trail.length()
    where = path.format(
        org_id=tampered.org_id, project_id=tampered.project_id, public_id=tampered.context.key_id
    )  # fmt: skip
    answer = await api.request(method, where, headers=operator, **({} if body is None else {"json": body}))
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    said = answer.json()
    assert said["type"] == "urn:tracebility:error:trail-tampered"
    assert "was changed outside of tracebility" in said["detail"]
    assert "tracebility audit verify" in said["hint"]
    assert not {"audit_log_seq", "duplicate", "constraint"} & set(answer.text.replace('"', " ").split())
    assert await trail.length() == before
    listed = await api.get(f"/v1/projects/{tampered.project_id}/keys", headers=tampered.headers())
    assert len(listed.json()["items"]) == 2, "the key that nobody revoked still works"


async def test_what_has_to_be_in_the_trail_before_it_is_read_is_refused_so_too(
    api: httpx.AsyncClient, operator: Any, tampered: Any
) -> None:
    answer = await api.get(f"/v1/admin/orgs/{tampered.org_id}/quotas", headers=operator)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:tracebility:error:trail-tampered")
    assert (await api.get(f"/v1/admin/orgs/{tampered.org_id}/quotas", headers=tampered.headers())).status_code == 200


async def test_other_orgs_are_changed_as_ever(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, tampered: Any
) -> None:
    other = two_orgs[1]
    answer = await api.patch(f"/v1/projects/{other.project_id}", json={"retention_days": 5}, headers=operator)
    assert answer.status_code == 200


async def test_once_it_is_mended_changes_are_made_again(
    api: httpx.AsyncClient, operator: Any, tampered: Any, control: Postgres
) -> None:
    where = f"/v1/projects/{tampered.project_id}"
    assert (await api.patch(where, json={"retention_days": 5}, headers=operator)).status_code == 503
    await tamper(control, "DELETE FROM audit_log WHERE org_id = $1 AND hash = sha256('forged')", tampered.org_id)
    assert (await api.patch(where, json={"retention_days": 5}, headers=operator)).status_code == 200
