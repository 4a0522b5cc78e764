"""The client under the mock clock: it asks, follows, and comes back from whatever happens to its line."""

import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Any, assert_type, get_args, get_overloads, get_type_hints
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair
from trio_websocket import ConnectionClosed, wrap_server_stream

from trio_ws import messages
from trio_ws.client import Client, Disconnected, Event, Gap, OpenStream, Refused, connect
from trio_ws.client.closing import FIRST_PAUSE_SECONDS, HELD_SECONDS, LONGEST_PAUSE_SECONDS
from trio_ws.client.errors import MOST_SECONDS
from trio_ws.client.line import REPLY_SECONDS, SILENCE_SECONDS
from trio_ws.client.opening import CLOSE_SECONDS, Address
from trio_ws.client.requests import Requests
from trio_ws.database import event_log
from trio_ws.testing import SimulatedDatabase, World, simulated_server

INVOICE = {"amount": 1000, "currency": "USD", "account_id": 1}


class Lines:
    """The way to a server that may change, and the lines that lead there."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.streams: list[trio.abc.HalfCloseableStream] = []

    async def open(self) -> trio.abc.HalfCloseableStream:
        if self.world is None:
            await trio.lowlevel.checkpoint()
            raise ConnectionRefusedError
        stream = await self.world.network.call()
        self.streams.append(stream)
        return stream

    async def cut(self) -> None:
        for stream in self.streams:
            await trio.aclose_forcefully(stream)
        self.streams.clear()


Serve = Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]


def lines_to(serve: Serve, nursery: trio.Nursery) -> OpenStream:
    """Return how to open lines, at whose other ends somebody serves."""

    async def open_line() -> trio.abc.HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        ours, theirs = lockstep_stream_pair()
        nursery.start_soon(serve, theirs)
        return ours

    return open_line


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
async def client(lines: Lines, world: World) -> AsyncIterator[Client]:
    """A client of the simulated server."""
    lines.world = world
    async with connect("ws://till.example", open_stream=lines.open) as client:
        yield client


PATIENCE_SECONDS = 3600  # of the mock clock's


async def test_requests_are_answered(autojump_clock: MockClock, client: Client) -> None:
    created = await client.create_invoice(**INVOICE)
    assert await client.fetch_invoice(created["uid"]) == created
    assert [price["currency"] for price in await client.list_prices()] == ["BTC", "ETH", "EUR"]
    assert (await client.call("ping"))["type"] == "pong"


async def test_requests_may_be_made_at_once(autojump_clock: MockClock, client: Client, lines: Lines) -> None:
    amounts: list[int] = []

    async def create(amount: int) -> None:
        invoice = await client.create_invoice(**{**INVOICE, "amount": amount})
        assert invoice["amount"] == amount
        amounts.append(amount)

    async with trio.open_nursery() as nursery:
        for amount in range(1, 21):
            nursery.start_soon(create, amount)
    assert sorted(amounts) == list(range(1, 21))
    assert len(lines.streams) == 1


async def test_an_error_has_its_code_and_detail(autojump_clock: MockClock, client: Client) -> None:
    with pytest.raises(Refused, match="Invalid value") as error:
        await client.create_invoice(**{**INVOICE, "amount": 0})
    assert (error.value.code, error.value.detail) == ("invalid_value", "Expected `int` >= 1 - at `$.amount`")


async def test_a_lost_line_is_said_to_who_waits_and_replaced_for_who_asks_next(
    autojump_clock: MockClock, client: Client, lines: Lines, database: SimulatedDatabase
) -> None:
    await client.call("ping")
    database.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_expect_disconnection, client)
        await trio.sleep(1)
        await lines.cut()
        database.gate.set()
    assert (await client.call("ping"))["type"] == "pong"


async def _expect_disconnection(client: Client) -> None:
    with pytest.raises(Disconnected):
        await client.create_invoice(**INVOICE)


async def test_no_server_is_said_in_bounded_time(autojump_clock: MockClock, lines: Lines) -> None:
    async with connect("ws://till.example", open_stream=lines.open) as client:
        with pytest.raises(Disconnected):
            await client.call("ping")
        assert trio.current_time() == REPLY_SECONDS


async def test_what_is_followed_comes_in_order_across_lost_lines(
    autojump_clock: MockClock, client: Client, lines: Lines, database: SimulatedDatabase
) -> None:
    uid = database.create_invoice(**INVOICE)
    events = client.follow(("account", 1), ("invoice", str(uid)))
    await trio.sleep(1)
    memos: list[str] = []
    with trio.fail_after(PATIENCE_SECONDS):
        for number in range(100):
            database.update_invoice(uid, memo=str(number))
            if number % 10 == 3:
                await lines.cut()
            if number % 10 == 5:
                await trio.sleep(1)
        async for event in events:
            assert isinstance(event, Event)
            memos.append(event.data["memo"])
            if len(memos) % 7 == 0:
                await lines.cut()
            if len(memos) == 100:
                break
    assert memos == [str(number) for number in range(100)]


async def test_a_server_that_stops_says_when_to_come_back_and_nothing_is_lost(
    autojump_clock: MockClock, lines: Lines, database: SimulatedDatabase
) -> None:
    async with connect("ws://till.example", open_stream=lines.open) as client:
        async with simulated_server(database) as lines.world:
            events = client.follow(("account", 1))
            await trio.sleep(1)
            database.create_invoice(**INVOICE)
            assert (await anext(events)).position.endswith(".4")
        lines.world = None
        database.create_invoice(**INVOICE)
        await trio.sleep(100)
        async with simulated_server(database) as lines.world:
            assert (await anext(events)).position.endswith(".5")
            database.create_invoice(**INVOICE)
            assert (await anext(events)).position.endswith(".6")


async def test_what_may_have_been_missed_is_said(
    autojump_clock: MockClock, client: Client, lines: Lines, database: SimulatedDatabase
) -> None:
    events = client.follow(("account", 1))
    await trio.sleep(1)
    database.create_invoice(**INVOICE)
    assert isinstance(await anext(events), Event)
    database.restore(seq=3)
    with trio.fail_after(PATIENCE_SECONDS):
        assert await anext(events) == Gap(str(database.position(3)))
        database.create_invoice(**INVOICE)
        assert isinstance(await anext(events), Event)


async def test_following_from_a_position_begins_after_it(
    autojump_clock: MockClock, client: Client, database: SimulatedDatabase
) -> None:
    for _ in range(3):
        database.create_invoice(**INVOICE)
    await trio.sleep(1)
    async with client.follow(("account", 1), after=str(database.position(4))) as events:
        assert [(await anext(events)).position.partition(".")[2] for _ in range(2)] == ["5", "6"]


async def test_what_cannot_be_followed_is_refused(autojump_clock: MockClock, client: Client) -> None:
    with pytest.raises(Refused) as error:
        await anext(client.follow(("weather", "today")))
    assert error.value.code == "invalid_topic"


@pytest.mark.parametrize("code", [1002, 1007, 1009, 4403])
async def test_a_line_that_ends_for_what_we_did_is_not_tried_for_ever(
    autojump_clock: MockClock, code: int
) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(Refused, match="because")):
        await pauses_of_a_follower(partial(answer, FOLLOWED, code, "because"), PATIENCE_SECONDS)


async def test_as_many_topics_as_a_connection_may_have_can_be_followed(
    autojump_clock: MockClock, client: Client, lines: Lines, database: SimulatedDatabase
) -> None:
    addresses = [f"0x{number:0100}" for number in range(1000)]
    events = client.follow(*[("address", address) for address in addresses])
    await trio.sleep(1)
    with trio.fail_after(PATIENCE_SECONDS):
        for address in (addresses[-1], addresses[0], addresses[500]):
            database.create_invoice(**INVOICE, address=address)
            await lines.cut()
            assert isinstance(event := await anext(events), Event)
            assert event.data["address"] == address


@pytest.mark.parametrize("leaves", ["async with", "break"])
async def test_a_refusal_that_nobody_waits_for_any_more_ends_nothing_else(
    autojump_clock: MockClock, client: Client, leaves: str
) -> None:
    events = client.follow(("weather", "today"))
    await trio.sleep(1)  # it is refused by now
    if leaves == "break":
        del events
    else:
        await events.aclose()
    await trio.sleep(1)
    assert (await client.call("ping"))["type"] == "pong"


@pytest.mark.parametrize(
    "message", ["null", "<html>", b"{}", '{"request_id": [1], "status": "success"}', "{}"]
)
async def test_a_message_that_is_none_of_the_protocol_s_is_no_more_than_a_lost_line(
    autojump_clock: MockClock, message: str | bytes
) -> None:
    async def babble(stream: Any) -> None:
        async with trio.open_nursery() as nursery:
            socket = await (await wrap_server_stream(nursery, stream)).accept()
            await socket.get_message()
            await socket.send_message(message)
            await socket.aclose()

    assert len(await pauses_of_a_follower(babble, 100)) > 5
    async with trio.open_nursery() as nursery:
        open_line = lines_to(babble, nursery)
        async with connect("ws://till.example", open_stream=open_line) as client:
            with pytest.raises(Disconnected):
                await client.call("ping")
        nursery.cancel_scope.cancel()


async def test_a_request_that_is_cancelled_leaves_no_half_frame(
    autojump_clock: MockClock, world: World
) -> None:
    async def open_slowly() -> Halting:
        return Halting(await world.network.call())

    async with connect("ws://till.example", open_stream=open_slowly) as client:
        await client.call("ping")
        with trio.move_on_after(1):
            await client.call("ping")
        begin = trio.current_time()
        assert (await client.call("ping"))["type"] == "pong"
        assert trio.current_time() - begin < REPLY_SECONDS


@pytest.mark.parametrize("token", ["trio_ws_secret\n", "trio_ws_secret x", ""])
async def test_a_token_that_cannot_be_one_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ValueError, match="the token holds") as error:
        async with connect("ws://till.example", token=token):
            pass
    assert "secret" not in str(error.value)


async def test_decimals_are_exact_both_ways(autojump_clock: MockClock, client: Client) -> None:
    value = Decimal("0.12345678901234567891")
    price = await client.call("set_price", currency="ETH", base_currency="USD", value=value)
    assert (price["value"], type(price["value"])) == (value, Decimal)


# What the server's own structs say


async def test_a_struct_asks_and_another_is_the_reply(autojump_clock: MockClock, client: Client) -> None:
    asked = messages.CreateInvoice(amount=1000, currency="USD", account_id=1, memo="m")
    invoice = assert_type(await client.do(asked), messages.Invoice)
    assert (invoice.amount, invoice.memo, invoice.version) == (1000, "m", 1)
    assert await client.do(messages.FetchInvoice(id=str(invoice.uid))) == invoice
    assert [one.uid for one in await client.do(messages.ListInvoices(account_id=1))] == [invoice.uid]
    value = Decimal("0.12345678901234567891")
    asked_price = messages.SetPrice(currency="ETH", base_currency="USD", value=value)
    assert assert_type(await client.do(asked_price), messages.Price).value == value
    assert (await client.do(messages.Ping())).timestamp > 0
    with pytest.raises(Refused, match="Invoice not found"):
        await client.do(messages.CancelInvoice(uid="x"))


async def test_a_reply_that_is_another_than_the_struct_says_is_no_message_of_the_protocol(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        reply = {"status": "success", "request_id": 1, "data": {"uid": 7}}
        serve = partial(answer, reply, 1000, "", after_seconds=1)
        async with connect("ws://till.example", open_stream=lines_to(serve, nursery)) as client:
            with pytest.raises(Disconnected, match="no message of the protocol"):
                await client.do(messages.FetchInvoice(id="x"))
        nursery.cancel_scope.cancel()


def test_each_action_that_needs_no_following_has_the_reply_that_the_protocol_says() -> None:
    said = [get_type_hints(one) for one in get_overloads(Requests.do)]
    types = {
        action: hints["return"] for hints in said for action in get_args(hints["action"]) or [hints["action"]]
    }
    following = {messages.Subscribe, messages.Resume, messages.Unsubscribe, messages.UnsubscribeAll}
    assert types == {
        action: data or messages.Success
        for action, data in messages.REPLY_DATA.items()
        if action not in following
    }
    assert set(get_args(messages.Call)) == set(types)


# Lists


async def test_a_list_of_many_pages_is_read_to_its_end(
    autojump_clock: MockClock, client: Client, database: SimulatedDatabase
) -> None:
    uids = {str(database.create_invoice(**INVOICE)) for _ in range(250)}
    for number in range(1200):
        database.set_price(f"X{number:04}", Decimal(1))
    assert {invoice["uid"] async for invoice in client.all("list_invoices", account_id=1)} == uids
    asked = client.all(messages.ListInvoices(account_id=1, limit=100))
    assert {str(assert_type(invoice, messages.Invoice).uid) async for invoice in asked} == uids
    assert [one async for one in client.all("list_invoices", account_id=1, status="paid")] == []
    prices = await client.list_prices()
    assert len({price["id"] for price in prices}) == len(prices) == len(database.prices)
    same = [assert_type(one, messages.Price).id async for one in client.all(messages.ListPrices())]
    assert same == [price["id"] for price in prices]


async def test_a_list_that_nobody_reads_to_its_end_is_asked_for_no_further(
    autojump_clock: MockClock, client: Client, database: SimulatedDatabase
) -> None:
    for _ in range(60):
        database.create_invoice(**INVOICE)
    async for _ in client.all("list_invoices", account_id=1):
        break
    invoices = client.all("list_invoices", account_id=1)
    for _ in range(50):
        await anext(invoices)
    database.away = True
    with pytest.raises(Refused, match="can't be reached"):
        await anext(invoices)
    database.away = False
    assert len([one async for one in invoices]) == 10, "and goes on where it was"


# Watching


async def test_watching_yields_the_state_now_and_each_newer_one_over_lost_lines(
    autojump_clock: MockClock, client: Client, lines: Lines, database: SimulatedDatabase
) -> None:
    uid = database.create_invoice(**INVOICE)
    database.update_invoice(uid, memo="2")
    states = client.watch("invoice", str(uid))
    with trio.fail_after(PATIENCE_SECONDS):
        assert (await anext(states))["version"] == 2
        for version in range(3, 10):
            await lines.cut()
            database.update_invoice(uid, memo=str(version))
            assert (await anext(states))["version"] == version


async def test_a_state_that_is_read_before_its_event_has_a_number_is_yielded_once(
    autojump_clock: MockClock, client: Client, database: SimulatedDatabase
) -> None:
    database.lose_wakes = True  # the server has yet to number what the snapshot shows
    uid = database.create_invoice(**INVOICE)
    database.update_invoice(uid, memo="2")
    states = client.watch("invoice", str(uid))
    with trio.fail_after(PATIENCE_SECONDS):
        assert (await anext(states))["version"] == 2
        await trio.sleep(10)
        database.update_invoice(uid, memo="3")
        assert (await anext(states))["version"] == 3


async def test_watching_more_prices_than_a_page_holds_yields_each_that_changes(
    autojump_clock: MockClock, client: Client, database: SimulatedDatabase
) -> None:
    many = 1200
    for number in range(many):
        database.set_price(f"X{number:04}", Decimal(1))
    await trio.sleep(1)
    states = client.watch("price", "*")
    with trio.fail_after(PATIENCE_SECONDS):
        known = len(database.prices)
        assert len({(await anext(states))["currency"] for _ in range(known)}) == known
        database.set_price("X0001", Decimal(7))
        assert (await anext(states))["value"] == 7


async def test_watching_what_is_not_there_yet_waits_for_it(
    autojump_clock: MockClock, client: Client, database: SimulatedDatabase
) -> None:
    states = client.watch("address", "here")
    await trio.sleep(60)
    database.create_invoice(**INVOICE, address="here")
    with trio.fail_after(PATIENCE_SECONDS):
        assert (await anext(states))["version"] == 1


async def test_after_a_gap_watching_yields_the_state_again_though_it_is_older_and_tries_until_it_is_had(
    autojump_clock: MockClock, client: Client, lines: Lines, database: SimulatedDatabase
) -> None:
    uid = database.create_invoice(**INVOICE)
    states = client.watch("invoice", str(uid))
    with trio.fail_after(PATIENCE_SECONDS):
        assert (await anext(states))["version"] == 1
        await trio.sleep(1)
        before = database.position(4).seq
        database.update_invoice(uid, memo="lost")
        assert (await anext(states))["version"] == 2
        database.restore(seq=before)
        assert (await anext(states))["version"] == 1
        database.update_invoice(uid, memo="again")
        assert (await anext(states))["memo"] == "again"


async def test_a_state_that_was_not_had_before_the_line_was_lost_is_asked_for_on_the_next(
    autojump_clock: MockClock,
) -> None:
    asked: list[str] = []
    followed = {
        "status": "success",
        "data": {"position": "a.1", "recovered": True, "snapshot": {"version": 7}},
    }
    lost = {"status": "success", "data": {"position": "b.1", "recovered": False}}
    scripts = iter([[followed], [lost], [followed]])  # and then the line is lost

    async def serve(stream: Any) -> None:
        async with trio.open_nursery() as nursery:
            socket = await (await wrap_server_stream(nursery, stream)).accept()
            for reply in next(scripts, []):
                asked.append(json.loads(await socket.get_message())["action"])
                await socket.send_message(json.dumps(reply))
            await trio.sleep(1)
            await socket.aclose()

    async with trio.open_nursery() as nursery:
        open_line = lines_to(serve, nursery)
        async with connect("ws://till.example", open_stream=open_line) as client:
            states = client.watch("invoice", "x")
            with trio.fail_after(PATIENCE_SECONDS):
                assert [await anext(states) for _ in range(2)] == [{"version": 7}] * 2
        nursery.cancel_scope.cancel()
    assert asked == ["subscribe", "resume", "subscribe"]


async def test_watching_an_account_yields_all_its_open_invoices_and_then_what_changes(
    autojump_clock: MockClock, client: Client, database: SimulatedDatabase
) -> None:
    uids = {str(database.create_invoice(**INVOICE)) for _ in range(250)}  # three pages
    await trio.sleep(1)
    states = client.watch("account", 1)
    with trio.fail_after(PATIENCE_SECONDS):
        assert {(await anext(states))["uid"] for _ in uids} == uids
        database.update_invoice(UUID(min(uids)), memo="changed")
        assert (await anext(states))["memo"] == "changed"


async def test_a_consumer_may_ask_while_it_follows(
    autojump_clock: MockClock, client: Client, database: SimulatedDatabase
) -> None:
    events = client.follow(("account", 1))
    await trio.sleep(1)
    for _ in range(20):
        database.create_invoice(**INVOICE)
    with trio.fail_after(PATIENCE_SECONDS):
        for _ in range(20):
            event = await anext(events)
            assert isinstance(event, Event)
            assert (await client.fetch_invoice(event.data["uid"]))["version"] == 1


async def test_an_error_leaves_the_client_as_it_was_raised(autojump_clock: MockClock, lines: Lines) -> None:
    with pytest.raises(ZeroDivisionError):
        async with connect("ws://till.example", open_stream=lines.open):
            raise ZeroDivisionError


@pytest.mark.parametrize("url", ["http://x", "ws://", "localhost:8080"])
async def test_a_url_that_leads_nowhere_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="is no ws:// or wss:// URL"):
        async with connect(url):
            pass


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("ws://till.example", "till.example", "/"),
        ("ws://u:p@till.example:81/ws?x=1&y=%20#z", "till.example:81", "/ws?x=1&y=%20"),
        ("ws://till.example?x=[1]", "till.example", "/?x=[1]"),
        ("ws://[::1]:81", "[::1]:81", "/"),
        ("ws://a_till", "a_till", "/"),
        ("ws://bücher.example/über uns?q=ü", "xn--bcher-kva.example", "/%C3%BCber%20uns?q=%C3%BC"),
    ],
)
def test_what_a_url_says_is_asked_for_as_http_writes_it(url: str, host: str, target: str) -> None:
    address = Address.of(url)
    assert (address.host, address.target) == (host, target)


@pytest.mark.parametrize(
    "url", ["ws://a..b", f"ws://{'a' * 64}", "ws://x:99999", "ws://[::1", "ws://a b", "ws://x/\udcff"]
)
async def test_a_url_that_cannot_be_one_is_refused_in_a_line(url: str) -> None:
    with pytest.raises(ValueError, match="is no ws:// or wss:// URL") as error:
        async with connect(url):
            pass
    assert type(error.value) is ValueError, "and no UnicodeError"
    assert "\n" not in str(error.value)


# What can be asked


async def test_a_field_may_have_any_name_but_those_that_each_request_has(
    autojump_clock: MockClock, client: Client
) -> None:
    assert (await client.call("ping", self=1))["type"] == "pong"
    for name in ("action", "request_id"):
        with pytest.raises(ValueError, match=f"no field can be called '{name}'"):
            await client.call("ping", **{name: 1})


@pytest.mark.parametrize(
    "memo", [float("nan"), float("inf"), Decimal("NaN"), Decimal("-Infinity"), [{"x": (1, float("nan"))}]]
)
async def test_a_number_that_json_has_not_is_not_sent(
    autojump_clock: MockClock, client: Client, memo: object
) -> None:
    with pytest.raises(ValueError, match="is no number that can be sent"):
        await client.create_invoice(**INVOICE, memo=memo)


# Who it is


async def test_a_token_says_who_it_is(
    autojump_clock: MockClock, lines: Lines, database: SimulatedDatabase
) -> None:
    token = database.create_token(account_id=1, scopes=("read", "write"))
    async with (
        simulated_server(database, auth="token") as lines.world,
        connect("ws://till.example", token=token, open_stream=lines.open) as client,
    ):
        invoice = await client.create_invoice(amount=5, currency="EUR")
        assert invoice["account_id"] == 1
        async with client.follow(("account", 1)) as events:
            with trio.move_on_after(1):
                await anext(events)
            database.update_invoice(UUID(invoice["uid"]), memo="x")
            assert isinstance(event := await anext(events), Event)
            assert event.data["memo"] == "x"
            database.revoke_token(token)
            with pytest.raises(Refused, match="the token was revoked") as error:
                await anext(events)
            assert error.value.code == "unauthorized"
        with pytest.raises(Refused, match="401 Unauthorized"):
            await client.fetch_invoice(invoice["uid"])


@pytest.mark.parametrize("path", ["", "/nowhere"])
async def test_a_server_that_will_not_have_us_is_not_asked_for_ever(
    autojump_clock: MockClock, lines: Lines, database: SimulatedDatabase, path: str
) -> None:
    async with simulated_server(database, auth="token") as lines.world:
        url = f"ws://till.example{path}"
        async with connect(url, token="wrong", open_stream=lines.open) as client:
            with pytest.raises(Refused, match=r"turned us away: 40[14] ") as error:
                await client.list_prices()
            assert error.value.code == ("forbidden" if path else "unauthorized")
            with pytest.raises(Refused, match=r"turned us away: 40[14] "):
                await anext(client.follow(("account", 1)))


async def assert_closed(stream: trio.abc.SendStream) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")


async def test_a_line_that_was_turned_away_is_closed(
    autojump_clock: MockClock, lines: Lines, database: SimulatedDatabase
) -> None:
    async with simulated_server(database, auth="token") as lines.world:
        async with connect("ws://till.example", token="wrong", open_stream=lines.open) as client:
            with pytest.raises(Refused):
                await client.list_prices()
        (stream,) = lines.streams
        await assert_closed(stream)


async def test_a_line_that_nobody_waits_for_any_more_is_closed(autojump_clock: MockClock) -> None:
    ours, _theirs = memory_stream_pair()

    async def open_to_nobody() -> trio.abc.HalfCloseableStream:
        return ours

    async with connect("ws://till.example", open_stream=open_to_nobody) as client:
        with trio.move_on_after(1):
            await client.list_prices()
    await assert_closed(ours)


async def test_a_server_that_is_full_for_now_is_asked_again(
    autojump_clock: MockClock, lines: Lines, database: SimulatedDatabase
) -> None:
    token = database.create_token()
    async with (
        simulated_server(database, auth="token", retry_spread_seconds=1) as lines.world,
        connect("ws://till.example", token=token, open_stream=lines.open) as client,
    ):
        database.away = True  # so that nobody can say whether the token is good: 503
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "ping")
            await trio.sleep(5)
            assert len(lines.streams) > 1
            database.away = False


# What is said of a line that was lost


async def test_a_message_that_the_server_does_not_take_is_said_to_be_too_large(
    autojump_clock: MockClock, client: Client
) -> None:
    with pytest.raises(Refused, match=r"1009 .*larger than the server takes") as error:
        await client.call("ping", padding="x" * 100_000)
    assert error.value.code == "invalid_message"
    assert (await client.call("ping"))["type"] == "pong"


async def test_how_the_line_ended_is_said_to_who_waits_for_a_reply(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(answer, {}, 1011, "a bug")
        async with connect("ws://till.example", open_stream=lines_to(serve, nursery)) as client:
            with pytest.raises(Disconnected, match=r"closed with 1011 \(a bug\)") as error:
                await client.call("ping")
        nursery.cancel_scope.cancel()
    assert (error.value.code, error.value.reason) == (1011, "a bug")


async def test_a_request_on_a_line_that_ends_for_good_is_refused_as_following_is(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(answer, {}, 4401, "the token was revoked")
        async with connect("ws://till.example", open_stream=lines_to(serve, nursery)) as client:
            with pytest.raises(Refused, match=r"closed with 4401 \(the token was revoked\)") as error:
                await client.call("ping")
        nursery.cancel_scope.cancel()
    assert error.value.code == "unauthorized"


# What nobody tells it


class Around(trio.abc.HalfCloseableStream):
    """A line over another one."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


class Halting(Around):
    """A line that takes two seconds for each frame, and has half of it meanwhile."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        half = len(data) // 2
        await self.stream.send_all(data[:half])
        await trio.sleep(2)
        await self.stream.send_all(data[half:])


class BlackHole(Around):
    """A line that may fall silent, as when somebody pulls a plug."""

    silent = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.silent:
            await trio.lowlevel.checkpoint()
        else:
            await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await super().receive_some(max_bytes)
        if self.silent:
            await trio.sleep_forever()
        return data


@pytest.fixture
async def holes(lines: Lines, world: World) -> AsyncIterator[tuple[Client, list[BlackHole]]]:
    """A client whose lines may fall silent."""
    found: list[BlackHole] = []
    lines.world = world

    async def open_hole() -> BlackHole:
        found.append(BlackHole(await lines.open()))
        return found[-1]

    async with connect("ws://till.example", open_stream=open_hole) as client:
        yield client, found


async def test_a_line_that_fell_silent_is_replaced_at_the_next_request(
    autojump_clock: MockClock, holes: tuple[Client, list[BlackHole]]
) -> None:
    client, found = holes
    await client.call("ping")
    found[0].silent = True
    with pytest.raises(Disconnected, match="no reply in time"):
        await client.call("ping")
    assert (await client.call("ping"))["type"] == "pong"
    assert len(found) == 2


async def test_a_follower_s_line_that_fell_silent_is_noticed_and_nothing_is_missed(
    autojump_clock: MockClock, holes: tuple[Client, list[BlackHole]], database: SimulatedDatabase
) -> None:
    client, found = holes
    async with client.follow(("account", 1)) as events:
        with trio.move_on_after(1):
            await anext(events)
        found[0].silent = True
        database.create_invoice(**INVOICE)
        begin = trio.current_time()
        with trio.fail_after(PATIENCE_SECONDS):
            assert isinstance(event := await anext(events), Event)
        assert event.type == "invoice.created"
        assert trio.current_time() - begin < 2 * SILENCE_SECONDS + 1


async def test_breaking_off_ends_the_line(
    autojump_clock: MockClock, client: Client, lines: Lines, database: SimulatedDatabase
) -> None:
    async def create_later() -> None:
        await trio.sleep(1)
        database.create_invoice(**INVOICE)

    for _ in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(create_later)
            async for _ in client.follow(("account", 1)):
                break
    await trio.sleep(CLOSE_SECONDS)
    for stream in lines.streams:
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            await stream.send_all(b"x")


async def test_a_server_that_cannot_say_yet_is_asked_again(
    autojump_clock: MockClock, client: Client, database: SimulatedDatabase
) -> None:
    await client.call("ping")
    database.lose_wakes = True
    database.create_invoice(**INVOICE)
    await database.run(event_log.number_events, 100)  # by another process, which has told of .4
    after = str(database.position(4))
    database.away = True
    await trio.sleep(1)
    async with client.follow(("account", 1), after=after) as events:
        with trio.move_on_after(60):
            await anext(events)
        database.create_invoice(**INVOICE)
        database.away = False
        assert isinstance(event := await anext(events), Event)
        assert event.position == str(database.position(5))


class Brittle(Around):
    """A line that breaks after so many frames of the server's, each of which is one piece."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, pieces: int) -> None:
        super().__init__(stream)
        self.pieces = pieces

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self.pieces:
            await trio.aclose_forcefully(self.stream)
            raise trio.BrokenResourceError
        self.pieces -= 1
        return await super().receive_some(max_bytes)


async def test_it_keeps_its_own_position_until_the_replay_has_come(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    opened = 0

    async def open_brittle() -> Brittle:
        nonlocal opened
        opened += 1
        # The head and the reply, and then it breaks; the sixth one lasts.
        return Brittle(await world.network.call(), pieces=2 if opened < 6 else 1000)

    for _ in range(3):
        database.create_invoice(**INVOICE)
    async with (
        connect("ws://till.example", open_stream=open_brittle) as client,
        client.follow(("account", 1), after=str(database.position(3))) as events,
    ):
        with trio.fail_after(PATIENCE_SECONDS):
            got = [await anext(events) for _ in range(3)]
    assert opened == 6
    assert [event.position.rpartition(".")[2] for event in got] == ["4", "5", "6"]


class Mute:
    """A server that answers pings, but no requests, until it does."""

    def __init__(self, lines: int) -> None:
        self.lines = lines

    async def serve(self, stream: Any) -> None:
        async with trio.open_nursery() as nursery:
            socket = await (await wrap_server_stream(nursery, stream)).accept()
            self.lines -= 1
            with contextlib.suppress(ConnectionClosed):
                while self.lines >= 0:
                    await socket.send_message(EVENT)
                    await trio.sleep(1)
                    await socket.ping()
            if self.lines >= 0:
                return
            await socket.get_message()
            await socket.send_message(json.dumps(FOLLOWED))
            await socket.send_message(EVENT)


async def test_a_follower_does_not_wait_for_ever_for_a_reply(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        open_line = lines_to(Mute(lines=3).serve, nursery)
        async with connect("ws://till.example", open_stream=open_line) as client:
            with trio.fail_after(PATIENCE_SECONDS):
                assert isinstance(await anext(client.follow(("account", 1))), Event)
        nursery.cancel_scope.cancel()


# How long it waits


class Tries:
    """Where no server is: each try to get there fails, and is noted."""

    def __init__(self) -> None:
        self.times: list[float] = []

    async def open(self) -> trio.abc.HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        self.times.append(trio.current_time())
        raise ConnectionRefusedError


async def follow_for(seconds: float, open_stream: OpenStream) -> None:
    async with connect("ws://till.example", open_stream=open_stream) as client:
        with trio.move_on_after(seconds):
            await anext(client.follow(("account", 1)))


async def test_pauses_between_tries_are_random_below_a_bound_that_doubles(autojump_clock: MockClock) -> None:
    everyone = [Tries() for _ in range(20)]
    async with trio.open_nursery() as nursery:
        for tries in everyone:
            nursery.start_soon(follow_for, 600, tries.open)
    pauses = [[later - earlier for earlier, later in itertools.pairwise(one.times)] for one in everyone]
    for number, bound in enumerate([0.2, 0.4, 0.8, 1.6, 3.2, 6.4]):
        of_all = [one[number] for one in pauses]
        assert max(of_all) <= bound
        assert max(of_all) - min(of_all) > bound / 10, "or all come back in the same moment"
    longest = [pause for one in pauses for pause in one[6:]]
    assert max(longest) <= LONGEST_PAUSE_SECONDS
    assert max(longest) > LONGEST_PAUSE_SECONDS * 0.9
    assert min(longest) < LONGEST_PAUSE_SECONDS * 0.1


async def pauses_of(
    live: Callable[[float, OpenStream], Awaitable[None]], serve: Serve, seconds: float
) -> list[float]:
    """How long a client leaves a server alone that serves each line so, each time."""
    times: list[float] = []

    async def note_and_serve(stream: trio.abc.HalfCloseableStream) -> None:
        times.append(trio.current_time())
        await serve(stream)

    async with trio.open_nursery() as nursery:
        await live(seconds, lines_to(note_and_serve, nursery))
        nursery.cancel_scope.cancel()
    return [later - earlier for earlier, later in itertools.pairwise(times)]


pauses_of_a_follower = partial(pauses_of, follow_for)


async def answer(reply: object, code: int, reason: str, stream: Any, after_seconds: float = 0) -> None:
    """Answer a request, and end the line."""
    async with trio.open_nursery() as nursery:
        socket = await (await wrap_server_stream(nursery, stream)).accept()
        await socket.get_message()
        await socket.send_message(json.dumps(reply))
        await trio.sleep(after_seconds)
        await socket.aclose(code, reason)


async def turn_away(stream: trio.abc.HalfCloseableStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 503 Full\r\nRetry-After: 20\r\nContent-Length: 0\r\n\r\n")


EVENT = '{"type": "invoice.created", "data": {}, "position": "e-1.6"}'
FOLLOWED = {"status": "success", "data": {"position": "e-1.5", "recovered": True}}


def busy(seconds: object) -> dict[str, object]:
    return {"status": "error", "code": "unavailable", "message": "", "retry_after_seconds": seconds}


@pytest.mark.parametrize("code", [1001, 4008])
async def test_who_is_told_when_to_come_back_comes_back_then(autojump_clock: MockClock, code: int) -> None:
    pauses = await pauses_of_a_follower(partial(answer, FOLLOWED, code, "retry_after=100"), 3550)
    assert min(pauses) >= 100
    assert max(pauses) <= 100 + LONGEST_PAUSE_SECONDS
    assert len(set(pauses)) > 10, "or all that are told the same come back in the same moment"


async def test_a_server_cannot_have_it_wait_for_ever(autojump_clock: MockClock) -> None:
    pauses = await pauses_of_a_follower(partial(answer, FOLLOWED, 1001, "retry_after=1000000"), 3550)
    assert len(pauses) > 10


NO_SECONDS = [
    "",
    "retry_after=",
    "retry_after=soon",
    "retry_after=-5",
    "retry_after=²",
    "retry_after=nan",
    "later=7.5",
]


@pytest.mark.parametrize("reason", NO_SECONDS)
async def test_who_is_not_told_so_backs_off_unless_its_line_had_held(
    autojump_clock: MockClock, reason: str
) -> None:
    pauses = await pauses_of_a_follower(partial(answer, FOLLOWED, 1001, reason), 1000)
    assert max(pauses) > LONGEST_PAUSE_SECONDS * 0.8
    held = partial(answer, FOLLOWED, 1001, reason, after_seconds=HELD_SECONDS + 1)
    pauses = await pauses_of_a_follower(held, 1000)
    assert max(pauses) <= HELD_SECONDS + 1 + FIRST_PAUSE_SECONDS


async def test_who_is_refused_for_now_comes_back_no_sooner_than_told(autojump_clock: MockClock) -> None:
    pauses = await pauses_of_a_follower(partial(answer, busy(100), 1000, ""), 3550)
    assert min(pauses) >= 100
    pauses = await pauses_of_a_follower(turn_away, 3550)
    assert min(pauses) >= 20


@pytest.mark.parametrize("seconds", [-1e9, -(10**30), "soon", "nan", [], {}])
async def test_who_is_refused_for_no_time_that_there_is_backs_off(
    autojump_clock: MockClock, seconds: object
) -> None:
    pauses = await pauses_of_a_follower(partial(answer, busy(seconds), 1000, ""), 1000)
    assert max(pauses) > LONGEST_PAUSE_SECONDS * 0.8


@pytest.mark.parametrize("seconds", [1e300, 10**400, "inf"], ids=["1e300", "10**400", "inf"])
async def test_who_is_refused_for_longer_than_a_server_can_have_it_wait_comes_back_sooner(
    autojump_clock: MockClock, seconds: object
) -> None:
    pauses = await pauses_of_a_follower(partial(answer, busy(seconds), 1000, ""), 3550)
    assert MOST_SECONDS <= min(pauses) <= max(pauses) <= MOST_SECONDS + LONGEST_PAUSE_SECONDS


async def test_who_is_refused_again_and_again_comes_back_at_longer_and_longer_intervals(
    autojump_clock: MockClock,
) -> None:
    pauses = await pauses_of_a_follower(partial(answer, busy(0.1), 1000, ""), 1000)
    assert min(pauses) > 0.09
    assert max(pauses[:2]) <= 0.1 + 2 * FIRST_PAUSE_SECONDS, "as told, and the second bound"
    assert max(pauses) > LONGEST_PAUSE_SECONDS * 0.8


async def ask_for(seconds: float, open_stream: OpenStream) -> None:
    async with connect("ws://till.example", open_stream=open_stream) as client:
        with trio.move_on_after(seconds):
            while True:
                with pytest.raises(Disconnected):
                    await client.call("ping")


pauses_of_a_caller = partial(pauses_of, ask_for)


BABBLE: dict[str, object] = {"status": "success", "request_id": 0}


async def test_who_asks_a_server_that_ends_each_line_backs_off_unless_its_line_had_held(
    autojump_clock: MockClock,
) -> None:
    pauses = await pauses_of_a_caller(partial(answer, BABBLE, 1011, ""), 1000)
    assert max(pauses) > LONGEST_PAUSE_SECONDS * 0.8
    held = partial(answer, BABBLE, 1011, "", after_seconds=HELD_SECONDS + 1)
    pauses = await pauses_of_a_caller(held, 1000)
    assert max(pauses) <= HELD_SECONDS + 1 + FIRST_PAUSE_SECONDS


async def test_who_asks_a_server_that_says_when_to_come_back_comes_back_then(
    autojump_clock: MockClock,
) -> None:
    pauses = await pauses_of_a_caller(partial(answer, BABBLE, 1001, "retry_after=15"), 1000)
    assert len(pauses) > 10
    assert min(pauses) >= 15


async def test_who_asks_a_server_that_is_away_for_long_is_told_so_at_once(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(answer, BABBLE, 1001, "retry_after=100")
        async with connect("ws://till.example", open_stream=lines_to(serve, nursery)) as client:
            with pytest.raises(Disconnected):
                await client.call("ping")
            begin = trio.current_time()
            with pytest.raises(
                Disconnected, match="left alone for another 100 s; the last one: closed with 1001"
            ):
                await client.call("ping")
            assert trio.current_time() == begin
        nursery.cancel_scope.cancel()
