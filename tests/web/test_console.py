"""The console in a real browser, on a real server."""

import re
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest
from playwright.sync_api import Page, Route, expect

from tests.cli.test_main import trio_ws_command
from tests.end_to_end.serving import INVOICE, Server, call, execute, free_port, serving
from tests.web.browser import PATIENCE_MS
from trio_ws.currencies import EXPONENTS
from trio_ws.messages import Action

expect.set_options(timeout=PATIENCE_MS)


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


def test_an_invoice_made_there_turns_paid_as_one_watches(page: Page, server: Server) -> None:
    page.goto(http(server))
    page.get_by_text("More fields").click()
    page.get_by_label("memo", exact=True).fill("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("link", name="Its page").click()
    expect(page.locator("#invoice-status")).to_have_text("unpaid")
    expect(page.locator("#invoice-amount")).to_have_text("10.00 USD")
    expect(page.locator("dd", has_text="<img")).to_be_visible()
    expect(page.locator("#line")).to_have_text("live")
    pay(server, "confirming")
    expect(page.locator("#invoice-status")).to_have_text("confirming")
    pay(server, "paid")
    expect(page.locator("#invoice-status")).to_have_text("paid")
    expect(page).to_have_title(re.compile("^paid"))
    expect(page.locator("#history b")).to_have_count(2)
    expect(page.locator("#invoice-actions")).to_be_hidden()


def test_who_watches_may_play_the_processor(page: Page, server: Server) -> None:
    with server.connect() as client:
        uid = call(client, **INVOICE)["data"]["uid"]
    page.goto(http(server, f"/console/invoice/{uid}"))
    expect(page.get_by_role("button", name="paid")).to_be_disabled()
    page.get_by_role("button", name="confirming").click()
    page.get_by_role("button", name="paid").click()
    expect(page.locator("#invoice-status")).to_have_text("paid")


def test_an_invoice_that_is_not_there_yet_is_waited_for(page: Page, server: Server) -> None:
    uid = "5735e250-b53e-4ace-a025-afac1bc77ee2"
    page.goto(http(server, f"/console/invoice/{uid}"))
    expect(page.locator("#invoice-trouble")).to_have_text("Invoice not found")
    execute(
        server.data_dir,
        f"INSERT INTO invoices (uid, amount, currency, account_id) VALUES ('{uid}', 5, 'JPY', 1)",  # noqa: S608
    )
    expect(page.locator("#invoice-status")).to_have_text("unpaid")
    expect(page.locator("#invoice-amount")).to_have_text("5 JPY")
    expect(page.locator("#invoice-trouble")).to_be_hidden()


def test_amounts_are_shown_with_the_digits_that_the_server_counts_in(page: Page, server: Server) -> None:
    page.goto(http(server))
    assert page.evaluate('import("/currencies.js").then(({ EXPONENTS }) => EXPONENTS)') == EXPONENTS
    shown = page.evaluate(
        """async (currencies) => {
          const { inWords } = await import("/console/amounts.js");
          const amounts = [5, Number.MAX_SAFE_INTEGER];
          return currencies.flatMap((currency) => amounts.map((amount) => inWords(amount, currency)));
        }""",
        [*EXPONENTS],
    )
    assert shown == [
        f"{Decimal(amount).scaleb(-digits):f} {currency}"
        for currency, digits in EXPONENTS.items()
        for amount in (5, 2**53 - 1)
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
    with server.connect() as client:
        uid = call(client, **{**INVOICE, "amount": amount, "currency": currency})["data"]["uid"]
    page.goto(http(server, f"/console/invoice/{uid}"))
    expect(page.locator("#invoice-amount")).to_have_text(text)


def test_there_is_a_form_for_each_action_and_it_shows_the_reply(page: Page, server: Server) -> None:
    page.goto(http(server))
    expect(page.locator("#action")).to_have_value("create_invoice")
    names = page.locator("#action option").all_inner_texts()
    assert set(names) == {action.__struct_config__.tag for action in get_args(Action)}
    for name in names:
        page.get_by_label("Action").select_option(name)
        expect(page.locator("#preview")).to_contain_text(f'"action":"{name}"')
        page.get_by_role("button", name="Send").click()
        reply = page.locator("#reply-text")
        expect(reply).to_contain_text('"status": "')
        expect(page.locator("#reply-took")).to_contain_text("ms")
        # Of the examples, the invoice and the token are of no server.
        assert '"success"' in reply.inner_text() or re.search("not_found|unauthorized", reply.inner_text()), (
            reply.inner_text()
        )


def test_what_is_typed_is_what_is_sent(page: Page, server: Server) -> None:
    page.goto(http(server))
    page.get_by_label("Action").select_option("subscribe")
    page.get_by_label("type *").select_option("account")
    page.get_by_label("id *").fill("1")
    page.get_by_text("More fields").click()
    page.get_by_label("snapshot").check()
    expect(page.locator("#preview")).to_have_text(
        '{"action":"subscribe","type":"account","id":1,"snapshot":true}'
    )
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#reply-text")).to_contain_text('"snapshot": []')


def test_events_go_on_without_a_loss_when_the_server_is_killed_and_started_again(
    page: Page, tmp_path: Path
) -> None:
    port = str(free_port())
    with serving(tmp_path / "data", port=port) as server:
        page.goto(http(server))
        page.get_by_label("Id", exact=True).fill("1")
        page.get_by_role("button", name="Follow").click()
        expect(page.locator("#followed .badge")).to_have_text("live")
        with server.connect() as client:
            call(client, **INVOICE)
        expect(page.locator("#events summary")).to_have_text(["invoice.created 1000 USD, unpaid"])
        server.stop(signal.SIGKILL)
        expect(page.locator("#events li[data-kind=lost]").first).to_contain_text("line lost")
        expect(page.locator("#line")).to_have_text("the server can't be reached; trying again")
    with serving(tmp_path / "data", port=port) as server:
        pay(server, "confirming", "paid")
        expect(page.locator("#events summary")).to_have_text(
            [
                "invoice.updated 1000 USD, confirming → paid",
                "invoice.updated 1000 USD, unpaid → confirming",
                "invoice.created 1000 USD, unpaid",
            ]
        )
        expect(page.locator("#events li[data-kind=back]").first).to_contain_text("nothing was missed")
        expect(page.locator("#line")).to_have_text("live")
        page.get_by_role("button", name="Follow account 1 no more").click()
        expect(page.locator("#followed li")).to_have_count(0)


def test_figures_are_drawn(page: Page, server: Server) -> None:
    page.goto(http(server))
    figures = page.locator("#figures figure")
    expect(figures.first.locator("path")).to_have_attribute("d", re.compile(r"M\d+ .*L\d+ "))
    with server.connect() as client:
        call(client, action="subscribe", type="account", id=1)
        call(client, **INVOICE)
        expect(figures.filter(has_text="Topics followed").locator("output")).to_have_text("1")
        expect(figures.filter(has_text="median").locator("path")).to_have_attribute("d", re.compile("M"))
    expect(page.locator("#process")).to_have_text(f"of process {server.process.pid}")


def test_where_tokens_are_asked_for_it_asks_for_one(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--auth", "token") as server:
        made = trio_ws_command(
            "token", "create", "--account", "1", "--scope", "read,write", "--data-dir", str(tmp_path / "data")
        )
        token = made.stdout.split()[-1]
        assert page.request.get(http(server, "/console/figures")).status == 401
        page.goto(http(server))
        expect(page.locator("#line")).to_have_text("a token is needed")
        page.get_by_label("Token").fill("trio_ws_wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#line")).to_have_text("this token is not good here")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Use").click()
        expect(page.locator("#line")).to_have_text("live")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#reply-text")).to_contain_text('"uid"')
        page.get_by_role("button", name="Follow it").click()
        expect(page.locator("#followed .badge")).to_have_text("live")
        page.get_by_role("button", name="Forget").click()
        expect(page.locator("#line")).to_have_text("a token is needed")


def test_it_can_be_used_from_the_keyboard_alone(page: Page, server: Server) -> None:
    page.goto(http(server))
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#action")).to_have_value("create_invoice")
    page.locator("#action").focus()
    page.keyboard.type("ping")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#reply-text")).to_contain_text('"pong"')


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone_and_a_desk_in_light_and_in_dark(
    page: Page, server: Server, scheme: str, width: int
) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type] # one of its literals
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(http(server))
    expect(page.locator("#line")).to_have_text("live")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#reply-links a")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for part in ("body", "#line", "#request > button", ".note", "#reply-links a"):
        assert page.locator(part).first.evaluate(CONTRAST) >= 4.5, part  # WCAG 2.2, 1.4.3


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
    response = page.goto(http(server))
    assert response
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    expect(page.locator("#line")).to_have_text("live")
    assert [url for url in asked if not url.startswith(http(server, "/"))] == []


def test_what_can_be_asked_is_loaded_once_the_server_is_back(page: Page, server: Server) -> None:
    failures = iter(["failed", "connectionreset"])

    def fail_twice(route: Route) -> None:
        failure = next(failures, None)
        if failure:
            route.abort(failure)
        else:
            route.continue_()

    page.route("**/asyncapi.json", fail_twice)
    page.goto(http(server))
    expect(page.locator("#action")).to_have_value("create_invoice")
    assert next(failures, None) is None


def test_it_can_be_switched_off(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_WS_CONSOLE", "false")
    with serving(tmp_path / "data") as server:
        for path in ("/console", "/console/console.js", "/console/figures", "/console/invoice/1"):
            assert page.request.get(http(server, path)).status == 404
        assert page.request.get(http(server, "/trio-ws.js")).ok
