"""Requests that come together are done together, each gets its answer, and one that is wrong fails alone."""

import traceback
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.programs import prepare
from trio_ws.database import batches as batches_module
from trio_ws.database import queries, tokens
from trio_ws.database.batches import MOST, WORKERS, Batches
from trio_ws.database.gateway import Gateway
from trio_ws.database.queries import Connection
from trio_ws.database.tickets import Ticket
from trio_ws.errors import ActionError, IdempotencyMismatch, NotFound, Timeout, Unavailable
from trio_ws.messages import CreateInvoice
from trio_ws.settings import Settings


class Kitchen:
    """Answers each request with itself, after a second; what is bad can't be done with others.

    Once it has begun with something, it comes to its end, as a thread does.
    """

    def __init__(self) -> None:
        self.room = trio.CapacityLimiter(10)
        self.together: list[list[int]] = []
        self.alone: list[int] = []
        self.error: Exception | None = None

    async def run(self, many: Sequence[tuple[int]]) -> list[int | None]:
        async with self.room:
            self.together.append([number for (number,) in many])
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
        if self.error is not None:
            raise self.error
        return [None if number < 0 else number for (number,) in many]

    async def run_alone(self, number: int) -> int:
        async with self.room:
            self.alone.append(number)
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
        if number < 0:
            raise NotFound(str(number))
        return number


@asynccontextmanager
async def working(kitchen: Kitchen, workers: int = 1, seconds: float = 2) -> AsyncIterator[Batches]:
    batches = Batches("query", kitchen.run, kitchen.run_alone, seconds, workers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batches.work)
        await wait_all_tasks_blocked()
        yield batches
        nursery.cancel_scope.cancel()


async def ask(batches: Batches, number: int, answers: dict[int, Any]) -> None:
    try:
        answers[number] = await batches.ask(number).wait()
    except ActionError as error:
        answers[number] = error.code


async def test_one_that_comes_alone_goes_alone_and_at_once(autojump_clock: MockClock) -> None:
    kitchen = Kitchen()
    async with working(kitchen) as batches:
        assert await batches.ask(7).wait() == 7
        assert trio.current_time() == 1
    assert (kitchen.alone, kitchen.together) == ([7], [])


async def test_those_that_come_meanwhile_go_together_and_each_gets_its_own(autojump_clock: MockClock) -> None:
    kitchen, answers = Kitchen(), dict[int, Any]()
    async with working(kitchen) as batches:
        async with trio.open_nursery() as asking:
            for number in range(20):
                asking.start_soon(ask, batches, number, answers)
                await wait_all_tasks_blocked()
        assert trio.current_time() == 2
    assert answers == {number: number for number in range(20)}
    assert kitchen.alone == [0]
    assert kitchen.together == [list(range(1, 20))], "the first come first"


async def test_a_batch_has_its_limit(autojump_clock: MockClock) -> None:
    kitchen, answers = Kitchen(), dict[int, Any]()
    async with working(kitchen) as batches, trio.open_nursery() as asking:
        for number in range(MOST + 2):
            asking.start_soon(ask, batches, number, answers)
    assert sorted(map(len, kitchen.together)) in ([MOST], [1, MOST], [2, MOST])
    assert len(answers) == MOST + 2


async def test_one_that_is_wrong_fails_alone_and_holds_up_no_others(autojump_clock: MockClock) -> None:
    kitchen, answers = Kitchen(), dict[int, Any]()
    async with working(kitchen, seconds=3) as batches, trio.open_nursery() as asking:
        for number in (0, 1, -2, 3):
            asking.start_soon(ask, batches, number, answers)
            await wait_all_tasks_blocked()
        await trio.sleep(2.5)
        assert answers == {0: 0, 1: 1, 3: 3}
        assert await batches.ask(4).wait() == 4
    assert answers == {0: 0, 1: 1, -2: "not_found", 3: 3}


async def test_what_joins_the_one_before_it_is_done_in_one_batch_with_it_and_in_order(
    autojump_clock: MockClock,
) -> None:
    kitchen = Kitchen()
    async with working(kitchen, seconds=5) as batches:
        first = batches.ask(0)
        await wait_all_tasks_blocked()
        tickets = [batches.ask(number) for number in range(1, MOST + 9)]
        for ticket in tickets[1:]:
            ticket.joins = True
        tickets.append(batches.ask(MOST + 9))
        assert [await ticket.wait() for ticket in tickets] == list(range(1, MOST + 10))
    assert first.outcome == 0
    assert kitchen.together == [list(range(1, MOST + 9))]
    assert kitchen.alone == [0, MOST + 9]


async def test_all_of_a_batch_have_their_outcome_before_anybody_is_told(autojump_clock: MockClock) -> None:
    settled: list[int] = []
    async with working(Kitchen()) as batches:
        tickets = [batches.ask(number) for number in range(5)]
        for ticket in tickets:
            ticket.on_settled(lambda: settled.append(sum(one.is_settled for one in tickets)))
        await trio.sleep(2)
    assert settled == [5] * 5


async def test_who_is_late_to_ask_of_an_outcome_is_told_at_once(autojump_clock: MockClock) -> None:
    told: list[object] = []
    async with working(Kitchen()) as batches:
        ticket = batches.ask(1).then(lambda number: number + 1)
        await trio.sleep(2)
        ticket.on_settled(lambda: told.append(ticket.outcome))
    assert told == [2]


async def test_what_is_made_of_an_answer_may_fail_and_an_error_stays_what_it_is(
    autojump_clock: MockClock,
) -> None:
    async with working(Kitchen()) as batches:
        with pytest.raises(ZeroDivisionError):
            await batches.ask(0).then(lambda number: 1 / number).wait()
        with pytest.raises(NotFound):
            await batches.ask(-1).then(lambda number: 1 / number).wait()
        assert await batches.ask(2).wait() == 2, "and the work goes on"


async def test_what_is_dropped_before_it_begins_is_left_undone(autojump_clock: MockClock) -> None:
    kitchen = Kitchen()
    async with working(kitchen) as batches:
        batches.ask(0)
        await wait_all_tasks_blocked()
        dropped, wanted = batches.ask(1), batches.ask(2)
        dropped.is_dropped = True
        assert await wanted.wait() == 2
    assert (kitchen.alone, kitchen.together) == ([0, 2], [])


async def test_what_befalls_a_batch_befalls_each_of_it(autojump_clock: MockClock) -> None:
    kitchen, answers = Kitchen(), dict[int, Any]()
    kitchen.error = Unavailable("away")
    async with working(kitchen) as batches, trio.open_nursery() as asking:
        for number in range(3):
            asking.start_soon(ask, batches, number, answers)
            await wait_all_tasks_blocked()
    assert answers == {0: 0, 1: "unavailable", 2: "unavailable"}


async def test_a_bug_is_told_to_who_asked(autojump_clock: MockClock) -> None:
    kitchen, bugs, traces = Kitchen(), list[int](), set[int]()
    kitchen.error = ZeroDivisionError()

    async def fail(number: int) -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            await batches.ask(number).wait()
        traces.add(len(traceback.extract_tb(caught.value.__traceback__)))
        bugs.append(number)

    async with working(kitchen) as batches:
        async with trio.open_nursery() as asking:
            asking.start_soon(batches.ask(0).wait)
            await wait_all_tasks_blocked()
            asking.start_soon(fail, 1)
            asking.start_soon(fail, 2)
        kitchen.error = None
        assert await batches.ask(3).wait() == 3, "and the work goes on"
    assert sorted(bugs) == [1, 2]
    assert len(traces) == 1, "none is told of how the others were told"


async def test_a_query_that_answers_too_few_is_a_bug_for_who_asked_and_the_work_goes_on(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(_: Kitchen, __: Sequence[tuple[int]]) -> list[int | None]:
        await trio.sleep(1)
        return [1]

    monkeypatch.setattr(Kitchen, "run", run)
    async with working(Kitchen()) as batches:
        tickets = [batches.ask(number) for number in range(1, 4)]
        for ticket in tickets:
            with pytest.raises(ValueError, match="zip"):
                await ticket.wait()
        assert await batches.ask(4).wait() == 4


async def test_who_waits_too_long_is_told_so_and_not_served_later(autojump_clock: MockClock) -> None:
    kitchen, answers = Kitchen(), dict[int, Any]()
    async with working(kitchen, workers=0) as batches:
        await ask(batches, 1, answers)
        assert 2 < trio.current_time() < 2.5
        with trio.move_on_after(1):
            await batches.ask(2).wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vars(Batches)["_work"], batches, nursery)
            assert await batches.ask(3).wait() == 3
            nursery.cancel_scope.cancel()
    assert answers == {1: "unavailable"}
    assert (kitchen.alone, kitchen.together) == ([3], [])


async def test_all_waiting_together_is_no_longer_than_it_may_be(autojump_clock: MockClock) -> None:
    kitchen, answers = Kitchen(), dict[int, Any]()
    kitchen.room.total_tokens = 1
    async with working(kitchen) as batches, trio.open_nursery() as asking:
        for number in (0, -1, -2, -3):
            asking.start_soon(ask, batches, number, answers)
            await wait_all_tasks_blocked()
    assert trio.current_time() <= 3, "begun within two seconds, and done in one more"
    assert answers.pop(0) == 0
    assert sorted(answers.values()) == ["unavailable"] * 3
    assert kitchen.together == [[-1, -2, -3]]
    assert kitchen.alone == [0]


async def test_no_more_wait_than_there_is_room_for(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "QUEUE", 3)
    answers: dict[int, Any] = {}
    async with working(Kitchen(), workers=0) as batches, trio.open_nursery() as asking:
        for number in range(4):
            asking.start_soon(ask, batches, number, answers)
            await wait_all_tasks_blocked()
        assert answers == {3: "unavailable"}
        asking.cancel_scope.cancel()


async def test_there_are_several_at_a_time(autojump_clock: MockClock) -> None:
    kitchen = Kitchen()
    async with working(kitchen, WORKERS) as batches, trio.open_nursery() as asking:
        for number in range(WORKERS):
            asking.start_soon(batches.ask(number).wait)
            await wait_all_tasks_blocked()
        assert kitchen.alone == list(range(WORKERS))


# The queries


@pytest.fixture
def connection(conninfo: str) -> Iterator[Connection]:
    with psycopg.connect(conninfo) as connection:
        prepare(connection, statement_seconds=2.0)
        yield connection


def invoice(**fields: Any) -> CreateInvoice:
    return CreateInvoice(**{"amount": 1, "currency": "USD", "account_id": 1, **fields})


def test_many_invoices_are_stored_as_each_would_be_alone(connection: Connection) -> None:
    wanted = [
        invoice(),
        invoice(amount=2, memo="é", address="here", webhook_url="https://a.example", idempotency_key="k1"),
        invoice(amount=3, redirect_url="https://b.example", expires_in_seconds=60.5),
    ]
    created = queries.create_invoices(connection, [(action,) for action in wanted])
    for action, batched in zip(wanted, created, strict=True):
        assert batched is not None
        without_key = msgspec.structs.replace(action, idempotency_key=None)
        one = msgspec.json.decode(queries.create_invoice(connection, without_key))
        many = msgspec.json.decode(batched)
        for name in ("id", "uid", "createdAt", "updatedAt", "expiresAt"):
            assert (name in many) == (name in one)
            many.pop(name, None), one.pop(name, None)
        assert many == one
    again = queries.create_invoice(connection, wanted[1])
    assert again == created[1], "its key is known"


def test_what_a_batch_can_t_say_is_left_to_be_done_alone(connection: Connection) -> None:
    first, other = invoice(idempotency_key="k"), invoice(amount=2, idempotency_key="k")
    known = queries.create_invoice(connection, first)
    twice = invoice(idempotency_key="twice")
    wanted = [invoice(account_id=99), first, invoice(), other, twice, twice]
    created = [one is not None for one in queries.create_invoices(connection, [(one,) for one in wanted])]
    assert created == [False, False, True, False, True, False]
    assert queries.create_invoice(connection, first) == known
    with pytest.raises(IdempotencyMismatch):
        queries.create_invoice(connection, other)


def test_one_bad_row_undoes_the_batch_and_leaves_each_to_be_done_alone(connection: Connection) -> None:
    before = connection.execute("SELECT count(*) FROM invoices").fetchone()
    bad = msgspec.structs.replace(invoice(), currency="no currency")
    assert queries.create_invoices(connection, [(invoice(),), (bad,)]) == [None, None]
    assert connection.execute("SELECT count(*) FROM invoices").fetchone() == before
    assert queries.create_invoices(connection, [(invoice(),), (invoice(),)]) != [None, None]


def test_a_key_that_another_holds_is_not_waited_for_long(connection: Connection, conninfo: str) -> None:
    with psycopg.connect(conninfo) as other:
        other.execute(
            "INSERT INTO invoices (account_id, amount, currency, idempotency_key, request_hash)"
            " VALUES (1, 1, 'USD', 'held', '')"
        )
        assert queries.create_invoices(connection, [(invoice(),), (invoice(idempotency_key="held"),)]) == [
            None,
            None,
        ]


def test_many_are_fetched_as_each_would_be_alone(connection: Connection) -> None:
    tokens.create_account(connection, "another")
    uids = [
        UUID(msgspec.json.decode(queries.create_invoice(connection, invoice(account_id=account)))["uid"])
        for account in (1, 2)
    ]
    wanted = [(uid, owner) for uid in (*uids, uuid4(), uids[0]) for owner in (None, 1, 2)]
    for (uid, owner), found in zip(wanted, queries.fetch_invoices(connection, wanted), strict=True):
        try:
            assert found == queries.fetch_invoice(connection, uid, owner)
        except NotFound:
            assert isinstance(found, NotFound)


# The gateway


async def test_a_flood_gets_its_answers_whatever_is_among_it(conninfo: str) -> None:
    created: list[str] = []
    refused: list[str] = []

    async def create(gateway: Gateway, number: int) -> None:
        fields: dict[str, Any] = {"amount": number + 1, "idempotency_key": f"flood-{number % 50}"}
        if number % 10 == 9:
            fields = {"account_id": 99}
        try:
            row = await gateway.run(queries.create_invoice, invoice(**fields))
        except (NotFound, IdempotencyMismatch) as error:
            refused.append(error.code)
        else:
            found = await gateway.run(queries.fetch_invoice, UUID(msgspec.json.decode(row)["uid"]), 1)
            assert found == row
            created.append(msgspec.json.decode(row)["uid"])

    with closing(Gateway(conninfo, Settings(statement_seconds=20.0))) as gateway:  # a busy machine's, too
        async with trio.open_nursery() as background:
            background.start_soon(gateway.watch, lambda *_: None)
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as flood:
                for number in range(200):
                    flood.start_soon(create, gateway, number)
            background.cancel_scope.cancel()
    assert len(set(created)) == len(created) == 45, "one for each key"
    assert sorted(set(refused)) == ["idempotency_mismatch", "not_found"]
    assert len(refused) == 155


async def outcomes(tickets: Iterable[Ticket[Any]]) -> list[Any]:
    """Wait for all, which were asked without a pause."""
    asked, found = list(tickets), []
    for ticket in asked:
        with suppress(ActionError):
            await ticket.wait()
        found.append(ticket.outcome)
    return found


async def test_many_are_created_and_fetched_as_one_after_the_other_would_be(conninfo: str) -> None:
    gateway = Gateway(conninfo, Settings())
    wanted = [invoice(idempotency_key="a"), invoice(amount=2, idempotency_key="a"), invoice(account_id=99)]
    async with trio.open_nursery() as background:
        background.start_soon(gateway.watch, lambda *_: None)
        await wait_all_tasks_blocked()
        made, mismatch, nobody = await outcomes(gateway.ask(queries.create_invoice, one) for one in wanted)
        assert isinstance(mismatch, IdempotencyMismatch)
        assert isinstance(nobody, NotFound)
        assert isinstance(made, msgspec.Raw)
        uid = UUID(msgspec.json.decode(made)["uid"])
        found, missing = await outcomes(gateway.ask(queries.fetch_invoice, uid, owner) for owner in (1, 2))
        background.cancel_scope.cancel()
    assert found == made
    assert isinstance(missing, NotFound)
    again = await gateway.run(queries.create_invoice, wanted[0])
    gateway.close()
    assert again == made, "with nobody to make batches, too"


def test_ids_are_in_the_order_in_which_invoices_were_asked_for(connection: Connection) -> None:
    wanted = [(invoice(idempotency_key=key),) for key in ("z", None, "a", "m")]
    made = [msgspec.json.decode(one)["id"] for one in queries.create_invoices(connection, wanted) if one]
    assert len(made) == 4
    assert made == sorted(made)


async def test_a_row_that_is_locked_times_out_alone(conninfo: str) -> None:
    gateway = Gateway(conninfo, Settings(statement_seconds=1.0))
    outcomes: list[str] = []

    async def create(**fields: Any) -> None:
        try:
            await gateway.run(queries.create_invoice, invoice(**fields))
            outcomes.append("created")
        except Timeout:
            outcomes.append("timeout")

    with psycopg.connect(conninfo) as other:
        other.execute(
            "INSERT INTO invoices (account_id, amount, currency, idempotency_key, request_hash)"
            " VALUES (1, 1, 'USD', 'locked', '')"
        )
        async with trio.open_nursery() as background:
            background.start_soon(gateway.watch, lambda *_: None)
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as asking:
                for _ in range(WORKERS):  # so that those that come now go together
                    asking.start_soon(create)
                await wait_all_tasks_blocked()
                asking.start_soon(create)
                asking.start_soon(partial(create, idempotency_key="locked"))
                asking.start_soon(create)
            background.cancel_scope.cancel()
    gateway.close()
    assert outcomes.count("timeout") == 1
    assert outcomes.count("created") == WORKERS + 2
