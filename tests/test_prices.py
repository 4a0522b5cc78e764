"""Setting, listing and converting prices, on the simulated database and on PostgreSQL."""

import random
from collections.abc import Awaitable, Callable
from contextlib import closing
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeVar, TypeVarTuple, cast

import msgspec
import psycopg
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from trio.testing import MockClock

from tests.programs import OtherProgram
from tests.test_protocol import Contract, assert_nothing_more, receive, request
from trio_ws.currencies import EXPONENTS, Rate, exponent, find_rate, in_minor_units, rounded
from trio_ws.database import event_log, queries
from trio_ws.database.gateway import Database, Gateway
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.errors import NotFound, Timeout
from trio_ws.events import prices
from trio_ws.settings import Settings
from trio_ws.testing import SimulatedDatabase, World, simulated_server
from trio_ws.topics import NOTHING, Event

SET = {"action": "set_price", "currency": "BTC", "base_currency": "USD"}
CONVERT = {"action": "convert_price", "quote_currency": "BTC", "base_currency": "USD", "quote_value": 1}


async def convert(world: World, quote: str, base: str, value: object = 1) -> Any:
    """What so much of a currency comes to in another; a code, where it can't be said."""
    client = await world.connect()
    fields = {"quote_currency": quote, "base_currency": base, "quote_value": value}
    reply = await request(client, action="convert_price", **fields)
    return reply.get("code") or reply["data"]["base_value"]


T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


# Setting and listing


async def test_a_price_that_was_set_is_sent_and_listed(contract: Contract) -> None:
    world, _ = contract
    client, follower = await world.connect(), await world.connect()
    await request(follower, action="subscribe", type="price", id="BTC")
    before = (await request(client, action="list_prices"))["data"]
    reply = await request(client, **SET, value="43000.25")
    price = reply["data"]
    assert (price["value"], price["amount"], price["account_id"]) == (43000.25, 4300025, 1)
    assert price == {**before[0], **{name: price[name] for name in ("value", "amount", "updatedAt")}}
    assert (await request(client, action="list_prices"))["data"] == [price, *before[1:]]
    event = await receive(follower)
    assert (event["type"], event["data"]) == ("price.updated", price)
    assert event["previous"] == {"amount": 4300000, "value": 43000}
    again = (await request(client, **SET, value=43000.25))["data"]
    assert again == {**price, "updatedAt": again["updatedAt"]}, "what is so already is said again"
    event = await receive(follower)
    assert (event["data"], event["previous"]) == (again, {})
    await assert_nothing_more(follower)


async def test_a_pair_that_had_no_price_gets_one(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    price = (await request(client, **{**SET, "base_currency": "JPY"}, value="6600000.4"))["data"]
    assert (price["base_currency"], price["value"], price["amount"]) == ("JPY", 6600000.4, 6600000)
    listed = (await request(client, action="list_prices"))["data"]
    assert [one["id"] for one in listed] == sorted(one["id"] for one in listed)
    assert listed[-1] == price


async def test_the_price_is_the_account_s_that_the_token_names(guarded: Contract) -> None:
    world, program = guarded
    client = await world.connect(authorization=f"Bearer {await program.create_token(2)}")
    assert (await request(client, **SET, value=1))["data"]["account_id"] == 2
    listed = (await request(client, action="list_prices"))["data"]
    assert [price["value"] for price in listed if price["currency"] == "BTC"] == [1], (
        "its own, which is the latest too"
    )


async def test_the_list_is_kept_right_by_the_log_whoever_writes(contract: Contract) -> None:
    world, program = contract
    client, follower = await world.connect(), await world.connect()
    assert len((await request(client, action="list_prices"))["data"]) == 3
    await request(follower, action="subscribe", type="price", id="*")
    await program.delete_price("ETH")
    await program.set_price("BTC", Decimal(44000))
    assert (await receive(follower))["type"] == "price.updated", "the event of a price that goes is not sent"
    listed = (await request(client, action="list_prices"))["data"]
    assert [(price["currency"], price["value"]) for price in listed] == [("BTC", 44000), ("EUR", 1.08)]


async def test_a_table_that_was_emptied_is_an_empty_list(conninfo: str) -> None:
    with closing(Gateway(conninfo, Settings())) as gateway:
        async with simulated_server(gateway) as world:
            client, follower = await world.connect(), await world.connect()
            assert len((await request(client, action="list_prices"))["data"]) == 3
            await request(follower, action="subscribe", type="price", id="*")
            with psycopg.connect(conninfo, autocommit=True) as other:
                other.execute("TRUNCATE prices")
                other.execute("INSERT INTO prices (account_id, currency, value) VALUES (1, 'XMR', 150)")
            await receive(follower)
            (price,) = (await request(client, action="list_prices"))["data"]
            assert price["currency"] == "XMR"


async def test_listing_and_converting_cost_no_query_once_they_are_known(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    client = await world.connect()
    listed = await request(client, action="list_prices")
    database.away = True
    assert await request(client, action="list_prices") == listed
    assert await convert(world, "BTC", "USD") == 43000


async def test_an_outage_while_they_are_read_is_said_and_they_are_read_later(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    client = await world.connect()
    database.away = True
    assert (await request(client, action="list_prices"))["code"] == "unavailable"
    database.away = False
    database.set_price("BTC", Decimal(1))
    assert (await request(client, action="list_prices"))["data"][0]["value"] == 1


class SlowByRows(SimulatedDatabase):
    """A database in which each price that a statement reads takes a ms."""

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        answer = await super().run(query, *args, lane=lane)
        if query.__name__ == "read_prices":
            seconds = len(cast("Any", answer)[1]) / 1000
            await trio.sleep(seconds)
            if seconds > self.statement_seconds:
                raise Timeout("The database took too long")
        return answer


async def test_however_many_prices_there_are_no_statement_takes_too_long(autojump_clock: MockClock) -> None:
    database = SlowByRows()
    for number in range(3000):
        database.set_price(f"C{number:04}", Decimal(5))
    async with simulated_server(database) as world:
        assert await convert(world, "C0000", "USD") == await convert(world, "C2999", "USD") == 5
        client = await world.connect()
        reply = await request(client, action="subscribe", type="price", id="C2999", snapshot=True)
        assert [price["value"] for price in reply["data"]["snapshot"]] == [5]


class SlowToAnswer(SimulatedDatabase):
    """A database whose prices are old when they arrive: its `late` runs after each part."""

    def __init__(self, late: Any) -> None:
        super().__init__()
        self.late = late

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        answer = await super().run(query, *args, lane=lane)
        if query.__name__ == "read_prices":
            self.late(self)
            await trio.sleep(1)  # and the tail reads it
        return answer


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        (lambda database: database.set_price("BTC", Decimal(5)), ["BTC 5", "ETH 2300.00", "EUR 1.08"]),
        (lambda database: database.delete_price("BTC"), ["ETH 2300.00", "EUR 1.08"]),
    ],
)
async def test_what_changes_while_they_are_read_is_in_the_list(
    autojump_clock: MockClock, late: Any, expected: list[str]
) -> None:
    database = SlowToAnswer(late)
    async with simulated_server(database) as world:
        client = await world.connect()
        listed = (await request(client, action="list_prices"))["data"]
        assert [(f"{price['currency']} {price['value']}") for price in listed] == [
            name.replace(".00", ".0") for name in expected
        ]


class Between:
    """A database that other programs write to after each part of the prices that a server reads."""

    def __init__(self, database: Database, change: Callable[[int], Awaitable[None]]) -> None:
        self._database = database
        self._change = change
        self._read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        answer = await self._database.run(query, *args, lane=lane)
        if query.__name__ == "read_prices":
            self._read += 1
            await self._change(self._read)
        return answer


@pytest.mark.parametrize("part", [1, 2, 3])
@pytest.mark.parametrize("empty", [False, True])
async def test_what_changes_between_two_parts_is_in_the_list(
    serverless: tuple[Database, OtherProgram], monkeypatch: pytest.MonkeyPatch, part: int, *, empty: bool
) -> None:
    monkeypatch.setattr(prices, "PART", part)
    database, program = serverless

    async def change(number: int) -> None:
        if number == 1:
            await program.set_price("BTC", Decimal(5))  # which is in the first part
            await program.delete_price("ETH")
            await program.set_price("EUR", Decimal(6))
            await program.set_price("ETH", Decimal(7))  # another row
            await program.delete_price("EUR")
            if empty:
                await program.delete_price("BTC")
                await program.delete_price("ETH")
        elif number == 2:
            await program.set_price("XMR", Decimal(8))

    async with simulated_server(cast("Any", Between(database, change))) as world:
        client = await world.connect()
        await request(client, action="list_prices")
        await request(client, action="subscribe", type="price", id="*")
        await program.set_price("ZZZ", Decimal(9))
        while (await receive(client))["data"]["currency"] != "ZZZ":
            pass
        listed = (await request(client, action="list_prices"))["data"]
        read = await database.run(queries.read_prices, 0, 100)
        assert listed == [msgspec.json.decode(price) for price in read.prices]
        currencies = [price["currency"] for price in listed]
        assert currencies[:1] == (["XMR"] if empty else ["BTC"])
        assert currencies[-1] == "ZZZ"


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_while_parts_are_read_no_price_goes_back_and_all_are_right(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(prices, "PART", chance.randint(1, 3))
    database = OneByOne()

    def change_some() -> None:
        for _ in range(chance.randint(0, 4)):
            currency = f"C{chance.randint(10, 17)}"
            if database.has_price(currency) and chance.random() < 0.4:
                database.delete_price(currency)
            else:
                database.set_price(currency, Decimal(chance.randint(1, 1000)))
        if chance.random() < 0.7:  # by another server, which is ahead of this one
            database.answers[event_log.number_events](database, chance.randint(1, 9))

    async def change(_: int) -> None:
        assert database.turns is not None
        await trio.sleep(0.5)
        change_some()
        database.turns.release()
        await trio.sleep(0.5)

    change_some()
    async with simulated_server(cast("Any", Between(database, change))) as world:
        database.turns = trio.Semaphore(0)
        client = await world.connect()
        seen: dict[int, str] = {}
        for step in range(60):
            if step < 20:
                change_some()
            database.turns.release()
            await trio.sleep(1)
            for price in (await request(client, action="list_prices"))["data"]:
                assert price["updatedAt"] >= seen.get(price["id"], ""), "an older event changes nothing"
                seen[price["id"]] = price["updatedAt"]
        for _ in range(len(database.written)):
            database.turns.release()
            await trio.sleep(1)
        listed = (await request(client, action="list_prices"))["data"]
        assert listed == [msgspec.json.decode(price) for price in database.prices]


async def test_parts_of_two_logs_are_no_list(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prices, "PART", 1)
    database = OneByOne()
    kept = len(database.written)
    database.set_price("BTC", Decimal(5))

    async def restore(number: int) -> None:
        if number == 1:
            database.restore(kept)

    async with simulated_server(cast("Any", Between(database, restore))) as world:
        database.turns = trio.Semaphore(0)  # and the server has not noticed it by its log
        client = await world.connect()
        listed = (await request(client, action="list_prices"))["data"]
        assert [price["value"] for price in listed] == [43000, 2300, 1.08]


async def test_after_an_event_that_all_prices_went_they_are_read_again(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    client = await world.connect()
    assert len((await request(client, action="list_prices"))["data"]) == 3
    for currency in ("BTC", "ETH", "EUR"):
        database.delete_price(currency)
    end = database.numbered
    database.log_event(Event(end + 1, "price.deleted", ("prices",), Raw(b'{"id":null}'), NOTHING, 0.0))
    await trio.sleep(1)
    assert (await request(client, action="list_prices"))["data"] == []


class OneByOne(SimulatedDatabase):
    """A database from whose log a server reads one event at a time, each when the test says so."""

    turns: trio.Semaphore | None = None

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        if query.__name__ == "advance" and self.turns is not None:
            await self.turns.acquire()
            after, _ = cast("tuple[int, int]", args)
            arguments = cast("tuple[*Arguments]", (after, 1))
            return await super().run(query, *arguments, lane=lane)
        return await super().run(query, *args, lane=lane)


async def test_an_older_event_that_comes_later_does_not_set_the_list_back(autojump_clock: MockClock) -> None:
    database = OneByOne()
    async with simulated_server(database) as world:
        client = await world.connect()

        async def bitcoin() -> float:
            listed = (await request(client, action="list_prices"))["data"]
            (value,) = [price["value"] for price in listed if price["currency"] == "BTC"]
            return float(value)

        database.turns = trio.Semaphore(0)
        database.set_price("BTC", Decimal(5))
        database.set_price("BTC", Decimal(6))
        database.answers[event_log.number_events](
            database, 500
        )  # by another server, which is ahead of this one
        assert await bitcoin() == 6
        for _ in range(3):
            database.turns.release()
            await trio.sleep(1)
            assert await bitcoin() == 6
        database.set_price("BTC", Decimal(7))
        database.turns.release()
        await trio.sleep(1)
        assert await bitcoin() == 7, "and what is new comes in"


async def test_after_a_log_that_was_lost_they_are_read_again(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    client = await world.connect()
    await request(client, action="list_prices")
    database.restore(seq=2)  # before there was a price of EUR
    await trio.sleep(1)
    prices = (await request(client, action="list_prices"))["data"]
    assert [price["currency"] for price in prices] == ["BTC", "ETH"]


async def test_a_log_that_is_lost_while_they_are_read_has_them_read_again(
    autojump_clock: MockClock,
) -> None:
    restored: list[SimulatedDatabase] = []

    def restore(database: SimulatedDatabase) -> None:
        if not restored:
            restored.append(database)
            database.restore(seq=2)  # before there was a price of EUR

    async with simulated_server(SlowToAnswer(restore)) as world:
        client = await world.connect()
        prices = (await request(client, action="list_prices"))["data"]
        assert [price["currency"] for price in prices] == ["BTC", "ETH"]


@pytest.mark.parametrize("is_listed", [False, True])
async def test_prices_that_were_lost_before_this_server_heard_of_them_are_read_again(
    autojump_clock: MockClock, *, is_listed: bool
) -> None:
    database = OneByOne()
    async with simulated_server(database) as world:
        end = database.numbered
        database.turns = trio.Semaphore(0)  # the server hears nothing
        database.set_price("BTC", Decimal(5))
        database.answers[event_log.number_events](database, 10)  # by another server
        assert await convert(world, "BTC", "USD") == 5
        database.restore(end)
        database.set_price("ETH", Decimal(6))
        database.turns.release()
        await trio.sleep(1)
        if is_listed:
            listed = await request(await world.connect(), action="list_prices")
            assert {price["value"] for price in listed["data"]} == {43000, 6, 1.08}
        else:
            assert await convert(world, "ETH", "USD") == 6
            assert await convert(world, "BTC", "USD") == 43000


async def test_a_snapshot_of_prices_waits_until_this_server_has_told_of_what_it_holds(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with simulated_server(database, poll_seconds=60) as world:
        client = await world.connect()
        database.lose_wakes = True
        for value in (5, 6):
            database.set_price("BTC", Decimal(value))
        await database.run(event_log.number_events, 100)  # by another process
        reply = await request(client, action="subscribe", type="price", id="BTC", snapshot=True)
        assert [price["value"] for price in reply["data"]["snapshot"]] == [6]
        assert reply["data"]["position"] == str(database.position(5)), "else 5 would be told after 6"


async def test_setting_waits_no_longer_for_the_log_than_a_moment(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    client = await world.connect()
    await request(client, action="list_prices")
    database.answers = {**database.answers, event_log.number_events: lambda *_: None}  # nobody numbers it
    assert (await request(client, **SET, value=5))["status"] == "success"
    assert trio.current_time() <= 2


async def test_whoever_sets_a_price_finds_it_in_the_list(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with simulated_server(database, poll_seconds=60) as world:
        clients = [await world.connect() for _ in range(10)]
        for client in clients:
            await request(client, action="list_prices")

        async def set_and_list(number: int) -> None:
            for step in range(10):
                value = 1000 * (number + 1) + step
                currency = f"X{number:02}"
                reply = await request(clients[number], **{**SET, "currency": currency}, value=value)
                listed = (await request(clients[number], action="list_prices"))["data"]
                assert reply["data"] in listed

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(set_and_list, number)


# Converting


async def test_a_price_converts_its_currency_into_its_base(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    bitcoin = (await request(client, action="list_prices"))["data"][0]
    reply = await request(client, **CONVERT)
    assert reply == {
        "status": "success",
        "data": {
            "quote_currency": "BTC",
            "base_currency": "USD",
            "quote_value": 1,
            "base_value": 43000.0,
            "timestamp": bitcoin["updatedAt"],
        },
    }
    assert list(reply["data"]) == [
        "quote_currency",
        "base_currency",
        "quote_value",
        "base_value",
        "timestamp",
    ]


@pytest.mark.parametrize(
    ("quote", "base", "value", "expected"),
    [
        ("BTC", "USD", "0.5", 21500),
        ("BTC", "USD", 0.00000001, 0),  # 0.00043 USD: less than half a cent
        ("USD", "BTC", "43000", 1),  # inversely
        ("USD", "BTC", 1, 0.00002326),
        ("BTC", "EUR", 1, 39814.81),  # both through USD: 43000 / 1.08
        ("EUR", "ETH", 1000, 0.469565217),
        ("USD", "USD", "1.005", 1.01),
        ("JPY", "JPY", "0.5", 1),
    ],
)
async def test_conversion_goes_both_ways_and_through_a_common_currency(
    contract: Contract, quote: str, base: str, value: object, expected: float
) -> None:
    world, _ = contract
    assert await convert(world, quote, base, value) == expected


@pytest.mark.parametrize(("quote", "base"), [("BTC", "XXX"), ("XXX", "BTC"), ("XXX", "YYY")])
async def test_a_pair_without_a_price_is_not_found(contract: Contract, quote: str, base: str) -> None:
    world, _ = contract
    client = await world.connect()
    fields = {"quote_currency": quote, "base_currency": base, "quote_value": 1}
    reply = await request(client, action="convert_price", **fields)
    assert (reply["code"], reply["message"]) == ("not_found", f"No price of {quote} in {base}")


async def test_a_direct_price_goes_before_a_way_through_another(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    await request(client, **{**SET, "base_currency": "EUR"}, value=40000)
    assert await convert(world, "BTC", "EUR") == 40000
    assert await convert(world, "EUR", "BTC", 40000) == 1


async def test_ones_own_price_goes_before_those_of_others_and_of_those_the_latest_counts(
    guarded: Contract,
) -> None:
    world, program = guarded
    first, second = [
        await world.connect(authorization=f"Bearer {await program.create_token(n)}") for n in (1, 2)
    ]
    stranger = await world.connect(
        authorization=f"Bearer {await program.create_token(await program.create_account())}"
    )
    fields = {"action": "convert_price", "quote_currency": "LTC", "base_currency": "USD", "quote_value": 1}

    async def converted() -> list[float]:
        return [
            (await request(client, **fields))["data"]["base_value"] for client in (first, second, stranger)
        ]

    litecoin = {**SET, "currency": "LTC"}
    await request(first, **litecoin, value=80)
    assert await converted() == [80, 80, 80]
    await request(second, **litecoin, value=1)
    assert await converted() == [80, 1, 1]
    await request(first, **litecoin, value=80)  # as it was, and said again
    assert await converted() == [80, 1, 80]


# What can't be


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {**SET, "value": value}
            for value in (0, -1, "NaN", "Infinity", "-0", "1e999999999", "1e-37", "x", True)
        ),
        {**SET, "value": 10**15},  # more minor units than JavaScript counts
        {**SET, "value": "1." + "1" * 40},
        {**SET, "base_currency": "BTC", "value": 1},
        {**SET, "currency": "bitcoin", "value": 1},
        {**CONVERT, "quote_value": 0},
        {**CONVERT, "quote_value": -1},
        {**CONVERT, "quote_value": "1e999999999"},
        {**CONVERT, "quote_currency": "x"},
    ],
)
async def test_a_value_that_cannot_be_is_refused_and_changes_nothing(
    contract: Contract, fields: dict[str, object]
) -> None:
    world, _ = contract
    client = await world.connect()
    before = await request(client, action="list_prices")
    assert (await request(client, **fields))["code"] == "invalid_value"
    assert await request(client, action="list_prices") == before


@pytest.mark.parametrize("missing", ["currency", "base_currency", "value"])
async def test_a_field_that_lacks_is_no_message(contract: Contract, missing: str) -> None:
    world, _ = contract
    fields = {**SET, "value": 1}
    del fields[missing]
    assert (await request(await world.connect(), **fields))["code"] == "invalid_message"


async def test_an_account_that_is_not_there_has_no_prices(conninfo: str, database: SimulatedDatabase) -> None:
    with closing(Gateway(conninfo, Settings())) as gateway:
        for one in (gateway, database):
            with pytest.raises(NotFound, match="Account not found"):
                await one.run(queries.set_price, 99, "BTC", "USD", Decimal(1))


# Their arithmetic


def test_python_and_postgresql_know_the_same_exponents(conninfo: str) -> None:
    known = [*EXPONENTS, "USD", "EUR", "XXX"]
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(
            "SELECT name, currency_exponent(name) FROM unnest(%s::text[]) name", (known,)
        ).fetchall()
        defined = connection.execute(
            "SELECT pg_get_function_sqlbody(oid) FROM pg_proc WHERE proname = 'currency_exponent'"
        ).fetchone()
    assert dict(rows) == {currency: exponent(currency) for currency in known}
    assert defined
    assert defined[0].count("'") == 2 * len(EXPONENTS)


@pytest.mark.parametrize(
    ("currency", "value", "converted"),
    [
        ("SOL", Fraction(1, 150), "0.006666667"),
        ("SHIB", Fraction(1, 150), "0.01"),  # as its digits are known
        ("XXX", Fraction(1, 150), "0.006666666666666667"),
        ("XXX", Fraction(1200), "1200"),
        ("XXX", Fraction(5, 2), "2.5"),
        ("XXX", Fraction(1, 10**18), "1E-18"),
        ("XXX", Fraction(1, 10**19), "0"),
        ("XXX", Fraction(10**36), str(10**36)),
    ],
)
def test_an_amount_in_a_currency_whose_digits_nobody_knows_keeps_its_own(
    currency: str, value: Fraction, converted: str
) -> None:
    assert str(rounded(value, currency)) == converted


async def test_a_dollar_in_a_coin_that_nobody_has_listed_is_not_a_hundredth(world: World) -> None:
    client = await world.connect()
    await request(client, action="set_price", currency="UNLISTED", base_currency="USD", value=150)
    assert await convert(world, "USD", "UNLISTED") == 0.006666666666666667


decimals = st.decimals(min_value="1e-18", max_value="1e15", allow_nan=False, places=18)
fractions = st.fractions(min_value=0, max_value=10**15)


@given(value=decimals, currency=st.sampled_from(["JPY", "USD", "KWD", "BTC", "ETH"]))
def test_rounding_is_to_the_nearest_unit_and_halves_go_up(value: Decimal, currency: str) -> None:
    unit = Fraction(1, 10 ** exponent(currency))
    error = Fraction(rounded(value, currency)) - Fraction(value)
    assert -unit / 2 < error <= unit / 2
    assert in_minor_units(value, currency) * unit == Fraction(rounded(value, currency))


@given(
    values=st.lists(decimals, min_size=2, max_size=2),
    directions=st.lists(st.booleans(), min_size=2, max_size=2),
)
def test_a_way_through_another_currency_is_exact_whichever_way_prices_are_given(
    values: list[Decimal], directions: list[bool]
) -> None:
    steps = [("AAA", "MMM"), ("MMM", "BBB")]
    known = [
        (*(pair if forward else pair[::-1]), value, f"2026-01-0{number}")
        for number, (pair, value, forward) in enumerate(zip(steps, values, directions, strict=True), 1)
    ]
    expected = Fraction(1)
    for value, forward in zip(values, directions, strict=True):
        expected *= Fraction(value) if forward else 1 / Fraction(value)
    there, back = find(known, "AAA", "BBB"), find(known, "BBB", "AAA")
    assert there == (expected, "2026-01-01")
    assert back == (1 / expected, "2026-01-01")


def find(known: list[tuple[str, str, Decimal, str]], quote: str, base: str) -> Rate | None:
    """What is found, where so much is known: currency, base, value, and since when."""
    rates = {(currency, its_base): Rate(Fraction(value), since) for currency, its_base, value, since in known}
    others = {("9", currency) for pair in rates for currency in pair}  # as late as can be: each is tried
    return find_rate(quote, base, lambda *pair: rates.get(pair), others)


def test_of_several_ways_the_latest_counts_and_of_several_prices_for_a_pair_the_last() -> None:
    known = [
        ("AAA", "MMM", Decimal(2), "2026-01-01"),
        ("MMM", "BBB", Decimal(2), "2026-01-04"),
        ("AAA", "NNN", Decimal(3), "2026-01-03"),
        ("NNN", "BBB", Decimal(3), "2026-01-02"),
        ("NNN", "BBB", Decimal(5), "2026-01-05"),
    ]
    assert find(known, "AAA", "BBB") == Rate(Fraction(15), "2026-01-03")
    assert find([], "AAA", "BBB") is None
