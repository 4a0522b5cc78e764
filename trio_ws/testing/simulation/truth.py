"""What is true of a run, whatever the server says: the event log as the database has it, log after log.

The invariants of RELIABILITY: each event once, whole, in the order of the log, nothing left out in silence,
nothing that was not asked for, and soon.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from trio_ws.database.queries import OPEN
from trio_ws.testing.database import SimulatedDatabase
from trio_ws.topics import Event, Position

EXPIRY_SECONDS = 60.0  # in calm times an invoice that is overdue has expired within it


class Violation(Exception):
    """The server did what it may never do."""


class Told(msgspec.Struct):
    """An event or a reply, as a client gets it."""

    type: str = ""
    status: str = ""
    request_id: int | None = None
    message: str = ""
    code: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")
    previous: msgspec.Raw = msgspec.Raw(b"null")
    position: str = ""
    next: str | None = None

    @property
    def shown(self) -> "Shown":
        """What it says, where it is an event."""
        return Shown(self.type, bytes(self.data), bytes(self.previous))


class Row(msgspec.Struct):
    """What there is to know of an invoice or a price."""

    id: int = 0
    uid: str = ""
    version: int = 0
    status: str = ""
    memo: str = ""
    amount_paid: int = 0
    expires_at: datetime | None = msgspec.field(name="expiresAt", default=None)


HIDDEN = ("account_id", "memo", "reference", "webhook_url")  # PROTOCOL 7: from customers
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class View:
    """What a client may see.

    Args:
        account: Whose events and invoices alone; None: all.
        is_customer: Whether it has no token, and sees of an invoice what a customer may.
    """

    def __init__(self, account: int | None = None, *, is_customer: bool = False) -> None:
        self.account = account
        self.is_customer = is_customer
        self._topic = None if account is None else f"account:{account}"

    def has(self, event: Event) -> bool:
        """Return whether it is shown an event at all."""
        return event.is_visible_to(self._topic)

    def row(self, row: bytes) -> bytes:
        """Return an invoice or a payment, or what was before of one, as it is shown."""
        if not self.is_customer or row == b"null":
            return row
        fields = _fields.decode(row)
        return msgspec.json.encode({name: fields[name] for name in fields if name not in HIDDEN})

    def event(self, event: Event) -> "Shown":
        """Return an event as it is shown."""
        return Shown(event.type, self.row(bytes(event.data)), self.row(bytes(event.previous)))


EVERYTHING = View()


class Shown(NamedTuple):
    """What an event says."""

    type: str
    data: bytes
    previous: bytes


class Truth:
    """The logs that there were and the one that there is.

    Args:
        database: The run's; another one may take its place.
    """

    def __init__(self, database: SimulatedDatabase) -> None:
        self.database = database
        self._past: list[list[Event]] = []

    @property
    def end(self) -> int:
        """The number of the last event, or the one that it will have."""
        return len(self.database.written)

    def check_what_is_stored(self) -> None:
        """Raise unless each invoice was made once, and has expired if it was to."""
        made: set[str] = set()
        paid: dict[str, dict[str, int]] = {}  # by invoice, what each settled payment comes to
        for event in self.database.written:
            if event.type.startswith("payment."):
                payment = msgspec.json.decode(event.data, type=_Payment)
                settled = payment.amount if payment.status == "settled" else 0
                paid.setdefault(payment.invoice, {})[payment.reference] = settled
            if event.type == "invoice.created" and (memo := msgspec.json.decode(event.data, type=Row).memo):
                if memo in made:
                    raise Violation(f"{memo} was made twice")
                made.add(memo)
            if event.type == "invoice.updated":
                row = msgspec.json.decode(event.data, type=Row)
                if row.amount_paid != (due := sum(paid.get(row.uid, {}).values())):
                    raise Violation(f"{row.uid} was paid {due}, and shows {row.amount_paid}")
                if row.status == "expired" and not _is_due(row, event.at):
                    raise Violation(f"{row.uid} expired before its time")
        for uid in self.database.uids:
            row = msgspec.json.decode(self.database.invoice(uid), type=Row)
            overdue = 0.0 if row.expires_at is None else self.database.now() - row.expires_at.timestamp()
            if row.status == "unpaid" and overdue > EXPIRY_SECONDS:
                raise Violation(f"invoice {uid} is overdue since {overdue:.1f} s, and has not expired")

    @property
    def first(self) -> int:
        """The number of the first event that is still there."""
        return self.database.first

    def keep(self) -> None:
        """Keep the log that is about to be lost."""
        self._past.append(list(self.database.written))

    @property
    def events(self) -> Sequence[Event]:
        """All events of the log that there is."""
        return self.database.written

    def has(self, position: Position) -> bool:
        """Return whether a position is in the log that there is."""
        return _has(self.database.written, position)

    def had_price(self, currency: str, amount: int, since: str) -> bool:
        """Return whether a currency cost so much, in minor units, from some moment on."""
        parts = f'"currency":"{currency}","amount":{amount},'.encode(), f'"updatedAt":"{since}"'.encode()
        logs = [self.database.written, *self._past]
        return any(all(part in bytes(event.data) for part in parts) for log in logs for event in log)

    def was_said(self, told: bytes) -> bool:
        """Return whether an event says a row is so, in the log that there is or one that is no more."""
        return self.was(told) or any(bytes(event.data) == told for event in reversed(self.database.written))

    def was(self, told: bytes, view: View = EVERYTHING) -> bool:
        """Return whether a row was so in a log that is no more."""
        return any(view.row(bytes(event.data)) == told for log in self._past for event in log)

    @property
    def changes(self) -> int:
        """How often the log was replaced."""
        return len(self._past)

    def log_of(self, *positions: Position) -> Sequence[Event] | None:
        """Return all events of the log that has, or had, all of these; None: there was no such one."""
        logs = [self.database.written, *reversed(self._past)]
        return next((log for log in logs if all(_has(log, position) for position in positions)), None)

    def check_snapshot(self, topic: str, at: Position, told: bytes, view: View, *, is_whole: bool) -> None:
        """Raise unless a snapshot is what the log says, up to its position or a little further.

        Args:
            topic: Of what.
            at: Its position.
            told: An invoice, or a list of invoices or of prices.
            view: What the client may see.
            is_whole: Whether nothing was left for another page, or has been lost.
        """
        if (log := self.log_of(at)) is None:
            return
        then: dict[int, Event] = {}  # the last of each row, up to the position
        later: dict[int, list[bytes]] = {}
        kind = "price." if topic.startswith("price:") else "invoice."
        for event in log[self.first - 1 :]:
            if topic in event.topics and event.type.startswith(kind) and view.has(event):
                row = msgspec.json.decode(event.data, type=Row)
                if event.seq <= at.seq:
                    then[row.id] = event
                else:
                    later.setdefault(row.id, []).append(view.row(bytes(event.data)))
        rows = [] if told == b"null" else [told]
        if told.startswith(b"["):
            rows = [bytes(row) for row in msgspec.json.decode(told, type=list[msgspec.Raw])]
        for data in rows:
            if kind == "invoice." and view.account not in (None, _owner(data)):
                raise Violation(f"{topic} is shown to account {view.account} with {data!r}")
            if view.row(data) != data:
                raise Violation(f"{topic} is shown to a customer with {data!r}")
            id_ = msgspec.json.decode(data, type=Row).id
            if id_ in then and data not in (view.row(bytes(then[id_].data)), *later.get(id_, ())):
                raise Violation(f"{topic} is shown at {at} as {data!r}, and was {bytes(then[id_].data)!r}")
        prices = [event for event in then.values() if event.type == "price.updated"]
        latest = {_rate(event).pair: event for event in sorted(prices, key=lambda event: _rate(event).order)}
        there = {msgspec.json.decode(data, type=Row).id for data in rows}
        for id_, event in then.items():
            row = msgspec.json.decode(event.data, type=Row)
            is_due = topic.startswith("invoice:") or (kind == "invoice." and row.status in OPEN)
            is_due = is_due or (event.type == "price.updated" and event is latest[_rate(event).pair])
            if is_whole and is_due and id_ not in there | {*later}:
                raise Violation(f"{topic} is shown at {at} without {bytes(event.data)!r}")


class _Payment(msgspec.Struct):
    invoice: str
    reference: str
    amount: int
    status: str


class _Owned(msgspec.Struct):
    account_id: int | None = None


def _owner(invoice: bytes) -> int | None:
    return msgspec.json.decode(invoice, type=_Owned).account_id


def _is_due(row: Row, at: float) -> bool:
    return row.expires_at is not None and row.expires_at.timestamp() <= at


class _Rate(NamedTuple):
    pair: tuple[str, str]
    order: tuple[str, bytes]  # as `Asking` has it: the latest of a pair is the last


def _rate(event: Event) -> _Rate:
    price = msgspec.json.decode(event.data, type=_Price)
    return _Rate((price.currency, price.base_currency), (price.updated_at, bytes(event.data)))


class _Price(msgspec.Struct):
    currency: str
    base_currency: str
    updated_at: str = msgspec.field(name="updatedAt")


def _has(log: Sequence[Event], position: Position) -> bool:
    if position.seq == 0:
        return position.name == "origin"
    return position.seq <= len(log) and log[position.seq - 1].name == position.name
