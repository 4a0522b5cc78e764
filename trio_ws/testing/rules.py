"""The tables' columns, and what PostgreSQL lets be in them: the schema's domains, CHECKs and `*_fault()`.

The types are the protocol's, so that there is one place that has its limits. A value meets them in
PostgreSQL's order: what is no value of the type at all, domains, NOT NULL, CHECKs, and limits at the end.
Where PostgreSQL would make a value of another type fit, as a number that is given for a text, it is refused.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from trio_ws.currencies import exponent, in_minor_units
from trio_ws.messages.fields import (
    MAX_AMOUNT,
    MAX_BIGINT,
    Amount,
    Currency,
    Memo,
    PaymentAmount,
    PaymentStatus,
    Reference,
    Status,
    Url,
    Word,
)
from trio_ws.testing.refusals import (
    CheckViolation,
    DataError,
    DatatypeMismatch,
    FeatureNotSupported,
    InvalidTextRepresentation,
    NotNullViolation,
    NumericValueOutOfRange,
    UndefinedColumn,
    refusal,
)


class AccountRow(Struct, kw_only=True):
    """A row of `accounts`."""

    id: Annotated[int, Meta(ge=1)]
    name: Annotated[str, Meta(max_length=200, pattern=r"^[^\x01-\x1f\x7f]*\Z")] = ""
    created_at: datetime


class InvoiceRow(Struct, kw_only=True):
    """A row of `invoices`; None is NULL."""

    id: int
    uid: UUID
    account_id: int
    amount: Amount
    currency: Currency
    status: Status = "unpaid"
    version: int = 1
    memo: Memo | None = None
    webhook_url: Url | None = None
    redirect_url: Url | None = None
    address: Word | None = None
    expires_at: datetime | None = None
    created_at: datetime
    updated_at: datetime
    amount_paid: int = 0
    amount_pending: int = 0
    idempotency_key: Word | None = None
    request_hash: Annotated[bytes, Meta(max_length=64)] | None = None


class PaymentRow(Struct, kw_only=True):
    """A row of `payments`."""

    id: int
    invoice_id: int
    reference: Reference
    amount: PaymentAmount
    currency: str | None = None  # a trigger knows it
    status: PaymentStatus = "settled"
    version: int = 1
    created_at: datetime
    updated_at: datetime


class PriceRow(Struct, kw_only=True):
    """A row of `prices`."""

    id: int
    account_id: int
    currency: Currency
    base_currency: Currency = "USD"
    amount: Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
    value: Decimal
    version: int = 1
    created_at: datetime
    updated_at: datetime
    set_at: datetime


AnyRow = AccountRow | InvoiceRow | PaymentRow | PriceRow

TABLES: dict[type, str] = {
    AccountRow: "accounts",
    InvoiceRow: "invoices",
    PaymentRow: "payments",
    PriceRow: "prices",
}
DOMAINS = {"amount": (InvoiceRow,), "currency": (InvoiceRow, PriceRow), "base_currency": (PriceRow,)}
SUMS = ("amount_paid", "amount_pending")  # are numeric: however many payments they are of
UNCHANGEABLE = (
    *("id", "uid", "account_id", "amount", "currency", "created_at"),
    *("idempotency_key", "request_hash"),
)
MAY_BECOME = {  # the protocol's section 3
    "unpaid": ("confirming", "expired", "cancelled"),
    "confirming": ("paid", "unpaid"),
    "paid": (),
    "expired": (),
    "cancelled": (),
}
_WORD = "1 to 128 characters, none of them a space or control character"
_URL = "an http or https URL of at most 2000 characters"
LIMITS: dict[type, dict[str, str]] = {  # in the order in which the schema looks
    InvoiceRow: {
        "memo": "at most 1000 characters",
        "address": _WORD,
        "webhook_url": _URL,
        "redirect_url": _URL,
        "idempotency_key": _WORD,
        "request_hash": "at most 64 bytes",
        "expires_at": "within the years 1 to 9999",
        "created_at": "within the years 1 to 9999",
        "updated_at": "within the years 1 to 9999",
    },
    AccountRow: {"name": "at most 200 characters, none of them a control character"},
    PaymentRow: {},
    PriceRow: {},
}
REFERENCE = "1 to 200 characters, none of them a control character"
PAYMENT_YEARS = "within the years 1 to 9999"
INDEXED_LENGTH = 128  # of the schema's guard_invoice(): what is longer is refused before all else
DECIMALS = 72  # of the schema's price_fault()
SMALLEST, LARGEST = Decimal("1e-36"), Decimal("1e36")  # of a price: the schema's 0006


class _Column(NamedTuple):
    plain: Any  # what PostgreSQL's type takes
    limited: Any  # what is allowed of it
    is_nullable: bool


@cache
def _columns(row: type) -> Mapping[str, _Column]:
    columns = {}
    for name, hint in get_type_hints(row, include_extras=True).items():
        (limited, *_), is_nullable = (get_args(hint), True) if _is_optional(hint) else ((hint,), False)
        plain = get_args(limited)[0] if get_origin(limited) is Annotated else limited
        columns[name] = _Column(str if plain in (Status, PaymentStatus) else plain, limited, is_nullable)
    return columns


def _is_optional(hint: Any) -> bool:
    return get_origin(hint) is not Annotated and NoneType in get_args(hint)


def defaults(row: type[Struct], now: datetime) -> dict[str, Any]:
    """Return what is in a row's columns where nothing is given."""
    return {
        name: now if column.plain is datetime and not column.is_nullable else default
        for name, column, default in _with_defaults(row)
    }


@cache
def _with_defaults(row: type[Struct]) -> Sequence[tuple[str, _Column, Any]]:
    given = {field.name: field.default for field in msgspec.structs.fields(row)}
    return [
        (name, column, None if given[name] is msgspec.NODEFAULT else given[name])
        for name, column in _columns(row).items()
    ]


def check_texts(values: Iterable[object]) -> None:
    """Refuse what psycopg does not even send.

    Raises:
        DataError: a text has a NUL in it.
        UnicodeEncodeError: it has half of a character.
    """
    for value in values:
        if isinstance(value, str):
            value.encode()
            if "\0" in value:
                raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")


def cast(row: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given for columns as values of their types.

    Raises:
        UndefinedColumn: there is no such column.
        DatatypeMismatch, InvalidTextRepresentation, NumericValueOutOfRange: it is no value of the type.
    """
    for name in values:
        if name not in _columns(row):
            raise refusal(UndefinedColumn, f'column "{name}" of relation "{TABLES[row]}" does not exist')
    # What is a text for psycopg may be whatever PostgreSQL reads from it, later than all else is of a type.
    given = sorted(values.items(), key=lambda item: isinstance(item[1], str))
    converted = {name: _cast(row, name, value) for name, value in given}
    for name, value in converted.items():
        if isinstance(value, int) and name not in SUMS and not -MAX_BIGINT - 1 <= value <= MAX_BIGINT:
            raise refusal(NumericValueOutOfRange, "bigint out of range")
    return {name: converted[name] for name in _columns(row) if name in converted}


def _cast(row: type, name: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        converted = msgspec.convert(value, _columns(row)[name].plain, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        kind = InvalidTextRepresentation if isinstance(value, str) else DatatypeMismatch
        raise refusal(kind, f'column "{name}": {error}') from None
    if isinstance(value, str):
        check_domains(row, {name: converted})
    return converted


def check_domains(row: type, values: Mapping[str, Any]) -> None:
    """Refuse what is out of a domain.

    Raises:
        CheckViolation: a value is.
    """
    for name, value in values.items():
        if row in DOMAINS.get(name, ()) and not _fits(row, name, value):
            domain = "amount" if name == "amount" else "currency"
            raise refusal(
                CheckViolation,
                f'value for domain {domain} violates check constraint "{domain}_check"',
                constraint=f"{domain}_check",
            )


def check_indexed(new: InvoiceRow, old: InvoiceRow | None = None) -> None:
    """Refuse what is too long for an index, with whatever else is over its limit.

    Raises:
        CheckViolation: something is.
    """
    if any(len(text or "") > INDEXED_LENGTH for text in (new.address, new.idempotency_key)):
        check_limits(new, old)


def check_change(new: InvoiceRow, old: InvoiceRow) -> None:
    """Refuse what may not change of an invoice.

    Raises:
        CheckViolation: it would.
    """
    may_become = (*MAY_BECOME[old.status], *(("paid",) if new.amount_paid >= new.amount else ()))
    if new.status not in (None, old.status, *may_become):
        raise refusal(CheckViolation, f"invoice {old.id} is {old.status} and cannot become {new.status}")
    if any(getattr(new, name) != getattr(old, name) for name in UNCHANGEABLE):
        raise refusal(
            CheckViolation,
            f"only the status, memo, address, URLs and time to pay of invoice {old.id} can change",
        )


def check_sums(new: InvoiceRow, old: InvoiceRow | None = None) -> None:
    """Refuse sums that are not of payments.

    Raises:
        CheckViolation: they are not.
    """
    if any(getattr(new, name) != (getattr(old, name) if old else 0) for name in SUMS):
        sums = "the sums of the invoice's payments: record a payment"
        raise _over_limit(new, ", ".join(SUMS), sums)


def check_payment(new: PaymentRow, invoice: InvoiceRow) -> None:
    """Refuse what can't be a payment of an invoice, and complete what can.

    Raises:
        CheckViolation: it can't.
    """
    for name, limit in (("reference", REFERENCE), ("created_at", PAYMENT_YEARS)):
        if not _fits(PaymentRow, name, getattr(new, name)):
            raise _over_limit(new, name, limit)
    new.currency = invoice.currency if new.currency is None else new.currency
    if new.currency != invoice.currency:
        raise _over_limit(new, "currency", f"the invoice's, which is {invoice.currency}")
    new.version, new.updated_at = 1, new.created_at


def payment_may_become(old: PaymentRow, amount: int, status: str | None) -> bool:
    """Return whether a payment may be recorded so again: as it is, always."""
    is_next = status == old.status or (old.status, status) == ("settled", "failed")
    return old.status == "pending" or (amount == old.amount and is_next)


def check_payment_change(new: PaymentRow, old: PaymentRow) -> None:
    """Refuse what a payment can't become.

    Raises:
        CheckViolation: it would.
    """
    if not payment_may_become(old, new.amount, new.status):
        raise refusal(
            CheckViolation,
            f"payment {old.id} over {old.amount} is {old.status} and cannot become {new.status}"
            f" over {new.amount}",
            table="payments",
        )


def complete(price: PriceRow) -> None:
    """Make a price's amount of its value, or where it has none the other way round.

    Raises:
        FeatureNotSupported: the value is no number, or infinite.
        NumericValueOutOfRange: it is too large.
    """
    if price.value is None:
        if price.amount is not None:
            price.value = Decimal(f"{price.amount}E-{exponent(price.base_currency)}")
        return
    if not price.value.is_finite():
        what = "NaN" if price.value.is_nan() else "infinity"
        raise refusal(FeatureNotSupported, f"cannot convert {what} to bigint")
    amount = in_minor_units(abs(price.value), price.base_currency)
    if amount > MAX_BIGINT:
        raise refusal(NumericValueOutOfRange, "bigint out of range")
    price.amount = amount if price.value >= 0 else -amount


def check_row(new: AnyRow) -> None:
    """Refuse a row that is not whole, or breaks a CHECK of its table.

    Raises:
        NotNullViolation: it lacks a value.
        CheckViolation: it breaks a CHECK.
    """
    row, table = type(new), TABLES[type(new)]
    for name, column in _columns(row).items():
        if getattr(new, name) is None and not column.is_nullable:
            raise refusal(
                NotNullViolation,
                f'null value in column "{name}" of relation "{table}" violates not-null constraint',
                table=table,
                column=name,
            )
    for constraint in _broken(new):
        raise refusal(
            CheckViolation,
            f'new row for relation "{table}" violates check constraint "{constraint}"',
            table=table,
            constraint=constraint,
        )


def _broken(new: AnyRow) -> Iterator[str]:
    """Yield the names of the CHECKs that a row breaks, in the order of their names."""
    match new:
        case AccountRow() if not _fits(AccountRow, "id", new.id):
            yield "accounts_id_check"
        case InvoiceRow() if not _fits(InvoiceRow, "status", new.status):
            yield "invoices_status_check"
        case PaymentRow():
            if new.amount == 0 or not _fits(PaymentRow, "amount", new.amount):
                yield "payments_amount_check"
            if not _fits(PaymentRow, "status", new.status):
                yield "payments_status_check"
        case PriceRow():
            if not _fits(PriceRow, "amount", new.amount):
                yield "prices_amount_check"
            if new.value <= 0:
                yield "prices_value_check"
            if not SMALLEST <= new.value <= LARGEST:
                yield "prices_value_check1"


def check_limits(new: AnyRow, old: AnyRow | None = None) -> None:
    """Refuse what is over the protocol's limits, where it is not as it was.

    Raises:
        CheckViolation: a value is; the message begins with its column.
    """
    for name, limit in LIMITS[type(new)].items():
        value = getattr(new, name)
        if (
            value is not None
            and (old is None or value != getattr(old, name))
            and not _fits(type(new), name, value)
        ):
            raise _over_limit(new, name, limit)
    if isinstance(new, PriceRow):
        decimals = -int(new.value.as_tuple().exponent)
        if decimals > DECIMALS and (not isinstance(old, PriceRow) or new.value != old.value):
            raise _over_limit(new, "value", f"at most {DECIMALS} decimals")
        if new.currency == new.base_currency:
            raise _over_limit(new, "base_currency", "another one than currency")


def _over_limit(new: AnyRow, column: str, limit: str) -> Exception:
    return refusal(CheckViolation, f"{column}: {limit}", table=TABLES[type(new)], column=column)


def _fits(row: type, name: str, value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, datetime):
        try:
            value.astimezone(UTC)
        except OverflowError:  # it is in the year 0 or 10000 there
            return False
    try:
        msgspec.convert(value, _columns(row)[name].limited)
    except msgspec.ValidationError:
        return False
    return True
