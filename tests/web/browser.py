"""A real Chromium, and a page in it whose troubles fail the test."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.requirements import need

# Without a sandbox it runs as root, too; the rest keeps it from calling anybody.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 30_000
# What a browser says of a server that is away, or wants a token, which is what some tests are about.
EXPECTED = ("Failed to load resource", "WebSocket connection to")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all pages."""
    path = need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page in a profile of its own; what goes wrong in its scripts, or is refused them, fails the test."""
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    yield page
    if not page.is_closed():
        page.title()  # what was said meanwhile comes with the answer
    found = [text for text in troubles if not text.startswith(EXPECTED)]
    context.close()  # which aborts what is on its way, and that is no trouble of the page's
    assert found == [], found
