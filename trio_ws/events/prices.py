"""All prices in memory: read once, then kept up to date by the event log, no matter which program writes.

The log and the book agree at each moment: what the book was read with is waited for, and each event that the
log has from there on is put on top of it. An event costs what it changes, and a page what it holds, however
many prices there are; a conversion compares a limited number of ways.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Awaitable, Callable, Iterable, Iterator
from decimal import Decimal
from heapq import merge
from operator import itemgetter
from sys import intern
from typing import NamedTuple, TypeVar

import msgspec
import trio
from msgspec import Raw

from trio_ws.currencies import Rate, find_rate
from trio_ws.database import queries
from trio_ws.database.gateway import Database
from trio_ws.database.lanes import Lane
from trio_ws.errors import Unavailable
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.messages.fields import MAX_BIGINT
from trio_ws.paging import PAGE_BYTES, Cursor
from trio_ws.topics import Event, Position, Topic

EVERY_PRICE = Topic("price", "*")
DELETED = "prices"  # the topic of prices that go away, which clients can't follow
PAGE = 1000  # prices: some 200 KB at most, mostly ended by its bytes

Pair = tuple[str, str]  # currency, and base currency

K = TypeVar("K")
T = TypeVar("T", int, tuple[str, str], "Entry")


class _Price(msgspec.Struct, rename="camel"):
    """What has to be known of a PRICE."""

    id: int
    currency: str
    account_id: int = msgspec.field(name="account_id")
    updated_at: str
    base_currency: str = msgspec.field(name="base_currency")
    value: Decimal


class _Changed(msgspec.Struct):
    """Which price an event is of; None: all went away. 0.2.0 wrote the latter."""

    id: int | None


class Entry(NamedTuple):
    """A price in the book; the rest of it stands in its JSON. Those of a pair sort by time."""

    since: str
    id: int
    json: Raw
    pair: Pair
    account_id: int

    @property
    def value(self) -> Decimal:
        """What one of its currency costs."""
        return msgspec.json.decode(self.json, type=_Price).value


class Page(NamedTuple):
    """Some prices, as a JSON list, and where the next ones begin, if there are more."""

    items: Raw
    next: str | None


class Book:
    """The prices at one place in the log.

    What somebody sees of them is the own account's, and of those of others the latest of each pair.

    What is searched by order are sorted lists. A change of one takes a binary search, and moves what stands
    behind it: 10 µs where there are 100 000.
    """

    def __init__(self, prices: Iterable[Raw] = ()) -> None:
        self._entries: dict[int, Entry] = {}
        self._of_pair: dict[Pair, list[Entry]] = {}  # the latest last
        # Ids: the highest counts. There are several only while the log has yet to say that older ones went,
        # as what is read in parts is of several moments.
        self._of_account: dict[int, dict[Pair, list[int]]] = {}
        # What is listed, by id: an account's own, or with None the latest of each pair; by currency, and `*`.
        self._ids: dict[tuple[int | None, str], list[int]] = {}
        self._in_base: dict[tuple[int, str], list[int]] = {}  # an account's own, by base currency
        # Of a currency, those with which it has prices, each after the time of the latest; the latest last.
        self._others: dict[str, list[tuple[str, str]]] = {}
        for price in prices:
            self.put(price)

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, json: Raw) -> None:
        """Take in a PRICE as it is now."""
        price = msgspec.json.decode(json, type=_Price)
        pair = (intern(price.currency), intern(price.base_currency))
        new = Entry(price.updated_at, price.id, json, pair, price.account_id)
        old = self._entries.get(new.id)
        if old is not None and (old.pair, old.account_id) != (pair, new.account_id):
            self.drop(new.id)
            old = None
        self._entries[new.id] = new
        if old is None:
            self._list_own(new.account_id, pair, None, new.id)
        self._replace(pair, old, new)

    def drop(self, id_: int) -> None:
        """Forget a price, if it is there."""
        if (old := self._entries.pop(id_, None)) is None:
            return
        self._list_own(old.account_id, old.pair, id_, None)
        self._replace(old.pair, old, None)

    def has(self, json: Raw) -> bool:
        """Return whether a PRICE stands in it as it is."""
        entry = self._entries.get(msgspec.json.decode(json, type=_Price).id)
        return entry is not None and entry.json == json

    def find_rate(self, quote: str, base: str, account_id: int | None) -> Rate | None:
        """Return what one currency costs in another: by the account's own prices, or else by the latest."""
        own = self._of_account.get(account_id or 0, {})

        def price(currency: str, base_currency: str) -> Entry | None:
            pair = (currency, base_currency)
            return self._entries[ids[-1]] if (ids := own.get(pair)) else self._latest_of(pair)

        # By way of the one that has fewer others; either direction goes by the same one.
        others = min((len(found := self._others.get(one, [])), one, found) for one in (quote, base))[2]
        return find_rate(quote, base, price, reversed(others), self._own_others(account_id, quote, base))

    def page(self, account_id: int | None, cursor: Cursor) -> Page:
        """Return prices with ids above the cursor's, of its currency or of all, the lowest id first."""
        parts: list[list[int]] = []
        for owner in {account_id, None}:
            ids = self._ids.get((owner, cursor.kind), [])
            start = bisect_right(ids, cursor.last)
            parts.append(ids[start : start + PAGE + 1])
        found: list[bytes] = []
        size = last = 0
        for id_ in merge(*parts):
            if id_ == last:
                continue
            entry = self._entries[id_]
            if len(found) == PAGE or size >= PAGE_BYTES:
                return Page(_as_list(found), str(Cursor(cursor.kind, last)))
            found.append(bytes(entry.json))
            size += len(entry.json)
            last = id_
        return Page(_as_list(found), None)

    def _own_others(self, account_id: int | None, *currencies: str) -> Iterator[str]:
        """Say with which others an account has prices: those of the currency that has fewer, newest first."""
        if account_id is None:
            return
        known = [
            (one, self._ids.get((account_id, one), []), self._in_base.get((account_id, one), []))
            for one in currencies
        ]
        for one, of_it, in_it in sorted(known, key=lambda lists: len(lists[1]) + len(lists[2])):
            for id_ in merge(reversed(of_it), reversed(in_it), reverse=True):
                currency, base = self._entries[id_].pair
                yield base if currency == one else currency

    def _list_own(self, account_id: int, pair: Pair, old: int | None, new: int | None) -> None:
        """Have a price take the place of another one of its account in what is listed of that."""
        own = self._of_account.setdefault(account_id, {})
        _replace(own, pair, old, new)
        if not own:
            del self._of_account[account_id]
        self._list(account_id, pair, old, new)
        _replace(self._in_base, (account_id, pair[1]), old, new)

    def _list(self, owner: int | None, pair: Pair, old: int | None, new: int | None) -> None:
        for kind in ("*", pair[0]):
            _replace(self._ids, (owner, kind), old, new)

    def _latest_of(self, pair: Pair) -> Entry | None:
        group = self._of_pair.get(pair)
        return group[-1] if group else None

    def _state_of(self, pair: Pair) -> tuple[int | None, str | None]:
        """Return the id of the pair's latest price, and the time of the latest one in either direction."""
        latest, inverse = self._latest_of(pair), self._latest_of(pair[::-1])
        times = [entry.since for entry in (latest, inverse) if entry is not None]
        return latest and latest.id, max(times, default=None)

    def _replace(self, pair: Pair, old: Entry | None, new: Entry | None) -> None:
        """Have a price of a pair take the place of another one in what is sorted."""
        old_id, old_time = self._state_of(pair)
        _replace(self._of_pair, pair, old, new)
        new_id, new_time = self._state_of(pair)
        if new_id != old_id:
            self._list(None, pair, old_id, new_id)
        if new_time != old_time:
            for one, other in (pair, pair[::-1]):
                before = None if old_time is None else (old_time, other)
                after = None if new_time is None else (new_time, other)
                _replace(self._others, one, before, after)


def _replace(lists: dict[K, list[T]], key: K, old: T | None, new: T | None) -> None:
    """Have an item take the place of another one in a sorted list; None: of none, or none of it."""
    items = lists.setdefault(key, [])
    if old is not None:
        del items[bisect_left(items, old)]
    if new is not None:
        insort(items, new)
    if not items:
        del lists[key]


def _as_list(items: list[bytes]) -> Raw:
    return Raw(b"[" + b",".join(items) + b"]")


class Prices:
    """The prices as this process knows them.

    They are read in parts, as one statement for all would take too long. Each part is of another moment:
    of each price, only what the log has after its part's position is put on top.

    Args:
        database: Where they are read from, once.
        dispatcher: Passes on what changes.
        look: Waits for a look at the log that begins after it is called.

    Attributes:
        book: They, where they are in memory.
    """

    def __init__(
        self,
        database: Database,
        dispatcher: Dispatcher,
        look: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint,
    ) -> None:
        self._database = database
        self._look = look
        self._dispatcher = dispatcher
        self.book: Book | None = None
        # Of each part the last id, and where the log was when it was read.
        self._parts: list[tuple[float, Position]] = []
        self._unproven: Position | None = None  # of the last part: the log may have to come there yet
        self._reading = trio.Lock()
        self._meanwhile: list[tuple[int, Event]] | None = None  # what the log brings while the book is read
        self._awaited: dict[bytes, trio.Event] = {}
        for name in (str(EVERY_PRICE), DELETED):
            dispatcher.watch(name, self)

    @property
    def at_hand(self) -> Book | None:
        """They, where they are in memory, and nothing has to be asked to know that they are right."""
        return None if self._is_to_be_proven else self.book

    @property
    def upto(self) -> int:
        """The number of the last event that they were read with: the log may have to come there yet."""
        return max((position.seq for _, position in self._parts), default=0)

    async def read(self) -> Book:
        """Return them.

        Raises:
            ActionError: they are not in memory yet, and can't be read.
        """
        async with self._reading:
            for _ in range(READS):
                if self.book is not None and await self._is_proven():
                    return self.book
                self.book = await self._read()
            raise Unavailable("The event log was replaced; positions are no longer valid")

    async def wait_for(self, price: Raw, seconds: float) -> None:
        """Wait for the event of a price that was just set, so that who set it reads no older one."""
        if self.book is None or self.book.has(price):
            return
        name = bytes(price)
        with trio.move_on_after(seconds):
            await self._awaited.setdefault(name, trio.Event()).wait()
        self._awaited.pop(name, None)

    async def reach(self, seconds: float) -> bool:
        """Wait until the log has all that the book was read with, and tell whether it has."""
        if not await self._dispatcher.log.reach(self.upto, seconds):
            return False
        await self._is_proven()
        return True

    def on_event(self, event: Event) -> None:
        """Take a change in."""
        if (id_ := msgspec.json.decode(event.data, type=_Changed).id) is None:
            self.on_lost_log()  # with parts of several moments, reading them again is what is always right
        elif self._meanwhile is not None:
            self._meanwhile.append((id_, event))
        elif self.book is not None:
            self._apply(id_, event, self.book)
        if (waiting := self._awaited.pop(bytes(event.data), None)) is not None:
            waiting.set()

    def on_lost_log(self) -> None:
        """Forget them: they are read again when somebody asks."""
        self.book = self._meanwhile = None

    async def _read(self) -> Book | None:
        """Return the book as of now; None where it has to be read again, as the log was lost meanwhile."""
        meanwhile = self._meanwhile = []
        book = Book()
        self._parts = []
        after: int | None = -MAX_BIGINT
        known: Position | None = None
        try:
            while after is not None:
                position, known_as, prices, after = await self._database.run(
                    queries.read_prices, after, PART, known.seq if known else 0, lane=Lane.LISTS
                )
                if known and known_as != known.name:
                    return None  # each part is of the same log as the one before
                known = self._unproven = position
                self._parts.append((math.inf if after is None else after, position))
                for number, price in enumerate(prices, start=1):
                    book.put(price)
                    if number % TURN == 0:
                        await trio.lowlevel.checkpoint()
                if self._meanwhile is not meanwhile:
                    return None
            # A part may hold changes that have no number yet. Their events bring first what was before them,
            # and who had read the book by then would have read a newer price, and then an older one.
            await self._look()
            if self._meanwhile is not meanwhile:
                return None
        finally:
            self._meanwhile = None
        for id_, event in meanwhile:
            self._apply(id_, event, book)
        return book

    @property
    def _is_to_be_proven(self) -> bool:
        """Return whether the log has come to where the book was read, and may be another one."""
        return self._unproven is not None and self._dispatcher.log.end.seq >= self._unproven.seq

    async def _is_proven(self) -> bool:
        """Return whether the book is of the log that there is, as far as that has come; forget it if not."""
        unproven = self._unproven
        if unproven is None or not self._is_to_be_proven:
            return True
        is_proven = await self._dispatcher.log.prove(unproven)
        if self._unproven is not unproven:
            return True  # of a book that is not there any more
        if is_proven:
            self._unproven = None
        else:
            self.on_lost_log()
        return is_proven

    def _apply(self, id_: int, event: Event, book: Book) -> None:
        """Have the book be as an event leaves a price, unless the price was read later."""
        _, read_at = self._parts[bisect_left(self._parts, id_, key=itemgetter(0))]
        if event.seq <= read_at.seq:
            return
        if event.type == "price.updated":
            book.put(event.data.copy())  # which is a part of all that was read with it
        else:
            book.drop(id_)


READS = 3  # of the book, in one request, if the log is lost meanwhile
PART = 2000  # prices: 0.1 s of a statement that may take `statement_seconds`
TURN = 50  # prices of a part, before others have their turn: 1 ms
