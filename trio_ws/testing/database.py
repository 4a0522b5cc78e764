"""A database in memory that answers as PostgreSQL does: one contract suite runs against both.

It obeys: `gate` holds every query back, `away` fails them, `lose_wakes` swallows notifications. Its
clock is trio's, so make it inside of trio; under a mock clock nothing depends on when or where it runs.
"""

import copy
import itertools
import math
import random
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

import msgspec
import trio
from msgspec import UNSET, Raw

from trio_ws import codec
from trio_ws.currencies import in_minor_units
from trio_ws.database import event_log, expiry, queries, tokens
from trio_ws.database.batches import Batches
from trio_ws.database.event_log import LogRead
from trio_ws.database.gateway import Wake
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection, InvoiceFilter, InvoicePage, PricePart, Snapshot
from trio_ws.database.tickets import Ticket
from trio_ws.errors import Conflict, IdempotencyMismatch, NotFound, Outage, Timeout, Unauthorized
from trio_ws.identity import NOBODY, SCOPES, Identity, Scope, hash_token
from trio_ws.messages import (
    NOTHING,
    PAGE_BYTES,
    CreateInvoice,
    Event,
    Invoice,
    Memo,
    Position,
    Price,
    Status,
    Topic,
    Url,
    Word,
)
from trio_ws.testing.webhooks import SimulatedQueue

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

NEVER = datetime.max.replace(tzinfo=UTC)
ADVANCE_BYTES = 7000  # of events that advance() of the schema returns with what it numbered, roughly
NOTIFY_SECONDS = 0.01  # number_events() of the schema notifies no more often
STATEMENT_SECONDS = 2.0  # the server's default
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)  # where its clock starts
NOT_SHOWN = {"version", "updatedAt"}  # they always change, so `previous` leaves them out

MAY_BECOME = {  # the protocol's section 3
    "unpaid": ("confirming", "expired", "cancelled"),
    "confirming": ("paid", "unpaid"),
    "paid": (),
    "expired": (),
    "cancelled": (),
}
LIMITS: dict[str, Any] = {  # where the schema's invoice_fault() has them
    "memo": Memo,
    "address": Word,
    "webhook_url": Url,
    "redirect_url": Url,
    "idempotency_key": Word,
}
UNCHANGEABLE = ("id", "uid", "account_id", "amount", "currency", "created_at")


class CheckViolation(Exception):
    """The error of PostgreSQL's triggers where another program's change is against the rules."""


class _Named(msgspec.Struct):
    uid: uuid.UUID | None = None


class _Numbered(msgspec.Struct):
    id: int


class SimulatedDatabase:
    """Accounts, invoices, prices and the event log.

    Attributes:
        gate: While set to an event, queries wait for it, as for a slow PostgreSQL.
        away: While true, queries fail, as without PostgreSQL.
        only_reads: While true, clients' writes fail, as on a full disk.
        delay: How long each query takes, in seconds; over `statement_seconds` it fails, and is undone.
        lose_answers: While true, queries are done, and then fail, as where the connection is lost.
        lose_wakes: While true, notifications do not arrive.
        stuck: Invoices that another program's trigger lets nobody change.
        webhooks: The queue of what is to be POSTed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.gate: trio.Event | None = None
        self.away = False
        self.only_reads = False
        self.delay = 0.0
        self.statement_seconds = STATEMENT_SECONDS
        self.lose_answers = False
        self.lose_wakes = False
        self.stuck: set[uuid.UUID] = set()
        self._random = random.Random(seed)
        self._accounts = {1}
        self._invoices: dict[uuid.UUID, Invoice] = {}
        self._prices: dict[tuple[int, str, str], Price] = {}
        self._last_price = 0
        self._keys: dict[tuple[int, str | None], tuple[uuid.UUID, bytes | None]] = {}
        self._tokens: dict[bytes, tuple[Identity, datetime | None]] = {}
        self._events: list[Event] = []
        self._webhook_ids: dict[int, str] = {}  # of events that are to be POSTed
        self._numbered = 0
        self._trimmed = 0
        self._steps = 0  # that have numbered events, those that a restore has lost included
        self._life = "step"  # what they are called by: a copy goes on with other ones
        self._notified = 0
        self._notified_at = -math.inf
        self._first_due = NEVER  # or earlier: before it, nothing expires
        self._watchers: dict[Wake, None] = {}
        self._batches = self._open_batches()
        self.webhooks = SimulatedQueue(self._now)
        for currency, value in (("BTC", "43000.00"), ("ETH", "2300.00"), ("EUR", "1.08")):
            self.set_price(currency, Decimal(value))

    # As the server sees it: trio_ws.database.gateway.Database

    async def run(
        self,
        query: Callable[[Connection, *Arguments], T],
        *args: *Arguments,
        lane: Lane = Lane.CLIENTS,  # noqa: ARG002 - none is ever busy
    ) -> T:
        """Answer the query as PostgreSQL would."""
        (outcome,) = await self._run_together(query, [args])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def ask(self, query: Callable[[Connection, *Arguments], T], *args: *Arguments) -> Ticket[T]:
        """Answer it with others like it, as the real one does."""
        return self._batches[query].ask(*args)

    async def watch(self, wake: Wake) -> None:
        """Notify and work on batches until cancelled."""
        self._watchers[wake] = None
        try:
            async with trio.open_nursery() as nursery:
                for batches in self._batches.values():
                    nursery.start_soon(batches.work)
        finally:
            del self._watchers[wake]

    def _open_batches(self) -> dict[Callable[..., Any], Batches]:
        return {  # what waits has all the time
            query: Batches(
                query.__name__, partial(self._run_together, query), partial(self.run, query), math.inf
            )
            for query in queries.TOGETHER
        }

    async def _run_together(
        self, query: Callable[[Connection, *Arguments], T], many: Sequence[tuple[*Arguments]]
    ) -> list[T | Exception]:
        """Return what comes of each, one after the other, in one statement."""
        await trio.lowlevel.cancel_shielded_checkpoint()  # a thread can't be cancelled either
        if self.gate is not None or self.delay:
            with trio.CancelScope(shield=True):
                if self.gate is not None:
                    await self.gate.wait()
                if self.delay:
                    await trio.sleep(min(self.delay, self.statement_seconds))
        if self.away:
            raise Outage("The database can't be reached")
        if self.only_reads and query in queries.WRITES:
            raise Outage("The database failed; whether this was done is not known")
        if self.delay > self.statement_seconds:
            raise Timeout("The database took too long")
        outcomes = [self._answer(query, args) for args in many]
        if self.lose_answers:
            raise Outage("The database failed; whether this was done is not known")
        return outcomes

    def _answer(self, query: Callable[..., T], args: Sequence[Any]) -> T | Exception:
        answer: T
        try:
            if query in SimulatedQueue.answers:
                answer = SimulatedQueue.answers[query](self.webhooks, *args)
            else:
                answer = self.answers[query](self, *args)
        except Exception as error:  # noqa: BLE001 - who asked gets it
            return error
        return answer

    def _create_invoice(self, action: CreateInvoice) -> Raw:
        return self._insert_invoice(action)

    def _fetch_invoice(self, uid: uuid.UUID, owner: int | None) -> Raw:
        return _json(self._find(uid, owner))

    def _find(self, uid: uuid.UUID, owner: int | None) -> Invoice:
        invoice = self._invoices.get(uid)
        if invoice is None or owner not in (None, invoice.account_id):
            raise NotFound("Invoice not found")
        return invoice

    def _change_status(self, uid: uuid.UUID, status: Status, owner: int | None) -> Raw:
        invoice = self._find(uid, owner)
        overdue = invoice.status == "unpaid" and self._is_due(invoice) and status != "expired"
        if overdue or status not in MAY_BECOME[invoice.status]:
            raise Conflict(f"The invoice cannot become {status}", f"It is {invoice.status}, or has expired")
        return self._update(uid, status=status)

    def _expire_invoices(self, most: int) -> int:
        if self._first_due > self._now():
            return 0
        unpaid = [one for one in self._invoices.values() if one.status == "unpaid"]
        free = (one for one in unpaid if self._is_due(one) and one.uid not in self.stuck)
        overdue = sorted(free, key=_due_at)
        later = (_due_at(one) for one in unpaid if one not in overdue[:most])
        self._first_due = min(later, default=NEVER)
        for invoice in overdue[:most]:
            self._update(invoice.uid, status="expired")
        return len(overdue[:most])

    def _is_due(self, invoice: Invoice) -> bool:
        return _due_at(invoice) <= self._now()

    def _set_price(self, account_id: int, currency: str, base_currency: str, value: Decimal) -> Raw:
        if account_id not in self._accounts:
            raise NotFound("Account not found")
        return _json(self._upsert_price(account_id, currency, base_currency, value, is_said_again=True))

    def _read_position(self) -> Position:
        return self.position(self._numbered)

    def _start_log(self) -> LogRead:
        return self._read_events(0, 0)

    def _read_snapshot(self, topic: Topic, owner: int | None) -> Snapshot:
        if topic.type == "invoice":
            of_it = [one for one in self._invoices.values() if str(one.uid) == topic.id]
            found = [_json(one) for one in of_it if owner in (None, one.account_id)]
            return Snapshot(self._read_position(), found[0] if found else Raw(b"null"))
        wanted = InvoiceFilter(owner, topic.id, queries.OPEN)
        if topic.type == "account":
            wanted = InvoiceFilter(int(topic.id), None, queries.OPEN)
        page = self._list_invoices(wanted)
        return Snapshot(self._read_position(), page.items, page.next)

    def _list_invoices(self, wanted: InvoiceFilter) -> InvoicePage:
        found = [
            one
            for one in sorted(self._invoices.values(), key=lambda one: -one.id)
            if wanted.account_id in (None, one.account_id)
            and wanted.address in (None, one.address)
            and (wanted.statuses is None or one.status in wanted.statuses)
            and (wanted.before is None or one.id < wanted.before)
        ]
        items: list[bytes] = []
        for one in found[: wanted.most]:
            if sum(map(len, items)) >= PAGE_BYTES:
                break
            items.append(bytes(_json(one)))
        last = found[len(items) - 1].id if len(items) < len(found) else None
        return InvoicePage(Raw(b"[" + b",".join(items) + b"]"), last)

    def _read_prices(self, after: int, most: int, known: int = 0) -> PricePart:
        found = sorted((price for price in self._prices.values() if price.id > after), key=lambda one: one.id)
        last = found[most - 1].id if len(found) >= most else None
        return PricePart(
            self._read_position(), self._name_of(known), [_json(price) for price in found[:most]], last
        )

    def _name_of(self, seq: int) -> str | None:
        return self.position(seq).name if self._trimmed <= seq <= self._numbered else None

    def _number_events(self, most: int, read_upto: int | None = None) -> None:  # noqa: ARG002 - none is slow
        before, self._numbered = self._numbered, min(len(self._events), self._numbered + most)
        self._steps += before < self._numbered
        for place in range(before, self._numbered):
            self._events[place] = msgspec.structs.replace(
                self._events[place], name=f"{self._life}{self._steps}"
            )
            if place + 1 in self._webhook_ids:
                self.webhooks.add(self._webhook_ids[place + 1], self._events[place])
        if self._numbered > self._notified and trio.current_time() >= self._notified_at + NOTIFY_SECONDS:
            self._notified, self._notified_at = self._numbered, trio.current_time()
            self._notify(self._notified)

    def _read_events(self, after: int, most: int, known: Position | None = None) -> LogRead:
        start = max(after, self._trimmed)
        events = self._events[start : min(self._numbered, start + most)]
        is_told = self._notified >= self._numbered
        has_more = self._numbered < len(self._events)
        now = self._now().timestamp()
        known_as = self._name_of(after if known is None else known.seq)
        begin, end = self.position(self._trimmed), self._read_position()
        return LogRead(begin, end, known_as, events, now, is_told, has_more)

    def _find_events(
        self, after: int, topics: Sequence[str], scan: int, most: int, known: Position
    ) -> LogRead:
        read = self._read_events(after, scan, known)
        events = [event for event in read.events if {*topics} & {*event.topics}]
        return read._replace(events=events[:most])

    def _advance(self, after: int, most: int) -> LogRead:
        self.answers[event_log.number_events](self, most)
        read: LogRead = self.answers[event_log.read_events](self, after, most)
        is_large = sum(len(bytes(event.data)) for event in read.events) > ADVANCE_BYTES
        return read._replace(events=[]) if is_large else read

    def _number(self, after: int, most: int) -> LogRead:
        return self._advance(after, most)._replace(events=[])

    def _trim_events(self, age_seconds: float, most: int) -> int:
        oldest = self._events[self._trimmed : min(self._numbered, self._trimmed + most)]
        before = self._now().timestamp() - age_seconds
        upto = max((event.seq for event in oldest if event.at < before), default=self._trimmed)
        trimmed, self._trimmed = upto - self._trimmed, upto
        return trimmed

    def _identify(self, digest: bytes) -> Identity:
        identity, expires_at = self._tokens.get(digest, (NOBODY, None))
        now = self._now()
        if identity is NOBODY or (expires_at is not None and expires_at <= now):
            raise Unauthorized("The token is unknown, expired or revoked")
        left = None if expires_at is None else (expires_at - now).total_seconds()
        return msgspec.structs.replace(identity, seconds_left=left)

    def _find_ended(self, held: Sequence[Identity]) -> list[Identity]:
        good = {identity for identity, _ in self._tokens.values()}
        return [identity for identity in held if identity not in good]

    answers: dict[Callable[..., Any], Callable[..., Any]] = {  # noqa: RUF012 - a constant table
        queries.create_invoice: _create_invoice,
        queries.fetch_invoice: _fetch_invoice,
        queries.change_status: _change_status,
        expiry.expire_invoices: _expire_invoices,
        queries.set_price: _set_price,
        tokens.identify: _identify,
        tokens.find_ended: _find_ended,
        event_log.read_position: _read_position,
        event_log.start_log: _start_log,
        queries.read_snapshot: _read_snapshot,
        queries.list_invoices: _list_invoices,
        queries.read_prices: _read_prices,
        event_log.number_events: _number_events,
        event_log.read_events: _read_events,
        event_log.find_events: _find_events,
        event_log.advance: _advance,
        event_log.number: _number,
        event_log.trim_events: _trim_events,
    }

    # As other programs read and write it

    def now(self) -> float:
        """Return what time it is, in Unix seconds."""
        return self._now().timestamp()

    def position(self, seq: int) -> Position:
        """Return the position of an event that has a number; 0 is before the first."""
        return self._events[seq - 1].position if seq else Position("origin", 0)

    @property
    def written(self) -> Sequence[Event]:
        """All events in the order of the log, with those that were trimmed, or have no number yet."""
        return self._events

    @property
    def numbered(self) -> int:
        """How many of them have a number."""
        return self._numbered

    @property
    def first(self) -> int:
        """The number of the first event that is still there."""
        return self._trimmed + 1

    @property
    def prices(self) -> Sequence[Raw]:
        """All prices, as the protocol shows them, by id."""
        return [_json(price) for price in sorted(self._prices.values(), key=lambda one: one.id)]

    @property
    def uids(self) -> Sequence[uuid.UUID]:
        """All invoices, in the order in which they were made."""
        return list(self._invoices)

    def newest(self, most: int) -> Sequence[uuid.UUID]:
        """Return the invoices that were made last, the last one first."""
        return list(itertools.islice(reversed(self._invoices), most))

    def has_invoice(self, uid: uuid.UUID) -> bool:
        """Tell whether there is one with that uid."""
        return uid in self._invoices

    def invoice(self, uid: uuid.UUID) -> Raw:
        """Return an invoice as the protocol shows it."""
        return _json(self._invoices[uid])

    def has_price(self, currency: str, base_currency: str = "USD") -> bool:
        """Tell whether a currency has a price."""
        return (1, currency, base_currency) in self._prices

    def create_account(self) -> int:
        """Insert an account, and return its id."""
        self._accounts.add(len(self._accounts) + 1)
        return len(self._accounts)

    def price(self, currency: str, base_currency: str = "USD") -> Decimal:
        """Return what one of a currency costs."""
        return self._prices[1, currency, base_currency].value

    def create_token(
        self, account_id: int = 1, scopes: Sequence[Scope] = SCOPES, seconds: float | None = None
    ) -> str:
        """Insert a token, and return it."""
        token = f"token-{len(self._tokens) + 1}"
        expires_at = None if seconds is None else self._now() + timedelta(seconds=seconds)
        identity = Identity(
            token_id=len(self._tokens) + 1,
            account_id=account_id,
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            expires_at=None if expires_at is None else expires_at.isoformat(timespec="microseconds"),
        )
        self._tokens[hash_token(token)] = identity, expires_at
        return token

    def revoke_token(self, token: str) -> None:
        """Have a token be good no more."""
        identity, _ = self._tokens[hash_token(token)]
        self._tokens[hash_token(token)] = NOBODY, None
        self._note("token.changed", f"token:{identity.token_id}", identity.token_id)
        self._notify()

    def trim(self, seq: int) -> None:
        """Keep only what came after an event, as retention does."""
        self._trimmed = seq

    def log_event(self, event: Event) -> None:
        """Append an event that is numbered already, and notify nobody."""
        self._lose(event.seq - 1)
        self._steps += 1
        self._events.append(msgspec.structs.replace(event, name=f"{self._life}{self._steps}"))
        self._numbered = event.seq

    def restore(self, seq: int) -> None:
        """Lose what came after an event, as a restored backup has: its rows, too."""
        self._lose(seq)
        self._numbered = seq
        self._notified = min(self._notified, seq)
        self._trimmed = min(self._trimmed, seq)
        latest = {str(msgspec.json.decode(event.data, type=_Named).uid): event.data for event in self._events}
        self._invoices = {
            uid: msgspec.json.decode(latest[str(uid)], type=Invoice)
            for uid in self._invoices
            if str(uid) in latest
        }
        self._prices, self._last_price = {}, 0
        for event in self._events:
            if event.type == "price.updated":
                price = msgspec.json.decode(event.data, type=Price)
                self._prices[price.account_id, price.currency, price.base_currency] = price
                self._last_price = max(self._last_price, price.id)
            elif event.type == "price.deleted":
                gone = msgspec.json.decode(event.data, type=_Numbered).id
                self._prices = {key: price for key, price in self._prices.items() if price.id != gone}
        self._first_due = EPOCH
        self._keys = {key: made for key, made in self._keys.items() if made[0] in self._invoices}

    def copy(self, seq: int) -> "SimulatedDatabase":
        """Return another database that has the log up to an event, and goes on by itself."""
        other = copy.copy(self)
        containers = {name: value for name, value in vars(self).items() if isinstance(value, dict | set)}
        vars(other).update(
            {name: value.copy() for name, value in containers.items()},
            webhooks=SimulatedQueue(self._now),
            _events=self._events[:seq],
            _numbered=seq,
            _trimmed=min(self._trimmed, seq),
            _life=f"{self._life}'",
            _watchers={},
            _batches=other._open_batches(),  # noqa: SLF001 - ours
        )
        return other

    def _lose(self, seq: int) -> None:
        del self._events[seq:]
        self._webhook_ids = {number: id_ for number, id_ in self._webhook_ids.items() if number <= seq}

    def create_invoice(self, **fields: Any) -> uuid.UUID:
        """Insert an invoice, and return its uid.

        Raises:
            CheckViolation: a value is over its limit.
        """
        _refuse_faults(fields)
        invoice = self._insert_invoice(CreateInvoice(**fields))
        self._notify()
        return msgspec.json.decode(invoice, type=Invoice).uid

    def update_invoice(self, uid: uuid.UUID, **changes: Any) -> None:
        """Change an invoice.

        Raises:
            CheckViolation: what changes may not.
        """
        if uid in self.stuck:
            raise CheckViolation("a trigger of another program")
        old = self._invoices[uid]
        _refuse_faults({name: value for name, value in changes.items() if value != getattr(old, name)})
        status = changes.get("status", old.status)
        if status != old.status and status not in MAY_BECOME[old.status]:
            raise CheckViolation(f"invoice {old.id} is {old.status} and cannot become {status}")
        if any(getattr(old, name) != changes.get(name, getattr(old, name)) for name in UNCHANGEABLE):
            raise CheckViolation(
                f"only the status, memo, address, URLs and time to pay of invoice {old.id} can change"
            )
        self._update(uid, **{name: UNSET if value is None else value for name, value in changes.items()})
        self._notify()

    def set_price(self, currency: str, value: Decimal, base_currency: str = "USD") -> None:
        """Insert or change a price."""
        self._upsert_price(1, currency, base_currency, value)
        self._notify()

    def delete_price(self, currency: str, base_currency: str = "USD") -> None:
        """Delete a price."""
        price = self._prices.pop((1, currency, base_currency))
        self._note("price.deleted", "prices", price.id)
        self._notify()

    # What triggers do

    def _upsert_price(
        self,
        account_id: int,
        currency: str,
        base_currency: str,
        value: Decimal,
        *,
        is_said_again: bool = False,
    ) -> Price:
        old = self._prices.get((account_id, currency, base_currency))
        if old and old.value == value and not is_said_again:
            return old
        self._last_price += not old
        new = Price(
            id=old.id if old else self._last_price,
            currency=currency,
            amount=in_minor_units(value, base_currency),
            account_id=account_id,
            created_at=old.created_at if old else self._now(),
            updated_at=self._now(),
            base_currency=base_currency,
            value=value,
        )
        self._prices[account_id, currency, base_currency] = new
        self._log("price.updated", (f"price:{currency}", "price:*", f"account:{account_id}"), old, new)
        return new

    def _update(self, uid: uuid.UUID, **changes: Any) -> Raw:
        old = self._invoices[uid]
        new = msgspec.structs.replace(old, **changes)
        if new != old:
            new.version += 1
            new.updated_at = self._now()
            self._invoices[uid] = new
            self._first_due = min(self._first_due, _due_at(new))
            topics = dict.fromkeys((*_invoice_topics(new), *_invoice_topics(old)))
            self._log("invoice.updated", tuple(topics), old, new)
        return _json(new)

    def _insert_invoice(self, action: CreateInvoice) -> Raw:
        if action.account_id is UNSET or action.account_id not in self._accounts:
            raise NotFound("Account not found")
        key = (action.account_id, action.idempotency_key)
        if action.idempotency_key is not None and key in self._keys:
            uid, fingerprint = self._keys[key]
            if fingerprint != action.fingerprint():
                raise IdempotencyMismatch("The idempotency key stands for another request")
            return _json(self._invoices[uid])
        now = self._now()
        invoice = Invoice(
            id=len(self._invoices) + 1,
            uid=self._new_uuid(),
            amount=action.amount,
            currency=action.currency,
            status="unpaid",
            account_id=action.account_id,
            created_at=now,
            updated_at=now,
            memo=UNSET if action.memo is None else action.memo,
            webhook_url=UNSET if action.webhook_url is None else action.webhook_url,
            redirect_url=UNSET if action.redirect_url is None else action.redirect_url,
            address=UNSET if action.address is None else action.address,
            expires_at=UNSET
            if action.expires_in_seconds is None
            else now + timedelta(seconds=action.expires_in_seconds),
            version=1,
        )
        self._invoices[invoice.uid] = invoice
        self._first_due = min(self._first_due, _due_at(invoice))
        self._keys[key] = invoice.uid, action.fingerprint()
        self._log("invoice.created", _invoice_topics(invoice), None, invoice)
        return _json(invoice)

    def _log(
        self, type_: str, topics: tuple[str, ...], old: Invoice | Price | None, new: Invoice | Price
    ) -> None:
        previous = NOTHING
        if old is not None:
            before, after = _wire(old), _wire(new)
            names = dict.fromkeys((*before, *after))
            changed = [name for name in names if before.get(name) != after.get(name)]
            shown = {name: before.get(name) for name in changed if name not in NOT_SHOWN}
            previous = Raw(codec.encode(shown))
        at = self._now().timestamp()
        seq = len(self._events) + 1
        self._events.append(Event(seq, type_, topics, _json(new), previous, at))
        if isinstance(new, Invoice) and new.webhook_url is not UNSET:
            self._webhook_ids[seq] = str(self._new_uuid())

    def _new_uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self._random.getrandbits(128), version=4)

    def _note(self, type_: str, topic: str, row: int | None) -> None:
        data, at = Raw(codec.encode({"id": row})), self._now().timestamp()
        self._events.append(Event(len(self._events) + 1, type_, (topic,), data, NOTHING, at))

    def _notify(self, upto: float = math.inf) -> None:
        if not self.lose_wakes:
            for wake in self._watchers:
                wake(upto)

    def _now(self) -> datetime:
        return EPOCH + timedelta(seconds=trio.current_time())


def _refuse_faults(values: dict[str, Any]) -> None:
    """Raise CheckViolation where one is over the protocol's limit: see the schema's refuse()."""
    for name, value in values.items():
        if name in LIMITS and value is not None:
            try:
                msgspec.convert(value, LIMITS[name])
            except msgspec.ValidationError as error:
                raise CheckViolation(f"{name}: {error}") from None


def _invoice_topics(invoice: Invoice) -> tuple[str, ...]:
    topics = (f"invoice:{invoice.uid}", f"account:{invoice.account_id}")
    return topics if invoice.address is UNSET else (*topics, f"address:{invoice.address}")


def _due_at(invoice: Invoice) -> datetime:
    return NEVER if invoice.expires_at is UNSET else invoice.expires_at


def _json(row: Invoice | Price) -> Raw:
    return Raw(codec.encode(_wire(row)))


def _wire(row: Invoice | Price) -> dict[str, object]:
    """Return the row's fields as they go on the wire; times are RFC 3339 in UTC, six digits.

    What a price is goes as its digits: PostgreSQL writes no exponents.
    """
    fields: dict[str, object] = msgspec.to_builtins(row, builtin_types=(Decimal, datetime))
    for name, value in fields.items():
        if isinstance(value, datetime):
            fields[name] = value.astimezone(UTC).isoformat(timespec="microseconds")
        elif isinstance(value, Decimal):
            fields[name] = Raw(f"{value:f}".encode())
    return fields
