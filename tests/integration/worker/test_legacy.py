"""The stream from before the shards: drained beside them, under the tenant it is of, and never in anybody's way."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.harness import streams as raw_streams
from tests.harness.proxy import Proxy, Road

from tracebility.ids import SENTINEL
from tracebility.stores import postgres
from tracebility.stores.clickhouse import Engine
from tracebility.stores.queue import Queue
from tracebility.tenant.quota import METERED, metered_member
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM, LEGACY_STREAM

FIXTURES = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data" / "legacy_envelopes.jsonl").read_text().splitlines()
]
FIXTURE_PERIOD = "2026-11"
PROJECT = "00000000-0000-4000-8000-000000000001"


def fixture(number: int, project: UUID | str, mark: str = "") -> dict[str, bytes]:
    """A fixture of the test's own project, and of its own identity."""
    text = FIXTURES[number]["d"].replace(PROJECT, str(project))
    if mark:
        said = json.loads(text)
        said["payload"]["id"] = mark
        text = json.dumps(said)
    return {"d": text.encode()}


async def drained(running: Any, queue: Queue) -> None:
    async def is_empty() -> bool:
        return await queue.length(LEGACY_STREAM) == 0

    await running.until(is_empty)


async def sentinels(engine: Engine, *ids: str) -> list[dict[str, Any]]:
    found = await engine.query(
        "SELECT span_id, project_id, org_id, workspace_id FROM span FINAL "
        "WHERE org_id = {org:UUID} AND span_id IN {ids:Array(String)}",
        {"org": str(SENTINEL), "ids": list(ids)},
    )
    return found.dicts()


async def test_what_is_of_a_known_project_gets_its_tenant(
    queue: Queue, two_orgs: Any, stores: Any, legacy_worker: Any, engine: Engine
) -> None:
    org, _ = two_orgs
    await raw_streams.append(queue, [(LEGACY_STREAM, fixture(number, org.project_id)) for number in (0, 1)])
    async with legacy_worker(stores.pg_dsn) as running:
        await drained(running, queue)
    found = await engine.query(
        "SELECT name, workspace_id, project_id, toString(accepted_at) AS accepted FROM span FINAL "
        "WHERE org_id = {org:UUID} ORDER BY name",
        {"org": str(org.org_id)},
    )
    rows = found.dicts()
    assert [row["name"] for row in rows] == ["answer", "chat", "tool"]
    assert {(row["workspace_id"], row["project_id"]) for row in rows} == {(org.workspace_id, org.project_id)}
    assert rows[0]["accepted"] == "2026-11-01 12:00:03.000000"
    assert rows[1]["accepted"] == "2026-11-01 12:00:03.123000"


async def test_what_is_of_nobody_we_know_is_kept_under_the_sentinel(
    queue: Queue, two_orgs: Any, stores: Any, legacy_worker: Any, engine: Engine
) -> None:
    org, _ = two_orgs
    stranger, first, second = uuid4(), str(uuid4()), str(uuid4())
    entries = [fixture(2, "", first), fixture(3, "", second)]
    entries[0]["d"] = entries[0]["d"].replace(b"99999999-9999-4999-8999-999999999999", str(stranger).encode())
    await raw_streams.append(queue, [(LEGACY_STREAM, one) for one in (*entries, fixture(0, org.project_id))])
    async with legacy_worker(stores.pg_dsn) as running:
        await drained(running, queue)
        assert running.metrics.legacy_unknown._value.get() == 2
    rows = {row["span_id"]: row for row in await sentinels(engine, first, second)}
    assert rows[first]["project_id"] == stranger
    assert rows[second]["project_id"] == SENTINEL
    assert {row["workspace_id"] for row in rows.values()} == {SENTINEL}


@pytest.mark.parametrize("number", [4, 5, 6, 7])
async def test_what_cannot_be_read_is_a_dead_letter_that_comes_back_as_it_was(
    queue: Queue, two_orgs: Any, stores: Any, legacy_worker: Any, number: int
) -> None:
    org, _ = two_orgs
    bad = fixture(number, org.project_id)
    if number == 4:
        bad = {"d": bad["d"] + str(org.org_id).encode()}
    [entry_id] = await raw_streams.append(queue, [(LEGACY_STREAM, bad)])
    async with legacy_worker(stores.pg_dsn) as running:
        await drained(running, queue)
    letters = await queue.range(DEAD_LETTER_STREAM, count=10_000)
    [letter] = [one for one in letters if one.fields[b"entry_id"] == entry_id]
    assert letter.fields[b"d"] == bad["d"]
    assert letter.fields[b"stream"] == LEGACY_STREAM.encode()
    await raw_streams.delete(queue, DEAD_LETTER_STREAM, [letter.id])


async def test_with_the_control_plane_away_others_go_on_and_nothing_becomes_nobodys(
    queue: Queue, tenant: Any, two_orgs: Any, stores: Any, legacy_worker: Any, spans: Any, engine: Engine
) -> None:
    org, _ = two_orgs
    mark = str(uuid4())
    async with Proxy.before(stores.pg_dsn) as road:
        road.road = Road.CLOSED
        await raw_streams.append(queue, [(LEGACY_STREAM, fixture(0, org.project_id, mark))])
        async with legacy_worker(road.through(stores.pg_dsn)) as running:
            await tenant.send([spans(0)])
            await running.drained(tenant)
            assert await queue.length(LEGACY_STREAM) == 1
            road.road = Road.CLEAR
            await drained(running, queue)
    assert await sentinels(engine, mark) == []
    found = await engine.query(
        "SELECT count() FROM span FINAL WHERE org_id = {org:UUID} AND span_id = {id:String}",
        {"org": str(org.org_id), "id": mark},
    )
    assert found.rows[0][0] == 1


async def test_over_the_quota_only_what_nobody_reserved_is_dropped_and_is_in_the_books(
    queue: Queue, two_orgs: Any, stores: Any, legacy_worker: Any, engine: Engine, hot_store: Any, tenant: Any,
    spans: Any,
) -> None:  # fmt: skip
    org, other = two_orgs
    flags = [f"quota:over:{one}:2026-11" for one in (org.org_id, tenant.org_id)]
    for flag in flags:
        await hot_store.command("SET", flag, "spans")
    await raw_streams.append(queue, [(LEGACY_STREAM, fixture(0, one.project_id, str(uuid4()))) for one in (org, other)])
    await tenant.send([spans(0)])
    await tenant.send([spans(1)], degraded=True)
    async with legacy_worker(stores.pg_dsn) as running:
        await drained(running, queue)
        await running.drained(tenant)
    await hot_store.command("DEL", *flags)
    member = metered_member(org.org_id, FIXTURE_PERIOD)
    assert await hot_store.command("ZSCORE", METERED, member) is not None, "the reconciler keeps the flag up"

    async def outcomes(org_id: Any) -> list[tuple[Any, ...]]:
        found = await engine.query(
            "SELECT outcome, reason, items FROM envelope_outcome FINAL WHERE org_id = {org:UUID} ORDER BY outcome",
            {"org": str(org_id)},
        )
        return [tuple(row) for row in found.rows]

    assert await outcomes(org.org_id) == [("dropped", "quota exceeded", 1)]
    assert await outcomes(other.org_id) == [("stored", "", 1)]
    assert await outcomes(tenant.org_id) == [("dropped", "quota exceeded", 1), ("stored", "", 1)]
    assert len(await tenant.rows("span")) == 1


async def test_an_entry_that_is_delivered_again_is_the_same_envelope(
    queue: Queue, two_orgs: Any, stores: Any, legacy_worker: Any, engine: Engine, control: postgres.Postgres
) -> None:
    org, _ = two_orgs
    mark = str(uuid4())
    for _ in range(2):
        await raw_streams.append(queue, [(LEGACY_STREAM, fixture(0, org.project_id, mark))])
        async with legacy_worker(stores.pg_dsn) as running:
            await drained(running, queue)
    found = await engine.query(
        "SELECT count(), sum(items) FROM envelope_outcome FINAL WHERE org_id = {org:UUID}", {"org": str(org.org_id)}
    )
    assert tuple(found.rows[0]) == (1, 1)
