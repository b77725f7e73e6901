"""The pages show what the API answers, run nothing, and keep a key where only this server can read it."""

import dataclasses
import re
from typing import Any

import httpx
import pytest
import structlog

from tracebility.api.app import create_app
from tracebility.api.pages import COOKIE

HOSTILE = "<img src=x onerror=alert(1)>'\"&$name"


def cookie_of(answer: httpx.Response) -> str:
    found = re.match(rf"{COOKIE}=([^;]*)", answer.headers["set-cookie"])
    assert found is not None
    return found[1].strip('"')


async def test_a_key_entered_in_the_form_shows_the_runs_until_it_is_forgotten(
    api: httpx.AsyncClient, tenants: Any
) -> None:
    writer, _ = tenants
    await writer.runs([{"run_id": "r", "name": "my run", "status": "ok"}])
    asked = await api.get("/")
    assert asked.status_code == 200
    assert 'name="key"' in asked.text
    assert "/v1/runs" in asked.text

    entered = await api.post("/session", data={"key": f" {writer.tenant.key} "})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    flags = entered.headers["set-cookie"].lower()
    assert "httponly" in flags
    assert "samesite=strict" in flags
    assert "max-age" not in flags, "it ends with the browser"
    headers = {"cookie": f"{COOKIE}={cookie_of(entered)}"}
    shown = await api.get("/", headers=headers)
    assert "my run" in shown.text
    assert writer.tenant.key not in shown.text

    forgotten = await api.post("/session/end", headers=headers)
    assert cookie_of(forgotten) == ""


async def test_without_the_web_there_are_no_pages_and_the_api_answers(services: Any) -> None:
    transport = httpx.ASGITransport(create_app(dataclasses.replace(services, web=False)))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as api:
        assert [(await api.get(path)).status_code for path in ("/", "/healthz", "/v1/projects")] == [404, 200, 401]


async def test_over_tls_the_cookie_is_sent_over_tls_only(api: httpx.AsyncClient, tenants: Any) -> None:
    entered = await api.post("/session", data={"key": tenants[0].tenant.key}, headers={"x-forwarded-proto": "https"})
    assert "secure" in entered.headers["set-cookie"].lower()


@pytest.mark.parametrize("key", ["", "nonsense", "tb_AAAAAAAAAAAA_" + "A" * 43])
async def test_another_key_is_refused_on_the_page(api: httpx.AsyncClient, key: str) -> None:
    answer = await api.post("/session", data={"key": key})
    assert answer.status_code == 401
    assert "not valid" in answer.text
    assert cookie_of(answer) == ""


async def test_a_key_that_may_not_read_is_refused_on_the_page(
    api: httpx.AsyncClient, tenants: Any, key_with: Any
) -> None:
    headers = await key_with(tenants[0].tenant, "ingest:write")
    answer = await api.post("/session", data={"key": headers["x-api-key"]})
    assert (answer.status_code, cookie_of(answer)) == (403, "")


async def test_the_cookie_opens_pages_only(api: httpx.AsyncClient, tenants: Any) -> None:
    tenant = tenants[0].tenant
    headers = {"cookie": f"{COOKIE}={tenant.key}"}
    assert (await api.get("/", headers=headers)).status_code == 200
    for path in ("/v1/projects", f"/v1/projects/{tenant.project_id}/runs"):
        assert (await api.get(path, headers=headers)).status_code == 401


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}]
)
async def test_a_form_of_another_site_is_refused(api: httpx.AsyncClient, tenants: Any, headers: dict[str, str]) -> None:
    for path in ("/session", "/session/end"):
        answer = await api.post(path, data={"key": tenants[0].tenant.key}, headers=headers)
        assert answer.status_code == 400
        assert "set-cookie" not in answer.headers


async def test_sec_fetch_site_decides_before_origin(api: httpx.AsyncClient, tenants: Any) -> None:
    """A proxy may change Host, and browsers may send "Origin: null"; what they say in Sec-Fetch-Site is enough."""
    for site, status in (("same-origin", 303), ("none", 303), ("same-site", 400), ("cross-site", 400)):
        headers = {"sec-fetch-site": site, "origin": "null"}
        answer = await api.post("/session", data={"key": tenants[0].tenant.key}, headers=headers)
        assert answer.status_code == status


async def test_a_form_that_is_too_large_is_refused(api: httpx.AsyncClient) -> None:
    assert (await api.post("/session", content=b"key=" + b"x" * 5000)).status_code == 413


async def test_nothing_that_was_sent_becomes_markup(api: httpx.AsyncClient, tenants: Any) -> None:
    writer, _ = tenants
    await writer.runs(
        [
            {
                "run_id": f"{HOSTILE}/r", "name": HOSTILE, "status": HOSTILE, "error_message": HOSTILE,
                "models": [HOSTILE], "session_id": HOSTILE, "user_id": HOSTILE, "tags": [HOSTILE],
                "output_preview": HOSTILE,
            },
            {"run_id": "r", "name": HOSTILE, "status": HOSTILE, "error_message": HOSTILE, "session_id": HOSTILE},
        ]
    )  # fmt: skip
    await writer.spans(
        [
            {
                "span_id": "s",
                "name": HOSTILE,
                "kind": HOSTILE,
                "status_message": HOSTILE,
                "inputs": HOSTILE,
                "outputs": f'["{HOSTILE[:10]}"]',
            }
        ]
    )
    for path in ("/", f"/projects/{writer.tenant.project_id}/runs/r"):
        answer = await api.get(path, headers=writer.tenant.headers() | {"host": 'evil.example"><script>'})
        assert answer.status_code == 200
        assert "<img" not in answer.text
        assert "<script" not in answer.text
        assert "&lt;img" in answer.text


async def test_a_run_without_an_answer_is_a_page_for_browsers_and_a_problem_for_programs(
    api: httpx.AsyncClient, tenants: Any
) -> None:
    tenant = tenants[0].tenant
    path = f"/projects/{tenant.project_id}/runs/missing"
    for accept, content_type in (("text/html,*/*", "text/html"), ("*/*", "application/problem+json")):
        answer = await api.get(path, headers=tenant.headers() | {"accept": accept})
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith(content_type)


async def test_a_large_run_is_cut_on_the_page_and_says_so(api: httpx.AsyncClient, tenants: Any) -> None:
    writer, _ = tenants
    await writer.runs([{"run_id": "r", "name": "large"}])
    await writer.spans({"span_id": f"{n}", "inputs": "x" * 9000 if n == 0 else ""} for n in range(1200))
    answer = await api.get(f"/projects/{writer.tenant.project_id}/runs/r", headers=writer.tenant.headers())
    assert answer.text.count("<details") == 1000
    assert "200 more spans" in answer.text
    assert "5,000 characters more" in answer.text


async def test_a_client_that_goes_away_during_sign_in_is_one_line_in_the_log(services: Any) -> None:
    messages = [{"type": "http.request", "body": b"key=tb_", "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/session",
        "raw_path": b"/session", "query_string": b"", "root_path": "", "headers": [(b"host", b"api")],
    }  # fmt: skip
    with structlog.testing.capture_logs() as logged:
        await create_app(services)(scope, receive, send)
    assert [(line["event"], line["log_level"]) for line in logged] == [("client_disconnected", "info")]
    assert sent[0]["status"] == 400
