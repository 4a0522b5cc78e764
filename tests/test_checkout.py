"""What a customer, who knows an invoice's uid and has no token, may do and sees, where `checkout` is on."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple, get_args
from uuid import UUID

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.conftest import _contract
from tests.test_authorization import SCOPE_OF, bearer, fields_of
from tests.test_payments import next_change
from tests.test_protocol import INVOICE, request
from trio_ws.checkout import HIDDEN, hide
from trio_ws.messages import Action
from trio_ws.testing import SimulatedClient, World, simulated_server
from trio_ws.topics import TOPIC_TYPES

SECRET = {"memo": "for the merchant", "webhook_url": "https://h.example/secret", "address": "addr"}
ALLOWED = {"subscribe", "resume", "unsubscribe", "unsubscribe_all", "fetch_invoice", "authenticate", "ping"}


class Shop(NamedTuple):
    """A server, a merchant with a token, a customer without one, and the invoice that both know."""

    world: World
    merchant: SimulatedClient
    customer: SimulatedClient
    uid: str
    token: str


@pytest.fixture
async def shop(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    async with (
        _contract(kind, request) as (database, program),
        simulated_server(database, auth="token", checkout=True) as world,
    ):
        token = await program.create_token(1, ["read", "write", "process"])
        merchant = await world.connect(authorization=bearer(token))
        made = await merchant.request(**{**INVOICE, **SECRET})
        yield Shop(world, merchant, await world.connect(), made["data"]["uid"], token)


def seen(message: Any) -> set[str]:
    """All names of fields in a message."""
    if isinstance(message, dict):
        return {*message, *(name for value in message.values() for name in seen(value))}
    return {name for value in message for name in seen(value)} if isinstance(message, list) else set()


@pytest.mark.parametrize("action", sorted(SCOPE_OF))
async def test_of_all_actions_a_customer_may_do_these(shop: Shop, action: str) -> None:
    customer, uid = shop.customer, shop.uid
    fields = fields_of(action, UUID(uid), token="x")
    topic = {"type": "invoice", "id": uid}
    fields |= topic if "type" in fields else {}
    fields |= {"topics": [topic]} if "topics" in fields else {}
    reply = await request(customer, **fields)
    if action == "authenticate":
        assert reply["code"] == "unauthorized", "for the token is wrong"
    elif action in ALLOWED:
        assert reply["status"] == "success", reply
    else:
        assert (reply["code"], reply["message"]) == ("unauthorized", "Authentication required")
    assert not seen(reply) & HIDDEN
    assert {action.__struct_config__.tag for action in get_args(Action)} == {*SCOPE_OF}


@pytest.mark.parametrize("type_", TOPIC_TYPES)
@pytest.mark.parametrize("by", ["subscribe", "snapshot", "resume", "resume beside"])
async def test_of_all_topics_a_customer_may_follow_an_invoice_s(shop: Shop, type_: str, by: str) -> None:
    customer, uid = shop.customer, shop.uid
    ids: dict[str, str | int] = {"invoice": uid, "account": 1, "address": "addr", "price": "*"}
    topic = {"type": type_, "id": ids[type_]}
    if by.startswith("resume"):
        topics = [{"type": "invoice", "id": uid}, topic] if by == "resume beside" else [topic]
        reply = await request(customer, action="resume", after="x.0", topics=topics)
    else:
        reply = await request(customer, action="subscribe", **topic, snapshot=by == "snapshot")
    assert reply.get("code") == (None if type_ == "invoice" else "unauthorized")
    assert not seen(reply) & HIDDEN


async def change(merchant: SimulatedClient, uid: str) -> None:
    payment = {"action": "record_payment", "uid": uid, "reference": "secret-1", "amount": 400}
    for status in ("pending", "settled"):
        await request(merchant, **payment, status=status)
    await request(merchant, action="cancel_invoice", uid=uid)


EVENTS = [
    *("payment.created", "invoice.updated", "payment.updated", "invoice.updated"),
    "invoice.updated",
]


async def test_events_are_told_without_what_is_the_merchants_alone(shop: Shop) -> None:
    merchant, customer, uid = shop.merchant, shop.customer, shop.uid
    await request(merchant, action="subscribe", type="account", id=1)
    begin = await request(customer, action="subscribe", type="invoice", id=uid, snapshot=True)
    assert begin["data"]["snapshot"]["uid"] == uid
    await change(merchant, uid)
    told = [await next_change(customer) for _ in range(5)]
    assert [event["type"] for event in told] == EVENTS
    assert told[3]["data"]["amount_paid"] == 400
    assert told[2]["previous"] == {"status": "pending"}
    for message in (begin, *told):
        assert not seen(message) & HIDDEN
        assert "secret" not in str(message)


async def test_a_replay_and_what_a_slow_customer_catches_up_with_hide_the_same(shop: Shop) -> None:
    merchant, customer, uid = shop.merchant, shop.customer, shop.uid
    begin = (await request(customer, action="subscribe", type="invoice", id=uid))["data"]["position"]
    await change(merchant, uid)
    live = [await next_change(customer) for _ in range(5)]
    another = await shop.world.connect()
    topics = [{"type": "invoice", "id": uid}]
    reply = await request(another, action="resume", after=begin, topics=topics)
    assert reply["data"]["recovered"] is True
    assert [await next_change(another) for _ in range(5)] == live
    assert not any(seen(event) & HIDDEN for event in live)


async def test_who_authenticates_sees_all_from_then_on(shop: Shop) -> None:
    merchant, customer, uid = shop.merchant, shop.customer, shop.uid
    await request(customer, action="subscribe", type="invoice", id=uid)
    await request(customer, action="authenticate", token=shop.token)
    await request(merchant, action="update_invoice", uid=uid, status="confirming")
    assert (await next_change(customer))["data"]["memo"] == SECRET["memo"]


@pytest.mark.parametrize("kind", ["simulated"], indirect=True)  # virtual time needs it
async def test_a_customer_may_stay_without_a_token(shop: Shop, autojump_clock: MockClock) -> None:
    merchant, customer, uid = shop.merchant, shop.customer, shop.uid
    await request(customer, action="subscribe", type="invoice", id=uid)
    await trio.sleep(3600)
    await request(merchant, action="cancel_invoice", uid=uid)
    assert (await next_change(customer))["data"]["status"] == "cancelled"


async def test_where_checkout_is_off_nobody_comes_without_a_token(
    guarded: tuple[World, Any],
) -> None:
    world, _ = guarded
    reply = await request(await world.connect(), action="fetch_invoice", id=str(UUID(int=1)))
    assert reply["code"] == "unauthorized"


@given(
    st.dictionaries(st.sampled_from([*HIDDEN, "id", "status", "x"]), st.integers() | st.text(), max_size=6)
)
def test_what_is_shown_is_as_it_was(row: dict[str, object]) -> None:
    shown = msgspec.json.decode(hide(msgspec.Raw(msgspec.json.encode(row))))
    assert list(shown.items()) == [item for item in row.items() if item[0] not in HIDDEN]
