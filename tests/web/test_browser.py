"""The console in a real Chromium: nothing breaks its content policy, pages stay live, keys are enough."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal

import pytest
import pytest_asyncio

from tests.web.conftest import HOSTILE, SECRET, Site

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

playwright_api = pytest.importorskip("playwright.async_api", reason="the package playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
]
PAGES = (
    "/ui/",
    "/ui/masters",
    "/ui/chunkservers",
    "/ui/replication",
    "/ui/chunks",
    "/ui/files?path=/logs",
    "/ui/files?path=/logs/words.txt",
    "/ui/trash",
    "/ui/clients",
    "/ui/events",
    "/ui/calls",
    "/ui/config",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with playwright_api.async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        await chromium.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    context = await browser.new_context(viewport={"width": 400, "height": 800})
    page = await context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
    yield page
    await context.close()
    assert complaints == []


async def test_every_page_fits_a_narrow_screen_and_breaks_no_policy(site: Site, page: Page) -> None:
    for place in PAGES:
        await page.goto(site.leader.base + place)
        await playwright_api.expect(page.locator("h1")).to_be_visible()
        widths = await page.locator("html").evaluate("html => [html.scrollWidth, html.clientWidth]")
        assert widths[0] <= widths[1], (place, widths)
    await page.goto(f"{site.leader.base}/ui/files?path=/logs")
    name = HOSTILE.replace("/", "_")
    await playwright_api.expect(page.get_by_role("link", name=name)).to_be_visible()


async def test_a_live_page_follows_the_cluster_and_keeps_the_focus(site: Site, page: Page) -> None:
    await page.goto(site.leader.base + "/ui/")
    link = page.get_by_role("link", name="All events")
    await link.focus()
    async with await site.cluster.client() as client:
        await client.mkdir("/made-while-somebody-looks")
        directories = (await client.cluster_status()).directories
    tile = page.locator(".tile", has_text=f"{directories} directories")
    await playwright_api.expect(tile).to_be_visible(timeout=30_000)
    await playwright_api.expect(link).to_be_focused()


async def test_an_operator_signs_in_and_drains_by_keyboard_alone(site: Site, page: Page) -> None:
    await page.goto(f"{site.leader.base}/ui/sign-in?back=/ui/chunkservers")
    await playwright_api.expect(page.locator("input:focus")).to_be_visible()  # by itself, a moment later
    await page.keyboard.type(SECRET)
    await page.keyboard.press("Enter")
    await playwright_api.expect(page.locator("h1")).to_have_text("Chunk servers")
    await _enter(page, "link", "Drain", "Drain a chunk server")
    await _enter(page, "button", "Drain it", "Drain a chunk server: done")
    await _enter(page, "link", "Go on", "Chunk servers")
    await _enter(page, "link", "Keep", "Keep a chunk server")
    await _enter(page, "button", "Keep it", "Keep a chunk server: done")


async def _enter(page: Page, role: Literal["link", "button"], name: str, heading: str) -> None:
    """Go to it and press Enter, again should the page have been busy."""
    found = page.locator("h1")
    for _ in range(4):
        try:
            await page.get_by_role(role, name=name, exact=True).first.press("Enter", timeout=8_000)
            await playwright_api.expect(found).to_have_text(heading, timeout=8_000)
            return
        except (AssertionError, playwright_api.TimeoutError):
            if await found.inner_text() == heading:  # it came late
                return
            await page.reload()
    raise AssertionError(f"{name} never led to {heading!r}: {await page.locator('main').inner_text()}")
