"""Commands where the queue has a server of its own: they look into that one, and into no other."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tracebility.ids import OrgId
from tracebility.tenant.ledger import accepted_key
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM, shard_of, stream_of

from .conftest import Commands

VARIABLE = "TRACEBILITY_REDIS_STREAM_URL"
NOBODY = "redis://:secret-word@127.0.0.1:1/0"

OF_THE_QUEUE = [
    ("quota", "reconcile"),
    ("ledger",),
    ("shards", "status"),
    ("shards", "plan"),
    ("dlq", "list"),
    ("dlq", "replay", "--all"),
]


@pytest.fixture
def described(stores: Any, tmp_path: Path) -> Any:
    """Commands on the shared stores, described by a ready file with a server for the queue."""

    def describe(stream_url: str) -> Commands:
        (tmp_path / "ready.json").write_text(json.dumps(stores.ready | {"redis_stream_url": stream_url}))
        return Commands(tmp_path)

    return describe


@pytest.mark.parametrize("arguments", OF_THE_QUEUE, ids=" ".join)
@pytest.mark.parametrize("said_in", ["environment", "ready file"])
def test_with_the_queue_away_a_command_takes_no_other_server_for_it(
    commands: Commands, described: Any, monkeypatch: pytest.MonkeyPatch, said_in: str, arguments: tuple[str, ...]
) -> None:
    if said_in == "environment":
        monkeypatch.setenv(VARIABLE, NOBODY)
    else:
        commands = described(NOBODY)
    said = commands.refusal(*arguments)
    assert f"{VARIABLE}: no usable answer from 127.0.0.1:1" in said
    assert "secret-word" not in said


def test_a_malformed_name_of_the_queue_s_server_is_told(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "queue")
    assert f"{VARIABLE} is malformed" in commands.refusal("dlq", "list")


async def test_books_and_dead_letters_are_those_of_the_queue(
    described: Any, two_orgs: Any, empty_redis_url: str
) -> None:
    org_id: OrgId = two_orgs[0].org_id
    commands = described(empty_redis_url)
    queue = Redis.from_url(empty_redis_url)
    await queue.hset(accepted_key(stream_of(shard_of(org_id)), org_id), "500000", "4")
    letter = await queue.xadd(DEAD_LETTER_STREAM, {"reason": "test"})
    await queue.aclose()
    books = await asyncio.to_thread(commands.run, "ledger", str(org_id), "--json")
    assert (books.exit_code, json.loads(books.stdout)["accepted"]) == (1, 4)
    letters = await asyncio.to_thread(commands.answer, "dlq", "list")
    assert [one["id"] for one in letters["items"]] == [letter.decode()]


def test_status_and_doctor_look_at_both_servers(described: Any, empty_redis_url: str) -> None:
    commands = described(empty_redis_url)
    assert commands.answer("status")["stores"] == dict.fromkeys(
        ("postgres", "redis", "redis stream", "clickhouse"), "ok"
    )
    findings = json.loads(commands.run("doctor", "--json").stdout)["findings"]
    assert {"redis version", "redis stream version", "redis eviction", "queue eviction"} <= {
        finding["check"] for finding in findings
    }


@pytest.mark.parametrize(
    ("away", "missing"), [("redis_url", "redis"), ("redis_stream_url", "redis stream")], ids=["control", "stream"]
)
def test_status_and_doctor_name_the_server_that_is_away(
    stores: Any, tmp_path: Path, empty_redis_url: str, away: str, missing: str
) -> None:
    ready = stores.ready | {"redis_stream_url": empty_redis_url} | {away: NOBODY}
    (tmp_path / "ready.json").write_text(json.dumps(ready))
    seen = json.loads(Commands(tmp_path).run("status", "--json").stdout)
    assert [store for store, said in seen["stores"].items() if said != "ok"] == [missing]
    assert f"TRACEBILITY_{away.upper()}" in seen["stores"][missing]
    findings = json.loads(Commands(tmp_path).run("doctor", "--json").stdout)["findings"]
    answering = [finding["check"] for finding in findings if finding["check"].endswith(" answers")]
    assert answering == [f"{missing} answers"]
