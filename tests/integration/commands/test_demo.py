"""The demo's traces go the way of every client's traces, and it says what became of them."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from tracebility.cli import app
from tracebility.commands import demo

TRACEBILITY = Path(sys.executable).parent / "tracebility"
QUERYABLE_WITHIN_S = 30.0
POLL_S = 0.1


def sent(url: str, key: str, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["demo", "--url", url, "--api-key", key, *arguments])


async def test_every_accepted_span_of_the_demo_can_be_read(installation: Any, two_installed_orgs: Any) -> None:
    tenant, _ = two_installed_orgs
    said = await run_cli(
        "demo", "--url", installation["url"], "--api-key", tenant.key,
        "--rate", "60", "--duration", "1", "--seed", "11", "--json",
    )  # fmt: skip
    document = json.loads(said)
    assert (document["traces"], document["rejected_spans"]) == (60, 0)
    assert document["spans"] == document["accepted_spans"] > 60

    async with httpx.AsyncClient(base_url=installation["url"], headers=tenant.headers()) as client:
        runs = f"/v1/projects/{tenant.project_id}/runs"
        deadline = time.monotonic() + QUERYABLE_WITHIN_S
        while True:
            items = (await client.get(runs, params={"limit": 200})).json()["items"]
            if sum(run["span_count"] for run in items) == document["accepted_spans"]:
                break
            assert time.monotonic() < deadline, f"{len(items)} of 60 runs after {QUERYABLE_WITHIN_S} s"
            await asyncio.sleep(POLL_S)
        assert len(items) == 60
        assert {"ok", "error"} <= {run["status"] for run in items}
        assert sum(run["cost"] or 0 for run in items) > 0
        largest = max(items, key=lambda run: run["span_count"])
        detail = (await client.get(f"{runs}/{largest['id']}")).json()
        [root] = detail["spans"]
        assert root["parent_id"] is None
        assert count(root) == largest["span_count"]


def count(span: dict[str, Any]) -> int:
    return 1 + sum(count(child) for child in span["children"])


async def run_cli(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        TRACEBILITY, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_ctrl_c_ends_the_demo_and_it_says_what_was_accepted(installation: Any, two_installed_orgs: Any) -> None:
    tenant, _ = two_installed_orgs
    process = await asyncio.create_subprocess_exec(
        TRACEBILITY, "demo", "--url", installation["url"], "--api-key", tenant.key, "--duration", "600",
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    async with httpx.AsyncClient(base_url=installation["url"], headers=tenant.headers()) as client:
        deadline = time.monotonic() + QUERYABLE_WITHIN_S
        while not (await client.get(f"/v1/projects/{tenant.project_id}/runs")).json()["items"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(POLL_S)
    process.send_signal(signal.SIGINT)
    out, _ = await process.communicate()
    assert process.returncode == 130
    assert b"Accepted:" in out


def test_a_wrong_key_is_one_line(installation: Any) -> None:
    result = sent(installation["url"], "tb_AAAAAAAAAAAA_" + "A" * 43)
    assert isinstance(result.exception, demo.NotSent)
    assert "401" in str(result.exception)


def test_where_nobody_answers_is_said_after_some_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "FIRST_PAUSE_S", 0.001)
    result = sent("http://127.0.0.1:1", "tb_x")
    assert isinstance(result.exception, demo.NotSent)
    assert "does not answer" in str(result.exception)
    assert str(demo.TRIES) in str(result.exception)
