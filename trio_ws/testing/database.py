"""A database in memory that answers as PostgreSQL does: one contract suite runs against both.

It obeys: `gate` holds every query back, `away` fails them, `lose_wakes` swallows notifications. Its
clock is trio's, so make it inside of trio; under a mock clock nothing depends on when or where it runs.

`tables.py` has its rows and transactions, `rules.py` what may be in them, `log.py` the event log,
`session.py` how other programs write, and `webhooks.py` the queue of what is to be POSTed.
"""

import copy
import math
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, TypeVar, TypeVarTuple

import msgspec
import trio
from msgspec import UNSET, Raw

from trio_ws.database import event_log, expiry, payments, queries
from trio_ws.database.event_log import History
from trio_ws.database.gateway import Wake
from trio_ws.database.lanes import Lane
from trio_ws.database.pages import Page
from trio_ws.database.queries import InvoiceFilter, PricePart, Snapshot
from trio_ws.database.writes import WRITES
from trio_ws.errors import (
    Conflict,
    IdempotencyMismatch,
    InvalidValue,
    NotFound,
    Outage,
    Timeout,
)
from trio_ws.messages import CreateInvoice, Invoice, Payment, Price, RecordPayment
from trio_ws.messages.fields import Status
from trio_ws.paging import PAGE_BYTES
from trio_ws.testing.accounts import SimulatedAccounts
from trio_ws.testing.answering import Answering
from trio_ws.testing.log import SimulatedLog
from trio_ws.testing.refusals import CheckViolation, LockNotAvailable, UniqueViolation
from trio_ws.testing.rules import MAY_BECOME, InvoiceRow, PaymentRow, PriceRow, payment_may_become
from trio_ws.testing.session import Session, SimulatedSession, Statements
from trio_ws.testing.tables import PaymentKey, PriceKey, Rows, Tables, Transaction, as_json, price_key
from trio_ws.testing.webhook_lists import SimulatedWebhookLists
from trio_ws.testing.webhooks import SimulatedQueue
from trio_ws.topics import Event, Position, Topic

__all__ = ["EPOCH", "CheckViolation", "SimulatedDatabase"]

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
# Of a query and what it is asked, by one or by several at once.
Cost = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], float]

NEVER = datetime.max.replace(tzinfo=UTC)
STATEMENT_SECONDS = 2.0  # the server's default
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)  # where its clock starts


class _Named(msgspec.Struct):
    uid: uuid.UUID | None = None


class _Numbered(msgspec.Struct):
    id: int


def _by(part: str, query: Callable[..., Any]) -> Callable[..., Any]:
    """Return how a part of the database answers a query."""

    def answer(database: "SimulatedDatabase", *args: Any) -> Any:
        found = getattr(database, part)
        return found.answers[query](found, *args)

    return answer


class SimulatedDatabase(Answering, Statements):
    """Accounts, invoices, prices and the event log.

    Attributes:
        gate: While set to an event, queries wait for it, as for a slow PostgreSQL.
        away: While true, queries fail, as without PostgreSQL.
        only_reads: While true, clients' writes fail, as on a full disk.
        delay: How long each query takes, in seconds; over `statement_seconds` it fails, and is undone.
        answer_seconds: How long an answer is under way at most, after the query has seen or done
            what it does. The seed says for each how long.
        lose_answers: While true, queries are done, and then fail, as where the connection is lost.
        lose_wakes: While true, notifications do not arrive.
        stuck: Invoices that another program's trigger lets nobody change.
        costs: Say how long a query takes by what it is asked, beside `delay`.
        written_at: When other programs write what they commit now, on trio's clock; None: now.
        webhooks: The queue of what is to be POSTed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.gate: trio.Event | None = None
        self.away = False
        self.only_reads = False
        self.delay = 0.0
        self.answer_seconds = 0.0
        self._own = Random(seed)
        self.statement_seconds = STATEMENT_SECONDS
        self.lose_answers = False
        self.lose_wakes = False
        self.costs: list[Cost] = []
        self.written_at: float | None = None
        self._first_due = NEVER  # or earlier: before it, nothing expires
        self._watchers: dict[Wake, None] = {}
        Answering.__init__(self)
        self.webhooks = SimulatedQueue(self._now)
        self._log = SimulatedLog(self._now, self.webhooks, self._notify)
        self._webhook_lists = SimulatedWebhookLists(self.webhooks)
        self._tables = Tables(self._now, seed, self._commit)
        self._accounts = SimulatedAccounts(self._tables)
        self.create_account()
        for currency, value in (("BTC", "43000.00"), ("ETH", "2300.00"), ("EUR", "1.08")):
            self.set_price(currency, Decimal(value))

    # As the server sees it: trio_ws.database.gateway.Database

    async def watch(self, wake: Wake) -> None:
        """Notify and work on batches until cancelled."""
        self._watchers[wake] = None
        try:
            async with trio.open_nursery() as nursery:
                self._start_batches(nursery)
        finally:
            del self._watchers[wake]

    async def _run_together(
        self,
        query: Callable[..., T],
        lane: Lane,  # noqa: ARG002 - none is ever busy
        many: Sequence[tuple[Any, ...]],
    ) -> list[T | Exception]:
        await trio.lowlevel.checkpoint_if_cancelled()  # as before a thread is begun
        await trio.lowlevel.cancel_shielded_checkpoint()  # a thread can't be cancelled either
        seconds = self.delay + sum(cost(query, many) for cost in self.costs)
        if self.gate is not None or seconds:
            with trio.CancelScope(shield=True):
                if self.gate is not None:
                    await self.gate.wait()
                if seconds:
                    await trio.sleep(min(seconds, self.statement_seconds))
        if self.away:
            raise Outage("The database can't be reached")
        if self.only_reads and query in WRITES:
            raise Outage("The database failed; whether this was done is not known")
        if seconds > self.statement_seconds:
            raise Timeout("The database took too long")
        outcomes = [await self._wait_for_answer(query, args) for args in many]
        if self.answer_seconds:
            with trio.CancelScope(shield=True):
                await trio.sleep(self._own.uniform(0, self.answer_seconds))
        if self.lose_answers:
            raise Outage("The database failed; whether this was done is not known")
        return outcomes

    async def _wait_for_answer(self, query: Callable[..., T], args: Sequence[Any]) -> T | Exception:
        answer = self._answer(query, args)
        if isinstance(answer, LockNotAvailable):
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self.statement_seconds):
                while isinstance(answer, LockNotAvailable):
                    await self._tables.wait_for_locks()
                    answer = self._answer(query, args)
        return Timeout("The database took too long") if isinstance(answer, LockNotAvailable) else answer

    def _answer(self, query: Callable[..., T], args: Sequence[Any]) -> T | Exception:
        try:
            answer: T = self.answers[query](self, *args)
        except Exception as error:  # noqa: BLE001 - who asked gets it
            return error
        return answer

    def _create_invoice(self, action: CreateInvoice) -> Raw:
        if action.account_id not in self._tables.rows.accounts:
            raise NotFound("Account not found")
        key, fingerprint = action.idempotency_key, action.fingerprint()
        columns = {
            "account_id": action.account_id,
            "amount": action.amount,
            "currency": action.currency,
            "memo": action.memo,
            "webhook_url": action.webhook_url,
            "redirect_url": action.redirect_url,
            "address": action.address,
            "expires_at": self._tables.after(action.expires_in_seconds),
            "idempotency_key": key,
            "request_hash": fingerprint,
        }
        try:
            with self._tables.begin() as statement:
                return as_json(statement.insert_invoice(columns))
        except UniqueViolation:
            known = self._tables.rows.unique["invoices_idempotency", (action.account_id, key)]
        invoice = self._tables.rows.invoices[known]
        if invoice.request_hash != fingerprint:
            raise IdempotencyMismatch("The idempotency key stands for another request")
        return as_json(invoice)

    def _fetch_invoice(self, uid: uuid.UUID, owner: int | None) -> Raw:
        return as_json(self._find(uid, owner))

    def _find(self, uid: uuid.UUID, owner: int | None) -> InvoiceRow:
        invoice = self._tables.rows.invoices.get(uid)
        if invoice is None or owner not in (None, invoice.account_id):
            raise NotFound("Invoice not found")
        return invoice

    def _change_status(self, uid: uuid.UUID, status: Status, owner: int | None) -> Raw:
        invoice = self._find(uid, owner)
        overdue = invoice.status == "unpaid" and self._is_due(invoice) and status != "expired"
        is_covered = status == "paid" != invoice.status and invoice.amount_paid >= invoice.amount
        if overdue or not (is_covered or status in MAY_BECOME[invoice.status]):
            raise Conflict(f"The invoice cannot become {status}", f"It is {invoice.status}, or has expired")
        with self._tables.begin() as statement:
            return as_json(statement.update_invoice(uid, {"status": status}))

    def _record_payment(self, uid: uuid.UUID, action: RecordPayment, owner: int | None) -> Raw:
        invoice = self._find(uid, owner)
        if action.currency not in (None, invoice.currency):
            raise InvalidValue(f"Expected {invoice.currency}, the invoice's currency - at `$.currency`")
        known = self._tables.rows.payments.get((invoice.id, action.reference))
        if known is not None and not payment_may_become(known, action.amount, action.status):
            raise Conflict(
                f"The payment cannot become {action.status} over {action.amount}",
                f"It is {known.status} over {known.amount}",
            )
        columns = {"reference": action.reference, "amount": action.amount, "status": action.status}
        with self._tables.begin() as statement:
            return as_json(statement.upsert_payment(uid, columns), invoice)

    def _list_payments(self, uid: uuid.UUID, after: int, most: int, owner: int | None) -> Page:
        invoice = self._find(uid, owner)
        of_it = [one for one in self._tables.rows.payments.values() if one.invoice_id == invoice.id]
        found = sorted((one for one in of_it if one.id > after), key=lambda one: one.id)
        return _page([(one.id, as_json(one, invoice)) for one in found], most)

    def _expire_invoices(self, most: int) -> int:
        if self._first_due > self._now():
            return 0
        unpaid = [one for one in self._tables.rows.invoices.values() if one.status == "unpaid"]
        free = (one for one in unpaid if self._is_due(one) and self._tables.is_free(one.uid))
        overdue = sorted(free, key=_due_at)
        later = (_due_at(one) for one in unpaid if one not in overdue[:most])
        self._first_due = min(later, default=NEVER)
        with self._tables.begin() as statement:
            for invoice in overdue[:most]:
                statement.update_invoice(invoice.uid, {"status": "expired"})
        return len(overdue[:most])

    def _is_due(self, invoice: InvoiceRow) -> bool:
        return _due_at(invoice) <= self._now()

    def _set_price(self, account_id: int, currency: str, base_currency: str, value: Decimal) -> Raw:
        if account_id not in self._tables.rows.accounts:
            raise NotFound("Account not found")
        names = {"account_id": account_id, "currency": currency, "base_currency": base_currency}
        with self._tables.begin() as statement:
            return as_json(statement.upsert_price({**names, "value": value}, is_said_again=True))

    def _read_snapshot(self, topic: Topic, owner: int | None) -> Snapshot:
        if topic.type == "invoice":
            of_it = [one for one in self._tables.rows.invoices.values() if str(one.uid) == topic.id]
            found = [as_json(one) for one in of_it if owner in (None, one.account_id)]
            return Snapshot(self._log.end, found[0] if found else Raw(b"null"))
        wanted = InvoiceFilter(owner, topic.id, queries.OPEN)
        if topic.type == "account":
            wanted = InvoiceFilter(topic.account_id, None, queries.OPEN)
        page = self._list_invoices(wanted)
        return Snapshot(self._log.end, page.items, page.next)

    def _list_invoices(self, wanted: InvoiceFilter) -> Page:
        found = [
            one
            for one in sorted(self._tables.rows.invoices.values(), key=lambda one: -one.id)
            if wanted.account_id in (None, one.account_id)
            and wanted.address in (None, one.address)
            and (wanted.statuses is None or one.status in wanted.statuses)
            and (wanted.before is None or one.id < wanted.before)
            and (wanted.memo is None or wanted.memo.lower() in (one.memo or "").lower())
        ]
        return _page([(one.id, as_json(one)) for one in found[: wanted.most + 1]], wanted.most)

    def _read_prices(self, after: int, most: int, known: int = 0) -> PricePart:
        found = [price for price in self._prices() if price.id > after]
        last = found[most - 1].id if len(found) >= most else None
        prices = [as_json(price) for price in found[:most]]
        return PricePart(self._log.end, self._log.name_of(known), prices, last)

    def _prices(self) -> list[PriceRow]:
        there = [price for price in self._tables.rows.prices.values() if price is not None]
        return sorted(there, key=lambda price: price.id)

    def _read_history(self, uid: uuid.UUID, after: int, most: int, owner: int | None) -> History:
        return self._log.history(str(self._find(uid, owner).uid), after, most)

    answers: dict[Callable[..., Any], Callable[..., Any]] = {  # noqa: RUF012 - a constant table
        queries.create_invoice: _create_invoice,
        queries.fetch_invoice: _fetch_invoice,
        queries.change_status: _change_status,
        expiry.expire_invoices: _expire_invoices,
        queries.set_price: _set_price,
        payments.record_payment: _record_payment,
        payments.list_payments: _list_payments,
        queries.read_snapshot: _read_snapshot,
        queries.list_invoices: _list_invoices,
        queries.read_prices: _read_prices,
        **{query: _by("_log", query) for query in SimulatedLog.answers},
        event_log.read_history: _read_history,
        **{query: _by("_accounts", query) for query in SimulatedAccounts.answers},
        **{query: _by("webhooks", query) for query in SimulatedQueue.answers},
        **{query: _by("_webhook_lists", query) for query in SimulatedWebhookLists.answers},
    }

    # As other programs read and write it

    def now(self) -> float:
        """Return what time it is, in Unix seconds."""
        return self._now().timestamp()

    def position(self, seq: int) -> Position:
        """Return the position of an event that has a number; 0 is before the first."""
        return self._log.position(seq)

    @property
    def written(self) -> Sequence[Event]:
        """All events in the order of the log, with those that were trimmed, or have no number yet."""
        return self._log.events

    @property
    def numbered(self) -> int:
        """How many of them have a number."""
        return self._log.numbered

    @property
    def first(self) -> int:
        """The number of the first event that is still there."""
        return self._log.trimmed + 1

    @property
    def prices(self) -> Sequence[Raw]:
        """All prices, as the protocol shows them, by id."""
        return [as_json(price) for price in self._prices()]

    @property
    def uids(self) -> Sequence[uuid.UUID]:
        """All invoices, in the order in which they were made."""
        return list(self._tables.rows.invoices)

    def newest(self, most: int) -> Sequence[uuid.UUID]:
        """Return the invoices that were made last, the last one first."""
        return self.uids[: -most - 1 : -1]

    def has_invoice(self, uid: uuid.UUID) -> bool:
        """Return whether there is one with that uid."""
        return uid in self._tables.rows.invoices

    def invoice(self, uid: uuid.UUID) -> Raw:
        """Return an invoice as the protocol shows it."""
        return as_json(self._tables.rows.invoices[uid])

    def has_price(self, currency: str, base_currency: str = "USD") -> bool:
        """Return whether a currency has a price."""
        return self._tables.rows.prices.get((1, currency, base_currency)) is not None

    def price(self, currency: str, base_currency: str = "USD") -> Decimal:
        """Return what one of a currency costs."""
        price = self._tables.rows.prices[1, currency, base_currency]
        assert price is not None  # noqa: S101 - `has_price` says
        return price.value

    def number_events(self, most: int = 1000) -> None:
        """Number what has happened, in this very moment, as a server's tail does."""
        self._log.number(most)

    @property
    def stuck(self) -> set[uuid.UUID]:
        """Invoices that another program's trigger lets nobody change: add some."""
        return self._tables.stuck

    def session(self) -> Session:
        """Return a session for another program, whose transactions others don't see before they are done.

        A transaction in which something is waited for, as by a slow program, lets others go on meanwhile; who
        needs a row that it has changed waits for its end, or is refused: see `Tables.lock`.
        """
        return SimulatedSession(self._tables)

    def _statement(self) -> AbstractContextManager[Transaction]:
        return self._tables.begin()

    def _commit(self, changed: Rows) -> None:
        due = [_due_at(invoice) for invoice in changed.changed_invoices]
        self._first_due = min(self._first_due, *due, NEVER)
        for written in changed.written:
            self._log.append(written)
        if changed.written:
            self._notify()

    def trim(self, seq: int) -> None:
        """Keep only what came after an event, as retention does."""
        self._log.trimmed = seq

    def log_event(self, event: Event) -> None:
        """Append an event that is numbered already, and notify nobody."""
        self._log.append_numbered(event)

    def restore(self, seq: int) -> None:
        """Lose what came after an event, as a restored backup has: its rows, too.

        A payment and what it made of its invoice are of one transaction: they are lost together.
        """
        while seq and self.written[seq - 1].type.startswith("payment."):
            seq -= 1
        self._log.restore(seq)
        self.webhooks.lose(seq)
        latest = {msgspec.json.decode(event.data, type=_Named).uid: event.data for event in self.written}
        invoices = {
            uid: _as_it_was(row, msgspec.json.decode(latest[uid], type=Invoice))
            for uid, row in self._tables.rows.invoices.items()
            if uid in latest
        }
        paid: dict[PaymentKey, PaymentRow] = {}
        prices: dict[PriceKey, PriceRow] = {}
        last_price = 0
        for event in self.written:
            if event.type.startswith("payment."):
                payment = msgspec.json.decode(event.data, type=Payment)
                row = _payment_row(payment, invoices[payment.invoice].id)
                paid[row.invoice_id, row.reference] = row
            elif event.type == "price.updated":
                price = _price_row(msgspec.json.decode(event.data, type=Price))
                prices[price_key(price)] = price
                last_price = max(last_price, price.id)
            elif event.type == "price.deleted":
                gone = msgspec.json.decode(event.data, type=_Numbered).id
                prices = {key: price for key, price in prices.items() if price.id != gone}
        self._tables.restore(invoices, paid, prices, last_price)
        self._first_due = EPOCH

    def unnumber(self, seq: int) -> None:
        """Have events after one wait for their numbers again: a standby had the rows, and not the step.

        They are in another order then, but for those of the same row.
        """
        self._log.unnumber(seq)
        self.webhooks.lose(seq)

    def copy(self, seq: int) -> "SimulatedDatabase":
        """Return another database that has the log up to an event, and goes on by itself."""
        other = copy.copy(self)
        webhooks = self.webhooks.copy()
        tables = self._tables.copy(other._commit)  # noqa: SLF001 - ours
        vars(other).update(
            webhooks=webhooks,
            _webhook_lists=SimulatedWebhookLists(webhooks),
            _accounts=SimulatedAccounts(tables),
            _watchers={},
            _batches=other._open_batches(),  # noqa: SLF001 - ours
            _log=self._log.copy(seq, webhooks, other._notify),  # noqa: SLF001
            _tables=tables,
        )
        return other

    def _notify(self, upto: float = math.inf) -> None:
        if not self.lose_wakes:
            for wake in self._watchers:
                wake(upto)

    def _now(self) -> datetime:
        at = trio.current_time() if self.written_at is None else self.written_at
        return EPOCH + timedelta(seconds=at)


def _due_at(invoice: InvoiceRow) -> datetime:
    return NEVER if invoice.expires_at is None else invoice.expires_at


def _as_it_was(row: InvoiceRow, shown: Invoice) -> InvoiceRow:
    """Return an invoice's row as it was when this was said of it."""
    then = {name: None if value is UNSET else value for name, value in msgspec.structs.asdict(shown).items()}
    sums = {name: then[name] or 0 for name in ("amount_paid", "amount_pending")}
    return msgspec.structs.replace(row, **{**then, **sums})


def _payment_row(shown: Payment, invoice_id: int) -> PaymentRow:
    fields = msgspec.structs.asdict(shown)
    return PaymentRow(
        invoice_id=invoice_id, **{n: fields[n] for n in fields if n not in ("invoice", "account_id")}
    )


def _page(found: Sequence[tuple[int, Raw]], most: int) -> Page:
    """Return the first of what was found, with its id, and where there is more the id of the last one."""
    items: list[bytes] = []
    for _, json in found[:most]:
        if sum(map(len, items)) >= PAGE_BYTES:
            break
        items.append(bytes(json))
    last = found[len(items) - 1][0] if len(items) < len(found) else None
    return Page(Raw(b"[" + b",".join(items) + b"]"), last)


def _price_row(shown: Price) -> PriceRow:
    return PriceRow(**msgspec.structs.asdict(shown), set_at=shown.updated_at)
