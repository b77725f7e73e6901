"""``tracebility orgs delete``, ``deletions`` and ``retention``."""

import uuid
from typing import Any

import pytest


def test_an_org_is_deleted_after_a_question_and_the_job_is_shown(commands: Any) -> None:
    org = commands.answer("orgs", "create", "Acme")["org_id"]
    assert commands.run("orgs", "delete", org, text="n\n").exit_code == 1
    assert commands.answer("orgs", "show", org)["suspended"] is False
    job = commands.answer("orgs", "delete", org, "--yes")
    assert (job["kind"], job["target"], job["state"]) == ("org", org, "queued")
    shown = commands.answer("orgs", "show", org)
    assert (shown["suspended"], shown["deleted_at"] is not None) == (True, True)
    assert commands.answer("deletions", "list", org) == {"items": [job]}
    assert commands.answer("deletions", "show", job["id"]) == job
    assert commands.answer("orgs", "delete", org, "--yes")["id"] == job["id"]
    assert org in commands.run("deletions", "show", job["id"]).stdout
    assert "DELETED" in commands.run("orgs", "show", org).stdout


def test_a_deleted_org_is_not_let_in_again(commands: Any) -> None:
    org = commands.answer("orgs", "create", "Acme")["org_id"]
    commands.answer("orgs", "delete", org, "--yes")
    assert "is deleted" in commands.refusal("orgs", "set", org, "--resume")


def test_what_is_not_there_is_said(commands: Any) -> None:
    assert commands.refusal("deletions", "show", str(uuid.uuid4()))
    assert commands.refusal("orgs", "delete", str(uuid.uuid4()), "--yes")


def test_a_project_keeps_its_data_as_long_as_is_said(commands: Any) -> None:
    project = commands.answer("orgs", "create", "Acme")["project_id"]
    changed = commands.answer("retention", "set", project, "9")
    assert (changed["project_id"], changed["retention_days"]) == (project, 9)
    assert commands.answer("retention", "set", project, "org")["retention_days"] is None
    assert "9 days" in commands.run("retention", "set", project, "9").stdout


def test_a_retention_longer_than_its_orgs_is_not_confirmed(commands: Any) -> None:
    made = commands.answer("orgs", "create", "Acme")
    commands.answer("orgs", "set", made["org_id"], "--retention-days", "90")
    assert "for 90 days. 100 days are noted" in commands.run("retention", "set", made["project_id"], "100").stdout
    changed = commands.answer("retention", "set", made["project_id"], "100")
    assert (changed["retention_days"], changed["kept_days"]) == (100, 90)
    assert "for 90 days. That is its org's" in commands.run("retention", "set", made["project_id"], "org").stdout


def test_a_run_a_user_and_a_project_are_deleted_by_commands(commands: Any) -> None:
    made = commands.answer("orgs", "create", "Acme")
    org, project = made["org_id"], made["project_id"]
    [listed] = commands.answer("projects", "list", org)["items"]
    assert (listed["project_id"], listed["name"]) == (project, "default")
    run = commands.answer("projects", "delete-run", project, "AB" * 16, "--yes")
    user = commands.answer("orgs", "delete-user", org, "user 42", "--yes")
    assert commands.run("projects", "delete", project, text="n\n").exit_code == 1
    assert "not the id of a run" in commands.refusal("projects", "delete-run", project, "no id", "--yes")
    whole = commands.answer("projects", "delete", project, "--yes")
    jobs = [(job["kind"], job["target"]) for job in (run, user, whole)]
    assert jobs == [("run", "ab" * 16), ("user", "user 42"), ("project", project)]
    assert {job["id"] for job in commands.answer("deletions", "list", org)["items"]} == {
        run["id"],
        user["id"],
        whole["id"],
    }
    assert commands.answer("projects", "list", org)["items"] == []
    assert "no project" in commands.refusal("projects", "delete", project, "--yes")


@pytest.mark.parametrize(
    ("project", "days", "words"),
    [
        (None, "0", "retention_days:"),
        (None, "ten", "DAYS takes"),
        (None, "9" * 5000, "DAYS takes"),
        (None, "٣", "DAYS takes"),
        (str(uuid.UUID(int=7)), "9", "no project"),
    ],
    ids=["none", "words", "too many digits", "digits of others", "nobodys"],
)
def test_what_a_project_cannot_be_kept_for_is_said(commands: Any, project: str | None, days: str, words: str) -> None:
    mine = commands.answer("orgs", "create", "Acme")["project_id"]
    assert words in commands.refusal("retention", "set", project or mine, days)


def test_retention_is_applied_now(commands: Any) -> None:
    done = commands.answer("retention", "apply")
    assert set(done) == {"projects", "rows"}
