"""All prices in memory: read once, then kept right by the event log, whoever writes.

The log and the book agree at each moment: what the book was read with is waited for, and each event that the
log has from there on is put on top of it. An event costs what it changes, however many prices there are.
"""

from bisect import bisect_right, insort
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from heapq import merge
from sys import intern
from typing import NamedTuple

import msgspec
import trio
from msgspec import Raw

from trio_ws.currencies import Rate, find_rate
from trio_ws.database import queries
from trio_ws.database.gateway import Database
from trio_ws.database.lanes import Lane
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.messages import PAGE_BYTES, Cursor, Event, Topic

EVERY_PRICE = Topic("price", "*")
DELETED = "prices"  # the topic of prices that go away, which clients can't follow
PAGE = 1000  # prices: some 200 KB at most, mostly ended by its bytes

Pair = tuple[str, str]  # currency, and base currency


class _Price(msgspec.Struct, rename="camel"):
    """What has to be known of a PRICE."""

    id: int
    currency: str
    account_id: int = msgspec.field(name="account_id")
    updated_at: str
    base_currency: str = msgspec.field(name="base_currency")
    value: Decimal


class _Deleted(msgspec.Struct):
    """Which price went away; None: all. 0.2.0 wrote the latter."""

    id: int | None


class _Entry(NamedTuple):
    """A price in the book; the rest of it stands in its JSON."""

    json: Raw
    pair: Pair
    account_id: int
    updated_at: str

    @property
    def rate(self) -> Rate:
        return Rate(Fraction(msgspec.json.decode(self.json, type=_Price).value), self.updated_at)


class Page(NamedTuple):
    """Some prices, as a JSON list, and where the next ones begin, if there are more."""

    items: Raw
    next: str | None


class Book:
    """The prices at one place in the log.

    What somebody sees of them is the own account's, and of those of others the latest of each pair.
    """

    def __init__(self, prices: Iterable[Raw] = ()) -> None:
        self._entries: dict[int, _Entry] = {}
        self._of_pair: dict[Pair, dict[int, None]] = {}  # ids
        self._latest: dict[Pair, int] = {}  # id
        self._latest_ids: list[int] = []  # those of `_latest`, sorted
        self._of_account: dict[int, dict[Pair, int]] = {}  # id
        self._bases: dict[str, dict[str, int]] = {}  # of a currency, those with which it has prices; how many
        for price in prices:
            self.put(price)

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, json: Raw) -> None:
        """Take in a PRICE as it is now."""
        price = msgspec.json.decode(json, type=_Price)
        self.drop(price.id)
        pair = (intern(price.currency), intern(price.base_currency))
        self._entries[price.id] = _Entry(json, pair, price.account_id, price.updated_at)
        self._of_account.setdefault(price.account_id, {})[pair] = price.id
        group = self._of_pair.setdefault(pair, {})
        group[price.id] = None
        self._link(pair, 1)
        before = self._latest.get(pair)
        if before is None or self._age(before) <= (price.updated_at, price.id):
            self._make_latest(pair, price.id)

    def drop(self, id_: int) -> None:
        """Forget a price, if it is there."""
        if (entry := self._entries.pop(id_, None)) is None:
            return
        pair = entry.pair
        own = self._of_account[entry.account_id]
        if own.get(pair) == id_:
            del own[pair]
        if not own:
            del self._of_account[entry.account_id]
        group = self._of_pair[pair]
        del group[id_]
        self._link(pair, -1)
        if self._latest[pair] == id_:
            self._make_latest(pair, max(group, key=self._age, default=None))
        if not group:
            del self._of_pair[pair]

    def has(self, json: Raw) -> bool:
        """Tell whether a PRICE stands in it as it is."""
        entry = self._entries.get(msgspec.json.decode(json, type=_Price).id)
        return entry is not None and entry.json == json

    def find_rate(self, quote: str, base: str, account_id: int | None) -> Rate | None:
        """Return what one currency costs in another: by the account's own prices, or else by the latest."""
        own = self._of_account.get(account_id or 0, {})

        def rate(currency: str, base_currency: str) -> Rate | None:
            pair = (currency, base_currency)
            id_ = own.get(pair) or self._latest.get(pair)
            return None if id_ is None else self._entries[id_].rate

        return find_rate(quote, base, rate, self._neighbours)

    def page(self, account_id: int | None, cursor: Cursor) -> Page:
        """Return prices with ids above the cursor's, of its currency or of all, the lowest id first."""
        own = sorted(self._of_account.get(account_id or 0, {}).values())
        latest = self._latest_ids
        if cursor.kind != "*":
            pairs = [(cursor.kind, base) for base in self._neighbours(cursor.kind)]
            own = [id_ for id_ in own if self._entries[id_].pair[0] == cursor.kind]
            latest = sorted(self._latest[pair] for pair in pairs if pair in self._latest)
        start = bisect_right(latest, cursor.last)
        found: list[bytes] = []
        size = last = 0
        for id_ in merge(own[bisect_right(own, cursor.last) :], latest[start : start + PAGE + 1]):
            if id_ == last:
                continue
            entry = self._entries[id_]
            if len(found) == PAGE or size >= PAGE_BYTES:
                return Page(_list(found), str(Cursor(cursor.kind, last)))
            found.append(bytes(entry.json))
            size += len(entry.json)
            last = id_
        return Page(_list(found), None)

    def _neighbours(self, currency: str) -> Iterable[str]:
        return self._bases.get(currency, {})

    def _age(self, id_: int) -> tuple[str, int]:
        return self._entries[id_].updated_at, id_

    def _make_latest(self, pair: Pair, id_: int | None) -> None:
        if (before := self._latest.pop(pair, None)) is not None:
            del self._latest_ids[bisect_right(self._latest_ids, before) - 1]
        if id_ is not None:
            self._latest[pair] = id_
            insort(self._latest_ids, id_)

    def _link(self, pair: Pair, count: int) -> None:
        for one, other in (pair, pair[::-1]):
            links = self._bases.setdefault(one, {})
            links[other] = links.get(other, 0) + count
            if not links[other]:
                del links[other]
            if not links:
                del self._bases[one]


def _list(items: list[bytes]) -> Raw:
    return Raw(b"[" + b",".join(items) + b"]")


class Prices:
    """The prices as this process knows them.

    Args:
        database: Where they are read from, once.
        dispatcher: Passes on what changes.

    Attributes:
        book: They, where they are in memory.
    """

    def __init__(self, database: Database, dispatcher: Dispatcher) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self.book: Book | None = None
        self._as_of = 0  # the number of the last event that was in the book when it was read
        self._reading = trio.Lock()
        self._meanwhile: list[Event] | None = None  # what the log brings while the book is read
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

    async def reach(self, seconds: float) -> bool:
        """Wait until the log has all that the book was read with, and tell whether it has."""
        return await self._dispatcher.log.reach(self._as_of, seconds)

    def on_event(self, event: Event) -> None:
        """Take a change in."""
        if self._meanwhile is not None:
            self._meanwhile.append(event)
        if self.book is not None and event.seq > self._as_of:
            _apply(event, self.book)
        if (waiting := self._awaited.pop(bytes(event.data), None)) is not None:
            waiting.set()

    def on_lost_log(self) -> None:
        """Forget them: they are read again when somebody asks."""
        self.book = self._meanwhile = None

    async def _read(self) -> Book | None:
        """Return the book as of now; None where the log was lost meanwhile."""
        meanwhile = self._meanwhile = []
        try:
            position, prices = await self._database.run(queries.read_prices, lane=Lane.LISTS)
            if self._meanwhile is not meanwhile:
                return None
            book = Book()
            for number, price in enumerate(prices, start=1):
                book.put(price)
                if number % TURN == 0:
                    await trio.lowlevel.checkpoint()
            if self._meanwhile is not meanwhile:
                return None
        finally:
            self._meanwhile = None
        self._as_of = position.seq
        for event in meanwhile:
            if event.seq > position.seq:
                _apply(event, book)
        return book


TURN = 100  # prices of a book that is read, before others have their turn: half a ms


def _apply(event: Event, book: Book) -> None:
    """Have the book be as an event leaves the prices."""
    if event.type == "price.updated":
        book.put(event.data)
    elif (gone := msgspec.json.decode(event.data, type=_Deleted).id) is not None:
        book.drop(gone)
    else:
        book.__init__()  # type: ignore[misc] # all are gone
