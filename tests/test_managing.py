"""What operators and merchants ask: history, webhooks, accounts, tokens, connections; on both databases."""

import json
from typing import Any

import pytest
import trio

from tests.test_authorization import closes
from tests.test_protocol import PATIENCE_SECONDS, Contract, request
from trio_ws.paging import PAGE_BYTES
from trio_ws.testing import SimulatedClient

pytestmark = pytest.mark.both_ways

INVOICE = {"amount": 1000, "currency": "USD", "account_id": 1}
LONG = "https://a/" + "x" * 1900
HOOK = "https://shop.example/hook"


async def listed(client: SimulatedClient, action: str, **fields: Any) -> list[dict[str, Any]]:
    """All pages of a list."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        reply = await request(client, action=action, **fields, cursor=cursor)
        assert reply["status"] == "success", reply
        found += reply["data"]
        if (cursor := reply.get("next")) is None:
            return found


async def when_there(client: SimulatedClient, count: int, action: str, **fields: Any) -> list[dict[str, Any]]:
    """The same, once there are so many."""
    with trio.fail_after(PATIENCE_SECONDS):
        while len(found := await listed(client, action, **fields)) < count:  # noqa: ASYNC110
            await trio.sleep(0.01)  # until their events have numbers
    return found


async def operator_of(guarded: Contract) -> SimulatedClient:
    world, program = guarded
    return await world.connect(authorization=f"Bearer {await program.create_token(None, ['admin'])}")


async def merchant_of(guarded: Contract, account: int) -> SimulatedClient:
    world, program = guarded
    return await world.connect(authorization=f"Bearer {await program.create_token(account)}")


# History


async def test_an_invoices_history_is_read_from_the_log_in_pages(contract: Contract) -> None:
    world, program = contract
    client = await world.connect()
    uid = await program.create_invoice(**INVOICE)
    await program.create_invoice(**INVOICE)
    await request(client, action="record_payment", uid=str(uid), reference="a", amount=400, status="settled")
    await program.update_invoice(uid, memo="two teas")
    events = await when_there(client, 4, "list_events", uid=str(uid), limit=1)
    assert [event["type"] for event in events] == [
        *("invoice.created", "payment.created", "invoice.updated", "invoice.updated")
    ]
    assert events[-1]["previous"] == {"memo": None}
    assert events[-1]["data"]["memo"] == "two teas"
    assert "previous" not in events[0]
    positions = [int(event["position"].rpartition(".")[2]) for event in events]
    assert positions == sorted(positions)


async def test_a_page_of_history_ends_with_its_bytes(contract: Contract) -> None:
    world, program = contract
    client = await world.connect()
    uid = await program.create_invoice(**INVOICE)
    for number in range(60):
        await program.update_invoice(
            uid, memo=str(number) + "ü" * 997, redirect_url="https://a/" + "x" * 1900
        )
        await program.update_invoice(uid, redirect_url=None)
    await when_there(client, 121, "list_events", uid=str(uid))
    reply = await request(client, action="list_events", uid=str(uid), limit=100)
    assert len(reply["data"]) < 100
    assert "next" in reply


async def test_the_history_of_no_invoice_and_of_another_accounts_is_not_found(guarded: Contract) -> None:
    _, program = guarded
    uid = await program.create_invoice(**{**INVOICE, "account_id": 2})
    client = await merchant_of(guarded, 1)
    for name in (str(uid), "5735e250-b53e-4ace-a025-afac1bc77ee2", "inv_1"):
        assert (await request(client, action="list_events", uid=name))["code"] == "not_found"


async def test_a_cursor_of_another_list_is_refused(contract: Contract) -> None:
    world, program = contract
    client = await world.connect()
    uid = str(await program.create_invoice(**INVOICE))
    for action, fields in (
        ("list_events", {"uid": uid}),
        *((name, {}) for name in ("list_accounts", "list_tokens", "list_webhooks", "list_connections")),
    ):
        reply = await request(client, action=action, **fields, cursor="open.7")
        assert reply["code"] == "invalid_value", action


# Search


@pytest.mark.parametrize("text", ["Order 4711", "order 47", "4711", "r 4"])
async def test_invoices_are_found_by_a_part_of_their_memo(contract: Contract, text: str) -> None:
    world, program = contract
    client = await world.connect()
    uid = await program.create_invoice(**INVOICE, memo="order 4711, two teas")
    for memo in ("order 0815", None, "50 % off_", "o"):
        await program.create_invoice(**INVOICE, memo=memo)
    assert [one["uid"] for one in await listed(client, "list_invoices", memo=text)] == [str(uid)]
    assert await listed(client, "list_invoices", memo=text, status="paid") == []
    assert await listed(client, "list_invoices", memo=text, account_id=1, address="a") == []


@pytest.mark.parametrize("text", ["%", "_", "50 % o"])
async def test_what_is_searched_for_is_no_pattern(contract: Contract, text: str) -> None:
    world, program = contract
    client = await world.connect()
    for memo in ("50 % off_", "nothing"):
        await program.create_invoice(**INVOICE, memo=memo)
    assert [one["memo"] for one in await listed(client, "list_invoices", memo=text)] == ["50 % off_"]


async def test_a_search_goes_on_over_pages_of_few(contract: Contract) -> None:
    world, program = contract
    client = await world.connect()
    for number in range(7):
        await program.create_invoice(**INVOICE, memo=f"tea {number}" if number % 2 else "coffee")
    found = await listed(client, "list_invoices", memo="tea", limit=1)
    assert [one["memo"] for one in found] == ["tea 5", "tea 3", "tea 1"]


# Webhooks


async def test_webhooks_are_listed_by_state_and_invoice_and_sent_again(contract: Contract) -> None:
    world, program = contract
    client = await world.connect()
    uids = [str(await program.create_invoice(**INVOICE, webhook_url=f"{HOOK}?{n}")) for n in range(3)]
    delivered = await when_there(client, 3, "list_webhooks", state="delivered", limit=1)
    assert {one["invoice"] for one in delivered} == {*uids}
    assert delivered == sorted(delivered, key=lambda one: one["endedAt"], reverse=True)
    (one,) = await listed(client, "list_webhooks", uid=uids[1])
    assert one in delivered
    whole = (await request(client, action="fetch_webhook", id=one["id"]))["data"]
    assert whole["url"] == f"{HOOK}?1"
    assert whole["endpoint"] == "https://shop.example"
    assert whole["body"]["type"] == "invoice.created"
    assert whole["body"]["data"]["uid"] == uids[1]
    again = (await request(client, action="retry_webhook", id=one["id"]))["data"]
    assert (again["state"], again["attempts"]) == ("waiting", 0)
    await when_there(client, 3, "list_webhooks", state="delivered")
    assert await listed(client, "list_webhooks") == []


async def test_a_webhook_of_another_account_is_not_there(guarded: Contract) -> None:
    _, program = guarded
    await program.create_invoice(**{**INVOICE, "account_id": 2}, webhook_url=HOOK)
    owner, other = await merchant_of(guarded, 2), await merchant_of(guarded, 1)
    (one,) = await when_there(owner, 1, "list_webhooks", state="delivered")
    for state in ("waiting", "failed", "delivered"):
        assert await listed(other, "list_webhooks", state=state) == []
    assert await listed(other, "list_webhooks", uid=one["invoice"]) == []
    for action in ("fetch_webhook", "retry_webhook"):
        assert (await request(other, action=action, id=one["id"]))["code"] == "not_found"
    assert (await request(other, action="list_webhooks", account_id=2))["code"] == "forbidden"
    assert (await request(owner, action="fetch_webhook", id=one["id"]))["status"] == "success"


# Accounts and tokens


async def test_an_operator_makes_accounts_and_tokens_and_revokes_them(guarded: Contract) -> None:
    world, _ = guarded
    operator = await operator_of(guarded)
    account = (await request(operator, action="create_account", name="Tea House"))["data"]
    assert account["name"] == "Tea House"
    renamed = await request(operator, action="rename_account", account_id=account["id"], name="Café Ü")
    assert renamed["data"] == {**account, "name": "Café Ü"}
    assert renamed["data"] in await listed(operator, "list_accounts", limit=1)
    made = await request(operator, action="create_token", account_id=account["id"], scopes=["write", "read"])
    token = made["data"].pop("token")
    assert made["data"]["scopes"] == ["read", "write"]
    assert await listed(operator, "list_tokens", account_id=account["id"]) == [made["data"]]
    till = await world.connect(authorization=f"Bearer {token}")
    assert (await request(till, action="list_invoices"))["data"] == []
    revoked = (await request(operator, action="revoke_token", id=made["data"]["id"]))["data"]
    assert revoked.pop("revokedAt")
    assert revoked == made["data"]


async def test_a_token_that_is_made_ends_when_it_was_said_to(guarded: Contract) -> None:
    operator = await operator_of(guarded)
    made = await request(operator, action="create_token", scopes=["admin"], expires_in_seconds=60)
    assert made["data"]["account_id"] is None
    assert made["data"]["expiresAt"] > made["data"]["createdAt"]


@pytest.mark.parametrize(
    ("action", "fields", "code"),
    [
        ("create_token", {"scopes": ["read"]}, "invalid_value"),
        ("create_token", {"scopes": ["admin"], "account_id": 1}, "invalid_value"),
        ("create_token", {"scopes": [], "account_id": 1}, "invalid_value"),
        ("create_token", {"scopes": ["all"], "account_id": 1}, "invalid_value"),
        ("create_token", {"scopes": ["read"], "account_id": 99}, "not_found"),
        ("create_token", {"scopes": ["read"], "account_id": 1, "expires_in_seconds": 0}, "invalid_value"),
        ("create_account", {"name": ""}, "invalid_value"),
        ("create_account", {"name": "a\nb"}, "invalid_value"),
        ("create_account", {"name": "x" * 201}, "invalid_value"),
        ("rename_account", {"account_id": 99, "name": "x"}, "not_found"),
        ("revoke_token", {"id": 10**6}, "not_found"),
        ("end_connection", {"id": "1-999999"}, "not_found"),
        ("end_connection", {"id": "x"}, "not_found"),
        ("end_connection", {"id": "\N{ARABIC-INDIC DIGIT ONE}-2"}, "not_found"),
        ("fetch_webhook", {"id": "x"}, "not_found"),
        ("retry_webhook", {"id": "x"}, "not_found"),
        ("fetch_webhook", {"id": "x\x00"}, "invalid_value"),
    ],
)
async def test_what_cannot_be_managed_is_refused(
    guarded: Contract, action: str, fields: dict[str, Any], code: str
) -> None:
    operator = await operator_of(guarded)
    reply = await request(operator, action=action, **fields)
    assert reply.get("code") == code, reply


async def test_who_has_no_token_makes_none_that_would_outlast_an_open_server(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    assert (await request(client, action="create_account", name="Tea House"))["status"] == "success"
    reply = await request(client, action="create_token", scopes=["admin"])
    assert reply["code"] == "forbidden"
    assert await listed(client, "list_tokens") == []


async def test_a_merchant_sees_its_own_account_and_tokens_and_no_others(guarded: Contract) -> None:
    merchant, _operator = await merchant_of(guarded, 2), await operator_of(guarded)
    assert [one["id"] for one in await listed(merchant, "list_accounts")] == [2]
    assert {one["account_id"] for one in await listed(merchant, "list_tokens")} == {2}
    assert (await request(merchant, action="list_tokens", account_id=1))["code"] == "forbidden"


# Connections


@pytest.mark.needs_websocket
async def test_connections_are_listed_and_one_of_them_is_closed(guarded: Contract) -> None:
    operator = await operator_of(guarded)
    till = await merchant_of(guarded, 1)
    await merchant_of(guarded, 2)
    for number in range(25):
        await request(till, action="subscribe", type="address", id=f"a{number}")
    found = await listed(operator, "list_connections", limit=1)
    assert [one["account_id"] for one in found] == [2, 1, None]
    (one,) = await listed(operator, "list_connections", account_id=1)
    assert (one["kind"], one["topic_count"], one["requests"]) == ("websocket", 25, 25)
    assert one["topics"] == [f"address:a{number}" for number in range(20)]
    assert one["scopes"] == ["read", "write", "process"]
    assert await listed(operator, "list_connections", waiting=True) == []
    assert await listed(operator, "list_connections", address="192.0.2.1") == []
    reply = await request(operator, action="end_connection", id=one["id"])
    assert reply["message"] == f"Closing connection {one['id']}"
    with trio.fail_after(PATIENCE_SECONDS):
        assert (await closes(till))[0] == 1001
        while await listed(operator, "list_connections", account_id=1):  # noqa: ASYNC110
            await trio.sleep(0.01)  # until it is gone


@pytest.mark.needs_websocket
async def test_a_page_of_connections_ends_with_its_bytes(contract: Contract) -> None:
    world, _ = contract
    clients = [await world.connect() for _ in range(20)]
    for client in clients:
        topics = [{"type": "address", "id": f"{number:02}" + "\x01" * 126} for number in range(20)]
        await request(client, action="resume", after="none.0", topics=topics)
    reply = await request(clients[0], action="list_connections", limit=100)
    assert len(json.dumps(reply["data"])) < 2 * PAGE_BYTES
    found = await listed(clients[0], "list_connections", limit=100)
    assert len({one["id"] for one in found}) == len(found) == 20


@pytest.mark.needs_websocket
async def test_a_merchant_sees_its_own_connections_and_closes_none(guarded: Contract) -> None:
    merchant = await merchant_of(guarded, 1)
    await merchant_of(guarded, 2)
    found = await listed(merchant, "list_connections")
    assert [one["account_id"] for one in found] == [1]
    assert (await request(merchant, action="end_connection", id=found[0]["id"]))["code"] == "forbidden"


async def test_figures_are_those_of_this_process(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    figures = (await request(client, action="fetch_figures"))["data"]
    assert figures["missing"] == 0
    assert len(figures["processes"]) == 1
    assert figures["values"]["trio_ws_connections"] >= 0
    values = figures["values"]
    assert values["trio_ws_requests_total"] >= values["trio_ws_requests_total:success"] >= 0
    assert values["trio_ws_event_lag_seconds_bucket:+Inf"] == values["trio_ws_event_lag_seconds_count"]
