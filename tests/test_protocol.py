"""PROTOCOL.md, sentence for sentence, on the simulated database and on PostgreSQL."""

import re
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.programs import OtherProgram
from trio_ws.testing import SimulatedClient, SimulatedDatabase, World, simulated_server

pytestmark = pytest.mark.both_ways

Contract = tuple[World, OtherProgram]

INVOICE: dict[str, object] = {"action": "create_invoice", "amount": 1000, "currency": "USD", "account_id": 1}
PATIENCE_SECONDS = 20  # far more than anything takes; only a test that fails waits so long
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")
POSITION = re.compile(r"(?P<epoch>.+)\.(?P<seq>\d+)")


async def receive(client: SimulatedClient) -> dict[str, Any]:
    with trio.fail_after(PATIENCE_SECONDS):
        return await client.receive()


async def request(client: SimulatedClient, **fields: object) -> dict[str, Any]:
    """Return the reply to a request of a client that may be told of events before it."""
    await client.send(**fields)
    while "status" not in (message := await receive(client)):
        pass
    return message


def seq(message: dict[str, Any]) -> int:
    match = POSITION.fullmatch(message["position"])
    assert match
    return int(match["seq"])


async def assert_nothing_more(client: SimulatedClient) -> None:
    """What was to be told has been told: the next thing that comes is a pong."""
    assert (await client.request(action="ping"))["type"] == "pong"


# Requests and replies


@pytest.mark.needs_websocket
async def test_subscribing_says_to_what_and_where_the_log_stands(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, action="subscribe", type="invoice", id="inv_123")
    assert list(reply) == ["status", "message", "data"]
    assert reply["status"] == "success"
    assert reply["message"] == "Subscribed to invoice inv_123"
    assert reply["data"]["recovered"] is True
    assert POSITION.fullmatch(reply["data"]["position"])


@pytest.mark.needs_websocket
async def test_unsubscribing_says_so_also_when_it_was_not_subscribed(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    expected = {"status": "success", "message": "Unsubscribed from invoice inv_123"}
    assert await request(client, action="unsubscribe", type="invoice", id="inv_123") == expected
    await request(client, action="subscribe", type="invoice", id="inv_123")
    assert await request(client, action="unsubscribe", type="invoice", id="inv_123") == expected


@pytest.mark.needs_websocket
async def test_unsubscribing_from_all_counts_the_topics(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    for id_ in ("a", "b", "b", "c"):
        await request(client, action="subscribe", type="invoice", id=id_)
    reply = await request(client, action="unsubscribe_all")
    assert reply == {"status": "success", "message": "Unsubscribed from 3 topics"}
    reply = await request(client, action="unsubscribe_all")
    assert reply == {"status": "success", "message": "Unsubscribed from 0 topics"}


async def test_a_created_invoice_is_returned_whole(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, **INVOICE)
    invoice = reply["data"]
    assert list(reply) == ["status", "data"]
    assert list(invoice) == [
        *("id", "uid", "amount", "currency", "status", "account_id", "createdAt", "updatedAt", "version")
    ]
    assert UUID(invoice["uid"]).version == 4
    assert str(UUID(invoice["uid"])) == invoice["uid"]
    assert isinstance(invoice["id"], int)
    assert TIME.fullmatch(invoice["createdAt"])
    assert invoice["updatedAt"] >= invoice["createdAt"]
    assert (invoice["amount"], invoice["currency"], invoice["account_id"]) == (1000, "USD", 1)
    assert (invoice["status"], invoice["version"]) == ("unpaid", 1)


async def test_memo_and_address_come_back_where_they_were_given(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    given_ = {"memo": 'Zwei Kaffee ☕ "to go"\n', "address": "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"}
    invoice = (await request(client, **INVOICE, **given_))["data"]
    assert {name: invoice[name] for name in given_} == given_
    assert (await request(client, action="fetch_invoice", id=invoice["uid"]))["data"] == invoice


async def test_a_fetched_invoice_is_the_one_that_was_created(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    created = await request(client, **INVOICE)
    uid = created["data"]["uid"]
    assert await request(client, action="fetch_invoice", id=uid) == created
    assert await request(client, action="fetch_invoice", id=uid.upper()) == created


@pytest.mark.parametrize("id_", ["5735e250-b53e-4ace-a025-afac1bc77ee2", "inv_123", "", "\0", "é" * 1000])
async def test_an_unknown_invoice_is_not_found(contract: Contract, id_: str) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, action="fetch_invoice", id=id_)
    assert reply == {"status": "error", "message": "Invoice not found", "code": "not_found"}


async def test_prices_are_listed_in_minor_units_and_as_a_value(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, action="list_prices")
    bitcoin = reply["data"][0]
    assert list(bitcoin) == [
        *("id", "currency", "amount", "account_id", "createdAt", "updatedAt", "base_currency", "value")
    ]
    assert TIME.fullmatch(bitcoin["createdAt"])
    assert TIME.fullmatch(bitcoin["updatedAt"])
    shown = [(price["currency"], price["amount"], price["value"]) for price in reply["data"]]
    assert shown == [("BTC", 4300000, 43000.0), ("ETH", 230000, 2300.0), ("EUR", 108, 1.08)]
    assert {price["base_currency"] for price in reply["data"]} == {"USD"}


async def test_a_ping_is_answered_with_the_time(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, action="ping")
    assert list(reply) == ["type", "status", "timestamp"]
    assert (reply["type"], reply["status"]) == ("pong", "success")
    assert reply["timestamp"] > 1735571686


@pytest.mark.needs_websocket
@pytest.mark.parametrize("request_id", ["r-1", "x" * 64, 7, 0, -1, 2**53])
async def test_a_request_id_comes_back_also_with_errors(contract: Contract, request_id: str | int) -> None:
    world, _ = contract
    client = await world.connect()
    requests: list[dict[str, object]] = [
        {"action": "ping"},
        {"action": "list_prices"},
        {"action": "fetch_invoice", "id": "none"},
        {"action": "subscribe", "type": "weather", "id": "today"},
        {"action": "create_invoice"},
        {"action": "dance"},
        {},
    ]
    for fields in requests:
        reply = await request(client, **fields, request_id=request_id)
        assert reply["request_id"] == request_id


async def test_requests_are_answered_in_the_order_they_came(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    actions: list[dict[str, object]] = [
        INVOICE,
        {"action": "ping"},
        {"action": "nonsense"},
        {"action": "list_prices"},
    ] * 5

    async def send() -> None:
        for number, action in enumerate(actions):
            await client.send(**action, request_id=number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        numbers = [(await receive(client))["request_id"] for _ in actions]
    assert numbers == list(range(len(actions)))


async def test_unknown_fields_are_ignored(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, **INVOICE, colour="blue", nested={"a": [None, 1.5]})
    assert reply["status"] == "success"


@pytest.mark.needs_websocket
@pytest.mark.parametrize("path", ["/", "/ws", "/?from=till", "/ws?x"])
async def test_both_paths_lead_to_the_same(contract: Contract, path: str) -> None:
    world, _ = contract
    client = await world.connect(path)
    assert (await request(client, action="ping"))["type"] == "pong"


# Bad input

DEEP = '{"action":"ping","x":' + "[" * 1000 + "]" * 1000 + "}"

NOT_MESSAGES: list[str] = [
    *("", " ", "{", "hello", "{}", "[]", "1", "null", '"ping"', '{"action":null}', '{"action":1}'),
    *('{"action":"dance"}', '{"action":"create_invoice"}', '{"action":"subscribe","type":"invoice"}'),
    *('{"action":"ping"} {"action":"ping"}', '\ufeff{"action":"ping"}', '{"action":"ping",}'),
    *('{"action":"ping","x":NaN}', '{"action":"ping","x":Infinity}', "{'action':'ping'}"),
    *(
        DEEP,
        "[" * 60_000,
        '{"action":"fetch_invoice","id":"\\ud800"}',
        '{"action":"fetch_invoice","id":"\\x"}',
    ),
]


@pytest.mark.parametrize("frame", NOT_MESSAGES, ids=lambda frame: frame[:40])
async def test_what_is_no_message_is_refused_and_the_connection_lives(contract: Contract, frame: str) -> None:
    world, _ = contract
    client = await world.connect()
    await client.socket.send_message(frame)
    reply = await receive(client)
    assert list(reply)[:3] == ["status", "message", "code"]
    assert (reply["status"], reply["message"]) == ("error", "Invalid message format")
    assert reply["code"] == "invalid_message"
    assert reply["detail"]
    await assert_nothing_more(client)


@pytest.mark.needs_websocket
async def test_a_binary_frame_is_no_message(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    await client.socket.send_message(b'{"action":"ping"}')
    assert (await receive(client))["code"] == "invalid_message"
    await assert_nothing_more(client)


BAD_VALUES: dict[str, list[object]] = {
    "amount": [0, -1, 2**53, 10**30, int("9" * 4000), True, 1.5, 1.0e-3, "1000", None, [1]],
    "currency": ["", "usd", "US", "U$D", "USD\n", "USD\0", "ABCDEFGHIJK", 1, None],
    "account_id": [0, -1, 2**63, "1", True, 1.5],
    "memo": ["a\0b", "x" * 1001, 5],
    "address": ["", "a b", "a\0", "x" * 129, 5],
    "request_id": ["x" * 65, 1.5, True, [], {}],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in BAD_VALUES.items() for value in values],
    ids=lambda value: repr(value)[:40],
)
async def test_a_bad_value_is_named_and_nothing_is_stored(
    contract: Contract, field: str, value: object
) -> None:
    world, _ = contract
    client = await world.connect()
    await request(client, action="subscribe", type="account", id=1)
    reply = await request(client, **{**INVOICE, field: value})
    assert (reply["status"], reply["code"]) == ("error", "invalid_value")
    assert f"$.{field}" in reply["detail"]
    await assert_nothing_more(client)


async def test_an_account_that_does_not_exist_gets_no_invoice(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, **{**INVOICE, "account_id": 404})
    assert reply == {"status": "error", "message": "Account not found", "code": "not_found"}
    assert (await request(client, **INVOICE))["status"] == "success"


@pytest.mark.parametrize("amount", [1, 2**53 - 1])
async def test_the_least_and_the_largest_amount_are_kept_exactly(contract: Contract, amount: int) -> None:
    world, _ = contract
    client = await world.connect()
    assert (await request(client, **{**INVOICE, "amount": amount}))["data"]["amount"] == amount


BAD_TOPICS: list[tuple[str, str | int]] = [
    *(("weather", "today"), ("", "a"), ("Invoice", "a")),
    *(("invoice", "x" * 129), ("address", "\0")),
]
# What nothing will ever match is followed all the same.
UNMATCHED: list[tuple[str, str | int]] = [
    *(("invoice", ""), ("invoice", "a b"), ("address", "a b"), ("invoice", 5)),
    *(
        ("account", "me"),
        ("account", 0),
        ("account", -1),
        ("account", "1.5"),
        ("account", "1e0"),
        ("account", "01"),
    ),
    *(("account", 2**63), ("account", "٣"), ("price", "usd"), ("price", "**"), ("price", "USD\n")),
]


@pytest.mark.needs_websocket
@pytest.mark.parametrize("snapshot", [None, True])
@pytest.mark.parametrize(("type_", "id_"), UNMATCHED)
async def test_a_topic_that_nothing_matches_is_followed_like_any(
    contract: Contract, type_: str, id_: str | int, *, snapshot: bool | None
) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, action="subscribe", type=type_, id=id_, snapshot=snapshot)
    assert (reply["status"], reply["data"].get("snapshot") or None) == ("success", None)
    await request(client, **INVOICE)
    assert (await request(client, action="unsubscribe", type=type_, id=id_))["status"] == "success"


@pytest.mark.parametrize(("type_", "id_"), BAD_TOPICS)
async def test_a_topic_that_cannot_be_is_not_followed(contract: Contract, type_: str, id_: str | int) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, action="subscribe", type=type_, id=id_)
    assert (reply["status"], reply["code"]) == ("error", "invalid_topic")
    assert reply["detail"]


@pytest.mark.needs_websocket
@pytest.mark.parametrize(("type_", "id_"), BAD_TOPICS)
async def test_a_topic_that_cannot_be_is_not_left_either(
    contract: Contract, type_: str, id_: str | int
) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, action="unsubscribe", type=type_, id=id_)
    assert (reply["status"], reply["code"]) == ("error", "invalid_topic")
    assert reply["detail"]


# Events


@pytest.mark.parametrize("by", ["invoice", "account", "account as a string", "address"])
async def test_a_change_is_told_to_whom_it_concerns(contract: Contract, by: str) -> None:
    world, program = contract
    client, stranger = await world.connect(), await world.connect()
    fields = {"amount": 1000, "currency": "USD", "account_id": 1}
    uid = await program.create_invoice(**fields, address="bc1q")
    topic: tuple[str, object] = {
        "invoice": ("invoice", str(uid).upper()),
        "account": ("account", 1),
        "account as a string": ("account", "1"),
        "address": ("address", "bc1q"),
    }[by]
    await request(client, action="subscribe", type=topic[0], id=topic[1])
    others = [("invoice", "other"), ("account", "2"), ("address", "other"), ("price", "*")]
    for type_, id_ in others:
        await request(stranger, action="subscribe", type=type_, id=id_)

    await program.update_invoice(uid, status="confirming")
    await program.update_invoice(uid, status="paid", memo="thanks")

    events = await updates(client, uid, 2)
    assert list(events[0]) == ["type", "data", "previous", "position"]
    assert [event["type"] for event in events] == ["invoice.updated"] * 2
    assert [event["data"]["status"] for event in events] == ["confirming", "paid"]
    assert [event["data"]["version"] for event in events] == [2, 3]
    assert [event["previous"] for event in events] == [
        {"status": "unpaid"},
        {"status": "confirming", "memo": None},
    ]
    assert seq(events[1]) == seq(events[0]) + 1
    assert (await request(client, action="fetch_invoice", id=str(uid)))["data"] == events[1]["data"]
    await assert_nothing_more(client)
    await assert_nothing_more(stranger)


async def updates(client: SimulatedClient, uid: UUID, count: int) -> list[dict[str, Any]]:
    """Return the next updates of this invoice; its creation may still come before them."""
    events: list[dict[str, Any]] = []
    while len(events) < count:
        event = await receive(client)
        assert event["data"]["uid"] == str(uid)
        if event["type"] != "invoice.created":
            events.append(event)
    return events


async def test_an_account_is_told_of_a_new_invoice(contract: Contract) -> None:
    world, _ = contract
    follower, till = await world.connect(), await world.connect()
    await request(follower, action="subscribe", type="account", id=1)
    created = await request(till, **INVOICE)
    event = await receive(follower)
    assert list(event) == ["type", "data", "position"]
    assert (event["type"], event["data"]) == ("invoice.created", created["data"])


async def test_an_invoice_can_be_followed_before_it_exists(contract: Contract) -> None:
    world, program = contract
    client = await world.connect()
    await request(client, action="subscribe", type="address", id="not-yet")
    uid = await program.create_invoice(amount=5, currency="EUR", account_id=1, address="not-yet")
    assert (await receive(client))["data"]["uid"] == str(uid)


async def test_followers_of_an_address_learn_that_an_invoice_left_it(contract: Contract) -> None:
    world, program = contract
    client = await world.connect()
    uid = await program.create_invoice(amount=5, currency="EUR", account_id=1, address="old")
    await request(client, action="subscribe", type="address", id="old")
    await program.update_invoice(uid, address="new")
    (event,) = await updates(client, uid, 1)
    assert (event["data"]["address"], event["previous"]) == ("new", {"address": "old"})
    await program.update_invoice(uid, memo="x")
    await assert_nothing_more(client)


@pytest.mark.parametrize(("type_", "id_"), [("price", "BTC"), ("price", "*"), ("account", 1)])
async def test_a_price_is_told_to_whom_it_concerns(contract: Contract, type_: str, id_: str | int) -> None:
    world, program = contract
    client, stranger = await world.connect(), await world.connect()
    await request(client, action="subscribe", type=type_, id=id_)
    await request(stranger, action="subscribe", type="price", id="ETH")
    await program.set_price("BTC", Decimal("43000.25"))
    event = await receive(client)
    assert event["type"] == "price.updated"
    assert (event["data"]["amount"], event["data"]["value"]) == (4300025, 43000.25)
    assert event["previous"] == {"amount": 4300000, "value": 43000.0}
    assert (await request(stranger, action="list_prices"))["data"][0] == event["data"]
    await assert_nothing_more(stranger)


async def test_a_change_that_changes_nothing_is_not_told(contract: Contract) -> None:
    world, program = contract
    client = await world.connect()
    uid = await program.create_invoice(amount=5, currency="EUR", account_id=1)
    await request(client, action="subscribe", type="invoice", id=str(uid))
    await program.update_invoice(uid, status="unpaid")
    await program.update_invoice(uid, status="confirming")
    (event,) = await updates(client, uid, 1)
    assert (event["data"]["version"], event["previous"]) == (2, {"status": "unpaid"})


@pytest.mark.needs_websocket
async def test_an_event_comes_once_however_many_topics_match(contract: Contract) -> None:
    world, _ = contract
    client, till = await world.connect(), await world.connect()
    topics: list[tuple[str, object]] = [("account", 1), ("address", "bc1q"), ("account", "1")]
    for type_, id_ in topics:
        await request(client, action="subscribe", type=type_, id=id_)
    await request(till, **INVOICE, address="bc1q")
    assert (await receive(client))["type"] == "invoice.created"
    await assert_nothing_more(client)


@pytest.mark.needs_websocket
async def test_nothing_comes_after_the_reply_to_unsubscribe(contract: Contract) -> None:
    world, program = contract
    client, other = await world.connect(), await world.connect()
    uid = await program.create_invoice(amount=5, currency="EUR", account_id=1)
    for follower in (client, other):
        await request(follower, action="subscribe", type="invoice", id=str(uid))
        await request(follower, action="subscribe", type="account", id=1)
    await request(client, action="unsubscribe", type="invoice", id=str(uid))
    await program.update_invoice(uid, memo="one topic still matches")
    await updates(client, uid, 1)
    await request(client, action="unsubscribe", type="account", id="1")
    await program.update_invoice(uid, memo="none matches")
    await updates(other, uid, 2)  # so it has been dispatched
    await assert_nothing_more(client)


# Resume and snapshot


async def test_a_subscription_with_a_position_gets_what_came_after_it(contract: Contract) -> None:
    world, program = contract
    first, second = await world.connect(), await world.connect()
    uid = await program.create_invoice(amount=5, currency="EUR", account_id=1)
    start = (await request(first, action="subscribe", type="invoice", id=str(uid)))["data"]["position"]
    for number in range(5):
        await program.update_invoice(uid, memo=str(number))
    seen = await updates(first, uid, 5)
    reply = await request(second, action="subscribe", type="invoice", id=str(uid), after=seen[1]["position"])
    assert reply["data"] == {"position": seen[4]["position"], "recovered": True}
    assert [await receive(second) for _ in range(3)] == seen[2:]
    await program.update_invoice(uid, memo="live")
    assert await receive(second) == await receive(first)
    reply = await request(second, action="subscribe", type="invoice", id=str(uid), after=start)
    assert (await updates(second, uid, 6))[:5] == seen
    await assert_nothing_more(second)


async def test_many_topics_resume_from_one_position_in_one_order_each_event_once(contract: Contract) -> None:
    world, program = contract
    first, second = await world.connect(), await world.connect()
    start = (await request(first, action="subscribe", type="account", id=1))["data"]["position"]
    uids = [
        await program.create_invoice(amount=amount, currency="EUR", account_id=1, address="here")
        for amount in (1, 2, 3)
    ]
    await program.update_invoice(uids[1], status="confirming")
    await program.set_price("BTC", Decimal(50000))
    seen = [await receive(first) for _ in range(5)]
    topics = [("address", "here"), ("account", 1), ("price", "*"), ("invoice", str(uids[1]))]
    reply = await request(
        second, action="resume", after=start, topics=[{"type": type_, "id": id_} for type_, id_ in topics]
    )
    assert reply["message"] == "Resumed 4 topics"
    assert reply["data"] == {"position": seen[-1]["position"], "recovered": True}
    assert [await receive(second) for _ in range(5)] == seen
    await assert_nothing_more(second)


@pytest.mark.needs_websocket
async def test_topics_that_come_in_several_messages_resume_as_those_of_one(contract: Contract) -> None:
    world, program = contract
    first, second = await world.connect(), await world.connect()
    start = (await request(first, action="subscribe", type="account", id=1))["data"]["position"]
    for address in ("here", "there", "here", "there"):
        await program.create_invoice(amount=1, currency="EUR", account_id=1, address=address)
    seen = [await receive(first) for _ in range(4)]
    here, there = {"type": "address", "id": "here"}, {"type": "address", "id": "there"}
    reply = await request(second, action="resume", after=start, topics=[here, there], more=True)
    assert reply == {"status": "success", "message": "Noted 2 topics"}
    await assert_nothing_more(second)
    prices = {"type": "price", "id": "*"}
    reply = await request(second, action="resume", after=start, topics=[prices], more=True)
    assert reply["message"] == "Noted 1 topics"
    account = {"type": "account", "id": 1}
    reply = await request(second, action="resume", after=start, topics=[account, here])
    assert (reply["message"], reply["data"]["recovered"]) == ("Resumed 4 topics", True)
    assert [await receive(second) for _ in range(4)] == seen
    await assert_nothing_more(second)


@pytest.mark.needs_websocket
@pytest.mark.parametrize("after", ["4f3c9a-1.1029", "{epoch}.999999"])
async def test_a_replay_that_cannot_be_exact_is_refused_out_loud_and_delivery_is_live(
    contract: Contract, after: str
) -> None:
    world, program = contract
    client = await world.connect()
    uid = await program.create_invoice(amount=5, currency="EUR", account_id=1)
    here = (await request(client, action="subscribe", type="invoice", id=str(uid)))["data"]["position"]
    await request(client, action="unsubscribe_all")
    after = after.format(epoch=here.rpartition(".")[0])
    topics = [{"type": "invoice", "id": str(uid)}]
    for fields in ({"action": "subscribe", **topics[0]}, {"action": "resume", "topics": topics}):
        reply = await request(client, **fields, after=after)
        assert (reply["status"], reply["data"]["recovered"]) == ("success", False)
    await program.update_invoice(uid, memo="live")
    assert seq((await updates(client, uid, 1))[0]) > seq(reply["data"])


@pytest.mark.needs_websocket
@pytest.mark.parametrize(
    "after", ["", "1029", "4f3c9a-1.", "4f3c9a-1.x", "4f3c9a-1.1\n", "a b.1", "x." + "9" * 19]
)
async def test_a_position_that_is_none_is_an_error(contract: Contract, after: str) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, action="subscribe", type="invoice", id="a", after=after)
    assert (reply["status"], reply["code"]) == ("error", "invalid_value")
    assert (await request(client, action="unsubscribe_all"))["message"] == "Unsubscribed from 0 topics"


@pytest.mark.needs_websocket
async def test_a_resume_with_a_topic_that_cannot_be_follows_none(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    topics = [{"type": "invoice", "id": "a"}, {"type": "weather", "id": "today"}]
    reply = await request(client, action="resume", after="4f3c9a-1.1029", topics=topics)
    assert (reply["status"], reply["code"]) == ("error", "invalid_topic")
    assert (await request(client, action="unsubscribe_all"))["message"] == "Unsubscribed from 0 topics"


async def test_a_snapshot_is_the_state_that_the_events_after_it_change(contract: Contract) -> None:
    world, program = contract
    client = await world.connect()
    fields = {"amount": 5, "currency": "EUR", "account_id": 1}
    uids = [await program.create_invoice(**fields, address=address) for address in ("here", "here", "there")]
    await program.update_invoice(uids[0], status="cancelled")
    fetched = [(await request(client, action="fetch_invoice", id=str(uid)))["data"] for uid in uids]
    expected: dict[tuple[str, object], object] = {
        ("invoice", str(uids[0])): fetched[0],
        ("invoice", "inv_123"): None,
        ("account", 1): [fetched[2], fetched[1]],
        ("account", 404): [],
        ("address", "here"): [fetched[1]],
        ("price", "*"): (await request(client, action="list_prices"))["data"],
        ("price", "ETH"): (await request(client, action="list_prices"))["data"][1:2],
    }
    for (type_, id_), state in expected.items():
        reply = await request(client, action="subscribe", type=type_, id=id_, snapshot=True)
        assert list(reply["data"]) == ["position", "recovered", "snapshot"]
        assert reply["data"]["snapshot"] == state
    position = reply["data"]["position"]
    await program.update_invoice(uids[2], memo="after")
    while (event := await receive(client))["data"].get("memo") != "after":
        pass  # what was not numbered yet when the first snapshots were taken
    assert seq(event) > seq({"position": position})


@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            "action": st.sampled_from(["ping", "subscribe", "fetch_invoice", "create_invoice", "x"]),
            "type": st.sampled_from(["invoice", "account", "price", "x"]) | st.text() | st.none(),
            "id": st.text() | st.integers() | st.floats() | st.none(),
            "amount": st.integers() | st.floats() | st.text() | st.booleans(),
            "currency": st.text() | st.just("USD"),
            "account_id": st.integers(),
            "request_id": st.text() | st.integers() | st.none(),
        },
    )
)
async def test_any_object_gets_one_reply(fields: dict[str, object]) -> None:
    async with simulated_server() as world:
        client = await world.connect()
        reply = await request(client, **fields)
        assert reply["status"] in ("success", "error")
        await assert_nothing_more(client)


async def test_what_happens_while_a_snapshot_is_on_its_way_is_told(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    client = await world.connect()
    database.answer_seconds = 5.0
    await client.send(action="subscribe", type="account", id=1, snapshot=True)
    await trio.sleep(0.01)
    database.answer_seconds = 0.0
    database.create_invoice(amount=1, currency="USD", account_id=1)
    reply = await receive(client)
    assert reply["data"]["snapshot"] == [], "it was read before"
    assert (await receive(client))["type"] == "invoice.created"
