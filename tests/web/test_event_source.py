"""A page of another origin, in a real browser, that has no line but `EventSource` and `fetch`."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.end_to_end.serving import INVOICE, Server, execute, free_port, serving
from tests.web.browser import PATIENCE_MS

FOLLOW = """url => {
    window.come = [];
    window.opened = 0;
    window.source = new EventSource(url + "/events?topic=account:1");
    source.addEventListener("subscribed", () => opened++);
    for (const kind of ["invoice.created", "invoice.updated", "gap"])
        source.addEventListener(kind, (event) => come.push([kind, JSON.parse(event.data).data.memo]));
}"""
ASK = """([url, body]) => fetch(url + "/actions", {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": "of-the-page" },
    body: JSON.stringify(body),
}).then((response) => response.json(), () => "refused")"""


class Empty(BaseHTTPRequestHandler):
    """A page with nothing in it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,>")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def shop() -> Iterator[str]:
    """Run a site of one empty page, and give its origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()


def http(server: Server) -> str:
    return server.url.replace("ws://", "http://")


def test_a_permitted_page_asks_and_is_told_each_event_once_in_order_through_kill_9(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = str(free_port())
    with shop() as origin:
        monkeypatch.setenv("TRIO_WS_ORIGINS", origin)
        page.goto(origin)
        with serving(tmp_path / "data", port=port) as server:
            page.evaluate(FOLLOW, http(server))
            page.wait_for_function("opened === 1")
            made = page.evaluate(ASK, [http(server), {**INVOICE, "memo": "made"}])
            assert made["status"] == "success"
            again = page.evaluate(ASK, [http(server), {**INVOICE, "memo": "made"}])
            assert again["data"]["uid"] == made["data"]["uid"], "the header is its idempotency key"
            page.wait_for_function("come.length === 1")
            server.stop(signal.SIGKILL)
        with serving(tmp_path / "data", port=port) as server:
            for number in range(3):
                execute(server.data_dir, f"UPDATE invoices SET memo = '{number}'")  # noqa: S608 - a number
            page.wait_for_function("opened === 2")
            execute(server.data_dir, "UPDATE invoices SET memo = 'last'")
            page.wait_for_function("come.some(([, memo]) => memo === 'last')")
            told = page.evaluate("come")
            page.evaluate("source.close()")
    assert told == [
        ["invoice.created", "made"],
        *(["invoice.updated", memo] for memo in ("0", "1", "2", "last")),
    ]


def test_a_page_of_another_origin_is_refused(chromium: Browser, tmp_path: Path) -> None:
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()  # whose console says what is refused
    with shop() as origin, serving(tmp_path / "data") as server:
        page.goto(origin)
        page.evaluate(FOLLOW, http(server))
        page.wait_for_function("source.readyState === EventSource.CLOSED")
        assert page.evaluate("opened") == 0
        assert page.evaluate(ASK, [http(server), INVOICE]) == "refused"
        page.goto(http(server) + "/healthz")
        listed = page.evaluate(ASK, [http(server), {"action": "list_invoices", "account_id": 1}])
        assert "uid" not in str(listed["data"]), "nothing was made"
    context.close()
