"""All prices, in memory, kept right by the event log: reading and converting them costs no query.

The first who asks has them read, from a snapshot; what the log tells from there on is put on top of it.
"""

from decimal import Decimal
from functools import cached_property

import msgspec
import trio
from msgspec import Raw

from trio_ws.currencies import Rates
from trio_ws.database import queries
from trio_ws.database.gateway import Database
from trio_ws.database.lanes import Lane
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.messages import Event, Topic

EVERY_PRICE = Topic("price", "*")
DELETED = "prices"  # the topic of prices that go away, which clients can't follow


class _Price(msgspec.Struct, rename="camel"):
    """What has to be known of a PRICE."""

    id: int
    currency: str
    account_id: int = msgspec.field(name="account_id")
    updated_at: str
    base_currency: str = msgspec.field(name="base_currency")
    value: Decimal


class _Deleted(msgspec.Struct):
    """Which price went away; None: all."""

    id: int | None


class Book:
    """The prices at one place in the log."""

    def __init__(self, prices: dict[int, Raw]) -> None:
        self._prices = prices
        self._rates: dict[int | None, Rates] = {}

    @cached_property
    def json(self) -> Raw:
        """All of them, as a list of PRICEs, the oldest first."""
        return Raw(b"[" + b",".join(bytes(self._prices[id_]) for id_ in sorted(self._prices)) + b"]")

    def rates_for(self, account_id: int | None) -> Rates:
        """What can be converted by them: by an account's own before others', and of those by the latest."""
        if account_id not in self._rates:
            known = sorted(self._known, key=lambda price: (price.account_id == account_id, price.updated_at))
            self._rates[account_id] = Rates(
                (price.currency, price.base_currency, price.value, price.updated_at) for price in known
            )
        return self._rates[account_id]

    @cached_property
    def _known(self) -> list[_Price]:
        return [msgspec.json.decode(price, type=_Price) for price in self._prices.values()]

    def has(self, price: Raw) -> bool:
        """Tell whether a PRICE stands in it as it is."""
        return price in self._prices.values()

    def after(self, event: Event) -> "Book":
        """Return the prices as an event leaves them."""
        if event.type == "price.updated":
            return Book({**self._prices, msgspec.json.decode(event.data, type=_Price).id: event.data})
        gone = msgspec.json.decode(event.data, type=_Deleted).id
        return Book({id_: price for id_, price in self._prices.items() if gone not in (None, id_)})


class Prices:
    """The prices as this process knows them.

    Args:
        database: Where they are read from, once.
        dispatcher: Tells of what changes.

    Attributes:
        book: They, where they are in memory.
    """

    def __init__(self, database: Database, dispatcher: Dispatcher) -> None:
        self._database = database
        self.book: Book | None = None
        self._as_of = 0  # the number of the last event that was in the book when it was read
        self._reading = trio.Lock()
        self._meanwhile: list[Event] | None = None  # what the log tells while the book is read
        self._awaited: dict[bytes, trio.Event] = {}
        for name in (str(EVERY_PRICE), DELETED):
            dispatcher.watch(name, self)

    async def read(self) -> Book:
        """Return them.

        Raises:
            ActionError: they are not in memory yet, and can't be read.
        """
        async with self._reading:
            while self.book is None:
                self.book = await self._read()
            return self.book

    async def wait_for(self, price: Raw, seconds: float) -> None:
        """Wait until a price that was just set has come by, so that who set it reads no older one."""
        if self.book is None or self.book.has(price):
            return
        name = bytes(price)
        with trio.move_on_after(seconds):
            await self._awaited.setdefault(name, trio.Event()).wait()
        self._awaited.pop(name, None)

    def on_event(self, event: Event) -> None:
        """Take a change in."""
        if self._meanwhile is not None:
            self._meanwhile.append(event)
        if self.book is not None and event.seq > self._as_of:
            self.book = self.book.after(event)
        if (waiting := self._awaited.pop(bytes(event.data), None)) is not None:
            waiting.set()

    def on_lost_log(self) -> None:
        """Forget them: they are read anew when somebody asks."""
        self.book = self._meanwhile = None

    async def _read(self) -> Book | None:
        """Return the book as of now; None where the log was lost meanwhile."""
        meanwhile = self._meanwhile = []
        try:
            position, prices = await self._database.run(
                queries.read_snapshot, EVERY_PRICE, None, lane=Lane.LISTS
            )
            if self._meanwhile is not meanwhile:
                return None
        finally:
            self._meanwhile = None
        self._as_of = position.seq
        found = msgspec.json.decode(prices, type=list[Raw])
        book = Book({msgspec.json.decode(price, type=_Price).id: price for price in found})
        for event in meanwhile:
            if event.seq > position.seq:
                book = book.after(event)
        return book
