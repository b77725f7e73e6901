"""``tracebility shards``: seen, planned, moved, split and undone without the API."""

import asyncio
import getpass
from typing import Any
from uuid import UUID, uuid4

import pytest

from tracebility.ids import OrgId
from tracebility.stores.postgres import Postgres
from tracebility.tenant.shard_router import shard_of


@pytest.fixture
def org(commands: Any) -> str:
    made: str = commands.answer("orgs", "create", "Acme")["org_id"]
    return made


def home_of(org: str) -> int:
    return shard_of(OrgId(UUID(org)))


def test_an_org_is_moved_split_and_put_back(commands: Any, org: str) -> None:
    home = home_of(org)
    to = (home + 1) % 16
    moved = commands.answer("shards", "move", org, str(to), "--reason", "loud")
    assert (moved["before"], moved["after"], moved["state"]) == ([home], [to], "moved")
    split = commands.answer("shards", "split", org, "3", "--force")
    assert (split["before"], len(split["after"]), split["state"]) == ([to], 3, "split")
    status = commands.answer("shards", "status")
    assert [one["shards"] for one in status["placed"] if one["org_id"] == org] == [split["after"]]
    assert commands.answer("shards", "undo", "--org", org)["after"] == [to]
    last = commands.answer("shards", "undo")
    assert (last["org_id"], last["after"], last["state"]) == (org, [home], "default")


async def test_what_a_command_moves_is_in_the_trail_under_the_users_name(
    commands: Any, control: Postgres, two_orgs: Any
) -> None:
    org = two_orgs[0].org_id
    for words in (("split", str(org), "2"), ("undo", "--org", str(org))):
        await asyncio.to_thread(commands.answer, "shards", *words)
    rows = await control.fetch("SELECT * FROM audit_log WHERE org_id = $1 AND event_type ~ 'shard' ORDER BY seq", org)
    assert [row["event_type"] for row in rows] == ["shard.split", "shard.undone"]
    assert {row["actor_id"] for row in rows} == {f"cli:{getpass.getuser()}"}


def test_a_dry_run_says_what_would_be_and_changes_nothing(commands: Any, org: str) -> None:
    to = (home_of(org) + 1) % 16
    for words in (("move", org, str(to)), ("split", org, "16")):
        would = commands.answer("shards", *words, "--dry-run")
        assert (would["before"], would["epoch"]) == ([home_of(org)], None)
        assert would["skew_after"] >= 1
        assert "times the mean" in commands.run("shards", *words, "--dry-run").stdout
    assert org not in {one["org_id"] for one in commands.answer("shards", "status")["placed"]}


def test_people_can_read_status_and_plan(commands: Any, org: str) -> None:
    commands.answer("shards", "move", org, str((home_of(org) + 1) % 16))
    status = commands.run("shards", "status").stdout
    assert "hottest shard" in status
    assert f"{org} is moved: shard" in status
    assert "hottest shard" in commands.run("shards", "plan").stdout
    assert set(commands.answer("shards", "plan")) == {"skew_before", "skew_after", "moves", "held"}


def test_a_second_move_is_refused_for_a_while(commands: Any, org: str) -> None:
    first, second = str((home_of(org) + 1) % 16), str((home_of(org) + 2) % 16)
    commands.answer("shards", "move", org, first)
    assert "--force" in commands.refusal("shards", "move", org, second)
    assert commands.answer("shards", "move", org, second, "--force")["after"] == [int(second)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("move", str(uuid4()), "3"), "tracebility orgs list"),
        (("split", str(uuid4()), "3"), "tracebility orgs list"),
        (("undo", "--org", str(uuid4())), "tracebility orgs list"),
        (("undo", "--org", "x"), "not an id"),
        (("move", "x", "3"), "not an id"),
        (("move", str(uuid4()), "16"), "shard:"),
        (("split", str(uuid4()), "1"), "n:"),
        (("split", str(uuid4()), "17"), "n:"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(commands: Any, arguments: tuple[str, ...], words: str) -> None:
    assert words in commands.refusal("shards", *arguments)


def test_an_org_that_was_never_moved_has_no_move_to_undo(commands: Any, org: str) -> None:
    assert "no move to undo" in commands.refusal("shards", "undo", "--org", org)
