"""The rows of the simulated database, its transactions, and what its triggers do when a row changes.

A transaction's changes lie over what has committed: nobody else sees them before, and undone they are
dropped. Sequences and locks are outside of transactions, as PostgreSQL's are: a number that was given is
gone, whatever becomes of its row.
"""

import random
import uuid
from collections import ChainMap, Counter
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import msgspec
import trio
from msgspec import Raw

from trio_ws import codec
from trio_ws.identity import ADMIN, SCOPES, Identity, hash_token
from trio_ws.testing.refusals import (
    CheckViolation,
    ForeignKeyViolation,
    LockNotAvailable,
    NoData,
    UniqueViolation,
    refusal,
)
from trio_ws.testing.rules import (
    TABLES,
    AccountRow,
    AnyRow,
    InvoiceRow,
    PaymentRow,
    PriceRow,
    cast,
    check_change,
    check_domains,
    check_indexed,
    check_limits,
    check_payment,
    check_payment_change,
    check_row,
    check_sums,
    complete,
    defaults,
)
from trio_ws.topics import NOTHING

R = TypeVar("R", AccountRow, InvoiceRow, PaymentRow, PriceRow)

PaymentKey = tuple[int, str]  # invoice_id, reference
PriceKey = tuple[int, str, str]  # account_id, currency, base_currency
ShownRow = InvoiceRow | PaymentRow | PriceRow
NOT_SHOWN = {"version", "updatedAt"}  # they always change, so `previous` leaves them out


class TokenRow(NamedTuple):
    """A row of `tokens`."""

    id: int
    identity: Identity
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None = None

    def has_ended(self, now: datetime) -> bool:
        """Return whether it stands for nobody any more."""
        return self.revoked_at is not None or (self.expires_at is not None and self.expires_at <= now)


class Written(NamedTuple):
    """An event as a trigger writes it, without a number."""

    type: str
    topics: tuple[str, ...]
    data: Raw
    previous: Raw
    at: float
    webhook: "Webhook | None" = None


class Webhook(NamedTuple):
    """How an event is to be POSTed."""

    id: str
    url: str


class Rows:
    """All tables, as a transaction sees them: its own rows over those around it. None: deleted in it.

    Attributes:
        unique: What is there once alone, as `(constraint, value)`, with the key of its row.
        written: The events of its changes.
    """

    def __init__(self, around: "Rows | None" = None) -> None:
        self.accounts: MutableMapping[int, AccountRow] = ChainMap({}, around.accounts) if around else {}
        self.invoices: MutableMapping[uuid.UUID, InvoiceRow] = ChainMap({}, around.invoices) if around else {}
        self.payments: MutableMapping[PaymentKey, PaymentRow] = (
            ChainMap({}, around.payments) if around else {}
        )
        self.prices: MutableMapping[PriceKey, PriceRow | None] = ChainMap({}, around.prices) if around else {}
        self.tokens: MutableMapping[bytes, TokenRow] = ChainMap({}, around.tokens) if around else {}
        self.unique: MutableMapping[tuple[str, Any], Any] = ChainMap({}, around.unique) if around else {}
        self.written: list[Written] = []

    @property
    def changed_invoices(self) -> Collection[InvoiceRow]:
        """Those that it has changed itself."""
        return self.invoices.maps[0].values() if isinstance(self.invoices, ChainMap) else ()

    def take(self, inner: "Rows") -> None:
        """Take over the changes of a transaction in this one."""
        for name, table in vars(inner).items():
            if isinstance(table, ChainMap):
                getattr(self, name).update(table.maps[0])
        self.written += inner.written

    def copy(self) -> "Rows":
        """Return the same rows, to go on by themselves."""
        other = Rows()
        for name, table in vars(self).items():
            setattr(other, name, table.copy())
        return other


class Tables:
    """What has committed.

    Args:
        now: The database's clock.
        seed: What its uids are drawn from.
        on_commit: Is called with what a transaction has changed.

    Attributes:
        rows: All of it.
        stuck: Invoices that another program's trigger lets nobody change.
    """

    def __init__(self, now: Callable[[], datetime], seed: int, on_commit: Callable[[Rows], None]) -> None:
        self.rows = Rows()
        self.stuck: set[uuid.UUID] = set()
        self.now = now
        self._random = random.Random(seed)
        self._on_commit = on_commit
        self._last_ids: Counter[str] = Counter()
        self._locks: dict[Any, object] = {}
        self._waiting = trio.lowlevel.ParkingLot()

    @contextmanager
    def begin(self) -> "Iterator[Transaction]":
        """Run a transaction: it commits when the block ends, and is undone by an error."""
        transaction = Transaction(self, self.rows, object())
        try:
            yield transaction
            self.rows.take(transaction.rows)
            self._on_commit(transaction.rows)
        finally:
            self._locks = {key: owner for key, owner in self._locks.items() if owner is not transaction.owner}
            self._waiting.unpark_all()

    def copy(self, on_commit: Callable[[Rows], None]) -> "Tables":
        """Return the same, to go on by itself."""
        other = Tables(self.now, 0, on_commit)
        other.rows, other.stuck = self.rows.copy(), self.stuck.copy()
        other._random, other._last_ids = self._random, self._last_ids.copy()
        return other

    def restore(
        self,
        invoices: Mapping[uuid.UUID, InvoiceRow],
        payments: Mapping[PaymentKey, PaymentRow],
        prices: Mapping[PriceKey, PriceRow],
        last_price: int,
    ) -> None:
        """Have these rows and no others, as a restored backup has; numbers go on from there.

        Args:
            invoices: By uid.
            payments: By what there is one of.
            prices: By what there is one of.
            last_price: The last number that was given to one, which may be deleted.
        """
        self.rows.invoices, self.rows.payments = dict(invoices), dict(payments)
        self.rows.prices = dict(prices)
        left: list[AnyRow] = [*self.rows.accounts.values(), *invoices.values()]
        left += [*payments.values(), *prices.values()]
        self.rows.unique = {}
        for row in left:
            self.rows.unique.update(dict.fromkeys(_unique(row), _key(row)))
        self._last_ids["invoices"] = max((row.id for row in invoices.values()), default=0)
        self._last_ids["payments"] = max((row.id for row in payments.values()), default=0)
        self._last_ids["prices"] = last_price

    def after(self, seconds: float | None) -> datetime | None:
        """Return when so many seconds will have passed; None: never."""
        return None if seconds is None else self.now() + timedelta(seconds=seconds)

    def next_id(self, table: str) -> int:
        """Give a number, for good."""
        self._last_ids[table] += 1
        return self._last_ids[table]

    def new_uuid(self) -> uuid.UUID:
        """Draw one."""
        return uuid.UUID(int=self._random.getrandbits(128), version=4)

    def lock(self, key: Any, owner: object) -> None:
        """Lock a row, or a value that is there once alone, until its transaction ends.

        Raises:
            LockNotAvailable: another transaction has it. PostgreSQL waits, up to `lock_timeout`.
        """
        if self._locks.setdefault(key, owner) is not owner:
            raise refusal(LockNotAvailable, "canceling statement due to lock timeout")

    def is_free(self, uid: uuid.UUID) -> bool:
        """Return whether an invoice can be changed right now."""
        return uid not in self.stuck and ("invoices", uid) not in self._locks

    async def wait_for_locks(self) -> None:
        """Wait until a transaction has ended."""
        await self._waiting.park()


class Transaction:
    """A transaction, or a part of one that can be undone alone: a savepoint, or a statement.

    Args:
        tables: Where it is.
        around: What it lies over.
        owner: Who holds its locks: the whole transaction.

    Attributes:
        rows: What it sees, and has changed.
    """

    def __init__(self, tables: Tables, around: Rows, owner: object) -> None:
        self.rows = Rows(around)
        self.owner = owner
        self._tables = tables

    @contextmanager
    def begin(self) -> "Iterator[Transaction]":
        """Run a part: an error undoes it, and goes on."""
        part = Transaction(self._tables, self.rows, self.owner)
        yield part
        self.rows.take(part.rows)

    # Statements

    def insert_account(self, values: Mapping[str, Any]) -> AccountRow:
        """Insert a row that has these values."""
        new = self._draft(AccountRow, values)
        check_row(new)
        self.rows.accounts[new.id] = new
        self._claim(new)
        check_limits(new)
        return new

    def insert_invoice(self, values: Mapping[str, Any]) -> InvoiceRow:
        """Insert a row that has these values; `expires_in_seconds` may stand for `expires_at`."""
        if "expires_in_seconds" in values:
            seconds = values["expires_in_seconds"]
            others = {name: value for name, value in values.items() if name != "expires_in_seconds"}
            values = {**others, "expires_at": self._tables.after(seconds)}
        new = self._draft(InvoiceRow, values, uid=self._tables.new_uuid)
        check_indexed(new)
        check_sums(new)
        new.version = 1
        check_row(new)
        self.rows.invoices[new.uid] = new
        self._claim(new)
        self._refer(new, new.account_id)
        check_limits(new)
        self._log_row("invoice.created", invoice_topics(new), None, new, new)
        return new

    def lock_invoice(self, uid: uuid.UUID) -> InvoiceRow:
        """Lock a row until the transaction ends, and return it.

        Raises:
            NoData: there is none with that uid.
        """
        if (found := self.rows.invoices.get(uid)) is None:
            raise refusal(NoData, f"no invoice has the uid {uid}")
        self._lock("invoices", uid)
        return found

    def update_invoice(self, uid: uuid.UUID, values: Mapping[str, Any]) -> InvoiceRow:
        """Change a row, and return it.

        Raises:
            NoData: there is none with that uid.
        """
        given = cast(InvoiceRow, values)
        old = self.lock_invoice(uid)
        check_domains(InvoiceRow, given)
        kept = {"version": old.version, "updated_at": old.updated_at}
        new = msgspec.structs.replace(old, **{**given, **kept})
        self._refuse_if_stuck(uid)
        check_indexed(new, old)
        check_sums(new, old)
        return self._store_invoice(new, old)

    def _store_invoice(self, new: InvoiceRow, old: InvoiceRow) -> InvoiceRow:
        check_change(new, old)
        if new != old:
            new.version, new.updated_at = old.version + 1, self._tables.now()
        check_row(new)
        check_limits(new, old)
        self.rows.invoices[new.uid] = new
        if new.version > old.version:
            topics = dict.fromkeys((*invoice_topics(new), *invoice_topics(old)))
            self._log_row("invoice.updated", tuple(topics), old, new, new)
        return new

    def _refuse_if_stuck(self, uid: uuid.UUID) -> None:
        if uid in self._tables.stuck:
            raise refusal(CheckViolation, "a trigger of another program")

    def upsert_payment(self, uid: uuid.UUID, values: Mapping[str, Any]) -> PaymentRow:
        """Insert a payment of an invoice, or change the one that has this reference.

        Raises:
            NoData: there is no invoice with that uid.
        """
        cast(PaymentRow, values)  # before any row is looked for
        if (invoice := self.rows.invoices.get(uid)) is None:
            raise refusal(NoData, f"no invoice has the uid {uid}")
        new = self._draft(PaymentRow, {**values, "invoice_id": invoice.id})
        check_payment(new, invoice)
        check_row(new)
        key = new.invoice_id, new.reference
        self._lock("payments", key)
        if (old := self.rows.payments.get(key)) is None:
            self._claim(new)
            self._log_row("payment.created", invoice_topics(invoice), None, new, invoice)
        else:
            new = msgspec.structs.replace(old, amount=new.amount, status=new.status)
            check_payment_change(new, old)
            if new == old:
                return old
            new.version, new.updated_at = old.version + 1, self._tables.now()
            self._log_row("payment.updated", invoice_topics(invoice), old, new, invoice)
        self.rows.payments[key] = new
        self._add_to_invoice(
            uid,
            _amount_if(new, "settled") - _amount_if(old, "settled"),
            _amount_if(new, "pending") - _amount_if(old, "pending"),
        )
        return new

    def _add_to_invoice(self, uid: uuid.UUID, paid: int, pending: int) -> None:
        """Add to an invoice's sums: `add_to_invoices` and `status_by_payments` of the schema."""
        old = self.lock_invoice(uid)
        self._refuse_if_stuck(uid)
        paid, pending, status = old.amount_paid + paid, old.amount_pending + pending, old.status
        if status == "unpaid" and old.expires_at is not None and old.expires_at <= self._tables.now():
            status = "expired"
        elif status in ("unpaid", "confirming"):
            if paid >= old.amount:
                status = "paid"
            elif paid + pending >= old.amount:
                status = "confirming"
            elif old.amount_paid + old.amount_pending >= old.amount:
                status = "unpaid"
        sums = {"amount_paid": paid, "amount_pending": pending, "status": status}
        self._store_invoice(msgspec.structs.replace(old, **sums), old)

    def upsert_price(self, values: Mapping[str, Any], *, is_said_again: bool = False) -> PriceRow:
        """Insert a price, or change the one that there is; an event says so again where it was so already."""
        new = self._draft(PriceRow, values)
        complete(new)
        check_row(new)
        key = price_key(new)
        self._lock("prices", key)
        if (old := self.rows.prices.get(key)) is None:
            self._claim(new)
            self._refer(new, new.account_id)
        else:
            was_said = new.set_at
            new = msgspec.structs.replace(old, value=new.value, amount=new.amount)
            if new != old or is_said_again:
                new.version, new.updated_at, new.set_at = old.version + 1, was_said, was_said
        check_limits(new, old)
        self.rows.prices[key] = new
        if old is None or new.version > old.version:
            self._log_row("price.updated", price_topics(new), old, new)
        return new

    def delete_price(self, key: PriceKey) -> None:
        """Delete a price.

        Raises:
            NoData: there is none.
        """
        if (old := self.rows.prices.get(key)) is None:
            raise refusal(NoData, f"account {key[0]} has no price of {key[1]} in {key[2]}")
        self._lock("prices", key)
        self.rows.prices[key] = None
        self.rows.unique.update(dict.fromkeys(_unique(old)))
        self._note("price.deleted", "prices", old.id)

    def rename_account(self, account_id: int, name: str) -> AccountRow:
        """Give an account another name."""
        new = msgspec.structs.replace(self.rows.accounts[account_id], name=name)
        check_row(new)
        self.rows.accounts[account_id] = new
        return new

    def insert_token(
        self,
        account_id: int | None,
        scopes: Sequence[str],
        seconds: float | None,
        digest: bytes | None = None,
    ) -> TokenRow:
        """Insert a token that is good for so long; without a hash, its text is `token-ID`."""
        number = self._tables.next_id("tokens")
        constraint = ""
        if (account_id is None) != (ADMIN in scopes):
            constraint = "tokens_account_check"
        elif not scopes or not {*scopes} <= {*SCOPES, ADMIN}:
            constraint = "tokens_scopes_check"
        if constraint:
            message = f'new row for relation "tokens" violates check constraint "{constraint}"'
            raise refusal(CheckViolation, message, table="tokens", constraint=constraint)
        if account_id is not None and account_id not in self.rows.accounts:
            raise _refers_to_nothing("tokens")
        expires_at = self._tables.after(seconds)
        identity = Identity(
            token_id=number,
            account_id=account_id,
            scopes=tuple(scope for scope in (*SCOPES, ADMIN) if scope in scopes),
            expires_at=None if expires_at is None else wire_time(expires_at),
        )
        token = TokenRow(number, identity, self._tables.now(), expires_at)
        self.rows.tokens[hash_token(f"token-{number}") if digest is None else digest] = token
        return token

    def revoke_token(self, digest: bytes) -> TokenRow:
        """Have a token stand for nobody; return it.

        Raises:
            NoData: there is none like it.
        """
        if (old := self.rows.tokens.get(digest)) is None:
            raise refusal(NoData, "there is no such token")
        new = self.rows.tokens[digest] = old._replace(revoked_at=old.revoked_at or self._tables.now())
        self._note("token.changed", f"token:{old.id}", old.id)
        return new

    # What is done with a new row

    def _draft(self, row: type[R], values: Mapping[str, Any], **drawn: Callable[[], Any]) -> R:
        """Return a row of what is given, and of defaults; a number is drawn before domains hold."""
        given, now = cast(row, values), self._tables.now()
        if "id" not in given:
            given["id"] = self._tables.next_id(TABLES[row])
        check_domains(row, given)
        for name, draw in drawn.items():
            if name not in given:
                given[name] = draw()
        return row(**{**defaults(row, now), **given})

    def _claim(self, new: AnyRow) -> None:
        """Note what is there once alone, or refuse what is there already."""
        for constraint, value in _unique(new):
            self._lock(constraint, value)
            if self.rows.unique.get((constraint, value)) is not None:
                message = f'duplicate key value violates unique constraint "{constraint}"'
                raise refusal(UniqueViolation, message, table=TABLES[type(new)], constraint=constraint)
            self.rows.unique[constraint, value] = _key(new)

    def _refer(self, new: InvoiceRow | PriceRow, account_id: int) -> None:
        if account_id not in self.rows.accounts:
            raise _refers_to_nothing(TABLES[type(new)])

    def _lock(self, what: str, key: Any) -> None:
        self._tables.lock((what, key), self.owner)

    def _log_row(
        self,
        type_: str,
        topics: tuple[str, ...],
        old: ShownRow | None,
        new: ShownRow,
        invoice: InvoiceRow | None = None,
    ) -> None:
        previous = NOTHING
        after = wire(new, invoice)
        if old is not None:
            before = wire(old, invoice)
            names = dict.fromkeys((*before, *after))
            changed = [name for name in names if before.get(name) != after.get(name)]
            shown = {name: before.get(name) for name in changed if name not in NOT_SHOWN}
            previous = Raw(codec.encode(shown))
        webhook = None
        if invoice is not None and invoice.webhook_url is not None:
            webhook = Webhook(str(self._tables.new_uuid()), invoice.webhook_url)
        at = self._tables.now().timestamp()
        self.rows.written.append(Written(type_, topics, Raw(codec.encode(after)), previous, at, webhook))

    def _note(self, type_: str, topic: str, row: int) -> None:
        data, at = Raw(codec.encode({"id": row})), self._tables.now().timestamp()
        self.rows.written.append(Written(type_, (topic,), data, NOTHING, at))


def _refers_to_nothing(table: str) -> Exception:
    constraint = f"{table}_account_id_fkey"
    message = f'insert or update on table "{table}" violates foreign key constraint "{constraint}"'
    return refusal(ForeignKeyViolation, message, table=table, constraint=constraint)


def _key(row: AnyRow) -> Any:
    """Return what a row's table has it by."""
    match row:
        case InvoiceRow():
            return row.uid
        case PaymentRow():
            return row.invoice_id, row.reference
        case PriceRow():
            return price_key(row)
        case AccountRow():
            return row.id


def price_key(price: PriceRow) -> PriceKey:
    """Return what there is one price of."""
    return price.account_id, price.currency, price.base_currency


def _unique(row: AnyRow) -> Iterator[tuple[str, Any]]:
    """Yield what of a row is there once alone, in the order in which PostgreSQL looks."""
    yield f"{TABLES[type(row)]}_pkey", row.id
    match row:
        case InvoiceRow():
            yield "invoices_uid_key", row.uid
            if row.idempotency_key is not None:
                yield "invoices_idempotency", (row.account_id, row.idempotency_key)
        case PaymentRow():
            yield "payments_invoice_id_reference_key", (row.invoice_id, row.reference)
        case PriceRow():
            yield "prices_account_id_currency_base_currency_key", price_key(row)


# As rows go on the wire


def invoice_topics(invoice: InvoiceRow) -> tuple[str, ...]:
    """Return whom an invoice concerns: `invoice_topics` of the schema."""
    topics = (f"invoice:{invoice.uid}", f"account:{invoice.account_id}")
    return topics if invoice.address is None else (*topics, f"address:{invoice.address}")


def price_topics(price: PriceRow) -> tuple[str, ...]:
    """Return whom a price concerns: `price_topics` of the schema."""
    return f"price:{price.currency}", "price:*", f"account:{price.account_id}"


def wire_time(moment: datetime) -> str:
    """Return a time in RFC 3339, in UTC, with six digits."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def wire(row: ShownRow, invoice: InvoiceRow | None = None) -> dict[str, Any]:
    """Return the row's fields as `invoice_json`, `payment_json` and `price_json` of the schema do.

    What a price is goes as its digits: PostgreSQL writes no exponents.

    Args:
        row: What to show.
        invoice: Whose payment it is.
    """
    if isinstance(row, PaymentRow):
        assert invoice is not None  # noqa: S101 - a payment has one
        return {
            "id": row.id,
            "invoice": str(invoice.uid),
            "reference": row.reference,
            "amount": row.amount,
            "currency": row.currency,
            "status": row.status,
            "account_id": invoice.account_id,
            "createdAt": wire_time(row.created_at),
            "updatedAt": wire_time(row.updated_at),
            "version": row.version,
        }
    if isinstance(row, PriceRow):
        return {
            "id": row.id,
            "currency": row.currency,
            "amount": row.amount,
            "account_id": row.account_id,
            "createdAt": wire_time(row.created_at),
            "updatedAt": wire_time(row.updated_at),
            "base_currency": row.base_currency,
            "value": Raw(f"{row.value:f}".encode()),
        }
    fields = {
        "id": row.id,
        "uid": str(row.uid),
        "amount": row.amount,
        "currency": row.currency,
        "status": row.status,
        "account_id": row.account_id,
        "createdAt": wire_time(row.created_at),
        "updatedAt": wire_time(row.updated_at),
        "memo": row.memo,
        "webhook_url": row.webhook_url,
        "redirect_url": row.redirect_url,
        "address": row.address,
        "expiresAt": None if row.expires_at is None else wire_time(row.expires_at),
        "amount_paid": row.amount_paid or None,
        "amount_pending": row.amount_pending or None,
        "version": row.version,
    }
    return {name: value for name, value in fields.items() if value is not None}


def as_json(row: ShownRow, invoice: InvoiceRow | None = None) -> Raw:
    """Return a row as the protocol shows it; a payment's with its invoice."""
    return Raw(codec.encode(wire(row, invoice)))


def _amount_if(payment: PaymentRow | None, status: str) -> int:
    return payment.amount if payment is not None and payment.status == status else 0
