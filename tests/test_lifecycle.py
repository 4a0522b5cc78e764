"""What may become of an invoice, by whoever's hand, on the simulated database and on PostgreSQL."""

import itertools
import json
from contextlib import closing
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from trio.testing import MockClock

from tests.programs import OtherProgram
from tests.test_protocol import INVOICE, Contract, assert_nothing_more, receive, request, seq
from trio_ws.database import event_log, queries
from trio_ws.database.gateway import Gateway
from trio_ws.errors import Conflict, IdempotencyMismatch
from trio_ws.messages import CreateInvoice
from trio_ws.messages.fields import Status
from trio_ws.settings import Settings
from trio_ws.testing import SimulatedClient, SimulatedDatabase, World, simulated_server
from trio_ws.testing.refusals import CheckViolation

STATUSES = get_args(Status)
EVERY_CHANGE = list(itertools.product(STATUSES, STATUSES))
ALLOWED = {
    ("unpaid", "confirming"),
    ("confirming", "paid"),
    ("confirming", "unpaid"),
    ("unpaid", "expired"),
    ("unpaid", "cancelled"),
}
WAY_TO = {
    "unpaid": [],
    "confirming": ["confirming"],
    "paid": ["confirming", "paid"],
    "expired": ["expired"],
    "cancelled": ["cancelled"],
}


async def invoice_that_is(status: str, program: OtherProgram) -> UUID:
    uid = await program.create_invoice(amount=5, currency="EUR", account_id=1)
    for step in WAY_TO[status]:
        await program.update_invoice(uid, status=step)
    return uid


@pytest.mark.parametrize(("old", "new"), EVERY_CHANGE)
async def test_a_status_changes_as_the_protocol_allows_and_no_other_way(
    contract: Contract, old: str, new: str
) -> None:
    world, program = contract
    client = await world.connect()
    uid = await invoice_that_is(old, program)
    before = (await request(client, action="fetch_invoice", id=str(uid)))["data"]
    reply = await request(client, action="update_invoice", uid=str(uid), status=new)
    after = (await request(client, action="fetch_invoice", id=str(uid)))["data"]
    if (old, new) in ALLOWED:
        assert reply == {"status": "success", "data": after}
        assert (after["status"], after["version"]) == (new, before["version"] + 1)
    else:
        assert (reply["status"], reply["code"]) == ("error", "conflict")
        assert after == before


@pytest.mark.parametrize(("old", "new"), EVERY_CHANGE)
async def test_the_database_holds_other_programs_to_it_too(contract: Contract, old: str, new: str) -> None:
    _, program = contract
    uid = await invoice_that_is(old, program)
    if (old, new) in ALLOWED or old == new:
        await program.update_invoice(uid, status=new)
    else:
        with pytest.raises(CheckViolation, match=f"is {old} and cannot become {new}"):
            await program.update_invoice(uid, status=new)


@pytest.mark.parametrize("change", [{"amount": 1}, {"currency": "USD"}])
async def test_what_an_invoice_is_over_cannot_change(contract: Contract, change: dict[str, Any]) -> None:
    _, program = contract
    uid = await program.create_invoice(amount=5, currency="EUR", account_id=1)
    with pytest.raises(
        CheckViolation, match="only the status, memo, address, URLs and time to pay of invoice 1 can change"
    ):
        await program.update_invoice(uid, **change)


async def test_an_unpaid_invoice_can_be_cancelled_once(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    uid = (await request(client, **INVOICE))["data"]["uid"]
    reply = await request(client, action="cancel_invoice", uid=uid)
    assert list(reply) == ["status", "message", "data"]
    assert reply["message"] == "Invoice cancelled successfully"
    assert reply["data"]["status"] == "cancelled"
    again = await request(client, action="cancel_invoice", uid=uid)
    assert again["code"] == "conflict"
    assert again["message"] == "The invoice cannot become cancelled"
    assert again["detail"] == "It is cancelled, or has expired"


@pytest.mark.parametrize("uid", ["5735e250-b53e-4ace-a025-afac1bc77ee2", "inv_123", ""])
async def test_an_unknown_invoice_cannot_be_changed(contract: Contract, uid: str) -> None:
    world, _ = contract
    client = await world.connect()
    for fields in ({"action": "cancel_invoice"}, {"action": "update_invoice", "status": "confirming"}):
        reply = await request(client, **fields, uid=uid)
        assert (reply["message"], reply["code"]) == ("Invoice not found", "not_found")


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "update_invoice", "uid": "x", "status": "stolen"},
        {"action": "update_invoice", "uid": "x", "status": None},
        {"action": "cancel_invoice", "uid": 7},
        {**INVOICE, "expires_in_seconds": 0},
        {**INVOICE, "expires_in_seconds": -1},
        {**INVOICE, "expires_in_seconds": 10**9},
        {**INVOICE, "expires_in_seconds": "60"},
        {**INVOICE, "idempotency_key": ""},
        {**INVOICE, "idempotency_key": "x" * 129},
        {**INVOICE, "redirect_url": "javascript:alert(1)"},
        {**INVOICE, "redirect_url": "https://"},
    ],
)
async def test_a_value_that_cannot_be_is_refused(contract: Contract, fields: dict[str, object]) -> None:
    world, _ = contract
    client = await world.connect()
    assert (await request(client, **fields))["code"] == "invalid_value"


@pytest.mark.parametrize("missing", ["uid", "status"])
async def test_a_field_that_lacks_is_no_message(contract: Contract, missing: str) -> None:
    world, _ = contract
    client = await world.connect()
    fields = {"action": "update_invoice", "uid": "x", "status": "paid"}
    del fields[missing]
    assert (await request(client, **fields))["code"] == "invalid_message"


async def test_of_many_who_race_one_wins_and_the_events_tell_the_same(contract: Contract) -> None:
    world, _ = contract
    clients = [await world.connect() for _ in range(20)]
    follower = await world.connect()
    uid = (await request(follower, **INVOICE))["data"]["uid"]
    await request(follower, action="subscribe", type="invoice", id=uid)
    replies: list[dict[str, Any]] = []

    async def race(client: SimulatedClient, status: str) -> None:
        replies.append(await request(client, action="update_invoice", uid=uid, status=status))

    async with trio.open_nursery() as nursery:
        for number, client in enumerate(clients):
            nursery.start_soon(race, client, "cancelled" if number % 2 else "confirming")
    (winner,) = [reply["data"] for reply in replies if reply["status"] == "success"]
    assert {reply["code"] for reply in replies if reply["status"] == "error"} == {"conflict"}
    while (event := await receive(follower))["type"] != "invoice.updated":
        pass
    assert event["data"] == winner
    assert event["previous"] == {"status": "unpaid"}
    await assert_nothing_more(follower)


# Keys


async def test_the_same_request_under_the_same_key_makes_one_invoice(contract: Contract) -> None:
    world, _ = contract
    clients = [await world.connect() for _ in range(10)]
    replies: list[dict[str, Any]] = []

    async def create(client: SimulatedClient, number: int) -> None:
        replies.append(await request(client, **INVOICE, idempotency_key="once", request_id=number))

    async with trio.open_nursery() as nursery:
        for number, client in enumerate(clients):
            nursery.start_soon(create, client, number)
    assert sorted(reply.pop("request_id") for reply in replies) == list(range(10))
    assert all(reply == replies[0] for reply in replies)
    assert replies[0]["status"] == "success"
    other = await request(clients[0], **INVOICE, idempotency_key="twice")
    assert other["data"]["uid"] != replies[0]["data"]["uid"]
    await request(clients[0], action="cancel_invoice", uid=other["data"]["uid"])
    again = await request(clients[0], **INVOICE, idempotency_key="twice")
    assert again["data"]["uid"] == other["data"]["uid"]
    assert again["data"]["status"] == "cancelled", "it is the invoice as it is now"


async def test_another_request_under_the_same_key_is_refused(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    await request(client, **INVOICE, idempotency_key="key")
    for change in ({"amount": 1}, {"currency": "EUR"}, {"memo": "x"}, {"expires_in_seconds": 5}):
        reply = await request(client, **{**INVOICE, **change}, idempotency_key="key")
        assert (reply["status"], reply["code"]) == ("error", "idempotency_mismatch")


# Expiry


async def test_an_invoice_expires_when_its_time_is_over(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    await request(client, action="subscribe", type="account", id=1)
    created = (await request(client, **INVOICE, expires_in_seconds=0.3))["data"]
    lived = datetime.fromisoformat(created["expiresAt"]) - datetime.fromisoformat(created["createdAt"])
    assert lived.total_seconds() == pytest.approx(0.3, abs=0.2)
    while (event := await receive(client))["data"]["status"] != "expired":
        pass
    assert event["previous"] == {"status": "unpaid"}
    late = datetime.fromisoformat(event["data"]["updatedAt"]) - datetime.fromisoformat(created["expiresAt"])
    assert late.total_seconds() > 0


async def test_an_invoice_that_is_being_paid_does_not_expire_and_one_that_is_not_does_to_the_second(
    autojump_clock: MockClock, database: SimulatedDatabase, world: World
) -> None:
    client = await world.connect()
    await request(client, action="subscribe", type="account", id=1)
    for seconds in (10, 10, 300):
        await request(client, **INVOICE, expires_in_seconds=seconds)
    paying = (await request(client, **INVOICE, expires_in_seconds=10))["data"]["uid"]
    await request(client, action="update_invoice", uid=paying, status="confirming")
    begin = trio.current_time()
    expired: list[tuple[int, int]] = []
    with trio.move_on_after(600):
        while True:
            event = await client.receive()
            if event["data"]["status"] == "expired":
                expired.append((event["data"]["id"], round(trio.current_time() - begin)))
    assert expired == [(1, 10), (2, 10), (3, 300)]


async def test_an_invoice_that_is_overdue_cannot_be_paid_before_anybody_noted_it(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    invoice = database.create_invoice(amount=1, currency="USD", account_id=1, expires_in_seconds=5)
    await trio.sleep(5)
    with pytest.raises(Conflict, match="cannot become confirming"):
        await database.run(queries.change_status, invoice, "confirming", None)
    await database.run(queries.change_status, invoice, "expired", None)


async def test_expiring_sits_out_an_outage(autojump_clock: MockClock, database: SimulatedDatabase) -> None:
    async with simulated_server(database) as world:
        client = await world.connect()
        await request(client, action="subscribe", type="account", id=1)
        await request(client, **INVOICE, expires_in_seconds=5)
        database.away = True
        await trio.sleep(60)
        database.away = False
        while (event := await receive(client))["data"]["status"] != "expired":
            pass
        assert seq(event) == 5


# Many actors at once

ACTORS, INVOICES = 4, 2
changes = st.tuples(st.integers(0, INVOICES - 1), st.sampled_from(STATUSES))


work_of_actors = st.lists(st.lists(changes, max_size=8), min_size=ACTORS, max_size=ACTORS)
Work = list[list[tuple[int, Status]]]


@given(work=work_of_actors)
async def test_whatever_actors_do_at_once_the_events_tell_one_story_and_replies_the_same(work: Work) -> None:
    async with simulated_server() as world:
        await assert_one_story(world, work)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(work=work_of_actors)
async def test_and_so_they_do_on_postgresql(conninfo: str, work: Work) -> None:
    with closing(Gateway(conninfo, Settings())) as gateway:
        async with simulated_server(gateway) as world:
            await assert_one_story(world, work)


async def assert_one_story(world: World, work: Work) -> None:
    follower = await world.connect()
    actors = [await world.connect() for _ in range(ACTORS)]
    await request(follower, action="subscribe", type="account", id=1)
    uids = [(await request(actors[0], **INVOICE))["data"]["uid"] for _ in range(INVOICES)]
    assert [(await receive(follower))["data"]["uid"] for _ in range(INVOICES)] == uids
    done: list[dict[str, Any]] = []

    async def act(client: SimulatedClient, todo: list[tuple[int, Status]]) -> None:
        for number, status in todo:
            reply = await request(client, action="update_invoice", uid=uids[number], status=status)
            if reply["status"] == "success":
                assert reply["data"]["status"] == status
                done.append(reply["data"])
            else:
                assert reply["code"] == "conflict"

    async with trio.open_nursery() as nursery:
        for client, todo in zip(actors, work, strict=True):
            nursery.start_soon(act, client, todo)
    told = [await receive(follower) for _ in done]
    await assert_nothing_more(follower)
    by_version = sorted(done, key=lambda invoice: (invoice["uid"], invoice["version"]))
    assert sorted((one["data"] for one in told), key=lambda one: (one["uid"], one["version"])) == by_version
    for uid in uids:
        story = [event for event in told if event["data"]["uid"] == uid]
        assert [event["data"]["version"] for event in story] == list(range(2, 2 + len(story)))
        status = "unpaid"
        for event in story:
            assert event["previous"] == {"status": status}
            assert (status, event["data"]["status"]) in ALLOWED
            status = event["data"]["status"]
        last = (await request(follower, action="fetch_invoice", id=uid))["data"]
        assert last["status"] == status


# A model of it all


class Lifecycle(RuleBasedStateMachine):
    """Actors create and change invoices; the model is a dictionary of statuses, and a list of events."""

    uids = Bundle("uids")

    def __init__(self) -> None:
        super().__init__()
        self.database = trio.run(self._make)
        self.statuses: dict[UUID, str] = {}
        self.by_key: dict[str, tuple[int, UUID]] = {}
        self.told: list[tuple[str, str]] = []

    async def _make(self) -> SimulatedDatabase:
        return SimulatedDatabase()

    @rule(target=uids, key=st.sampled_from(["a", "b", None]), amount=st.integers(1, 2))
    def create(self, key: str | None, amount: int) -> UUID | None:
        action = CreateInvoice(amount=amount, currency="USD", account_id=1, idempotency_key=key)
        known = self.by_key.get(key) if key else None
        try:
            reply: Any = trio.run(self.database.run, queries.create_invoice, action)
        except IdempotencyMismatch:
            assert known
            assert known[0] != amount
            return known[1]
        uid = UUID(_decode(reply)["uid"])
        if known:
            assert known == (amount, uid)
        else:
            self.statuses[uid] = "unpaid"
            self.told.append((str(uid), "unpaid"))
            if key:
                self.by_key[key] = amount, uid
        return uid

    @rule(uid=uids, status=st.sampled_from(STATUSES))
    def change(self, uid: UUID, status: Status) -> None:
        try:
            trio.run(self.database.run, queries.change_status, uid, status, None)
        except Conflict:
            assert (self.statuses[uid], status) not in ALLOWED
        else:
            assert (self.statuses[uid], status) in ALLOWED
            self.statuses[uid] = status
            self.told.append((str(uid), status))

    @invariant()
    def the_events_tell_what_happened_and_nothing_else(self) -> None:
        trio.run(self.database.run, event_log.number_events, 1000, None)
        read = trio.run(self.database.run, event_log.read_events, 0, 1000, None)
        told = [_decode(event.data) for event in read.events if event.type.startswith("invoice")]
        assert [(data["uid"], data["status"]) for data in told] == self.told


def _decode(raw: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(bytes(raw))
    return data


Lifecycle.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestLifecycle = Lifecycle.TestCase
