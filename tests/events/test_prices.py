"""The book of prices: it is the same as its plain, slow definition, and costs what is asked of it."""

import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import FrameType
from typing import Any, NamedTuple, cast

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tests.test_lists import price
from trio_ws.currencies import WAYS, Rate
from trio_ws.database.queries import PricePart
from trio_ws.events import prices
from trio_ws.events.prices import Book, Page, Prices
from trio_ws.paging import Cursor
from trio_ws.topics import NOTHING, Event, Position

CURRENCIES = ["AAA", "BBB", "CCC", "DDD", "EEE"]
ACCOUNTS = [None, 1, 2, 3]


class Row(NamedTuple):
    account: int
    pair: tuple[str, str]
    value: int
    since: int


class Plain:
    """The rows alone: everything is found by reading all of them."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}

    def latest(self, pair: tuple[str, str]) -> int | None:
        ids = [id_ for id_, row in self.rows.items() if row.pair == pair]
        return max(ids, key=lambda id_: (self.rows[id_].since, id_), default=None)

    def price(self, pair: tuple[str, str], account: int | None) -> Row | None:
        own = [id_ for id_, row in self.rows.items() if (row.account, row.pair) == (account, pair)]
        id_ = max(own) if own else self.latest(pair)
        return None if id_ is None else self.rows[id_]

    def step(self, quote: str, base: str, account: int | None) -> tuple[Fraction, int] | None:
        if row := self.price((quote, base), account):
            return Fraction(row.value), row.since
        if row := self.price((base, quote), account):
            return Fraction(1, row.value), row.since
        return None

    def find_rate(self, quote: str, base: str, account: int | None) -> Rate | None:
        found = self.step(quote, base, account)
        if found is None:
            ways = [
                (first[0] * second[0], min(first[1], second[1]))
                for between in CURRENCIES
                if (first := self.step(quote, between, account))
                and (second := self.step(between, base, account))
            ]
            found = max(ways, key=lambda way: way[1], default=None)
        return None if found is None else Rate(found[0], f"{found[1]:09}")

    def page(self, account: int | None, currency: str) -> list[int]:
        pairs = {row.pair for row in self.rows.values()}
        shown = {id_ for id_, row in self.rows.items() if row.account == account}
        shown |= {id_ for pair in pairs if (id_ := self.latest(pair)) is not None}
        return sorted(id_ for id_ in shown if currency in ("*", self.rows[id_].pair[0]))


TraceFunction = Callable[[FrameType, str, Any], Any]


def ids(page: Page) -> list[int]:
    return [int(one["id"]) for one in msgspec.json.decode(page.items)]


STEPS = st.lists(
    st.tuples(
        st.integers(1, 15),
        st.integers(1, 3),
        st.permutations(CURRENCIES).map(lambda names: (names[0], names[1])),
        st.integers(0, 5),  # some at the same time, and some before others that came earlier
        st.sampled_from(["put", "put", "put", "drop"]),
    ),
    max_size=40,
)


@given(STEPS)
def test_a_book_is_the_same_as_its_plain_definition(steps: list[Any]) -> None:
    book, plain = Book(), Plain()
    for number, (id_, account, pair, since, change) in enumerate(steps, start=1):
        if change == "drop":
            book.drop(id_)
            plain.rows.pop(id_, None)
        else:  # also where the account has one of the pair: see Parts
            book.put(price(id_, account, pair, number, since))
            plain.rows[id_] = Row(account, pair, number, since)
    assert len(book) == len(plain.rows)
    for account in ACCOUNTS:
        for kind in ("*", *CURRENCIES):
            assert ids(book.page(account, Cursor(kind, 0))) == plain.page(account, kind)
        for quote in CURRENCIES:
            for base in {*CURRENCIES} - {quote}:
                assert book.find_rate(quote, base, account) == plain.find_rate(quote, base, account)
    for id_ in list(plain.rows):
        book.drop(id_)
    assert not any(vars(book).values()), "nothing is left of what is gone"


class Parts:
    """A table of prices and its log, from which a server reads as it is written, in turns as the steps say.

    Each part is of another moment, so that for a while the server has rows of one account and pair that were
    never there together.
    """

    def __init__(self, steps: list[Any]) -> None:
        self.steps = iter(steps)
        self.rows: dict[int, Raw] = {}
        self.ids: dict[tuple[int, tuple[str, str]], int] = {}
        self.count = 0  # of ids, which are never used again
        self.seq = 0
        self.unread: list[Event] = []  # what the server's log has not brought yet
        self.prices = Prices(cast("Any", self), cast("Any", self))

    begin = end = Position("name", 0)

    @property
    def log(self) -> "Parts":
        """It has all that there is: what it has not brought yet it brings later."""
        return self

    async def reach(self, *_: object) -> bool:
        return True

    async def prove(self, _: object) -> bool:
        return True

    def watch(self, _name: str, _watcher: object) -> None:
        pass

    async def run(self, _query: object, after: int, most: int, known: int, lane: object) -> PricePart:
        del known, lane
        self.go_on()
        ids = [id_ for id_ in sorted(self.rows) if id_ > after][:most]
        end = ids[-1] if len(ids) == most else None
        return PricePart(Position("name", self.seq), "name", [self.rows[id_] for id_ in ids], end)

    def go_on(self) -> None:
        """Do what is next, until a part is to be read."""
        for step in self.steps:
            if step == "part":
                return
            self.do(step)

    def do(self, step: Any) -> None:
        if step == "log":
            self.follow()
        else:
            self.change(*step)

    def follow(self) -> None:
        for event in self.unread:
            self.prices.on_event(event)
        self.unread = []

    def change(self, account: int, pair: tuple[str, str], change: str) -> None:
        self.seq += 1
        id_ = self.ids.get((account, pair))
        if change == "set":
            if id_ is None:
                id_ = self.count = self.count + 1
            self.ids[account, pair] = id_
            data = self.rows[id_] = price(id_, account, pair, self.seq, self.seq)
            self.unread.append(Event(self.seq, "price.updated", (), data, NOTHING))
        elif id_ is not None:
            del self.ids[account, pair], self.rows[id_]
            self.unread.append(Event(self.seq, "price.deleted", (), Raw(b'{"id":%d}' % id_), NOTHING))

    def read(self) -> Book:
        """Do it all, and return what the server has then."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prices, "PART", 1)
            book = trio.run(self.prices.read)
        for step in self.steps:
            if step != "part":
                self.do(step)
        self.follow()
        return book


class Late(Parts):
    """One price, which is read with a change that has no number yet."""

    newest = price(1, 1, ("AAA", "BBB"), 7, 7)

    def __init__(self) -> None:
        super().__init__([])
        self.prices = Prices(cast("Any", self), cast("Any", self), self.look)
        for seq, value in ((5, 6), (6, 7)):
            data = price(1, 1, ("AAA", "BBB"), value, value)
            self.unread.append(Event(seq, "price.updated", (), data, NOTHING))

    async def run(self, _query: object, after: int, most: int, known: int, lane: object) -> PricePart:
        del after, most, known, lane
        return PricePart(Position("name", 4), "name", [self.newest], None)

    async def look(self) -> None:
        self.follow()


async def test_no_older_price_is_read_after_a_newer_one_whose_event_had_no_number_yet() -> None:
    late = Late()
    book = await late.prices.read()
    assert book.has(late.newest)
    for event in late.unread:
        late.prices.on_event(event)
        assert book.has(late.newest)


PAIRS = st.sampled_from([("AAA", "BBB")] * 3 + [("BBB", "CCC")])  # few, so that one goes and comes again
CHANGES = st.tuples(st.integers(1, 2), PAIRS, st.sampled_from(["set", "set", "delete"]))
TURNS = st.lists(
    st.lists(CHANGES, min_size=1, max_size=8), min_size=2, max_size=4
)  # of each the changes, before a part is read


@given(TURNS, st.sampled_from([["part"], ["log", "part"]]))
def test_a_book_that_was_read_in_parts_while_prices_changed_is_the_one_that_would_be_read(
    turns: list[Any], between: list[str]
) -> None:
    parts = Parts([step for turn in turns for step in [*turn, *between]])
    book, expected = parts.read(), Book(parts.rows.values())
    assert len(book) == len(expected)
    for account in ACCOUNTS:
        for kind in ("*", *CURRENCIES):
            assert book.page(account, Cursor(kind, 0)) == expected.page(account, Cursor(kind, 0))
        for quote in CURRENCIES:
            for base in {*CURRENCIES} - {quote}:
                assert book.find_rate(quote, base, account) == expected.find_rate(quote, base, account)


def test_an_account_keeps_its_price_that_goes_and_is_set_again_while_prices_are_read() -> None:
    pair = ("AAA", "BBB")
    parts = Parts(
        [
            *((1, pair, "set"), "part"),
            *((1, pair, "set"), (1, pair, "delete"), (1, pair, "set"), (2, pair, "set"), "part"),
        ]
    )
    assert parts.read().find_rate(*pair, 1) == Rate(Fraction(4), "000000004")


def work(do: Callable[[], object]) -> int:
    """How many instructions of Python something takes, which no busy machine makes more."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> TraceFunction:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        do()
    finally:
        sys.settrace(before)
    return count


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each comparison of two prices count, which are in C."""

    class Compared(prices.Entry):
        def __lt__(self, other: Any) -> bool:
            return tuple(self) < tuple(other)

    monkeypatch.setattr(prices, "Entry", Compared)


def of_one_pair(accounts: int) -> Book:
    return Book(price(id_, id_, ("ZZZ", "USD"), 1, id_) for id_ in range(1, accounts + 1))


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(
    "change",
    [
        lambda book, last: book.put(price(last, last, ("ZZZ", "USD"), 2, last + 1)),  # the latest
        lambda book, last: book.put(price(last, last, ("ZZZ", "USD"), 2, 0)),  # which is no longer that
        lambda book, last: book.put(price(last, last, ("YYY", "USD"), 2, last + 1)),
        lambda book, _: book.put(price(5, 5, ("ZZZ", "USD"), 2, 10**6)),
        lambda book, last: book.put(price(last + 1, last + 1, ("ZZZ", "USD"), 2, 10**6)),
        lambda book, last: book.drop(last),
        lambda book, _: book.drop(5),
    ],
)
def test_an_event_costs_the_same_however_many_accounts_have_a_price_of_its_pair(
    change: Callable[[Book, int], None],
) -> None:
    few, many = of_one_pair(10), of_one_pair(4000)
    cost = work(lambda: change(few, 10))
    assert work(lambda: change(many, 4000)) < cost + 1000, "a search of a sorted list takes 12 comparisons"


def with_two_hubs(currencies: int, since: Callable[[int, int], int]) -> Book:
    """So many currencies that have a price in USD and one in EUR, which have none in each other."""
    return Book(
        price(2 * number + which, 1, (f"C{number}", ("USD", "EUR")[which]), 2 + which, since(number, which))
        for number in range(currencies)
        for which in (0, 1)
    )


@pytest.mark.parametrize("account", [None, 1])  # 1: whose own they all are
@pytest.mark.parametrize(
    "since",
    [
        lambda number, _: number,
        lambda _, __: 0,
        lambda number, which: -number if which else number,  # the latest in one is the oldest in the other
    ],
)
def test_a_conversion_costs_the_same_however_many_ways_there_are(
    account: int | None, since: Callable[[int, int], int]
) -> None:
    few, many = [with_two_hubs(count, lambda n, w: 10**6 + since(n, w)) for count in (1500, 6000)]
    cost = work(lambda: few.find_rate("USD", "EUR", account))
    # The best way so far changes more or less often.
    assert work(lambda: many.find_rate("USD", "EUR", account)) < 1.02 * cost
    found = many.find_rate("USD", "EUR", 1)
    assert found is not None
    assert found.value == Fraction(Decimal(3) / Decimal(2))


def test_of_many_ways_those_with_the_latest_prices_are_tried() -> None:
    book = Book(price(id_, 1, (f"C{id_}", "USD"), 2, id_) for id_ in range(1, 2 * WAYS))
    for id_ in range(2 * WAYS - 10):
        book.put(price(10**6 + id_, 1, (f"E{id_}", "EUR"), 2, id_))  # the fewer: these are tried
    book.put(price(10**7, 1, ("C1", "EUR"), 3, 0))
    assert book.find_rate("USD", "EUR", None) is None
    book.put(price(10**7, 1, ("C1", "EUR"), 3, 2 * WAYS))
    assert book.find_rate("EUR", "USD", None) == Rate(Fraction(2, 3), "000000001")


@pytest.mark.parametrize("owners", [(7, 7), (7, 8), (8, 7)])
def test_however_many_newer_prices_others_set_a_way_through_ones_own_is_found(
    owners: tuple[int, int],
) -> None:
    first, second = owners
    book = Book(
        price(2 * id_ + which, 9, (f"{'XY'[which]}{id_}", ("USD", "EUR")[which]), 1, 10 + id_)
        for id_ in range(10, WAYS + 20)
        for which in (0, 1)
    )
    assert book.find_rate("USD", "EUR", 7) is None
    book.put(price(1, first, ("BTC", "USD"), 5, 1))
    book.put(price(2, second, ("EUR", "BTC"), 2, 2))  # the other way round
    assert book.find_rate("USD", "EUR", 7) == Rate(Fraction(1, 10), "000000001")
    assert book.find_rate("EUR", "USD", 7) == Rate(Fraction(10), "000000001")
    assert book.find_rate("USD", "EUR", None) is None, "of others the latest are tried"


def test_ones_own_prices_of_a_currency_with_few_are_tried_before_those_of_one_with_many() -> None:
    book = Book()
    for number in range(1, 2 * WAYS):
        book.put(price(10 + number, 7, (f"X{number}", "USD"), 1, number))
        book.put(price(10**6 + number, 9, (f"Y{number}", "EUR"), 1, 10**6 + number))
    book.put(price(1, 7, ("X1", "EUR"), 4, 1))
    assert book.find_rate("USD", "EUR", 7) == Rate(Fraction(4), "000000001")
    assert book.find_rate("EUR", "USD", 7) == Rate(Fraction(1, 4), "000000001")


def test_a_conversion_to_a_currency_with_few_prices_goes_by_these_however_many_the_other_has() -> None:
    book = with_two_hubs(3000, lambda number, _: number)
    book.put(price(10**6, 1, ("C0", "XXX"), 5, 1))
    for account in (None, 1):
        assert book.find_rate("USD", "XXX", account) == Rate(Fraction(5, 2), "000000000")
        assert book.find_rate("XXX", "USD", account) == Rate(Fraction(2, 5), "000000000")
    assert work(lambda: book.find_rate("USD", "XXX", None)) < 1000
    assert work(lambda: book.find_rate("USD", "YYY", None)) < 1000


def test_a_page_of_a_currency_costs_what_it_holds_however_many_have_prices_in_it() -> None:
    book = with_two_hubs(3000, lambda number, _: number)
    book.put(price(10**6, 1, ("USD", "XXX"), 5, 1))
    assert ids(book.page(None, Cursor("USD", 0))) == [10**6]
    assert work(lambda: book.page(None, Cursor("USD", 0))) < 1000
