"""The messages of the protocol as structs: what clients send, what they get, what is told.

The order of fields is the order on the wire. `rename="camel"` stands only where the protocol says so.
"""

import hashlib
import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from trio_ws.errors import InvalidTopic, InvalidValue

# The largest integer that a JavaScript client reads exactly: Number.MAX_SAFE_INTEGER.
MAX_AMOUNT = 2**53 - 1
_POSITION = re.compile(r"(?P<name>[\w-]{1,64})\.(?P<seq>[0-9]{1,18})", re.ASCII)
MAX_BIGINT = 2**63 - 1  # the largest value of PostgreSQL's bigint
CURRENCY_PATTERN = r"^[A-Z][A-Z0-9]{2,9}\Z"  # ISO 4217's three letters, and tickers such as USDT

Amount = Annotated[int, Meta(ge=1, le=MAX_AMOUNT)]
AccountId = Annotated[int, Meta(ge=1, le=MAX_BIGINT)]
Currency = Annotated[str, Meta(pattern=CURRENCY_PATTERN)]
RequestId = Annotated[str, Meta(max_length=64)] | int
# JSON allows U+0000 in a string, PostgreSQL's text does not.
Memo = Annotated[str, Meta(max_length=1000, pattern=r"^[^\x00]*\Z")]
Word = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f]+\Z")]
# A host that can be one, a port from 1 to 65535 or none, no user and password: as is_url() of the schema.
URL_PATTERN = (
    r"^https?://"
    r"(?:[^\x00-,./:-@\[-^`{-\x7f]+(?:\.[^\x00-,./:-@\[-^`{-\x7f]+)*\.?"
    r"|\[[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\])"
    r"(?::(?:0*(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?)?"
    r"(?:[/?#][^\x00-\x20\x7f]*)?\Z"
)
Url = Annotated[str, Meta(max_length=2000, pattern=URL_PATTERN)]
Status = Literal["unpaid", "confirming", "paid", "expired", "cancelled"]
PaymentStatus = Literal["pending", "settled", "failed"]
PaymentAmount = Annotated[int, Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]
Reference = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
MAX_EXPIRY_SECONDS = 366 * 86400

PAGE_ITEMS = 100  # of a list or a snapshot; of prices more
PAGE_BYTES = 128 * 1024  # that end a page: most clients' libraries take messages of 1 MiB


# What clients send


class _Action(Struct, tag_field="action", kw_only=True):
    """A request. Its `request_id`, if it has one, comes back in the reply."""

    request_id: RequestId | None = None


class Subscribe(_Action, tag="subscribe"):
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


class Resume(_Action, tag="resume"):
    """Follow many topics from one position on, all in one order.

    Args:
        after: The position: all that came after it is told first.
        topics: What to follow, as `{"type": …, "id": …}` each.
        more: Whether the next `resume` names more of them: the last one follows all, as one message would.
    """

    after: str
    topics: list[WantedTopic]
    more: bool | None = None


class Unsubscribe(_Action, tag="unsubscribe"):
    """Follow a topic no more.

    Args:
        type: Of what kind the topic is.
        id: Which of that kind.
    """

    type: str
    id: str | int


class UnsubscribeAll(_Action, tag="unsubscribe_all"):
    """Follow nothing any more."""


class CreateInvoice(_Action, tag="create_invoice"):
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


class FetchInvoice(_Action, tag="fetch_invoice"):
    """Read an invoice.

    Args:
        id: Its `uid`.
    """

    id: str


class CancelInvoice(_Action, tag="cancel_invoice"):
    """Cancel an unpaid invoice.

    Args:
        uid: Which.
    """

    uid: str


class UpdateInvoice(_Action, tag="update_invoice"):
    """Change an invoice's status, as payments come in.

    Args:
        uid: Which.
        status: From unpaid to confirming, expired or cancelled; from confirming to paid, or back.
    """

    uid: str
    status: Status


class ListInvoices(_Action, tag="list_invoices"):
    """Read invoices, the newest first, page by page.

    Args:
        account_id: Whose; may be left out where a token names it.
        status: Only those that stand so.
        address: Only those that are to be paid there.
        cursor: The `next` of the page before, or of a snapshot.
        limit: How many at most, 50 unless told; 128 KiB end a page too.
    """

    account_id: AccountId | None = None
    status: Status | None = None
    address: Word | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] | None = None


class RecordPayment(_Action, tag="record_payment"):
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


class ListPayments(_Action, tag="list_payments"):
    """Read an invoice's payments, the oldest first, page by page.

    Args:
        uid: Of which invoice.
        cursor: The `next` of the page before.
        limit: How many at most, 50 unless told; 128 KiB end a page too.
    """

    uid: str
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] | None = None


class ListPrices(_Action, tag="list_prices"):
    """Read the account's prices, and of all others the latest of each pair, page by page.

    Args:
        cursor: The `next` of the page before, or of a snapshot.
    """

    cursor: str | None = None


class SetPrice(_Action, tag="set_price"):
    """Say what a currency costs.

    Args:
        currency: What has a price.
        base_currency: What the price is in.
        value: What one of it costs, in major units.
    """

    currency: Currency
    base_currency: Currency
    value: Decimal


class ConvertPrice(_Action, tag="convert_price"):
    """Ask what an amount of one currency comes to in another.

    Args:
        quote_currency: From this one.
        base_currency: To this one.
        quote_value: How much, in major units.
    """

    quote_currency: Currency
    base_currency: Currency
    quote_value: Decimal


class Authenticate(_Action, tag="authenticate"):
    """Become who a token says.

    Args:
        token: As it was shown when it was made.
    """

    token: str


class Ping(_Action, tag="ping"):
    """Ask whether the server is there."""


Action = (
    Subscribe
    | Resume
    | Unsubscribe
    | UnsubscribeAll
    | CreateInvoice
    | FetchInvoice
    | CancelInvoice
    | UpdateInvoice
    | ListInvoices
    | RecordPayment
    | ListPayments
    | ListPrices
    | SetPrice
    | ConvertPrice
    | Authenticate
    | Ping
)


# What clients get


class Success(Struct, tag_field="status", tag="success", kw_only=True):
    """The reply to an action that was done."""

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
    """The reply to an action that was not done."""

    message: str
    code: str
    detail: str | UnsetType = UNSET
    retry_after_seconds: float | UnsetType = UNSET
    request_id: RequestId | UnsetType = UNSET


Reply = Success | Pong | Failure


class Authenticated(Struct, kw_only=True, rename="camel"):
    """The data of a reply to `authenticate`.

    Args:
        account_id: Whose the token is; null: an operator's, for all accounts.
    """

    account_id: int | None = msgspec.field(name="account_id")
    scopes: tuple[str, ...]
    expires_at: str | None


class Converted(Struct, kw_only=True):
    """The data of a reply to `convert_price`.

    Args:
        base_value: Rounded to the smallest unit of `base_currency`; 18 decimals where that is unknown.
        timestamp: Since when the price that it rests on is in force; of two prices, the older one's.
    """

    quote_currency: str
    base_currency: str
    quote_value: Decimal
    base_value: Decimal
    timestamp: str


class Subscribed(Struct, kw_only=True):
    """The data of a reply to `subscribe`.

    Args:
        position: Where the follower stands; what it is told comes after it.
        recovered: Whether nothing was lost between the position that it named and this one.
        snapshot: The topic's state at `position`, as JSON: an invoice or null, or a list.
        next: The cursor of what the list lacks, where that is more than a page.
    """

    position: str
    recovered: bool
    snapshot: Raw | UnsetType = UNSET
    next: str | UnsetType = UNSET


class Invoice(Struct, rename="camel", kw_only=True):
    """An invoice, the protocol's INVOICE.

    PostgreSQL's `invoice_json` makes the same.

    Args:
        id: Its number.
        uid: Its name, which nobody can guess.
        amount: In the smallest unit of `currency`.
        status: Where it stands; paid, expired and cancelled are final.
        expires_at: When it expires, if nobody has paid.
        amount_paid: The sum of its settled payments, where that is not 0.
        amount_pending: The sum of its pending payments, where that is not 0.
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
    """Money that moved for an invoice, the protocol's PAYMENT.

    PostgreSQL's `payment_json` makes the same.

    Args:
        invoice: The uid of the invoice that it is for.
        reference: What names it; an invoice has one payment of each.
        amount: In the smallest unit of `currency`; below 0: it went back.
        currency: The invoice's.
        status: Pending, settled or failed.
        account_id: Whose the invoice is.
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
    """What one `currency` costs, the protocol's PRICE.

    PostgreSQL's `price_json` makes the same.

    Args:
        amount: The price in the smallest unit of `base_currency`.
        account_id: Whose price it is.
        value: The same in major units.
    """

    id: int
    currency: str
    amount: int
    account_id: int = msgspec.field(name="account_id")
    created_at: datetime
    updated_at: datetime
    base_currency: str = msgspec.field(name="base_currency")
    value: Decimal


# What the data of an action's reply is; None: it has none.
REPLY_DATA: Mapping[type, Any] = {
    Subscribe: Subscribed,
    Resume: Subscribed,
    Unsubscribe: None,
    UnsubscribeAll: None,
    CreateInvoice: Invoice,
    FetchInvoice: Invoice,
    CancelInvoice: Invoice,
    UpdateInvoice: Invoice,
    ListInvoices: list[Invoice],
    RecordPayment: Payment,
    ListPayments: list[Payment],
    ListPrices: list[Price],
    SetPrice: Price,
    ConvertPrice: Converted,
    Authenticate: Authenticated,
    Ping: Pong,  # the reply itself
}


# What is told


class Position(NamedTuple):
    """A place in the event log: an event's name and number.

    The same name at the same number means that all up to there is the same, in whatever log.
    """

    name: str
    seq: int

    def __str__(self) -> str:
        return f"{self.name}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Return the position that a client was told.

        Raises:
            InvalidValue: it is none.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise InvalidValue("Expected a position as the server tells it - at `$.after`")
        return cls(match["name"], int(match["seq"]))


class Cursor(NamedTuple):
    """Where a page of a list begins. Opaque to clients, as a position is.

    Args:
        kind: What of the list: a currency or `*` of prices, `open` or `all` of invoices, the uid of an
            invoice of its payments.
        last: The id of the last item of the page before.
    """

    kind: str
    last: int

    def __str__(self) -> str:
        return f"{self.kind}.{self.last}"

    @classmethod
    def parse(cls, text: str, kinds: str) -> "Cursor":
        """Return the cursor that a client was given.

        Args:
            text: What it sent.
            kinds: A pattern of the kinds that this list has.

        Raises:
            InvalidValue: it is none of this list.
        """
        match = re.fullmatch(rf"(?P<kind>{kinds})\.(?P<last>[0-9]{{1,18}})", text, re.ASCII)
        if match is None:
            raise InvalidValue("Expected a cursor as the server gave it - at `$.cursor`")
        return cls(match["kind"], int(match["last"]))


NOTHING = Raw(b"null")


class Event(Struct, frozen=True, array_like=True, gc=False):
    """A change that committed, as the event log holds it, and as read_log() of the schema writes it.

    Args:
        seq: Its number in the log, without gaps.
        type: `invoice.` or `payment.`, and `created` or `updated`; or `price.updated`.
        topics: Whom it concerns, as `str(Topic)`.
        data: The row's whole new state, as JSON.
        previous: The changed fields' old values, as JSON; `NOTHING` for a new invoice.
        at: When it was written down, in Unix seconds by the database's clock.
        name: That of the step that numbered it.
        frame: It as a WebSocket is sent it, once one was.
    """

    seq: int
    type: str
    topics: tuple[str, ...]
    data: Raw
    previous: Raw = NOTHING
    at: float = 0.0
    name: str = ""
    frame: bytes = b""

    @property
    def position(self) -> Position:
        """Its place in the log."""
        return Position(self.name, self.seq)

    def is_visible_to(self, account: str | None) -> bool:
        """Tell whether it is for who may see an account's events alone; None: any. Prices are for all."""
        return account is None or account in self.topics or self.type == "price.updated"


class EventMessage(Struct):
    """An event on the wire."""

    type: str
    data: Raw
    previous: Raw | UnsetType
    position: str


class Topic(NamedTuple):
    """What can be followed; `str(topic)` is how the event log spells it."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"

    @classmethod
    def parse(cls, type_: str, given: str | int) -> "Topic":
        """Return the topic in the one spelling that events use, so that `"1"` and `1` are the same.

        An id that nothing can have is one that nothing will match.

        Raises:
            InvalidTopic: there is no such type, or the id is too long, or has what no text of PostgreSQL has.
        """
        if type_ == "invoice" and _CANONICAL_UID.fullmatch(str(given)):  # nearly always: 2 µs sooner
            return cls(type_, str(given))
        if type_ not in TOPIC_TYPES:
            raise InvalidTopic(f"Unknown topic type {type_!r}", f"One of {', '.join(TOPIC_TYPES)}")
        try:
            id_: str = msgspec.convert(str(given), type=_TopicId)
        except msgspec.ValidationError as error:
            raise InvalidTopic(f"Invalid {type_} id", f"{error} - at `$.id`") from None
        if type_ == "invoice":
            id_ = str(parse_uid(id_) or id_)
        return cls(type_, id_)

    @property
    def account_id(self) -> int:
        """Whose topic it is; 0, which no account has, where its id is none."""
        return int(self.id) if _ACCOUNT_ID.fullmatch(self.id) else 0


TOPIC_TYPES = ("invoice", "account", "address", "price")
_TopicId = Annotated[str, Meta(max_length=128, pattern=r"^[^\x00]*\Z")]
_ACCOUNT_ID = re.compile("[1-9][0-9]{0,17}", re.ASCII)
_CANONICAL_UID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)


def parse_uid(text: str) -> uuid.UUID | None:
    """Return an invoice's uid; None where no invoice can have that name."""
    try:
        return msgspec.convert(text, uuid.UUID)  # in a third of the time, the two forms that are usual
    except msgspec.ValidationError:
        pass
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
