"""Every page in a real browser: what a person does there works, and nothing on it is blocked or runs over its edge."""

import re
from functools import partial
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

KEY = "API key"


async def sign_in(page: Page, key: str, address: str = "/") -> None:
    await page.goto(address)
    await page.get_by_label(KEY).fill(key)
    await page.get_by_role("button", name="Show runs").click()


@pytest.mark.parametrize("origin", ["loopback", "host name"])
async def test_a_person_signs_in_and_out(page: Page, origins: dict[str, str], empty: Any, origin: str) -> None:
    await sign_in(page, empty.key, origins[origin])
    await expect(page.get_by_role("button", name="Forget the key")).to_be_visible()
    await expect(page.get_by_role("heading", name="Send the first trace")).to_be_visible()
    assert empty.key not in await page.content()
    assert await page.evaluate("document.cookie") == ""

    await page.get_by_role("button", name="Forget the key").click()
    await expect(page.get_by_label(KEY)).to_be_visible()
    assert await page.context.cookies() == []


async def test_a_wrong_key_is_refused_in_words(page: Page) -> None:
    await sign_in(page, "tb_nonsense")
    await expect(page.get_by_role("alert")).to_contain_text("not valid")
    await expect(page.get_by_label(KEY)).to_be_focused()
    assert "401" in page.errors.pop()


async def test_a_run_is_found_opened_and_read(page: Page, with_runs: Any) -> None:
    await sign_in(page, with_runs.key)
    row = page.get_by_role("row").filter(has_text="support agent")
    await expect(row).to_contain_text("4.20 s")
    await row.get_by_role("link", name="support agent").click()

    await expect(page).to_have_title(re.compile("support agent"))
    await expect(page.get_by_role("heading", name="support agent")).to_be_visible()
    for fact in ("session-7", "user-42", "beta, web", "812 in, 64 out", "3, 1 failed"):
        await expect(page.get_by_text(fact, exact=True)).to_be_visible()
    await page.get_by_text("find_order").click()
    await expect(page.get_by_text("OrderNotFound: 4711")).to_be_visible()
    await page.locator("summary").filter(has_text="support agent").click()
    await expect(page.get_by_text("<b>It was sent</b> on Monday.")).to_be_visible()

    await page.get_by_role("navigation").get_by_role("link", name="Runs").click()
    await expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()


async def test_older_runs_are_a_click_away_and_so_is_the_way_back(page: Page, with_runs: Any) -> None:
    await sign_in(page, with_runs.key)
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(50)
    await page.get_by_role("link", name="Older").click()
    await expect(rows).to_have_count(6)
    await page.get_by_role("link", name="Newest").click()
    await expect(rows.first).to_contain_text("support agent")


async def test_a_page_that_is_not_there_says_so_and_leads_back(page: Page, empty: Any) -> None:
    await sign_in(page, empty.key)
    await page.goto(f"/projects/{empty.project_id}/runs/{empty.project_id}")
    assert "404" in page.errors.pop()
    await expect(page.get_by_role("heading", name="Not found")).to_be_visible()
    await page.get_by_role("link", name="Back to the start page").click()
    await expect(page.get_by_role("button", name="Forget the key")).to_be_visible()


@pytest.mark.parametrize("width", [360, 1280])
async def test_no_page_is_wider_than_the_window(page: Page, with_runs: Any, width: int) -> None:
    await page.set_viewport_size({"width": width, "height": 800})
    await page.goto("/")
    await _fits(page)
    await sign_in(page, with_runs.key)
    await expect(page.locator("tbody tr").first).to_be_visible()
    await _fits(page)
    await page.get_by_role("link", name="support agent").click()
    await expect(page.locator("summary").first).to_be_visible()
    await _fits(page)


async def _fits(page: Page) -> None:
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("origin", ["loopback", "host name"])
async def test_a_form_on_another_site_neither_signs_in_nor_out(
    page: Page, origins: dict[str, str], empty: Any, with_runs: Any, origin: str
) -> None:
    await sign_in(page, empty.key, origins[origin])
    await expect(page.get_by_role("button", name="Forget the key")).to_be_visible()
    cookies = await page.context.cookies()
    for elsewhere in ("http://elsewhere.test/", "http://127.0.0.1:8009/"):  # another site; another port of this one
        for form in ("session", "session/end"):
            address = f"{origins[origin]}/{form}"
            field = (
                f'<form method="post" action="{address}"><input name="key" value="{with_runs.key}"><button>Go</button>'
            )
            await page.route(elsewhere, partial(_answer, field))
            await page.goto(elsewhere)
            async with page.expect_response(address) as answered:
                await page.get_by_role("button", name="Go").click()
            assert (await answered.value).status == 400
            await expect(page.get_by_text("This form was sent from another site.")).to_be_visible()
            await page.unroute(elsewhere)
    assert await page.context.cookies() == cookies
    page.errors.clear()


async def _answer(markup: str, route: Route) -> None:
    await route.fulfill(content_type="text/html", body=markup)
