"""The console in a real browser, on a real server."""

import re
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from playwright.sync_api import Page, Route, expect

from tests.cli.test_main import trio_ws_command
from tests.end_to_end.serving import INVOICE, Server, call, execute, free_port, serving
from tests.web.browser import PATIENCE_MS
from trio_ws.currencies import EXPONENTS
from trio_ws.messages import Action

expect.set_options(timeout=PATIENCE_MS)

ELSEWHERE = {"subscribe", "resume", "unsubscribe", "unsubscribe_all", "authenticate"}
PAGES = ["", "invoices", "webhooks", "connections", "accounts", "tokens", "live", "try"]
MANY = 100_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "data") as server:
        yield server


def http(server: Server, path: str = "/console") -> str:
    return server.url.replace("ws://", "http://") + path


def pay(server: Server, *statuses: str) -> None:
    """What a payment processor does."""
    for status in statuses:
        execute(server.data_dir, f"UPDATE invoices SET status = '{status}'")  # noqa: S608 - the words are ours


def ask(server: Server, action: str, **fields: Any) -> Any:
    with server.connect() as client:
        reply = call(client, action=action, **fields)
    assert reply["status"] == "success", reply
    return reply["data"]


def create(server: Server, **fields: Any) -> str:
    uid: str = ask(server, **{**INVOICE, **fields})["uid"]
    return uid


def token_of(server: Server, *arguments: str) -> str:
    made = trio_ws_command("token", "create", *arguments, "--data-dir", str(server.data_dir))
    return made.stdout.split()[-1]


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#line")).to_have_text("live")


def rows(page: Page) -> Any:
    return page.locator(".listing tbody tr")


# Invoices


def test_an_invoice_made_there_turns_paid_as_one_watches(page: Page, server: Server) -> None:
    page.goto(http(server, "/console/try"))
    page.get_by_text("More fields").click()
    page.get_by_label("memo", exact=True).fill("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("link", name="Open the invoice").click()
    expect(page.locator("#invoice-status")).to_have_text("unpaid")
    expect(page.locator("#invoice-amount")).to_have_text("10.00 USD")
    expect(page.locator("dd", has_text="<img")).to_be_visible()
    expect(page.locator("#line")).to_have_text("live")
    pay(server, "confirming")
    expect(page.locator("#invoice-status")).to_have_text("confirming")
    pay(server, "paid")
    expect(page.locator("#invoice-status")).to_have_text("paid")
    expect(page).to_have_title(re.compile("^paid 10.00 USD"))
    history = page.get_by_role("region", name="History")
    expect(history.locator("summary")).to_have_text(["unpaid", "unpaid → confirming", "confirming → paid"])
    expect(page.get_by_role("button", name="Cancel…")).to_have_count(0)
    page.go_back()
    expect(page.get_by_role("heading", name="Try")).to_be_visible()


def test_who_watches_may_play_the_processor(page: Page, server: Server) -> None:
    uid = create(server)
    page.goto(http(server, f"/console/invoices/{uid}"))
    page.get_by_role("button", name="confirming").click()
    page.get_by_role("button", name="paid").click()
    expect(page.locator("#invoice-status")).to_have_text("paid")


def test_payments_history_and_webhooks_are_shown_with_an_invoice(page: Page, server: Server) -> None:
    uid = create(server, webhook_url="https://shop.invalid/hook")
    for reference, amount in (("bank-1", 400), ("bank-2", 700)):
        ask(server, "record_payment", uid=uid, reference=reference, amount=amount, status="settled")
    page.goto(http(server, f"/console/invoices/{uid}"))
    payments = page.get_by_role("region", name="Payments").locator("tbody tr")
    expect(payments).to_have_text([re.compile("settled.*4.00 USD.*bank-1"), re.compile("7.00 USD.*bank-2")])
    expect(page.locator("#invoice-fields")).to_contain_text("11.00 USD")
    history = page.get_by_role("region", name="History").locator("summary")
    expect(history).to_contain_text(["unpaid", "4.00 USD settled", "paid 4.00 USD"])
    expect(history.last).to_have_text("unpaid → paid, paid 11.00 USD")
    webhooks = page.get_by_role("region", name="Webhooks").locator("tbody tr")
    expect(webhooks).to_have_count(5)
    webhooks.first.get_by_role("link").click()
    expect(page.get_by_role("heading", name="Webhook", exact=True)).to_be_visible()


def test_an_invoice_is_cancelled_after_a_question(page: Page, server: Server) -> None:
    uid = create(server)
    page.goto(http(server, f"/console/invoices/{uid}"))
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="Cancel…").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert ask(server, "fetch_invoice", id=uid)["status"] == "unpaid"
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the invoice").click()
    expect(page.locator("#invoice-status")).to_have_text("cancelled")


def test_a_question_goes_with_its_page(page: Page, server: Server) -> None:
    uid = create(server)
    page.goto(http(server, "/console/invoices"))
    rows(page).get_by_role("link").first.click()
    page.get_by_role("button", name="Cancel…").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert ask(server, "fetch_invoice", id=uid)["status"] == "unpaid"


def test_an_invoice_that_is_not_there_yet_is_waited_for(page: Page, server: Server) -> None:
    uid = "5735e250-b53e-4ace-a025-afac1bc77ee2"
    page.goto(http(server, f"/console/invoice/{uid}"))  # as it was called once
    expect(page.locator("#invoice-trouble")).to_have_text("Invoice not found")
    expect(page).to_have_url(http(server, f"/console/invoices/{uid}"))
    execute(
        server.data_dir,
        f"INSERT INTO invoices (uid, amount, currency, account_id) VALUES ('{uid}', 5, 'JPY', 1)",  # noqa: S608
    )
    expect(page.locator("#invoice-status")).to_have_text("unpaid")
    expect(page.locator("#invoice-amount")).to_have_text("5 JPY")
    expect(page.locator("#invoice-trouble")).to_be_empty()


def test_invoices_are_filtered_searched_and_found_by_uid_and_back_goes_back(
    page: Page, server: Server
) -> None:
    tea = create(server, memo="order 4711, two teas", address="bc1qtea")
    create(server, memo="coffee")
    pay(server, "confirming")
    create(server, memo="cake")
    page.goto(http(server, "/console/invoices"))
    expect(rows(page)).to_have_count(3)
    page.get_by_label("Status").select_option("confirming")
    page.get_by_role("button", name="Show").click()
    expect(rows(page)).to_have_count(2)
    page.get_by_label("Search, or a uid").fill("TEA")
    page.get_by_label("Search, or a uid").press("Enter")
    expect(rows(page)).to_have_count(1)
    expect(page).to_have_url(http(server, "/console/invoices?status=confirming&by=memo&q=TEA"))
    page.reload()
    expect(rows(page)).to_contain_text(["two teas"])
    page.get_by_label("Search in").select_option("address")
    page.get_by_label("Search, or a uid").fill("bc1qtea")
    page.get_by_role("button", name="Show").click()
    expect(rows(page)).to_contain_text(["two teas"])
    page.get_by_label("Search, or a uid").fill("bc1qnobody")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".listing")).to_contain_text("no invoices")
    page.get_by_label("Search, or a uid").fill(tea)
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(http(server, f"/console/invoices/{tea}"))
    page.go_back()
    expect(page.get_by_label("Search, or a uid")).to_have_value("bc1qnobody")


@pytest.mark.parametrize("name", ["invoices", "webhooks", "connections", "tokens"])
def test_an_account_that_is_no_number_is_refused_and_never_means_all(
    page: Page, server: Server, name: str
) -> None:
    create(server)
    for account in ("abc", "9007199254740993"):
        page.goto(http(server, f"/console/{name}?account={account}"))
        expect(page.locator(".trouble")).to_contain_text("$.account_id")
        expect(rows(page)).to_have_count(0)


def test_an_address_that_cannot_be_decoded_names_nothing(page: Page, server: Server) -> None:
    page.goto(http(server, "/console/invoices/%E0%A4"))
    expect(page.locator("#invoice-trouble")).to_have_text("Invoice not found")
    expect(page.get_by_role("region", name="History")).to_be_hidden()
    page.evaluate("history.pushState(null, '', '/console/%'); dispatchEvent(new PopStateEvent('popstate'))")
    expect(page.locator("h1")).to_have_text("Nothing is here")


def test_a_list_that_is_read_again_before_it_is_there_has_each_item_once(page: Page, server: Server) -> None:
    create(server)
    page.goto(http(server, "/console/invoices"))
    expect(rows(page)).to_have_count(1)
    found = page.evaluate(
        """async () => {
          const { Listing } = await import("/console/listing.js");
          const list = new Listing("list_invoices", {}, [{ name: "Uid", show: ({ uid }) => uid }], "nothing");
          await Promise.all([list.load(), list.reload(), list.reload()]);
          return [list.body.children.length, list.note.textContent];
        }"""
    )
    assert found == [1, "1 in all"]


def test_a_hundred_thousand_invoices_stay_usable(page: Page, server: Server) -> None:
    execute(
        server.data_dir,
        "INSERT INTO invoices (amount, currency, account_id, memo)"  # noqa: S608 - a constant
        f" SELECT 100 + n, 'USD', 1, 'order ' || n FROM generate_series(1, {MANY}) n",
    )
    page.goto(http(server, "/console/invoices"))
    expect(rows(page)).to_have_count(50)
    page.get_by_role("button", name="Load more").click()
    expect(rows(page)).to_have_count(100)
    page.get_by_label("Search, or a uid").fill("order 77")
    page.get_by_role("button", name="Show").click()
    expect(rows(page)).to_have_count(50)
    expect(rows(page).first).to_contain_text("order 77999")
    page.get_by_label("Search, or a uid").fill("order 1,")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".listing")).to_contain_text("no invoices")  # all pages were looked through


def test_amounts_are_shown_with_the_digits_that_the_server_counts_in(page: Page, server: Server) -> None:
    page.goto(http(server))
    assert page.evaluate('import("/currencies.js").then(({ EXPONENTS }) => EXPONENTS)') == EXPONENTS
    shown = page.evaluate(
        """async (currencies) => {
          const { inWords } = await import("/console/amounts.js");
          const amounts = [5, -5, 0, Number.MAX_SAFE_INTEGER];
          return currencies.flatMap((currency) => amounts.map((amount) => inWords(amount, currency)));
        }""",
        [*EXPONENTS],
    )
    assert shown == [
        f"{Decimal(amount).scaleb(-digits):f} {currency}"
        for currency, digits in EXPONENTS.items()
        for amount in (5, -5, 0, 2**53 - 1)
    ]


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        # Of ISO 4217 these have other digits than browsers show.
        (123456, "IQD", "123.456 IQD"),
        (123456, "HUF", "1234.56 HUF"),
        (123456, "UGX", "123456 UGX"),
        (1, "ETH", "0.000000001 ETH"),
        (2**53 - 1, "ETH", "9007199.254740991 ETH"),
        (5, "XXX", "5 smallest units of XXX"),
    ],
)
def test_an_invoice_s_page_shows_the_amount_that_is_meant(
    page: Page, server: Server, amount: int, currency: str, text: str
) -> None:
    uid = create(server, amount=amount, currency=currency)
    page.goto(http(server, f"/console/invoices/{uid}"))
    expect(page.locator("#invoice-amount")).to_have_text(text)


# Webhooks


def test_a_webhook_s_body_and_answer_are_shown_and_it_is_sent_again(page: Page, server: Server) -> None:
    uid = create(server, webhook_url="https://shop.invalid/hook")
    page.goto(http(server, "/console/webhooks"))
    expect(rows(page)).to_contain_text([re.compile("waiting.*invoice.created.*shop.invalid")])
    expect(rows(page)).to_have_count(1)
    page.get_by_label("State").select_option("delivered")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".listing")).to_contain_text("no webhooks")
    page.go_back()
    page.get_by_label("Invoice").fill(uid)
    page.get_by_role("button", name="Show").click()
    rows(page).get_by_role("link").first.click()
    expect(page.locator("pre")).to_contain_text(f'"uid": "{uid}"')
    expect(page.locator("dl")).to_contain_text("https://shop.invalid/hook")
    execute(
        server.data_dir, "UPDATE webhook_deliveries SET failed_at = now(), due_at = NULL, error = 'refused'"
    )
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator(".badge.large")).to_have_text("failed")
    expect(page.locator("dl")).to_contain_text("refused")
    page.get_by_role("button", name="Retry now").click()
    expect(page.locator(".badge.large")).to_have_text("waiting")


def test_a_webhook_that_is_gone_says_so(page: Page, server: Server) -> None:
    create(server, webhook_url="https://shop.invalid/hook")
    page.goto(http(server, "/console/webhooks"))
    rows(page).get_by_role("link").first.click()
    expect(page.locator("pre")).to_be_visible()
    execute(server.data_dir, "DELETE FROM webhook_deliveries")
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator(".trouble")).to_have_text("Webhook not found")


# Connections


def test_a_connection_is_shown_and_closed_after_a_question(page: Page, server: Server) -> None:
    with server.connect() as till:
        for number in range(25):
            call(till, action="subscribe", type="address", id=f"a{number}")
        page.goto(http(server, "/console/connections"))
        row = rows(page).filter(has=page.locator("summary"))  # that which follows something
        expect(row).to_contain_text("127.0.0.1")
        row.locator("summary").click()
        expect(row).to_contain_text("address:a19")
        expect(row).to_contain_text("and 5 more")
        row.get_by_role("button", name="Disconnect").click()
        page.get_by_role("dialog").get_by_role("button", name="Disconnect").click()
        expect(row).to_have_count(0)


# Accounts and tokens


def test_an_operator_creates_an_account_and_a_token_and_revokes_it(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--auth", "token") as server:
        page.goto(http(server, "/console/accounts"))
        sign_in(page, token_of(server, "--scope", "admin"))
        expect(page.locator("#who")).to_have_text("Operator")
        page.get_by_role("button", name="Create an account…").click()
        page.get_by_role("dialog").get_by_label("Name").fill("Café Ü")
        page.get_by_role("dialog").get_by_role("button", name="Create").click()
        expect(rows(page).last).to_contain_text("Café Ü")
        rows(page).last.get_by_role("button", name="Rename").click()
        page.get_by_role("dialog").get_by_label("Name").fill("Tea House")
        page.keyboard.press("Enter")
        expect(rows(page).last).to_contain_text("Tea House")
        rows(page).last.get_by_role("link", name="Tokens").click()
        expect(page).to_have_url(http(server, "/console/tokens?account=2"))
        create_form = page.get_by_role("form", name="Create a token")
        create_form.get_by_label("write").check()
        create_form.get_by_role("button").click()
        token = page.locator(".made code").inner_text()
        expect(rows(page)).to_contain_text(["read, write"])
        with server.connect() as till:
            assert call(till, action="authenticate", token=token)["data"]["account_id"] == 2
            page.get_by_role("button", name="Revoke token").click()
            page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
            expect(page.get_by_role("button", name="Revoke token")).to_have_count(0)


def test_a_double_click_creates_one_token(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--auth", "token") as server:
        page.goto(http(server, "/console/tokens?account=1"))
        sign_in(page, token_of(server, "--scope", "admin"))
        create_button = page.get_by_role("button", name="Create a token")
        create_button.evaluate("button => { button.click(); button.click(); }")
        expect(rows(page)).to_have_count(1)
        expect(page.locator(".made")).to_contain_text("Token 2;")


def test_a_merchant_sees_its_own_and_nothing_that_it_may_not_do(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--auth", "token") as server:
        trio_ws_command("account", "create", "--name", "other", "--data-dir", str(server.data_dir))
        execute(
            server.data_dir,
            "INSERT INTO invoices (amount, currency, account_id, memo)"
            " VALUES (1, 'USD', 1, 'mine'), (1, 'USD', 2, 'theirs')",
        )
        page.goto(http(server))
        sign_in(page, token_of(server, "--account", "1", "--scope", "read"))
        expect(page).to_have_url(http(server, "/console/invoices"))
        expect(page.locator("#who")).to_have_text("Account 1")
        expect(page.locator("#pages a")).to_have_text(
            ["Invoices", "Webhooks", "Connections", "Accounts", "Tokens", "Live", "Try"]
        )
        expect(rows(page)).to_contain_text(["mine"])
        rows(page).get_by_role("link").first.click()
        expect(page.locator("#invoice-status")).to_have_text("unpaid")
        expect(page.locator("#invoice-actions button")).to_have_count(0)
        for name in ("Connections", "Accounts", "Tokens"):
            page.locator("#pages").get_by_role("link", name=name).click()
            expect(rows(page).first).to_be_visible()
            if name == "Connections":  # also that by which the invoice was watched, until it is gone
                assert {*rows(page).locator("[data-label=Account]").all_inner_texts()} == {"1"}
            else:
                expect(rows(page)).to_have_count(1)
            expect(page.locator(".page").get_by_role("button", name=re.compile("…|Create"))).to_have_count(0)


def test_where_tokens_are_asked_for_it_asks_for_one(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--auth", "token") as server:
        token = token_of(server, "--account", "1", "--scope", "read,write")
        page.goto(http(server))
        expect(page.locator("#line")).to_have_text("a token is needed")
        page.get_by_label("Token").fill("trio_ws_wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#line")).to_have_text("this token is not valid here")
        sign_in(page, token)
        page.goto(http(server, "/console/try"))
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#reply-text")).to_contain_text('"uid"')
        page.get_by_role("link", name="Watch it live").click()
        expect(page.locator("#followed .badge")).to_have_text("live")
        other = page.context.new_page()  # which shares nothing with this one but the server
        other.goto(http(server, "/console/invoices"))
        expect(other.locator("#who")).to_have_text("Account 1")
        page.locator("#who").click()
        page.get_by_role("button", name="Sign out").click()
        expect(page.locator("#line")).to_have_text("a token is needed")
        page.reload()
        expect(page.locator("#line")).to_have_text("a token is needed")  # whatever other tabs have
        execute(server.data_dir, "UPDATE tokens SET revoked_at = now()")
        expect(other.locator("#line")).to_have_text("this token is not valid here")
        expect(other.get_by_label("Token")).to_be_visible()


# Overview


def test_figures_are_drawn_with_their_scale_and_each_reading(page: Page, server: Server) -> None:
    page.goto(http(server))
    figures = page.locator("figure")
    first = figures.first
    expect(first.locator("path")).to_have_attribute("d", re.compile(r"M[\d.]+ .*L[\d.]+ "))
    with server.connect() as client:
        call(client, action="subscribe", type="account", id=1)
        call(client, **INVOICE)
        call(client, action="fetch_invoice", id="inv_1")
        subscriptions = figures.filter(has_text="Subscriptions")
        expect(subscriptions.locator("output")).to_have_text("1")
        expect(subscriptions.locator(".top")).to_have_text("max 1")
        expect(figures.filter(has_text="median").locator("path")).to_have_attribute("d", re.compile("M"))
        expect(page.get_by_role("row", name=re.compile("not_found"))).to_contain_text("1")
    first.locator("svg").hover()
    expect(first.locator(".tip")).to_contain_text("s ago")
    first.locator("svg").focus()
    page.keyboard.press("ArrowLeft")
    expect(first.locator(".tip")).to_contain_text("s ago")
    expect(page.locator("#process")).to_have_text(f"Process {server.process.pid}")
    expect(page.get_by_role("row", name=re.compile("gone|client"))).to_be_visible()


def test_figures_are_summed_over_workers(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--workers", "2") as server:
        page.goto(http(server))
        expect(page.locator("#process")).to_have_text(re.compile(r"Sum of the processes \d+, \d+"))


# Live


def test_events_go_on_without_a_loss_when_the_server_is_killed_and_started_again(
    page: Page, tmp_path: Path
) -> None:
    port = str(free_port())
    with serving(tmp_path / "data", port=port) as server:
        page.goto(http(server, "/console/live"))
        page.get_by_label("Id", exact=True).fill("1")
        page.get_by_role("button", name="Follow").click()
        expect(page.locator("#followed .badge")).to_have_text("live")
        create(server)
        expect(page.locator("#events summary")).to_have_text(["invoice.created 10.00 USD, unpaid"])
        server.stop(signal.SIGKILL)
        expect(page.locator("#events li[data-kind=lost]").first).to_contain_text("connection lost")
    with serving(tmp_path / "data", port=port) as server:
        pay(server, "confirming", "paid")
        expect(page.locator("#events summary")).to_have_text(
            [
                "invoice.updated 10.00 USD, confirming → paid",
                "invoice.updated 10.00 USD, unpaid → confirming",
                "invoice.created 10.00 USD, unpaid",
            ]
        )
        expect(page.locator("#events li[data-kind=back]").first).to_contain_text("nothing was missed")
        page.get_by_role("button", name="Stop following account:1").click()
        expect(page.locator("#followed li")).to_have_count(0)
        expect(page.locator("#events summary")).to_have_count(3)


def test_what_is_followed_is_in_the_address_once_each_and_goes_on_behind_other_pages(
    page: Page, server: Server
) -> None:
    page.goto(http(server, "/console/live?topic=account:1&topic=account:1&topic=price:*"))
    expect(page.locator("#followed .badge")).to_have_text(["live", "live"])
    page.locator("#pages").get_by_role("link", name="Invoices").click()
    create(server)
    page.locator("#pages").get_by_role("link", name="Live").click()
    expect(page).to_have_url(re.compile(r"live\?topic=account%3A1&topic=price%3A%2A|\*"))
    expect(page.locator("#events summary")).to_have_text(["invoice.created 10.00 USD, unpaid"])


def test_the_list_stands_still_for_who_reads_and_says_what_it_holds_back(page: Page, server: Server) -> None:
    page.goto(http(server, "/console/live?topic=account:1"))
    expect(page.locator("#followed .badge")).to_have_text("live")
    create(server, memo="tea")
    page.locator("#events summary").click()
    expect(page.locator("#events pre")).to_contain_text('"memo": "tea"')
    for _ in range(3):
        create(server, memo="coffee")
    expect(page.locator("#counts")).to_contain_text("3 new, held back while you read")
    expect(page.locator("#events summary")).to_have_count(1)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#events summary")).to_have_count(4)
    page.get_by_role("button", name="Pause").click()
    create(server)
    expect(page.locator("#counts")).to_contain_text("1 new, held back")
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("Filter").fill("tea")
    expect(page.locator("#events summary")).to_have_count(1)
    expect(page.locator("#counts")).to_contain_text("5 hidden by the filter")


def test_who_pauses_first_sees_nothing_new_whatever_else_is_done(page: Page, server: Server) -> None:
    page.goto(http(server, "/console/live?topic=account:1"))
    expect(page.locator("#followed .badge")).to_have_text("live")
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Pause").click()
    create(server)
    expect(page.locator("#counts")).to_contain_text("1 new, held back")
    page.get_by_label("Filter").fill("USD")
    expect(page.locator("#counts")).to_contain_text("1 new, held back")
    page.get_by_role("button", name="Clear").click()
    create(server)
    expect(page.locator("#counts")).to_contain_text("1 new, held back")
    expect(page.locator("#events summary")).to_have_count(0)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#events summary")).to_have_count(1)


def test_a_filter_lets_go_of_the_entry_that_was_read(page: Page, server: Server) -> None:
    page.goto(http(server, "/console/live?topic=account:1"))
    expect(page.locator("#followed .badge")).to_have_text("live")
    create(server)
    page.locator("#events summary").click()
    expect(page.get_by_role("button", name="Continue")).to_be_visible()
    page.get_by_label("Filter").fill("USD")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    create(server)
    expect(page.locator("#events summary")).to_have_count(2)


def test_three_thousand_events_at_once_leave_it_usable(page: Page, server: Server) -> None:
    page.goto(http(server, "/console/live?topic=account:1"))
    expect(page.locator("#followed .badge")).to_have_text("live")
    execute(
        server.data_dir,
        "INSERT INTO invoices (amount, currency, account_id)"
        " SELECT n, 'USD', 1 FROM generate_series(1, 6000) n",
    )
    expect(page.locator("#counts")).to_contain_text("1,001 older ones dropped")
    expect(page.locator("#counts")).to_contain_text("5,000 entries, 200 shown")
    page.get_by_role("button", name="Show older").click()
    expect(page.locator("#events li")).to_have_count(400)
    page.get_by_label("Filter").fill("60.00 USD")
    expect(page.locator("#events summary")).to_have_text(["invoice.created 60.00 USD, unpaid"])
    page.locator("#events summary").click()
    page.get_by_role("link", name="Open the invoice").click()
    expect(page.locator("#invoice-amount")).to_have_text("60.00 USD")


# Try


def test_there_is_a_form_for_each_action_and_it_shows_the_reply(page: Page, server: Server) -> None:
    page.goto(http(server, "/console/try"))
    expect(page.locator("#action")).to_have_value("create_invoice")
    names = page.locator("#action option").all_inner_texts()
    assert {*names} == {action.__struct_config__.tag for action in get_args(Action)} - ELSEWHERE
    for name in names:
        page.get_by_label("Action").select_option(name)
        expect(page.locator("#preview")).to_contain_text(f'"action":"{name}"')
        page.get_by_role("button", name="Send").click()
        reply = page.locator("#reply-text")
        expect(reply).to_contain_text('"status": "')
        expect(page.locator("#reply-took")).to_contain_text("ms")
        # Of the examples, the invoice and the like are of no server; nobody makes a token without one.
        refused = "not_found|forbidden" if name == "create_token" else "not_found"
        assert '"success"' in reply.inner_text() or re.search(refused, reply.inner_text()), reply.inner_text()


def test_what_is_typed_is_what_is_sent(page: Page, server: Server) -> None:
    page.goto(http(server, "/console/try?action=list_invoices"))
    page.get_by_label("status", exact=True).select_option("paid")
    page.get_by_label("limit", exact=True).fill("7")
    page.get_by_text("More fields").click()
    page.get_by_label("address", exact=True).fill("17")
    expect(page.locator("#preview")).to_have_text(
        '{"action":"list_invoices","account_id":1,"status":"paid","address":"17","limit":7}'
    )
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#reply-text")).to_contain_text('"data": []')


def test_what_can_be_asked_is_loaded_once_the_server_is_back(page: Page, server: Server) -> None:
    failures = iter(["failed", "connectionreset"])

    def fail_twice(route: Route) -> None:
        failure = next(failures, None)
        if failure:
            route.abort(failure)
        else:
            route.continue_()

    page.route("**/asyncapi.json", fail_twice)
    page.goto(http(server, "/console/try"))
    expect(page.locator("#action")).to_have_value("create_invoice")
    assert next(failures, None) is None


# All of it


def test_it_can_be_used_from_the_keyboard_alone(page: Page, server: Server) -> None:
    create(server, memo="tea")
    page.goto(http(server))
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("figure").first).to_be_visible()
    page.locator("#pages").get_by_role("link", name="Invoices").focus()
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(1)
    expect(page.locator("#main")).to_be_focused()
    rows(page).get_by_role("link").first.focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Cancel…").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Cancel the invoice")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#invoice-status")).to_have_text("cancelled")


def test_the_keyboard_stays_where_it_was_when_something_is_done(page: Page, server: Server) -> None:
    uid = create(server, webhook_url="https://shop.invalid/hook")
    page.goto(http(server, "/console/accounts"))
    rename = page.get_by_role("button", name="Rename account 1")
    rename.focus()
    page.keyboard.press("Enter")
    page.keyboard.type("Zed")
    page.keyboard.press("Enter")
    expect(rows(page)).to_contain_text(["Zed"])
    expect(rename).to_be_focused()
    with server.connect() as till:
        call(till, action="subscribe", type="account", id=1)
        page.goto(http(server, "/console/connections"))
        rows(page).filter(has=page.locator("summary")).get_by_role("button").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        expect(rows(page)).to_have_count(1)
    expect(page.locator(".listing .note")).to_be_focused()  # the button is gone
    page.goto(http(server, "/console/webhooks"))
    rows(page).get_by_role("link").first.click()
    page.get_by_role("button", name="Refresh").focus()
    page.locator(".badge.large").evaluate("badge => badge.textContent = 'before'")
    page.keyboard.press("Enter")
    expect(page.locator(".badge.large")).to_have_text("waiting")
    expect(page.get_by_role("button", name="Refresh")).to_be_focused()
    page.goto(http(server, f"/console/invoices/{uid}"))
    page.get_by_role("button", name="confirming").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#invoice-status")).to_have_text("confirming")
    expect(page.locator("#invoice-status")).to_be_focused()


def test_the_keyboard_is_not_lost_where_more_comes(page: Page, server: Server) -> None:
    execute(
        server.data_dir,
        "INSERT INTO invoices (amount, currency, account_id)"
        " SELECT n, 'USD', 1 FROM generate_series(1, 120) n",
    )
    page.goto(http(server, "/console/invoices"))
    more = page.get_by_role("button", name="Load more")
    more.focus()
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(100)
    expect(more).to_be_focused()
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(120)
    expect(page.locator(".listing .note")).to_be_focused()
    page.goto(http(server, "/console/live?topic=account:1&topic=account:2"))
    expect(page.locator("#followed .badge")).to_have_text(["live", "live"])
    stop = page.get_by_role("button", name="Stop following account:2")
    stop.focus()
    create(server)
    expect(page.locator("#events summary")).to_have_count(1)
    expect(stop).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#followed li")).to_have_count(1)
    expect(page.locator("#main")).to_be_focused()
    page.goto(http(server, "/console/try"))
    page.get_by_label("Action").focus()
    page.get_by_label("Action").select_option("list_invoices")
    expect(page.locator("#preview")).to_contain_text("list_invoices")
    expect(page.get_by_label("Action")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone_and_a_desk_in_light_and_in_dark(
    page: Page, server: Server, scheme: str, width: int
) -> None:
    uid = create(server, memo="m" * 300, webhook_url="https://shop.invalid/" + "h" * 300, address="a" * 128)
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type] # one of its literals
    page.set_viewport_size({"width": width, "height": 800})
    for name in (*PAGES, f"invoices/{uid}", "live?topic=account:1"):
        page.goto(http(server, f"/console/{name}".rstrip("/")))
        expect(page.locator("h1")).to_be_visible()
        expect(page.locator("#line")).to_have_text("live")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        for part in ("body", "#line", "nav a", "button", ".note", ".badge", "td a", "th", "dt"):
            for found in page.locator(f"{part}:visible").all()[:3]:
                assert found.evaluate(CONTRAST) >= 4.5, (name, part)  # WCAG 2.2, 1.4.3


CONTRAST = """element => {
  const parts = text => text.match(/[0-9.]+/g).map(Number);
  const behind = node => {
    const [r, g, b, a = 1] = parts(getComputedStyle(node).backgroundColor);
    return a === 0 && node.parentElement ? behind(node.parentElement) : [r, g, b];
  };
  const light = rgb => rgb.map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const [one, other] = [light(parts(getComputedStyle(element).color).slice(0, 3)), light(behind(element))];
  return (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
}"""


def test_it_takes_nothing_from_elsewhere_and_lets_nothing_be_put_in(page: Page, server: Server) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in PAGES:
        response = page.goto(http(server, f"/console/{name}".rstrip("/")))
        assert response
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        expect(page.locator("h1")).to_be_visible()
    assert [url for url in asked if not url.startswith(http(server, "/"))] == []


def test_it_can_be_switched_off(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_WS_CONSOLE", "false")
    with serving(tmp_path / "data") as server:
        for path in ("/console", "/console/console.js", "/console/invoices", "/console/invoices/1"):
            assert page.request.get(http(server, path)).status == 404
        assert page.request.get(http(server, "/trio-ws.js")).ok
