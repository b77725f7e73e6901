"""``tracebility plans``: the same documents as the API's."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

LIMITS = {
    "rate": {"requests_per_s": 5, "burst": 9},
    "meters": {"spans": {"hard": 0}},
    "retention_days": 3,
    "eval_concurrency": None,
}
UNLIMITED = json.dumps(dict.fromkeys(LIMITS))


@pytest.fixture
def name() -> str:
    return f"p-{uuid4().hex[:12]}"


def test_a_plan_is_set_from_a_file_or_from_standard_input(commands: Any, name: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(LIMITS))
    made = commands.answer("plans", "set", name, str(file))
    assert made["rate"] == {"requests_per_s": 5, "burst": 9}
    assert made["meters"] == {"spans": {"hard": 0, "soft": None}, "bytes": None}
    assert made in commands.answer("plans", "list")["items"]
    assert "requests_per_s" in commands.run("plans", "list").stdout
    replaced = commands.answer("plans", "set", name, "-", text=UNLIMITED)
    assert {value for key, value in replaced.items() if key != "name"} == {None}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("{}", "rate: is missing"),
        ('{"price": 1}', "price:"),
        ('{"meters": {"spans": {"hard": -1}}}', "meters.spans.hard:"),
    ],
)
def test_a_plan_that_is_not_acceptable_is_not_made(commands: Any, name: str, text: str, words: str) -> None:
    assert words in commands.refusal("plans", "set", name, "-", text=text)
    assert name not in commands.run("plans", "list").stdout


def test_a_name_that_is_not_acceptable_is_refused(commands: Any) -> None:
    assert "name:" in commands.refusal("plans", "set", "No", "-", text=UNLIMITED)
