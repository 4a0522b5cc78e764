"""What clients get: replies, and what is in them and in events.

The order of fields is the order on the wire. `rename="camel"` stands only where the protocol says so.
"""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from trio_ws.messages.fields import RequestId


class Success(Struct, tag_field="status", tag="success", kw_only=True):
    """The reply to an action that succeeded."""

    message: str | UnsetType = UNSET
    data: Any = UNSET
    next: str | UnsetType = UNSET
    request_id: RequestId | UnsetType = UNSET


class Pong(Struct, tag_field="type", tag="pong", kw_only=True):
    """The reply to `ping`; `timestamp` is in Unix seconds."""

    status: str = "success"
    timestamp: int
    request_id: RequestId | UnsetType = UNSET


class Failure(Struct, tag_field="status", tag="error", kw_only=True):
    """The reply to an action that failed."""

    message: str
    code: str
    detail: str | UnsetType = UNSET
    retry_after_seconds: float | UnsetType = UNSET
    request_id: RequestId | UnsetType = UNSET


Reply = Success | Pong | Failure


class Authenticated(Struct, kw_only=True, rename="camel"):
    """The data of a reply to `authenticate`.

    Args:
        account_id: The token's account. null: an operator's token, for all accounts.
    """

    account_id: int | None = msgspec.field(name="account_id")
    scopes: tuple[str, ...]
    expires_at: str | None


class Converted(Struct, kw_only=True):
    """The data of a reply to `convert_price`.

    Args:
        base_value: Rounded to the smallest unit of `base_currency`, or to 18 decimals if that is unknown.
        timestamp: When the price was set. If two prices were used, the older time.
    """

    quote_currency: str
    base_currency: str
    quote_value: Decimal
    base_value: Decimal
    timestamp: str


class Subscribed(Struct, kw_only=True):
    """The data of a reply to `subscribe`.

    Args:
        position: Events after this position will be delivered.
        recovered: Whether no event was lost between the requested position and this one.
        snapshot: The topic's state at `position`: an invoice or null, or a list.
        next: The cursor of the list's next page, if there is one.
    """

    position: str
    recovered: bool
    snapshot: Raw | UnsetType = UNSET
    next: str | UnsetType = UNSET


class Invoice(Struct, rename="camel", kw_only=True):
    """An invoice, the protocol's INVOICE.

    PostgreSQL's `invoice_json` makes the same.

    Args:
        id: A sequential number.
        uid: A random UUID; it cannot be guessed.
        amount: In the smallest unit of `currency`.
        status: paid, expired and cancelled are final.
        expires_at: When it expires if it is still unpaid.
        amount_paid: The sum of its settled payments, if not 0.
        amount_pending: The sum of its pending payments, if not 0.
        version: Grows by one with each change.
    """

    id: int
    uid: uuid.UUID
    amount: int
    currency: str
    status: str
    account_id: int = msgspec.field(name="account_id")
    created_at: datetime
    updated_at: datetime
    memo: str | UnsetType = UNSET
    webhook_url: str | UnsetType = msgspec.field(name="webhook_url", default=UNSET)
    redirect_url: str | UnsetType = msgspec.field(name="redirect_url", default=UNSET)
    address: str | UnsetType = UNSET
    expires_at: datetime | UnsetType = UNSET
    amount_paid: int | UnsetType = msgspec.field(name="amount_paid", default=UNSET)
    amount_pending: int | UnsetType = msgspec.field(name="amount_pending", default=UNSET)
    version: int


class Payment(Struct, rename="camel", kw_only=True):
    """A payment for an invoice, the protocol's PAYMENT.

    PostgreSQL's `payment_json` makes the same.

    Args:
        invoice: The invoice's uid.
        reference: Identifies the payment; unique for each invoice.
        amount: In the smallest unit of `currency`. Negative for a refund.
        currency: The invoice's currency.
        status: pending, settled or failed.
        account_id: The invoice's account.
        version: Grows by one with each change.
    """

    id: int
    invoice: uuid.UUID
    reference: str
    amount: int
    currency: str
    status: str
    account_id: int = msgspec.field(name="account_id")
    created_at: datetime
    updated_at: datetime
    version: int


class Price(Struct, rename="camel", kw_only=True):
    """The price of one unit of `currency`, the protocol's PRICE.

    PostgreSQL's `price_json` makes the same.

    Args:
        amount: The price in the smallest unit of `base_currency`.
        account_id: The account that set the price.
        value: The price in major units of `base_currency`.
    """

    id: int
    currency: str
    amount: int
    account_id: int = msgspec.field(name="account_id")
    created_at: datetime
    updated_at: datetime
    base_currency: str = msgspec.field(name="base_currency")
    value: Decimal
