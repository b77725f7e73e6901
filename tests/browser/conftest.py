"""A real Chromium before a whole installation. A page that reports an error on its console fails its test."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

# A name that browsers do not trust as they trust loopback addresses: over plain HTTP they send no Sec-Fetch-Site to it.
PLAIN_HOST = "tracebility.test"
PATIENCE_MS = 20_000

_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", f"--host-resolver-rules=MAP {PLAIN_HOST} 127.0.0.1"),
)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium is. Debian's package is installed when it is missing and this user may install it."""
    with (Path(tempfile.gettempdir()) / "tracebility-chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes run side by side
        found = _chromium()
        if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
            for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
                subprocess.run(["apt-get", "--quiet", *command], check=True, stdout=subprocess.DEVNULL)
            found = _chromium()
    if found is None:
        pytest.fail("The browser tests need Chromium. Install it: apt-get install chromium")
    return found


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """The browser, started once per test run."""
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield opened
        await opened.close()


@pytest.fixture
async def context(browser: Browser, installation: dict[str, Any]) -> AsyncIterator[BrowserContext]:
    """A fresh browser profile. Relative addresses are the installation's."""
    opened = await browser.new_context(base_url=installation["url"], viewport={"width": 1280, "height": 800})
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    await opened.close()


@pytest.fixture
async def page(context: BrowserContext) -> AsyncIterator[Page]:
    """A tab. What the test expects to fail, it takes out of ``page.errors``."""
    opened = await context.new_page()
    errors: list[str] = []
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.errors = errors  # type: ignore[attr-defined]
    yield opened
    assert errors == []


@pytest.fixture
def origins(installation: dict[str, Any]) -> dict[str, str]:
    """The installation's address as a loopback address, and under a host name that only plain HTTP reaches."""
    return {
        "loopback": installation["url"],
        "host name": f"http://{PLAIN_HOST}:{urlsplit(installation['url']).port}",
    }


@dataclass(frozen=True)
class Account:
    """A tenant that these tests only read."""

    key: str
    project_id: str


@pytest.fixture(scope="session")
async def empty(installation: dict[str, Any]) -> Account:
    """A tenant without any run."""
    return await _new_account(installation)


@pytest.fixture(scope="session")
async def with_runs(installation: dict[str, Any]) -> Account:
    """A tenant with an agent's run of three spans, one of them failed, and 55 small runs; all can be read."""
    account = await _new_account(installation)
    async with httpx.AsyncClient(base_url=installation["url"], headers={"x-api-key": account.key}) as client:
        sent = await client.post("/v1/runs", json={"runs": RUNS})
        assert sent.json()["accepted"] == len(RUNS)
        path = f"/v1/projects/{account.project_id}/runs"
        while len((await client.get(path, params={"limit": 200})).json()["items"]) < 56:
            pass
    return account


async def _new_account(installation: dict[str, Any]) -> Account:
    async with httpx.AsyncClient(base_url=installation["url"]) as client:
        made = await client.post(
            "/v1/admin/orgs", json={"name": "browser"}, headers={"x-api-key": installation["operator_key"]}
        )
        return Account(made.json()["api_key"], made.json()["project_id"])


_ROOT = "0190a0b0-0000-7000-8000-00000000a001"
RUNS: list[dict[str, Any]] = [
    {
        "id": _ROOT, "trace_id": _ROOT, "name": "support agent", "kind": "agent", "start_time": "2026-11-24T10:01:00Z",
        "end_time": "2026-11-24T10:01:04.2Z", "inputs": {"question": "Where is my order?"},
        "outputs": {"answer": "<b>It was sent</b> on Monday."}, "session_id": "session-7", "user_id": "user-42",
        "tags": ["beta", "web"],
    },
    {
        "id": "0190a0b0-0000-7000-8000-00000000a002", "trace_id": _ROOT, "parent_id": _ROOT, "name": "find_order",
        "kind": "tool", "status": "error", "error": "OrderNotFound: 4711", "start_time": "2026-11-24T10:01:00.2Z",
        "end_time": "2026-11-24T10:01:01Z",
    },
    {
        "id": "0190a0b0-0000-7000-8000-00000000a003", "trace_id": _ROOT, "parent_id": _ROOT, "name": "answer",
        "kind": "llm", "model": "gpt-4o-mini", "provider": "openai", "start_time": "2026-11-24T10:01:01Z",
        "end_time": "2026-11-24T10:01:04Z", "inputs": {"question": "Where is my order?"},
        "outputs": {"answer": "It was sent on Monday."}, "usage": {"input_tokens": 812, "output_tokens": 64},
    },
    *(
        {
            "id": f"0190a0b0-0000-7000-8000-0000000000{n:02}", "name": f"small run {n}", "kind": "chain",
            "start_time": f"2026-11-24T09:{n:02}:00Z", "end_time": f"2026-11-24T09:{n:02}:01Z",
        }
        for n in range(55)
    ),
]  # fmt: skip
