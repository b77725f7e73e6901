"""``tracebility ledger`` and ``quota usage``: the books of one org and of all, and what invoices are made of."""

import asyncio
import csv
import getpass
import io
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.harness.erasure import drain, enter, envelope_of, later

from tracebility.deletion.metrics import DeletionMetrics
from tracebility.deletion.runner import Deleter
from tracebility.embedded.installation import STREAM_VARIABLE
from tracebility.ids import OrgId, ProjectId
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres
from tracebility.stores.queue import Queue
from tracebility.stores.redis_control import RedisControl
from tracebility.telemetry import Metrics
from tracebility.tenant.ledger import accepted_key
from tracebility.tenant.shard_router import shard_of, stream_of

BETWEEN = ("--from", "2026-03-01T10:00:00Z", "--to", "2026-03-01T12:00:00Z")


@pytest.fixture
async def unbalanced(two_orgs: Any, hot_store: RedisControl) -> AsyncIterator[OrgId]:
    """An org of which four items were accepted, and nothing is known of what became of them."""
    org_id: OrgId = two_orgs[0].org_id
    key = accepted_key(stream_of(shard_of(org_id)), org_id)
    await hot_store.command("HSET", key, 500_000, 4)
    yield org_id
    await hot_store.command("DEL", key)


@pytest.fixture
async def metered(two_orgs: Any, engine: Engine) -> OrgId:
    """An org that has used a span in an hour of the past."""
    org_id: OrgId = two_orgs[0].org_id
    await engine.insert_rows(
        "billing_meter",
        ["org_id", "workspace_id", "project_id", "period", "meter", "event_id", "qty", "accepted_at", "version"],
        [[*[org_id] * 3, "2026-03", "spans", str(uuid4()), 7, "2026-03-01 10:20:00.000000", 1]],
    )
    return org_id


async def test_the_books_of_all_orgs_begin_with_those_that_do_not_balance(
    commands: Any, unbalanced: OrgId, two_orgs: Any
) -> None:
    result = await asyncio.to_thread(commands.run, "ledger", "--json")
    assert result.exit_code == 1
    items = json.loads(result.stdout)["items"]
    balanced = [item["balanced"] for item in items]
    assert balanced == sorted(balanced)
    by_org = {item["org_id"]: item for item in items}
    assert (by_org[str(unbalanced)]["accepted"], by_org[str(unbalanced)]["balanced"]) == (4, False)
    assert by_org[str(two_orgs[1].org_id)]["balanced"] is True
    own = await asyncio.to_thread(commands.run, "ledger", str(unbalanced), "--json")
    assert own.exit_code == 1
    assert {"org_id": str(unbalanced)} | json.loads(own.stdout) == by_org[str(unbalanced)]
    shown = await asyncio.to_thread(commands.run, "ledger")
    [line] = [line for line in shown.stdout.splitlines() if str(unbalanced) in line]
    assert "NOT BALANCED" in line


def test_the_books_of_a_deleted_org_are_closed(commands: Any) -> None:
    org = commands.answer("orgs", "create", "Acme")["org_id"]
    listed = json.loads(commands.run("ledger", "--json").stdout)["items"]
    assert org in {item["org_id"] for item in listed}
    commands.answer("orgs", "delete", org, "--yes")
    listed = json.loads(commands.run("ledger", "--json").stdout)["items"]
    assert org not in {item["org_id"] for item in listed}


async def test_the_books_of_a_deleted_org_balance_for_whoever_asks_for_them(
    commands: Any, control: Postgres, engine: Engine, empty_queue: Queue, empty_hot_store: RedisControl,
    empty_redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(STREAM_VARIABLE, empty_redis_url)
    made = await asyncio.to_thread(commands.answer, "orgs", "create", "Acme")
    org_id, project_id = OrgId(UUID(made["org_id"])), ProjectId(UUID(made["project_id"]))
    await enter(empty_queue, envelope_of(org_id, project_id, spans=5))
    await drain(empty_queue, engine, empty_hot_store, org_id)
    job = await asyncio.to_thread(commands.answer, "orgs", "delete", str(org_id), "--yes")
    metrics = DeletionMetrics(Metrics())
    await Deleter(control, engine, empty_queue, empty_hot_store, metrics, later).tick()
    assert (await asyncio.to_thread(commands.answer, "deletions", "show", job["id"]))["state"] == "done"
    books = await asyncio.to_thread(commands.answer, "ledger", str(org_id))
    assert books == {
        "accepted": 5, "stored": 5, "dropped": [], "dead": 0, "in_flight": 0, "distinct": 5, "balanced": True
    }  # fmt: skip


async def test_usage_is_what_the_api_answers_and_an_export_is_in_the_trail(
    commands: Any, metered: OrgId, api: Any, operator: Any, control: Any
) -> None:
    asking = ("quota", "usage", str(metered), *BETWEEN)
    path = f"/v1/admin/orgs/{metered}/usage?from={BETWEEN[1]}&to={BETWEEN[3]}"
    found = await asyncio.to_thread(commands.answer, *asking)
    assert found == (await api.get(path, headers=operator)).json()
    assert [(one["hour"], one["meter"], one["quantity"]) for one in found["items"]] == [
        ("2026-03-01T10:00:00Z", "spans", 7)
    ]  # fmt: skip
    assert " 7" in (await asyncio.to_thread(commands.run, *asking)).stdout
    exported = "SELECT actor_id FROM audit_log WHERE org_id = $1 AND event_type = 'egress.exported'"
    assert await control.fetch(exported, metered) == []
    as_csv = await asyncio.to_thread(commands.run, *asking, "--csv")
    [line] = csv.DictReader(io.StringIO(as_csv.stdout))
    assert (line["id"], line["quantity"]) == (found["items"][0]["id"], "7")
    assert [row["actor_id"] for row in await control.fetch(exported, metered)] == [f"cli:{getpass.getuser()}"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "yesterday", "--to", "2026-03-01T12:00:00Z"), "--from takes"),
        (("--from", "2026-03-02T00:00:00Z", "--to", "2026-03-01T12:00:00Z"), "to:"),
        ((*BETWEEN, "--csv", "--json"), "not both"),
        (BETWEEN, "no organisation"),
    ],
    ids=["no time", "backwards", "two formats", "nobody"],
)
def test_what_usage_cannot_be_shown_of_is_said(commands: Any, arguments: tuple[str, ...], words: str) -> None:
    org = str(uuid4()) if words == "no organisation" else commands.answer("orgs", "create", "Acme")["org_id"]
    assert words in commands.refusal("quota", "usage", org, *arguments)
