"""What the AsyncAPI document describes is accepted, and what is received is described: on both databases."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.documents.test_asyncapi import DOCUMENT
from tests.end_to_end.serving import call, receive, serving
from tests.programs import OtherProgram
from trio_ws import codec
from trio_ws.testing import SimulatedClient, World
from trio_ws.topics import TOPIC_TYPES

Contract = tuple[World, OtherProgram]
Json = dict[str, Any]

MESSAGES: Mapping[str, Json] = DOCUMENT["components"]["messages"]
REQUESTS = [name for name in DOCUMENT["operations"] if name != "events"]
PATIENCE_SECONDS = 20  # far more than anything takes


def python_s(schema: Any, *, is_strict: bool) -> Any:
    """The schema with Python's spelling of patterns; strict: a field that is not named is wrong."""
    if isinstance(schema, list):
        return [python_s(part, is_strict=is_strict) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: python_s(part, is_strict=is_strict) for name, part in schema.items()}
    if isinstance(made.get("pattern"), str):
        made["pattern"] = re.sub(r"\$$", r"\\Z", made["pattern"])  # Python's `$` lets a line end by
    if is_strict and "properties" in made:
        made["additionalProperties"] = False
    return made


@cache
def validator(name: str, *, is_strict: bool = True) -> jsonschema.Draft7Validator:
    whole = {**MESSAGES[name]["payload"], "components": {"schemas": DOCUMENT["components"]["schemas"]}}
    return jsonschema.Draft7Validator(python_s(whole, is_strict=is_strict))


def check(message: Json, action: str | None = None) -> str:
    """The name that the document has for what was received; it is described, field for field."""
    if message.get("status") == "error":
        name = "error"
    else:
        name = message["type"] if action is None else f"{action}.reply"
    validator(name).validate(message)
    return name


class Checked:
    """A client that sends what the document describes, and takes nothing else."""

    def __init__(self, client: SimulatedClient) -> None:
        self._client = client
        self.received: set[str] = set()

    async def ask(self, action: str, **fields: Any) -> Json:
        validator(action, is_strict=False).validate({"action": action, **fields})
        await self._client.send(action=action, **fields)
        while "status" not in (message := await self._receive()):
            self.received.add(check(message))
        self.received.add(check(message, action))
        return message

    async def hear(self, type_: str) -> Json:
        while True:
            message = await self._receive()
            self.received.add(check(message))
            if message["type"] == type_:
                return message

    async def _receive(self) -> Json:
        with trio.fail_after(PATIENCE_SECONDS):
            return await self._client.receive()


async def manage(client: Checked, guarded: Contract, uid: str) -> None:
    """Ask all that merchants and operators ask, about an invoice with a webhook, and become an operator."""
    world, program = guarded
    await client.ask("list_events", uid=uid, limit=2)
    await client.ask("list_accounts")
    await client.ask("list_tokens", account_id=1)
    await client.ask("list_connections", waiting=False)
    with trio.fail_after(PATIENCE_SECONDS):
        while not (webhooks := (await client.ask("list_webhooks", uid=uid))["data"]):  # noqa: ASYNC110
            await trio.sleep(0.01)  # until its event has a number
    await client.ask("fetch_webhook", id=webhooks[0]["id"])
    await client.ask("retry_webhook", id=webhooks[0]["id"])
    await client.ask("authenticate", token=await program.create_token(None, ["admin"]))
    account = (await client.ask("create_account", name="Tea House"))["data"]["id"]
    await client.ask("rename_account", account_id=account, name="Tea and Coffee House")
    made = await client.ask("create_token", account_id=account, scopes=["write", "read"])
    other = await world.connect(authorization=f"Bearer {made['data']['token']}")
    (connected,) = (await client.ask("list_connections", account_id=account))["data"]
    await client.ask("end_connection", id=connected["id"])
    await other.aclose()
    await client.ask("revoke_token", id=made["data"]["id"])
    await client.ask("fetch_figures")


async def test_a_session_in_which_all_is_sent_and_all_is_received(guarded: Contract) -> None:
    world, program = guarded
    token = await program.create_token()
    client = Checked(await world.connect())
    await client.ask("authenticate", token=token, request_id="a")
    begin = await client.ask("subscribe", type="account", id=1, request_id=1)
    await client.ask("subscribe", type="price", id="*")
    everything: Json = {
        "memo": "two teas",
        "address": "bc1qexample",
        "webhook_url": "https://shop.example/told",
        "redirect_url": "https://shop.example/thanks",
        "expires_in_seconds": 900,
        "idempotency_key": "till-7/42",
    }
    created = await client.ask("create_invoice", amount=1000, currency="USD", account_id=1, **everything)
    uid = created["data"]["uid"]
    await client.hear("invoice.created")
    await client.ask("fetch_invoice", id=uid)
    await client.ask("update_invoice", uid=uid, status="confirming")
    await client.hear("invoice.updated")
    await program.update_invoice(UUID(uid), status="paid")
    await client.hear("invoice.updated")
    payment = {"uid": uid, "reference": "tx", "amount": 1500}
    for status in ("pending", "settled"):
        await client.ask("record_payment", **payment, status=status)
        await client.hear("payment.created" if status == "pending" else "payment.updated")
        await client.hear("invoice.updated")
    await client.ask("list_payments", uid=uid)
    another = await client.ask("create_invoice", amount=1, currency="BTC")
    await client.ask("cancel_invoice", uid=another["data"]["uid"])
    await client.ask("set_price", currency="BTC", base_currency="USD", value="43000.00")
    await client.hear("price.updated")
    await program.set_price("BTC", Decimal("44000.5"))
    await client.hear("price.updated")
    await client.ask("list_invoices", account_id=1, limit=1)
    await client.ask("list_prices")
    await client.ask("convert_price", quote_currency="BTC", base_currency="USD", quote_value=1)
    for type_, id_ in (("invoice", uid), ("account", 1), ("price", "*"), ("address", "bc1qexample")):
        await client.ask("subscribe", type=type_, id=id_, snapshot=True)
    await client.ask("subscribe", type="invoice", id="of-no-invoice", snapshot=True)
    await client.ask("resume", after=begin["data"]["position"], topics=[{"type": "account", "id": 1}])
    await client.ask("unsubscribe", type="price", id="*")
    await client.ask("unsubscribe_all")
    await manage(client, guarded, uid)
    await client.ask("ping", request_id="p")
    await client.ask("fetch_invoice", id="of-no-invoice", request_id="e")
    assert client.received == set(MESSAGES) - set(REQUESTS), "all that is described was received"


@pytest.mark.parametrize("action", REQUESTS)
async def test_each_request_s_example_is_understood(world: World, action: str) -> None:
    client = await world.connect()
    (example,) = MESSAGES[action]["examples"]
    reply = await client.request(**example["payload"])
    check(reply, action)
    # The invoice and the token are of no server, and nothing has a price here yet.
    # Nobody makes a token there without one.
    refused = ("not_found", "unauthorized", *(["forbidden"] if action == "create_token" else []))
    assert reply["status"] == "success" or reply["code"] in refused, reply


def mutations(action: str) -> st.SearchStrategy[tuple[str, Any]]:
    fields = DOCUMENT["components"]["schemas"][struct_name(action)]["properties"]
    values = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**64), 2**64),
        # To JSON Schema 1.0 is an integer, to us it is none, as the document says.
        st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer()),
        st.text(max_size=80),
        st.lists(st.integers(), max_size=2),
        st.just({}),
        st.sampled_from(["USD", "paid", "account", "1e5", "-1", "x\n", "USD\n", "https://a", 0, 2**53]),
    )
    return st.tuples(st.sampled_from([name for name in fields if name != "action"]), values)


def struct_name(action: str) -> str:
    reference: str = MESSAGES[action]["payload"]["$ref"]
    return reference.rpartition("/")[2]


@pytest.mark.parametrize("action", REQUESTS)
@given(data=st.data())
def test_the_server_and_the_schema_take_the_same(action: str, data: st.DataObject) -> None:
    name, value = data.draw(mutations(action))
    payload = {**MESSAGES[action]["examples"][0]["payload"], name: value}
    assert is_understood(payload) == validator(action, is_strict=False).is_valid(payload), payload


def is_understood(payload: Json) -> bool:
    """Whether the server takes it for an action, and its topic for one; what it refuses later has codes."""
    try:
        codec.decode(json.dumps(payload))
    except codec.DecodeFailure:
        return False
    return payload.get("type", "invoice") in TOPIC_TYPES


def test_the_real_server_shows_it_and_keeps_to_it(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.connect() as client:
        replies = {
            "ping": call(client, action="ping"),
            "subscribe": call(client, action="subscribe", type="account", id=1),
            "create_invoice": call(client, action="create_invoice", amount=1, currency="USD", account_id=1),
        }
        for action, reply in replies.items():
            assert check(reply, action) == f"{action}.reply"
        assert check(receive(client)) == "invoice.created"
