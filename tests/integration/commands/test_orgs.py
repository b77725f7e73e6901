"""``tracebility orgs`` and ``quota``: what operators see and change without the API."""

import asyncio
import getpass
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tracebility.stores.changes import resolving
from tracebility.stores.redis_control import connect


def test_an_org_is_made_shown_listed_and_changed(commands: Any) -> None:
    made = commands.answer("orgs", "create", "Acme", "--plan", "team")
    assert set(made) == {"org_id", "workspace_id", "project_id", "api_key"}
    org = made["org_id"]
    shown = commands.answer("orgs", "show", org)
    assert (shown["name"], shown["plan"], shown["suspended"]) == ("Acme", "team", False)
    assert shown in commands.answer("orgs", "list", "--limit", "100000")["items"]
    changed = commands.answer("orgs", "set", org, "--plan", "free", "--suspend", "--retention-days", "9")
    assert (changed["plan"], changed["suspended"], changed["retention_days"]) == ("free", True, 9)
    back = commands.answer("orgs", "set", org, "--resume", "--retention-days", "plan")
    assert (back["plan"], back["suspended"], back["retention_days"]) == ("free", False, None)
    assert commands.answer("orgs", "show", org) == back
    for words in (("orgs", "list"), ("orgs", "show", org)):
        assert "Acme" in commands.run(*words).stdout


async def test_what_a_command_changes_is_in_the_trail_under_the_users_name(commands: Any, control: Any) -> None:
    made = await asyncio.to_thread(commands.answer, "orgs", "create", "Acme")
    await asyncio.to_thread(commands.answer, "orgs", "set", made["org_id"], "--suspend")
    rows = await control.fetch("SELECT * FROM audit_log WHERE org_id = $1::text::uuid ORDER BY seq", made["org_id"])
    assert [row["event_type"] for row in rows] == [
        *("org.created", "workspace.created", "project.created", "api_key.created", "org.suspended")
    ]
    assert {(row["actor_type"], row["actor_id"]) for row in rows} == {("operator", f"cli:{getpass.getuser()}")}


async def test_a_running_process_knows_what_a_command_changed(
    commands: Any, stores: Any, control: Any, two_orgs: Any
) -> None:
    """The command says so; nobody waits until processes ask by themselves."""
    hot = await connect(stores.redis_url)
    try:
        async with resolving(control, hot, stores.redis_url) as elsewhere:
            assert not (await elsewhere.principal("", two_orgs[0].key)).suspended
            await asyncio.to_thread(commands.answer, "orgs", "set", str(two_orgs[0].org_id), "--suspend")
            deadline = time.monotonic() + 1.0
            while not (await elsewhere.principal("", two_orgs[0].key)).suspended:
                assert time.monotonic() < deadline, "a second has passed"
                await asyncio.sleep(0.01)
    finally:
        await hot.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("orgs", "create", ""), "name:"),
        (("orgs", "create", "x", "--plan", "no-such-plan"), "plan:"),
        (("orgs", "set", str(uuid4()), "--suspend"), "no organisation"),
        (("orgs", "show", str(uuid4())), "no organisation"),
        (("orgs", "delete-user", str(uuid4()), "user", "--yes"), "no organisation"),
        (("projects", "list", str(uuid4())), "no organisation"),
        (("projects", "delete", str(uuid4()), "--yes"), "no project"),
        (("projects", "delete-run", str(uuid4()), "run", "--yes"), "no project"),
        (("ledger", str(uuid4())), "no organisation"),
        (("deletions", "list", str(uuid4())), "no organisation"),
        (("deletions", "show", str(uuid4())), "no deletion"),
        (("dlq", "list", "--org", str(uuid4())), "no organisation"),
        (("audit", "list", str(uuid4())), "no organisation"),
        (("audit", "gaps", str(uuid4())), "no organisation"),
        (("orgs", "show", "x"), "not an id"),
        (("orgs", "set", str(uuid4())), "--plan"),
        (("orgs", "set", str(uuid4()), "--retention-days", "ten"), "--retention-days"),
        (("orgs", "set", str(uuid4()), "--retention-days", "9" * 5_000), "--retention-days"),
        (("orgs", "set", "ORG", "--retention-days", "0"), "retention_days:"),
        (("quota", "show", str(uuid4())), "no organisation"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(commands: Any, arguments: tuple[str, ...], words: str) -> None:
    org = commands.answer("orgs", "create", "Acme")["org_id"] if "ORG" in arguments else ""
    assert words in commands.refusal(*(org if text == "ORG" else text for text in arguments))


def test_usage_is_shown_with_its_limits(commands: Any) -> None:
    made = commands.answer("orgs", "create", "Acme", "--plan", "internal")
    quotas = commands.answer("quota", "show", made["org_id"])
    assert [(meter["meter"], meter["used"], meter["hard_limit"]) for meter in quotas["meters"]] == [
        ("spans", 0, None),
        ("bytes", 0, None),
    ]
    assert "unlimited" in commands.run("quota", "show", made["org_id"]).stdout


def test_with_redis_away_a_change_is_made(commands: Any, stores: Any, tmp_path: Path) -> None:
    (tmp_path / "ready.json").write_text(json.dumps(stores.ready | {"redis_url": "redis://127.0.0.1:1/0"}))
    made = replace(commands, data_dir=tmp_path).answer("orgs", "create", "Acme")
    assert commands.answer("orgs", "show", made["org_id"])["name"] == "Acme"
