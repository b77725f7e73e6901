"""``tracebility keys``: made, listed without secrets, rotated, revoked."""

from typing import Any
from uuid import uuid4

import pytest

from tracebility.tenant import keys


def test_a_key_is_made_listed_rotated_and_revoked(commands: Any) -> None:
    project = commands.answer("orgs", "create", "Acme")["project_id"]
    made = commands.answer(
        *("keys", "create", project, "--name", "ci", "--scope", "read", "--scope", "ingest:write"),
        *("--expires-at", "2199-01-01T00:00:00Z", "--requests-per-s", "5"),
    )
    rotated = commands.answer("keys", "rotate", made["public_id"], "--overlap-s", "60")
    assert commands.answer("keys", "revoke", rotated["public_id"])["changed"] is True
    assert commands.answer("keys", "revoke", rotated["public_id"])["changed"] is False

    first, old, new = commands.answer("keys", "list", project)["items"]
    assert first["scopes"] == ["ingest:write", "read", "admin"]
    assert (old["public_id"], new["public_id"]) == (made["public_id"], rotated["public_id"])
    assert old["expires_at"] == rotated["old_expires_at"]
    assert (new["expires_at"], new["rate"]) == ("2199-01-01T00:00:00.000000Z", {"requests_per_s": 5, "burst": 5})
    assert new["revoked_at"] is not None
    text = commands.run("keys", "list", project).stdout
    assert "revoked" in text
    assert "never used" in text
    assert made["key"][-43:] not in text + str((first, old, new))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list", str(uuid4())), "no project"),
        (("create", str(uuid4()), "--name", "x", "--scope", "read"), "no project"),
        (("create", "PROJECT", "--name", "x", "--scope", "operator"), "scopes:"),
        (("create", "--name", "x", "--scope", "read"), "scopes:"),
        (("create", "--name", "x", "--scope", "operator", "--scope", "read"), "scopes:"),
        (("create", "--name", "x", "--scope", "operator", "--requests-per-s", "5"), "no rate"),
        (("create", "--name", "", "--scope", "operator"), "name:"),
        (("create", "--name", "x", "--scope", "operator", "--expires-at", "2020-01-01T00:00:00Z"), "expires_at"),
        (("create", "PROJECT", "--name", "", "--scope", "read"), "name:"),
        (("create", "PROJECT", "--name", "x", "--scope", "read", "--expires-at", "2020-01-01T00:00:00Z"), "expires_at"),
        (("create", "PROJECT", "--name", "x", "--scope", "read", "--requests-per-s", "0"), "rate.requests_per_s:"),
        (("create", "PROJECT", "--name", "x", "--scope", "read", "--burst", "5"), "--requests-per-s"),
        (("revoke", keys.generate().public_id), "no key"),
        (("revoke", "x"), "not a whole key"),
        (("rotate", "x\0"), "not a whole key"),
        (("rotate", keys.generate().public_id), "no key"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(commands: Any, arguments: tuple[str, ...], words: str) -> None:
    project = commands.answer("orgs", "create", "Acme")["project_id"]
    assert words in commands.refusal("keys", *(project if text == "PROJECT" else text for text in arguments))


def test_an_operators_key_is_of_no_project(commands: Any) -> None:
    made = commands.answer("keys", "create", "--name", "deployer", "--scope", "operator")
    rotated = commands.answer("keys", "rotate", made["public_id"], "--overlap-s", "0")
    *_, old, new = commands.answer("keys", "list")["items"]
    assert (old["public_id"], new["public_id"]) == (made["public_id"], rotated["public_id"])
    assert (new["name"], new["scopes"], new["expires_at"]) == ("deployer", ["operator"], None)
    assert commands.answer("keys", "revoke", rotated["public_id"])["changed"] is True


def test_a_revoked_key_is_not_rotated(commands: Any) -> None:
    made = commands.answer("orgs", "create", "Acme")
    public_id = made["api_key"].split("_")[1]
    commands.answer("keys", "revoke", public_id)
    assert "revoked" in commands.refusal("keys", "rotate", public_id)
