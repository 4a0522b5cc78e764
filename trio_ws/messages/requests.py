"""What clients send: a struct for each action."""

import hashlib
from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from trio_ws.messages.fields import (
    MAX_EXPIRY_SECONDS,
    AccountId,
    Amount,
    Asked,
    Currency,
    Memo,
    PaymentAmount,
    PaymentStatus,
    Reference,
    SearchText,
    Status,
    Url,
    Word,
)


class Subscribe(Asked, tag="subscribe"):
    """Follow a topic.

    Args:
        type: Of what kind the topic is.
        id: Which of that kind: an invoice's uid, an account's id, an address, a currency or `*`.
        after: A position: all that came after it is told first.
        snapshot: Whether the reply holds the topic's current state.
    """

    type: str
    id: str | int
    after: str | None = None
    snapshot: bool | None = None


class WantedTopic(Struct):
    """One of the topics of a `resume`."""

    type: str
    id: str | int


class Resume(Asked, tag="resume"):
    """Follow many topics from one position on, all in one order.

    Args:
        after: The position: all that came after it is told first.
        topics: What to follow, as `{"type": …, "id": …}` each.
        more: Whether the next `resume` names more of them: the last one follows all, as one message would.
    """

    after: str
    topics: list[WantedTopic]
    more: bool | None = None


class Unsubscribe(Asked, tag="unsubscribe"):
    """Follow a topic no more.

    Args:
        type: Of what kind the topic is.
        id: Which of that kind.
    """

    type: str
    id: str | int


class UnsubscribeAll(Asked, tag="unsubscribe_all"):
    """Follow nothing any more."""


class CreateInvoice(Asked, tag="create_invoice"):
    """Make an invoice.

    Args:
        amount: What it is over, in the smallest unit of `currency`.
        currency: Three letters, or a ticker.
        account_id: Whose it is; may be left out where a token names it.
        memo: Whatever the merchant wants to remember.
        address: Where it is to be paid; can be followed as a topic.
        webhook_url: Where its events are POSTed.
        redirect_url: Where a checkout page leads once it is paid.
        expires_in_seconds: After that it is expired, if nobody has paid.
        idempotency_key: Names this request for good: the same one again gets the invoice that there is.
    """

    amount: Amount
    currency: Currency
    account_id: AccountId | None = None
    memo: Memo | None = None
    address: Word | None = None
    webhook_url: Url | None = None
    redirect_url: Url | None = None
    expires_in_seconds: Annotated[float, Meta(gt=0, le=MAX_EXPIRY_SECONDS)] | None = None
    idempotency_key: Word | None = None

    def fingerprint(self) -> bytes | None:
        """Tell this request from any other under the same key; None without a key."""
        if self.idempotency_key is None:
            return None
        # What is not set is left out, so that a field that a later release adds changes no hash.
        asked = {
            name: value
            for name, value in sorted(msgspec.structs.asdict(self).items())
            if name != "request_id" and value is not None
        }
        return hashlib.sha256(msgspec.json.encode(asked)).digest()


class FetchInvoice(Asked, tag="fetch_invoice"):
    """Read an invoice.

    Args:
        id: Its `uid`.
    """

    id: str


class CancelInvoice(Asked, tag="cancel_invoice"):
    """Cancel an unpaid invoice.

    Args:
        uid: Which.
    """

    uid: str


class UpdateInvoice(Asked, tag="update_invoice"):
    """Change an invoice's status, as payments come in.

    Args:
        uid: Which.
        status: From unpaid to confirming, expired or cancelled; from confirming to paid, or back.
    """

    uid: str
    status: Status


class ListInvoices(Asked, tag="list_invoices"):
    """Read invoices, the newest first, page by page.

    With `memo`, a page looks through 20 000 invoices at most: it can be empty and still have a `next`.

    Args:
        account_id: Only invoices of this account; a token of an account sees only its own.
        status: Only invoices with this status.
        address: Only invoices to be paid there.
        memo: Only invoices whose memo contains this text; upper and lower case are the same.
        cursor: The `next` of the page before, or of a snapshot.
        limit: Maximum number of invoices. Default: 50. A page also ends after 128 KiB.
    """

    account_id: AccountId | None = None
    status: Status | None = None
    address: Word | None = None
    memo: SearchText | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] | None = None


class RecordPayment(Asked, tag="record_payment"):
    """Record that money moved, or what has become of it since.

    Args:
        uid: Of the invoice that it is for.
        reference: What names it, as a transaction's id does: the same one again changes what there is.
        amount: In the smallest unit of the invoice's currency; below 0: it went back.
        status: Pending until it is settled or has failed; what was settled may still fail.
        currency: The invoice's; given, it is checked.
    """

    uid: str
    reference: Reference
    amount: PaymentAmount
    status: PaymentStatus
    currency: Currency | None = None


class ListPayments(Asked, tag="list_payments"):
    """Read an invoice's payments, the oldest first, page by page.

    Args:
        uid: Of which invoice.
        cursor: The `next` of the page before.
        limit: How many at most, 50 unless told; 128 KiB end a page too.
    """

    uid: str
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] | None = None


class ListPrices(Asked, tag="list_prices"):
    """Read the account's prices, and of all others the latest of each pair, page by page.

    Args:
        cursor: The `next` of the page before, or of a snapshot.
    """

    cursor: str | None = None


class SetPrice(Asked, tag="set_price"):
    """Say what a currency costs.

    Args:
        currency: What has a price.
        base_currency: What the price is in.
        value: What one of it costs, in major units.
    """

    currency: Currency
    base_currency: Currency
    value: Decimal


class ConvertPrice(Asked, tag="convert_price"):
    """Ask what an amount of one currency comes to in another.

    Args:
        quote_currency: From this one.
        base_currency: To this one.
        quote_value: How much, in major units.
    """

    quote_currency: Currency
    base_currency: Currency
    quote_value: Decimal


class Authenticate(Asked, tag="authenticate"):
    """Become who a token says.

    Args:
        token: As it was shown when it was made.
    """

    token: str


class Ping(Asked, tag="ping"):
    """Ask whether the server is there."""
