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
        type: The topic's type.
        id: The topic's id: an invoice's uid, an account's id, an address, a currency, or `*` for all prices.
        after: A position. Events after it are delivered first.
        snapshot: Whether the reply contains the topic's current state.
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
    """Follow many topics from one position. Their events are delivered in one order.

    Args:
        after: A position. Events after it are delivered first.
        topics: The topics, as `{"type": …, "id": …}` each.
        more: Whether the next `resume` names more topics. The last one follows all of them.
    """

    after: str
    topics: list[WantedTopic]
    more: bool | None = None


class Unsubscribe(Asked, tag="unsubscribe"):
    """Stop following a topic.

    Args:
        type: The topic's type.
        id: The topic's id.
    """

    type: str
    id: str | int


class UnsubscribeAll(Asked, tag="unsubscribe_all"):
    """Stop following all topics."""


class CreateInvoice(Asked, tag="create_invoice"):
    """Create an invoice.

    Args:
        amount: The amount to pay, in the smallest unit of `currency`.
        currency: A code of ISO 4217, or a ticker.
        account_id: The account. Optional with a token of an account.
        memo: A note for the merchant.
        address: The payment address. It can be followed as a topic.
        webhook_url: The URL that its events are sent to.
        redirect_url: The URL that a checkout page leads to after the payment.
        expires_in_seconds: The invoice expires after this time if it is still unpaid.
        idempotency_key: Makes the request safe to repeat: the same request with the same key returns the
            same invoice.
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
        id: The invoice's `uid`.
    """

    id: str


class CancelInvoice(Asked, tag="cancel_invoice"):
    """Cancel an unpaid invoice.

    Args:
        uid: The invoice.
    """

    uid: str


class UpdateInvoice(Asked, tag="update_invoice"):
    """Change an invoice's status.

    Args:
        uid: The invoice.
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
    """Record a payment, or change the status of a recorded one.

    Args:
        uid: The invoice.
        reference: Identifies the payment, such as a transaction id. A known reference changes its payment.
        amount: In the smallest unit of the invoice's currency. Negative for a refund.
        status: From pending to settled or failed; from settled to failed.
        currency: If given, it must be the invoice's currency.
    """

    uid: str
    reference: Reference
    amount: PaymentAmount
    status: PaymentStatus
    currency: Currency | None = None


class ListPayments(Asked, tag="list_payments"):
    """Read an invoice's payments, the oldest first, page by page.

    Args:
        uid: The invoice.
        cursor: The `next` of the page before.
        limit: Maximum number of payments. Default: 50. A page also ends after 128 KiB.
    """

    uid: str
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] | None = None


class ListPrices(Asked, tag="list_prices"):
    """Read prices page by page: the account's own, and the latest of each other pair of currencies.

    Args:
        cursor: The `next` of the page before, or of a snapshot.
    """

    cursor: str | None = None


class SetPrice(Asked, tag="set_price"):
    """Set the price of a currency.

    Args:
        currency: The currency that has the price.
        base_currency: The currency of the price.
        value: The price of one unit, in major units of `base_currency`.
    """

    currency: Currency
    base_currency: Currency
    value: Decimal


class ConvertPrice(Asked, tag="convert_price"):
    """Convert an amount from one currency to another.

    Args:
        quote_currency: The currency to convert from.
        base_currency: The currency to convert to.
        quote_value: The amount, in major units.
    """

    quote_currency: Currency
    base_currency: Currency
    quote_value: Decimal


class Authenticate(Asked, tag="authenticate"):
    """Authenticate the connection with a token.

    Args:
        token: As it was shown when it was created.
    """

    token: str


class Ping(Asked, tag="ping"):
    """Check that the server answers."""
