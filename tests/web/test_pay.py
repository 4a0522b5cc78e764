"""A customer's page in a real browser, on a real server that asks all others for a token."""

import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psycopg
import pytest
import segno
from playwright.sync_api import Browser, Page, Route, expect

from tests.end_to_end.serving import Server, free_port, serving
from tests.web.browser import PATIENCE_MS
from trio_ws.database import embedded
from trio_ws.errors import NotFound
from trio_ws.web.checkout import pay

expect.set_options(timeout=PATIENCE_MS)

ADDRESS = "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"
UID = "5735e250-b53e-4ace-a025-afac1bc77ee2"
ROW: dict[str, Any] = {
    "id": 1,
    "uid": UID,
    "amount": 1000,
    "currency": "USD",
    "status": "unpaid",
    "account_id": 1,
    "createdAt": "2026-01-01T00:00:00.000000+00:00",
    "updatedAt": "2026-01-01T00:00:00.000000+00:00",
    "version": 1,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("pay") / "data", "--auth", "token", "--checkout") as server:
        yield server


def sql(server: Server, statement: str, *values: object) -> Any:
    with psycopg.connect(embedded.conninfo(server.data_dir), autocommit=True) as connection:
        found = connection.execute(statement.encode(), values)
        return found.fetchone() if found.description else None


def make(server: Server, **columns: object) -> str:
    row = {"account_id": 1, "amount": 1000, "currency": "USD", **columns}
    names, places = ", ".join(row), ", ".join("%s" for _ in row)
    insert = f"INSERT INTO invoices ({names}) VALUES ({places}) RETURNING uid"  # noqa: S608
    return str(sql(server, insert, *row.values())[0])


def record(server: Server, uid: str, reference: str, amount: int, status: str = "settled") -> None:
    sql(
        server,
        "INSERT INTO payments (invoice_id, reference, amount, status)"
        " SELECT id, %s, %s, %s FROM invoices WHERE uid = %s"
        " ON CONFLICT (invoice_id, reference)"
        " DO UPDATE SET amount = excluded.amount, status = excluded.status",
        *(reference, amount, status, uid),
    )


def http(server: Server, uid: str) -> str:
    return server.url.replace("ws://", "http://") + f"/pay/{uid}"


def test_it_shows_what_is_to_be_paid_and_follows_it_through_partial_and_paid(
    page: Page, server: Server
) -> None:
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    shop = "https://shop.example/thanks"
    uid = make(server, address=ADDRESS, expires_at=in_an_hour, memo="a secret", redirect_url=shop)
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    page.goto(http(server, uid))
    expect(page.locator("#status")).to_have_text("Please pay")
    expect(page.locator("#amount")).to_have_text("$10.00")
    expect(page.locator("#address")).to_have_text(ADDRESS)
    expect(page.locator("#code svg")).to_be_visible()
    expect(page.locator("#left")).to_have_text(re.compile(r"5\d:\d\d"))
    record(server, uid, "tx-1", 400)
    expect(page.locator("#amount")).to_have_text("$6.00")
    expect(page.locator(".sum")).to_have_text("$4.00 of $10.00 is paid.")
    record(server, uid, "tx-2", 700, "pending")
    expect(page.locator("#status")).to_have_text("Your payment has come in and is being confirmed")
    expect(page.locator("#code")).to_have_count(0)
    record(server, uid, "tx-2", 700)
    expect(page.locator("#status")).to_have_text("Paid. Thank you!")
    expect(page.locator(".sum")).to_have_text(
        "You have paid $1.00 more than was asked for: please ask the shop."
    )
    expect(page.locator("#back")).to_have_attribute("href", shop)
    assert "secret" not in page.content()
    assert asked == {urlsplit(page.url).netloc}, "nothing comes from elsewhere"


def test_who_is_late_is_told_so(page: Page, server: Server) -> None:
    uid = make(server, currency="JPY", expires_at=datetime.now(UTC) + timedelta(seconds=2))
    page.goto(http(server, uid))
    expect(page.locator("#amount")).to_have_text("¥1,000")
    expect(page.locator("#status")).to_have_text("The time to pay is over")
    expect(page.locator(".sum")).to_have_text("Please do not pay any more.")
    record(server, uid, "tx-1", 1000)
    expect(page.locator(".sum").last).to_have_text("It came too late: please ask the shop.")


def test_a_line_that_is_lost_is_shown_and_comes_back(page: Page, tmp_path: Path) -> None:
    port = str(free_port())
    with serving(tmp_path / "data", "--auth", "token", "--checkout", port=port) as server:
        uid = make(server, currency="BTC", amount=12345, address=ADDRESS)
        page.goto(http(server, uid))
        expect(page.locator("#amount")).to_have_text("0.00012345 BTC")
        server.stop(signal.SIGKILL)
        expect(page.locator("#line")).to_be_visible()
    with serving(tmp_path / "data", "--auth", "token", "--checkout", port=port) as server:
        record(server, uid, "tx-1", 12345)
        expect(page.locator("#status")).to_have_text("Paid. Thank you!")
        expect(page.locator("#line")).to_be_hidden()


def test_a_server_that_cannot_answer_just_then_is_asked_again(page: Page, server: Server) -> None:
    uid = make(server)
    page.goto(http(server, uid))
    expect(page.locator("#amount")).to_have_text("$10.00")
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        refused.append(route.request.url)
        route.fulfill(status=503, headers={"Retry-After": "1"})

    page.wait_for_load_state("networkidle")
    page.route("**/pay/*", refuse_once, times=2)  # as while the database is away
    record(server, uid, "tx-1", 1000)
    expect(page.locator("#status")).to_have_text("Paid. Thank you!")
    assert len(refused) == 2


def test_without_a_script_it_says_the_same_and_asks_again(chromium: Browser, server: Server) -> None:
    uid = make(server, address=ADDRESS)
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(http(server, uid))
    expect(page.locator("#amount")).to_have_text("10.00 USD")
    expect(page.locator("#code svg")).to_be_visible()
    expect(page.locator("noscript meta, meta[http-equiv=refresh]")).to_have_attribute("content", "15")
    context.close()


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_is_used_by_keyboard(page: Page, server: Server, width: int, scheme: Any) -> None:
    page.set_viewport_size({"width": width, "height": 640})
    page.emulate_media(color_scheme=scheme)
    page.goto(http(server, make(server, address="x" * 128)))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("Tab")
    expect(page.locator("#copy")).to_be_focused()
    page.keyboard.press("Enter")


def test_what_is_no_invoice_is_said(page: Page, server: Server) -> None:
    for uid in (UID, "nothing", "x" * 2000, "%3Cscript%3E"):
        response = page.goto(http(server, uid))
        assert response
        assert response.status == 404
        expect(page.locator("#status")).to_have_text("There is no such invoice")


async def page_of(**columns: object) -> str:
    async def fetch(_: object) -> msgspec.Raw:
        if not columns:
            raise NotFound("Invoice not found")
        return msgspec.Raw(msgspec.json.encode({**ROW, **columns}))

    page = (await pay(UID, fetch, 1767225600.0))()
    assert page.etag is None, "nobody keeps it"
    return page.body.decode()


async def test_nothing_that_a_merchant_has_typed_is_markup() -> None:
    text = await page_of(address='a"><script>', redirect_url="https://x/'\"><b>", status="unpaid")
    assert "<script>" not in text
    text = await page_of(redirect_url="https://x/'\"><b>", status="paid")
    assert "<b>" not in text


async def test_what_went_back_beyond_what_came_in_is_no_sum_that_a_customer_reads() -> None:
    for columns in ({"amount_paid": -5}, {"amount_pending": -5}, {"amount_paid": -5, "status": "expired"}):
        text = await page_of(**columns)
        assert "is paid" not in text
        assert "has come in" not in text
        assert "too late" not in text


async def test_a_code_is_made_once_however_often_its_page_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    make_code = segno.make

    def note(text: str, **how: Any) -> segno.QRCode:
        made.append(text)
        return make_code(text, **how)

    monkeypatch.setattr(segno, "make", note)
    pages = [await page_of(address="an address of its own") for _ in range(3)]
    assert len(made) == 1
    assert pages[0] == pages[2]


async def test_an_amount_has_all_its_digits_whatever_it_is() -> None:
    assert ">0.01 USD</data>" in await page_of(amount=1)
    assert ">90071992547409.91 USD</data>" in await page_of(amount=2**53 - 1)
    assert ">1 JPY</data>" in await page_of(amount=1, currency="JPY")
