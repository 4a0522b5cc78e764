"""The page on which a customer pays an invoice, `/pay/UID`: made here, as HTML that needs no script.

The script follows the invoice, and asks for this page again whenever it has changed: so there is one place
that says what a customer reads.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import lru_cache, partial
from html import escape
from pathlib import Path
from string import Template
from uuid import UUID

import msgspec
import segno
from msgspec import UNSET, Raw

from trio_ws.currencies import exponent
from trio_ws.database.queries import OPEN
from trio_ws.errors import NotFound
from trio_ws.http.pages import Maker, Page
from trio_ws.messages import Invoice
from trio_ws.topics import parse_uid

FOLDER = Path(__file__).parent
HTML = "text/html; charset=utf-8"
SAFE = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types page"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # who knows the uid may look at the invoice
    "X-Robots-Tag": "noindex",
}
# BIP 21 and what other coins made of it: a wallet reads the address and the amount. Others read an address.
PAYMENT_URIS = {"BTC": "bitcoin", "BCH": "bitcoincash", "LTC": "litecoin", "DOGE": "dogecoin"}
CODES = 1000  # of 2 KB each, that are kept: a page is asked for again whenever its invoice has changed
MASK = 2  # ISO/IEC 18004 section 7.8: of the eight patterns that a code may be mixed with
IN_WORDS = {
    "unpaid": "Please pay",
    "confirming": "Your payment has come in and is being confirmed",
    "paid": "Paid. Thank you!",
    "expired": "The time to pay is over",
    "cancelled": "This invoice is cancelled",
}
_page = Template((FOLDER / "page.html").read_text())

Fetch = Callable[[UUID], Awaitable[Raw]]


async def pay(uid: str, fetch: Fetch, now: float) -> Maker:
    """Return what makes the page of an invoice.

    Args:
        uid: Which, as it stands in the path.
        fetch: Returns an invoice, or raises `NotFound`.
        now: The wall clock, in Unix seconds.
    """
    try:
        if (known := parse_uid(uid)) is None:
            raise NotFound("Invoice not found")
        invoice = msgspec.json.decode(await fetch(known), type=Invoice)
    except NotFound:
        return partial(_framed, "There is no such invoice", "unknown", "", is_final=True, code=404)
    return partial(_page_of, invoice, now)


def _page_of(invoice: Invoice, now: float) -> Page:
    is_final = invoice.status not in OPEN
    return _framed(IN_WORDS[invoice.status], invoice.status, _body(invoice, now), is_final=is_final)


def _framed(words: str, status: str, body: str, *, is_final: bool, code: int = 200) -> Page:
    # Without a script, the browser asks again.
    again = "" if is_final else '<noscript><meta http-equiv="refresh" content="15"></noscript>'
    text = _page.substitute(title=escape(words), status=status, words=escape(words), again=again, body=body)
    return Page(text.encode(), HTML, code, headers=SAFE)


def _body(invoice: Invoice, now: float) -> str:
    paid = 0 if invoice.amount_paid is UNSET else invoice.amount_paid
    pending = 0 if invoice.amount_pending is UNSET else invoice.amount_pending
    left = max(0, invoice.amount - paid - pending)
    is_open = invoice.status == "unpaid"
    due = left if is_open else invoice.amount
    parts = [f'<p id="amount">{_money(due, invoice.currency)}</p>', *_sums(invoice, paid, pending)]
    if is_open and invoice.expires_at is not UNSET:
        parts.append(_countdown(invoice.expires_at, now))
    if is_open and invoice.address is not UNSET:
        parts.append(_address(invoice.address, left, invoice.currency))
    if invoice.redirect_url is not UNSET and not is_open:
        parts.append(f'<p><a id="back" href="{escape(invoice.redirect_url)}">Back to the shop</a></p>')
    return "\n".join(parts)


def _sums(invoice: Invoice, paid: int, pending: int) -> list[str]:
    """Say what has come in where that is not what the status says."""
    sums = []
    if pending > 0:
        sums.append(f"{_money(pending, invoice.currency)} has come in and is being confirmed.")
    if paid > 0 and invoice.status != "paid":
        sums.append(
            f"{_money(paid, invoice.currency)} of {_money(invoice.amount, invoice.currency)} is paid."
        )
    if invoice.status in ("expired", "cancelled"):
        is_late = paid > 0 or pending > 0
        sums.append("It came too late: please ask the shop." if is_late else "Please do not pay any more.")
    elif invoice.status == "paid" and paid > invoice.amount:
        more = _money(paid - invoice.amount, invoice.currency)
        sums.append(f"You have paid {more} more than was asked for: please ask the shop.")
    return [f'<p class="sum">{words}</p>' for words in sums]


def _money(amount: int, currency: str) -> str:
    """Return an amount for people; the script writes it as their language does."""
    value = _major(amount, currency)
    return f'<data value="{value}" data-currency="{currency}">{value} {currency}</data>'


def _major(amount: int, currency: str) -> str:
    """Return an amount in major units, with all its digits."""
    digits = exponent(currency)
    text = f"{amount:0{digits + 1}d}"
    return f"{text[:-digits]}.{text[-digits:]}" if digits else text


def _countdown(until: datetime, now: float) -> str:
    left = max(0, int(until.timestamp() - now))
    minutes, seconds = divmod(left, 60)
    return f'<p>Time left: <span id="left" data-seconds="{left}">{minutes}:{seconds:02}</span></p>'


@lru_cache(maxsize=CODES)
def _code(text: str) -> str:
    # Each mask is a valid one. To weigh all eight, for the one that looks best, took 11 ms of 14.
    made = segno.make(text, micro=False, mask=MASK)
    return made.svg_inline(omitsize=True, border=4, dark="#000", light="#fff")


def _address(address: str, left: int, currency: str) -> str:
    scheme = PAYMENT_URIS.get(currency)
    scanned = address
    if scheme is not None:
        bare = address.removeprefix(f"{scheme}:")
        scanned = f"{scheme}:{bare}?amount={_major(left, currency)}"
    code = _code(scanned)
    shown = escape(address)
    return (
        f'<div id="code" role="img" aria-label="QR code of the address">{code}</div>\n'
        f'<p>to the address <code id="address">{shown}</code>'
        ' <button type="button" id="copy" hidden>Copy</button></p>'
    )
