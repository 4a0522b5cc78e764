"""Who may do what: every action, scope and ownership; and a token's end, under the mock clock."""

import itertools
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar, TypeVarTuple, cast, get_args
from uuid import UUID

import psycopg
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import CloseReason, ConnectionClosed, ConnectionRejected

from tests import raw
from tests.test_protocol import INVOICE, PATIENCE_SECONDS, Contract, request
from trio_ws.database import event_log
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.errors import Unavailable
from trio_ws.identity import SCOPES, Identity, Scope
from trio_ws.messages import Action
from trio_ws.testing import SimulatedClient, SimulatedDatabase, World, simulated_server

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

# What each action takes, on an invoice of account 1; None: nothing.
SCOPE_OF: dict[str, Scope | None] = {
    "subscribe": "read",
    "resume": "read",
    "unsubscribe": "read",
    "unsubscribe_all": "read",
    "fetch_invoice": "read",
    "list_invoices": "read",
    "list_payments": "read",
    "list_prices": "read",
    "convert_price": "read",
    "set_price": "process",
    "create_invoice": "write",
    "cancel_invoice": "write",
    "update_invoice": "process",
    "record_payment": "process",
    "list_events": "read",
    "list_webhooks": "read",
    "fetch_webhook": "read",
    "retry_webhook": "write",
    "list_accounts": "read",
    "create_account": "admin",
    "rename_account": "admin",
    "list_tokens": "read",
    "create_token": "admin",
    "revoke_token": "admin",
    "list_connections": "read",
    "end_connection": "admin",
    "fetch_figures": "admin",
    "authenticate": None,
    "ping": None,
}
EVERY_SET_OF_SCOPES = [
    combination for count in range(1, 4) for combination in itertools.combinations(SCOPES, count)
]


def fields_of(
    action: str, uid: UUID, account: int = 1, token: str = "", id_: str | int = 1
) -> dict[str, Any]:
    """A request that would succeed, for the account and one of its invoices, webhooks or the like."""
    topic = {"type": "account", "id": account}
    fields: dict[str, dict[str, Any]] = {
        "subscribe": topic,
        "resume": {"after": "x.0", "topics": [topic]},
        "unsubscribe": topic,
        "fetch_invoice": {"id": str(uid)},
        "create_invoice": {"amount": 1, "currency": "USD", "account_id": account},
        "cancel_invoice": {"uid": str(uid)},
        "update_invoice": {"uid": str(uid), "status": "confirming"},
        "record_payment": {"uid": str(uid), "reference": "r", "amount": 1, "status": "pending"},
        "list_payments": {"uid": str(uid)},
        "convert_price": {"quote_currency": "BTC", "base_currency": "USD", "quote_value": 1},
        "set_price": {"currency": "BTC", "base_currency": "USD", "value": 50000},
        "list_events": {"uid": str(uid)},
        "fetch_webhook": {"id": str(id_)},
        "retry_webhook": {"id": str(id_)},
        "create_account": {"name": "Tea House"},
        "rename_account": {"account_id": account, "name": "Tea House"},
        "create_token": {"account_id": account, "scopes": ["read"]},
        "revoke_token": {"id": id_},
        "end_connection": {"id": str(id_)},
        "authenticate": {"token": token},
    }
    return {"action": action, **fields.get(action, {})}


Guarded = Contract


async def id_for(action: str, guarded: Guarded, account: int = 1) -> str | int:
    """The id of something of the account's that the action may be about."""
    world, program = guarded
    lists = {"webhook": "list_webhooks", "token": "list_tokens", "connection": "list_connections"}
    kind = action.partition("_")[2]
    if action.startswith("list_") or kind not in lists or action == "create_token":
        return 1
    operator = await world.connect(authorization=bearer(await program.create_token(None, ["admin"])))
    fields: dict[str, Any] = {"account_id": account}
    if kind == "webhook":
        url = "https://shop.example/hook"
        uid = await program.create_invoice(amount=1, currency="USD", account_id=account, webhook_url=url)
        fields = {"uid": str(uid)}
    else:
        await world.connect(authorization=bearer(await program.create_token(account)))
    with trio.fail_after(PATIENCE_SECONDS):
        while not (found := (await request(operator, action=lists[kind], **fields))["data"]):  # noqa: ASYNC110
            await trio.sleep(0.01)  # until its event has a number
    id_: str | int = found[-1]["id"]
    return id_


@pytest.fixture
async def closed_world(database: SimulatedDatabase) -> AsyncIterator[World]:
    """A server that demands tokens, on the simulated database alone; account 2 beside account 1."""
    database.create_account()
    async with simulated_server(database, auth="token") as world:
        yield world


def bearer(token: str) -> str:
    return f"Bearer {token}"


@pytest.mark.parametrize("action", SCOPE_OF)
async def test_an_action_takes_its_scope_and_no_other(guarded: Guarded, action: str) -> None:
    world, program = guarded
    scope = SCOPE_OF[action]
    fetcher = await world.connect(authorization=bearer(await program.create_token()))
    for scopes in EVERY_SET_OF_SCOPES:
        token = await program.create_token(account_id=1, scopes=scopes)
        client = await world.connect(authorization=bearer(token))
        uid = await program.create_invoice(amount=1, currency="USD", account_id=1)
        id_ = await id_for(action, guarded)
        reply = await request(client, **fields_of(action, uid, token=token, id_=id_))
        if scope is None or scope in scopes:
            assert reply["status"] == "success"
        else:
            assert (reply["code"], reply["message"]) == ("forbidden", f"The token lacks the scope `{scope}`")
            assert (await request(fetcher, action="fetch_invoice", id=str(uid)))["data"]["version"] == 1


def test_every_action_is_in_the_table() -> None:
    assert {action.__struct_config__.tag for action in get_args(Action)} == set(SCOPE_OF)


@pytest.mark.parametrize("action", SCOPE_OF)
async def test_without_a_token_there_is_little_to_do(guarded: Guarded, action: str) -> None:
    world, program = guarded
    client = await world.connect()
    uid = await program.create_invoice(amount=1, currency="USD", account_id=1)
    reply = await request(client, **fields_of(action, uid))
    code = None if action == "ping" else "unauthorized"
    assert reply.get("code") == code


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("subscribe", "forbidden"),
        ("resume", "forbidden"),
        ("create_invoice", "forbidden"),
        ("fetch_invoice", "not_found"),
        ("cancel_invoice", "not_found"),
        ("update_invoice", "not_found"),
    ],
)
async def test_what_is_another_accounts_is_out_of_reach(guarded: Guarded, action: str, code: str) -> None:
    world, program = guarded
    uid = await program.create_invoice(amount=1, currency="USD", account_id=2)
    client = await world.connect(authorization=bearer(await program.create_token(account_id=1)))
    assert (await request(client, **fields_of(action, uid, account=2)))["code"] == code
    owner = await world.connect(authorization=bearer(await program.create_token(account_id=2)))
    assert (await request(owner, action="fetch_invoice", id=str(uid)))["data"]["version"] == 1


@pytest.mark.parametrize("behind", [False, True])
async def test_invoices_and_addresses_bring_only_ones_own_and_prices_are_for_all(
    guarded: Guarded,
    behind: bool,  # noqa: FBT001
) -> None:
    world, program = guarded
    client = await world.connect(authorization=bearer(await program.create_token(account_id=2)))
    topics = [("address", "here"), ("price", "*")]
    if behind:
        names = [{"type": type_, "id": id_} for type_, id_ in topics]
        position = (await request(client, action="subscribe", type="price", id="XXX"))["data"]["position"]
    else:
        for type_, id_ in topics:
            reply = await request(client, action="subscribe", type=type_, id=id_, snapshot=True)
    for account in (1, 2):
        uid = await program.create_invoice(amount=account, currency="USD", account_id=account, address="here")
        if account == 1:
            await request(client, action="subscribe", type="invoice", id=str(uid))
        await program.update_invoice(uid, memo="x")
    await program.set_price("BTC", Decimal(43001))
    if behind:
        await trio.sleep(0.3)
        await request(client, action="resume", after=position, topics=names)
    got: list[tuple[str, int]] = []
    while len(got) < 3:
        message = await client.receive()
        if "type" in message:
            got.append((message["type"], message["data"]["account_id"]))
    assert got == [("invoice.created", 2), ("invoice.updated", 2), ("price.updated", 1)]
    reply = await request(client, action="subscribe", type="address", id="here", snapshot=True)
    assert [invoice["account_id"] for invoice in reply["data"]["snapshot"]] == [2]


async def test_the_account_may_be_left_out_where_the_token_names_it(guarded: Guarded) -> None:
    world, program = guarded
    client = await world.connect(authorization=bearer(await program.create_token(account_id=2)))
    reply = await request(client, action="create_invoice", amount=1, currency="USD")
    assert reply["data"]["account_id"] == 2


async def test_and_must_not_where_there_is_none(world: World) -> None:
    reply = await request(await world.connect(), action="create_invoice", amount=1, currency="USD")
    assert reply["code"] == "invalid_message"


# Ways to bring a token


@pytest.mark.parametrize("header", ["Bearer {}", "bearer {}", "BEARER  {}"])
async def test_a_token_comes_with_the_request(guarded: Guarded, header: str) -> None:
    world, program = guarded
    client = await world.connect(authorization=header.format(await program.create_token()))
    assert (await request(client, action="list_prices"))["status"] == "success"


async def test_a_browser_brings_it_as_a_subprotocol(guarded: Guarded) -> None:
    world, program = guarded
    token = await program.create_token()
    headers: dict[str, Any] = {"sec-websocket-protocol": f"trio-ws, bearer.{token}"}
    client = await world.connect(**headers)
    assert client.socket.subprotocol == "trio-ws"
    assert (await request(client, action="list_prices"))["status"] == "success"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"sec-websocket-protocol": "trio-ws, bearer.wrong"},
    ],
)
async def test_a_wrong_token_is_refused_before_the_upgrade(guarded: Guarded, headers: dict[str, Any]) -> None:
    world, program = guarded
    await program.create_token()
    with pytest.raises(ConnectionRejected) as refused:
        await world.connect(**headers)
    assert refused.value.status_code == 401


@pytest.mark.parametrize("others", ["Basic dG9rZW4tMTo=", "Negotiate x", ""])
async def test_another_scheme_is_no_token_of_ours(guarded: Guarded, others: str) -> None:
    world, program = guarded
    token = await program.create_token()
    client = await world.connect(authorization=others)
    assert (await request(client, action="list_prices"))["code"] == "unauthorized"
    headers: dict[str, Any] = {"sec-websocket-protocol": f"trio-ws, bearer.{token}"}
    client = await world.connect(authorization=others, **headers)
    assert (await request(client, action="list_prices"))["status"] == "success"


async def test_a_token_in_the_url_is_none(guarded: Guarded) -> None:
    world, program = guarded
    client = await world.connect(path=f"/?token={await program.create_token()}")
    assert (await request(client, action="list_prices"))["code"] == "unauthorized"


async def test_a_database_that_is_away_says_so_before_the_upgrade(
    closed_world: World, database: SimulatedDatabase
) -> None:
    token = database.create_token()
    database.away = True
    with pytest.raises(ConnectionRejected) as refused:
        await closed_world.connect(authorization=bearer(token))
    assert refused.value.status_code == 503


async def test_authenticating_replaces_who_one_is(guarded: Guarded) -> None:
    world, program = guarded
    client = await world.connect()
    first, second = await program.create_token(2, ("read",)), await program.create_token(1, ("write", "read"))
    reply = await request(client, action="authenticate", token=first)
    assert reply == {
        "status": "success",
        "message": "Authenticated",
        "data": {"account_id": 2, "scopes": ["read"], "expiresAt": None},
    }
    assert (await request(client, action="subscribe", type="account", id=2))["status"] == "success"
    reply = await request(client, action="authenticate", token="wrong")
    assert (reply["code"], reply["message"]) == (
        "unauthorized",
        "The token is unknown, expired or revoked",
    )
    assert (await request(client, action="subscribe", type="account", id=2))["status"] == "success"
    reply = await request(client, action="authenticate", token=second)
    assert reply["data"] == {"account_id": 1, "scopes": ["read", "write"], "expiresAt": None}
    assert (await request(client, action="subscribe", type="account", id=2))["code"] == "forbidden"
    await program.create_invoice(amount=1, currency="USD", account_id=2)
    mine = await program.create_invoice(amount=1, currency="USD", account_id=1, address="here")
    await request(client, action="subscribe", type="account", id=1)
    await program.update_invoice(mine, memo="x")
    while (event := await client.receive())["type"] != "invoice.updated":
        assert event["data"]["account_id"] == 1
    await program.revoke_token(first)  # whose it is no more
    assert (await request(client, action="ping"))["type"] == "pong"


# Their end


async def closes(client: SimulatedClient) -> tuple[int, str | None, float]:
    """When and why the server closes."""
    reason: CloseReason | None = None
    while reason is None:
        try:
            await client.receive()
        except ConnectionClosed as closed:
            reason = closed.reason
    return int(reason.code), reason.reason, trio.current_time()


async def test_a_token_that_expires_ends_its_connections_to_the_second(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase
) -> None:
    begin = trio.current_time()
    by_header = await closed_world.connect(authorization=bearer(database.create_token(seconds=100)))
    by_action = await closed_world.connect()
    token = database.create_token(seconds=200)
    reply = await request(by_action, action="authenticate", token=token)
    assert reply["data"]["expiresAt"].startswith("2026-01-01T00:03:2")
    code, reason, when = await closes(by_header)
    assert (code, reason, round(when - begin)) == (4401, "the token has expired", 100)
    code, reason, when = await closes(by_action)
    assert (code, round(when - begin)) == (4401, 200)
    with pytest.raises(ConnectionRejected):
        await closed_world.connect(authorization=bearer(token))


async def test_a_fresh_token_in_time_keeps_the_connection(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase
) -> None:
    begin = trio.current_time()
    client = await closed_world.connect(authorization=bearer(database.create_token(seconds=100)))
    with trio.move_on_after(90):
        await client.receive()
    await request(client, action="authenticate", token=database.create_token(seconds=100))
    _, _, when = await closes(client)
    assert round(when - begin) == 190


async def test_the_old_token_s_end_is_none_of_a_new_one_that_has_no_end(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase
) -> None:
    client = await closed_world.connect(authorization=bearer(database.create_token(seconds=100)))
    reply = await request(client, action="authenticate", token=database.create_token())
    assert reply["status"] == "success"
    await trio.sleep(1000)
    assert (await request(client, action="list_prices"))["status"] == "success"


async def test_without_a_token_a_client_stays_only_so_long(
    autojump_clock: MockClock, closed_world: World
) -> None:
    begin = trio.current_time()
    client = await closed_world.connect()
    for _ in range(9):
        await trio.sleep(1)
        assert (await request(client, action="ping"))["type"] == "pong"
        assert (await request(client, action="authenticate", token="wrong"))["code"] == "unauthorized"
    code, reason, when = await closes(client)
    assert (code, reason, when - begin) == (4401, "no token came in time", 10)


@pytest.mark.parametrize("seconds", [None, 20])
async def test_who_authenticates_in_time_stays_as_long_as_the_token_says(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase, seconds: float | None
) -> None:
    by_header = await closed_world.connect(authorization=bearer(database.create_token()))
    by_action = await closed_world.connect()
    await trio.sleep(9)
    token = database.create_token(seconds=seconds)
    assert (await request(by_action, action="authenticate", token=token))["status"] == "success"
    begin = trio.current_time()
    await trio.sleep(15)
    assert (await request(by_action, action="authenticate", token="wrong"))["code"] == "unauthorized"
    if seconds is not None:
        code, reason, when = await closes(by_action)
        assert (code, reason, round(when - begin)) == (4401, "the token has expired", seconds)
    await trio.sleep(1000)
    for client in (by_header, by_action)[: 1 if seconds else 2]:
        assert (await request(client, action="list_prices"))["status"] == "success"


async def test_a_token_that_comes_in_time_is_in_time_however_slow_the_database_is(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase
) -> None:
    begin = trio.current_time()
    wrong, right = await closed_world.connect(), await closed_world.connect()
    await trio.sleep(9.5)
    database.delay = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(wrong.send, action="authenticate", token="wrong"))
        token = database.create_token()
        assert (await request(right, action="authenticate", token=token))["status"] == "success"
    assert (await wrong.receive())["code"] == "unauthorized"
    assert await closes(wrong) == (4401, "no token came in time", begin + 10.5)
    await trio.sleep(1000)
    assert (await request(right, action="list_prices"))["status"] == "success"


async def test_while_the_database_is_away_a_client_keeps_its_time_to_authenticate(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase
) -> None:
    client, token = await closed_world.connect(), database.create_token()
    database.away = True
    for _ in range(3):
        await trio.sleep(8)
        assert (await request(client, action="authenticate", token=token))["code"] == "unavailable"
    database.away = False
    assert (await request(client, action="authenticate", token=token))["status"] == "success"


async def test_wrong_tokens_by_the_hundred_win_no_time(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase
) -> None:
    begin = trio.current_time()
    client = await closed_world.connect()
    database.delay = 0.3
    for _ in range(100):
        await client.send(action="authenticate", token="wrong")
    code, reason, when = await closes(client)
    assert (code, reason) == (4401, "no token came in time")
    assert when - begin <= 11


@pytest.mark.parametrize("settings", [{"auth": "open"}, {"auth": "token", "authenticate_seconds": None}])
async def test_where_no_token_is_needed_or_no_time_is_set_a_client_stays(
    autojump_clock: MockClock, settings: dict[str, Any]
) -> None:
    async with simulated_server(**settings) as world:
        client = await world.connect()
        await trio.sleep(1000)
        assert (await request(client, action="ping"))["type"] == "pong"


async def test_a_server_that_stops_meanwhile_says_so(autojump_clock: MockClock) -> None:
    async with simulated_server(auth="token", drain_seconds=25) as world:
        world.database.gate = trio.Event()
        client = await world.connect()
        await trio.sleep(9)
        await client.send(action="authenticate", token="wrong")
        await wait_all_tasks_blocked()
        world.shutdown.set()
        await trio.sleep(5)
        world.database.gate.set()
        assert (await client.receive())["code"] == "unauthorized"
        assert (await closes(client))[0] == 1001


async def test_a_revoked_token_ends_its_connections_within_a_second_on_every_server(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    token, other = database.create_token(), database.create_token()
    async with (
        simulated_server(database, auth="token") as here,
        simulated_server(database, auth="open") as there,
    ):
        clients = [await world.connect(authorization=bearer(token)) for world in (here, there)]
        idle = await here.connect()
        bystander = await here.connect(authorization=bearer(other))
        await request(clients[0], action="unsubscribe_all")
        begin = trio.current_time()
        database.lose_wakes = True
        database.revoke_token(token)
        for client in clients:
            code, reason, when = await closes(client)
            assert (code, reason) == (4401, "the token was revoked")
            assert when - begin < 1
        for client in (idle, bystander):
            assert (await request(client, action="ping"))["type"] == "pong"


async def test_all_who_hold_a_revoked_token_end_within_a_second(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase
) -> None:
    token = database.create_token()
    clients = [await closed_world.connect(authorization=bearer(token)) for _ in range(10)]
    begin = trio.current_time()
    database.revoke_token(token)
    for client in clients:
        code, _, when = await closes(client)
        assert code == 4401
        assert when - begin < 1


async def test_a_token_that_was_brought_twice_can_be_revoked_too(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase
) -> None:
    token = database.create_token()
    client = await closed_world.connect(authorization=bearer(token))
    assert (await request(client, action="authenticate", token=token))["status"] == "success"
    database.revoke_token(token)
    with trio.fail_after(1):
        assert (await closes(client))[:2] == (4401, "the token was revoked")


class SlowToList(SimulatedDatabase):
    """A database in which a list takes a second."""

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        if query.__name__ == "list_invoices":
            await trio.sleep(1)
        return await super().run(query, *args, lane=lane)


async def test_who_has_lost_its_token_is_told_nothing_while_it_is_ended(autojump_clock: MockClock) -> None:
    database = SlowToList()
    token = database.create_token(seconds=10)
    async with simulated_server(database, auth="token") as world:
        client = await world.connect(authorization=bearer(token))
        await request(client, action="subscribe", type="account", id=1)
        await trio.sleep(9.9)
        await client.send(action="list_invoices")  # which is under way when the token expires
        await trio.sleep(0.2)
        database.create_invoice(amount=1, currency="EUR", account_id=1)
        with trio.fail_after(1), pytest.raises(ConnectionClosed):
            await client.receive()


async def test_who_may_not_read_any_more_is_told_nothing_any_more(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase
) -> None:
    client = await closed_world.connect(authorization=bearer(database.create_token(1, ("read", "write"))))
    await request(client, action="subscribe", type="account", id=1)
    blind = database.create_token(1, ("write",))
    assert (await request(client, action="authenticate", token=blind))["status"] == "success"
    database.create_invoice(amount=1, currency="EUR", account_id=1)
    with trio.move_on_after(5):
        raise AssertionError(await client.receive())


async def test_a_revocation_does_not_need_the_event_log(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase
) -> None:
    """Which may have much to read, or be another one by now."""
    token = database.create_token()
    client = await closed_world.connect(authorization=bearer(token))
    database.restore(seq=2)
    await trio.sleep(5)
    assert (await request(client, action="ping"))["type"] == "pong"
    log = database.answers[event_log.advance]
    database.answers = {**database.answers, event_log.advance: lambda *_: log(database, 0, 0)}
    begin = trio.current_time()
    database.revoke_token(token)
    code, reason, when = await closes(client)
    assert (code, reason) == (4401, "the token was revoked")
    assert when - begin < 1


async def test_a_token_revoked_while_it_is_looked_up_is_not_let_in(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase
) -> None:
    token = database.create_token()
    refused = 0
    for step in range(12):  # of the loop, from the request on: before, during and after the look-up
        client = await closed_world.connect()
        fresh = database.create_token()
        await client.send(action="authenticate", token=fresh)
        for _ in range(step):
            await trio.lowlevel.checkpoint()
        database.revoke_token(fresh)
        with trio.move_on_after(5):
            reply = await client.receive()
            if reply["status"] == "success":
                assert (await closes(client))[0] == 4401
            else:
                refused += 1
                assert reply["code"] == "unauthorized"
            continue
        raise AssertionError("no answer")
    assert refused
    assert token


class Busy(SimulatedDatabase):
    """A database that something happens in while a token is looked up, in vain."""

    meanwhile: Callable[[], None] | None = None

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        if query.__name__ == "identify" and self.meanwhile is not None:
            self.meanwhile()
            await trio.sleep(2)
            raise Unavailable("busy")
        return await super().run(query, *args, lane=lane)


async def test_the_old_token_is_checked_while_a_new_one_is_looked_up_in_vain(
    autojump_clock: MockClock,
) -> None:
    database = Busy()
    old, new = database.create_token(), database.create_token()
    async with simulated_server(database, auth="token") as world:
        client = await world.connect(authorization=bearer(old))
        database.meanwhile = lambda: database.revoke_token(old)
        await client.send(action="authenticate", token=new)
        code, reason, _ = await closes(client)
        assert (code, reason) == (4401, "the token was revoked")


async def test_a_new_token_that_is_no_good_costs_the_old_one_nothing(autojump_clock: MockClock) -> None:
    database = Busy()
    old, new = database.create_token(), database.create_token()
    async with simulated_server(database, auth="token") as world:
        client = await world.connect(authorization=bearer(old))
        database.meanwhile = lambda: database.revoke_token(new)
        assert (await request(client, action="authenticate", token=new))["code"] == "unavailable"
        database.meanwhile = None
        assert (await request(client, action="authenticate", token=new))["code"] == "unauthorized"
        await trio.sleep(5)
        assert (await request(client, action="list_prices"))["status"] == "success"


async def test_who_has_another_token_by_now_does_not_lose_its_connection_with_the_old_one(
    autojump_clock: MockClock, closed_world: World, database: SimulatedDatabase
) -> None:
    old, new = database.create_token(), database.create_token()
    client = await closed_world.connect(authorization=bearer(old))
    assert (await request(client, action="authenticate", token=new))["status"] == "success"
    database.revoke_token(old)
    await trio.sleep(5)
    assert (await request(client, action="ping"))["type"] == "pong"


class Asked(SimulatedDatabase):
    """Notes which tokens a server asks for: those that its connections rely on."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: set[int | None] = set()

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        if query.__name__ == "find_ended":
            (held,) = cast("tuple[list[Identity]]", args)
            self.tokens |= {identity.token_id for identity in held}
        return await super().run(query, *args, lane=lane)

    async def while_idle(self) -> set[int | None]:
        """Which it asks for in a while in which nothing happens."""
        self.tokens.clear()
        await trio.sleep(5)
        return self.tokens


async def test_a_token_is_asked_for_as_long_as_a_connection_relies_on_it(autojump_clock: MockClock) -> None:
    database = Asked()
    tokens = [database.create_token() for _ in range(3)]
    async with simulated_server(database, auth="token") as world:
        clients = [await world.connect(authorization=bearer(token)) for token in (tokens[0], *tokens)]
        assert await database.while_idle() == {1, 2, 3}
        await clients[0].aclose()
        await clients[1].vanish()
        assert await database.while_idle() == {2, 3}
        await request(clients[2], action="authenticate", token=tokens[2])
        assert await database.while_idle() == {3}, "and not for the one before"
        database.revoke_token(tokens[2])
        for client in clients[2:]:
            await closes(client)
        assert await database.while_idle() == set()


async def test_a_token_is_not_asked_for_after_a_caller_who_left_while_it_was_looked_up(
    autojump_clock: MockClock,
) -> None:
    database = Asked()
    token = database.create_token()
    async with simulated_server(database, auth="token") as world:
        database.gate = trio.Event()
        stream = await world.network.call()
        await stream.send_all(raw.head(Authorization=bearer(token)))
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(stream)
        database.gate.set()
        await trio.sleep(1)
        assert await database.while_idle() == set()


# Pages


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        ("http://localhost", True),
        ("https://LOCALHOST", True),
        ("https://shop.example", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://localhost:81", False),
        ("null", False),
        ("", False),
    ],
)
async def test_a_page_may_call_from_our_own_host_or_from_an_origin_that_is_set(
    database: SimulatedDatabase,
    origin: str,
    welcome: bool,  # noqa: FBT001
) -> None:
    async with simulated_server(database, origins=("https://shop.example",)) as world:
        if welcome:
            await world.connect(origin=origin)
            return
        with pytest.raises(ConnectionRejected) as refused:
            await world.connect(origin=origin)
        assert refused.value.status_code == 403


async def test_open_means_open(database: SimulatedDatabase, world: World) -> None:
    client = await world.connect()
    assert (await request(client, **INVOICE))["status"] == "success"
    token = database.create_token(scopes=("read",))
    await request(client, action="authenticate", token=token)
    assert (await request(client, **INVOICE))["code"] == "forbidden"


# Operators


@pytest.mark.parametrize("action", sorted(SCOPE_OF))
async def test_an_operator_may_do_everything_for_any_account(guarded: Contract, action: str) -> None:
    world, program = guarded
    uid = await program.create_invoice(amount=1, currency="USD", account_id=2)
    token = await program.create_token(None, ["admin"])
    operator = await world.connect(authorization=bearer(token))
    id_ = await id_for(action, guarded, 2)
    reply = await request(operator, **fields_of(action, uid, 2, token, id_))
    assert reply["status"] == "success", reply
    if action == "authenticate":
        assert reply["data"] == {"account_id": None, "scopes": ["admin"], "expiresAt": None}


async def test_an_operator_is_told_of_every_account_until_the_token_is_revoked(guarded: Contract) -> None:
    world, program = guarded
    token = await program.create_token(None, ["admin"])
    operator = await world.connect(authorization=bearer(token))
    for account in (1, 2):
        await request(operator, action="subscribe", type="account", id=account)
    for account in (1, 2):
        await program.create_invoice(amount=1, currency="USD", account_id=account)
    with trio.fail_after(PATIENCE_SECONDS):
        told = [await operator.receive() for _ in (1, 2)]
    assert [event["data"]["account_id"] for event in told] == [1, 2]
    assert len((await request(operator, action="list_invoices"))["data"]) == 2
    reply = await request(operator, action="create_invoice", amount=1, currency="USD")
    assert reply["code"] == "invalid_message", "whose it is has to be said"
    await program.revoke_token(token)
    with trio.fail_after(PATIENCE_SECONDS):
        code, reason, _ = await closes(operator)
    assert (code, reason) == (4401, "the token was revoked")


@pytest.mark.parametrize(
    ("account", "scopes", "constraint"),
    [
        (1, ["admin"], "tokens_account_check"),
        (None, ["read"], "tokens_account_check"),
        (1, ["root"], "tokens_scopes_check"),
    ],
)
async def test_a_token_is_an_account_s_or_an_operator_s(
    guarded: Contract, account: int | None, scopes: list[Any], constraint: str
) -> None:
    _, program = guarded
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        await program.create_token(account, scopes)
    assert refused.value.diag.constraint_name == constraint
