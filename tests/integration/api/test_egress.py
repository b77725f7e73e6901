"""What leaves is in the trail: reads by a line a minute, exports, what operators look at; refusals are bounded."""

from datetime import datetime
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from tests.harness.trail import refusals_written

from tracebility.api import pages, scope
from tracebility.api.app import routes
from tracebility.audit.access_log import EVENTS_PER_WINDOW
from tracebility.audit.events import AuditWriter
from tracebility.audit.metrics import AuditMetrics
from tracebility.audit.relay import AuditRelay
from tracebility.audit.verify import problems
from tracebility.stores.clickhouse import Engine
from tracebility.telemetry import Metrics

READ, EXPORTED, DENIED = "egress.read", "egress.exported", "access.denied"
USAGE = "/v1/admin/orgs/{org}/usage?from=2026-03-01T10:00:00Z&to=2026-03-01T12:00:00Z"


def told(events: list[Any]) -> list[tuple[str, str, str, str, int]]:
    return [
        (event["actor_id"], event["target_type"], event["target_id"], event["details"]["route"],
         event["details"]["count"])
        for event in events
    ]  # fmt: skip


def asked_of(route: APIRoute) -> set[Any]:
    def walk(dependant: Any) -> Any:
        yield dependant.call
        for below in dependant.dependencies:
            yield from walk(below)

    return set(walk(route.dependant))


def reading_routes() -> list[str]:
    """Every route that shows what a project has stored."""
    doors = {scope.tenant_rows, pages.page_rows}
    return sorted(route.path for route in routes() if isinstance(route, APIRoute) and doors & asked_of(route))


def operators_routes() -> list[str]:
    """Every route that shows an operator what an org has."""
    return sorted(
        route.path
        for route in routes()
        if isinstance(route, APIRoute)
        and "GET" in route.methods
        and "{" in route.path
        and scope.Naming in asked_of(route)
        and "/audit" not in route.path
    )


def test_there_are_routes_to_walk() -> None:
    assert len(reading_routes()) >= 3
    assert len(operators_routes()) >= 7
    assert {route.path for route in routes() if "/audit" in route.path} == scope.TRAIL_ROUTES  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", reading_routes())
async def test_a_read_of_a_project_is_told_once_however_often_it_comes(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any, path: str
) -> None:
    mine, other = two_orgs
    where = path.format(project_id=mine.project_id, run_id="r")
    for _ in range(5):
        await api.get(where, headers=mine.headers())
    lines = told(await trail.of(mine.org_id, READ))
    assert lines == [(mine.context.key_id, "project", str(mine.project_id), path, 1)]
    assert await trail.of(other.org_id, READ) == []


async def test_the_first_page_is_a_read_too(api: httpx.AsyncClient, two_orgs: Any, trail: Any) -> None:
    mine, _ = two_orgs
    assert (await api.get("/", headers=mine.headers())).status_code == 200
    assert told(await trail.of(mine.org_id, READ)) == [
        (mine.context.key_id, "project", str(mine.project_id), "/", 1)
    ]  # fmt: skip


async def test_the_rest_of_a_window_is_one_line_with_its_count(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any, services: Any
) -> None:
    mine, _ = two_orgs
    path = "/v1/projects/{project_id}/runs"
    for _ in range(5):
        await api.get(path.format(project_id=mine.project_id), headers=mine.headers())
    await services.access.flush(everything=True)
    first, rest = await trail.of(mine.org_id, READ)
    assert (first["details"], rest["details"]["count"]) == ({"route": path, "count": 1}, 4)
    assert datetime.fromisoformat(rest["details"]["since"]) <= first["event_time"]


async def test_a_tenants_reads_go_on_without_the_trail_and_are_told_when_it_is_back(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any, services: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, _ = two_orgs

    async def fails(*_: object) -> None:
        raise RuntimeError("the trail is away")

    with monkeypatch.context() as broken:
        broken.setattr(AuditWriter, "record", fails)
        for _ in range(3):
            answer = await api.get(f"/v1/projects/{mine.project_id}/runs", headers=mine.headers())
            assert answer.status_code == 200
    await services.access.flush(everything=True)
    assert [event["details"]["count"] for event in await trail.of(mine.org_id, READ)] == [3]


@pytest.mark.parametrize("path", operators_routes())
async def test_what_an_operator_looks_at_is_in_the_orgs_trail_and_what_its_own_admin_does_is_not(
    api: httpx.AsyncClient, operator: Any, operator_key: str, two_orgs: Any, trail: Any, control: Any, path: str
) -> None:
    mine, _ = two_orgs
    await control.execute(
        "insert_deletion", mine.org_id, "user", mine.org_id, None, "someone", "operator", "cli:test"
    )  # fmt: skip
    where = path.format(org_id=mine.org_id, project_id=mine.project_id, job_id=mine.org_id)
    await api.get(where, headers=mine.headers())
    assert await trail.of(mine.org_id, READ) == []
    await api.get(where, headers=operator)
    [(actor, _, target, route, count)] = told(await trail.of(mine.org_id, READ))
    assert (actor, route, count) == (operator_key.split("_")[1], path, 1)
    assert target in (str(mine.org_id), str(mine.project_id))


@pytest.mark.parametrize("by_operator", [False, True], ids=["admin", "operator"])
async def test_every_export_has_its_line(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, trail: Any, by_operator: bool
) -> None:
    mine, _ = two_orgs
    where, headers = USAGE.format(org=mine.org_id), operator if by_operator else mine.headers()
    for _ in range(2):
        assert (await api.get(f"{where}&format=csv", headers=headers)).status_code == 200
    assert (await api.get(where, headers=headers)).status_code == 200
    lines = told(await trail.of(mine.org_id, EXPORTED))
    assert [line[1:] for line in lines] == [("org", str(mine.org_id), "/v1/admin/orgs/{org_id}/usage", 1)] * 2


async def test_without_the_trail_nothing_is_exported_and_an_operator_sees_nothing(
    api: httpx.AsyncClient, operator: Any, two_orgs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, _ = two_orgs

    async def fails(*_: object) -> None:
        raise RuntimeError("the trail is away")

    monkeypatch.setattr(AuditWriter, "record", fails)
    where = USAGE.format(org=mine.org_id)
    assert (await api.get(f"{where}&format=csv", headers=mine.headers())).status_code == 503
    assert (await api.get(where, headers=mine.headers())).status_code == 200
    assert (await api.get(f"/v1/admin/orgs/{mine.org_id}/quotas", headers=operator)).status_code == 503


async def test_a_flood_of_refused_attempts_makes_so_many_lines_and_one_with_the_rest(
    api: httpx.AsyncClient, two_orgs: Any, trail: Any, services: Any
) -> None:
    mine, other = two_orgs
    for _ in range(EVENTS_PER_WINDOW + 30):
        answer = await api.get(f"/v1/projects/{other.project_id}/runs", headers=mine.headers())
        assert answer.status_code == 404
    await refusals_written()
    assert len(await trail.of(mine.org_id, DENIED)) == EVENTS_PER_WINDOW
    answer = await api.get(f"/v1/admin/orgs/{other.org_id}", headers=mine.headers())
    await refusals_written()
    assert len(await trail.of(mine.org_id, DENIED)) == EVENTS_PER_WINDOW + 1, "another kind of id has lines of its own"
    await services.access.flush(everything=True)
    lines = await trail.of(mine.org_id, DENIED)
    assert [event["details"]["count"] for event in lines] == [1] * (EVENTS_PER_WINDOW + 1) + [30]
    assert {event["target_id"] for event in lines} == {str(other.project_id), str(other.org_id)}
    assert await trail.of(other.org_id, DENIED, READ) == []


async def test_both_stores_have_what_left_and_the_chain_fits(
    api: httpx.AsyncClient, two_orgs: Any, control: Any, engine: Engine
) -> None:
    mine, other = two_orgs
    await api.get(f"/v1/projects/{mine.project_id}/runs", headers=mine.headers())
    await api.get(f"{USAGE.format(org=mine.org_id)}&format=csv", headers=mine.headers())
    await api.get(f"/v1/projects/{other.project_id}/runs", headers=mine.headers())
    relay = AuditRelay(control, engine, AuditMetrics(Metrics()))
    while await relay.tick():
        pass
    copies = await engine.query(
        "SELECT event_type, actor_user_id FROM audit_log WHERE org_id = {org:UUID} ORDER BY seq",
        {"org": str(mine.org_id)},
    )
    assert list(map(tuple, copies.rows)) == [(kind, mine.context.key_id) for kind in (READ, EXPORTED, DENIED)]
    assert [found async for found in problems(control, engine, mine.org_id)] == []
