"""Whether writes come through, as a server remembers it, on trio's mock clock."""

from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple
from uuid import uuid4

import pytest
import trio
from trio.testing import MockClock

from trio_ws.actions.table import ACTIONS
from trio_ws.database import queries
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.database.writes import FORGET_SECONDS, WRITES, Writes
from trio_ws.errors import NotFound, Outage, Timeout
from trio_ws.messages import (
    CancelInvoice,
    CreateInvoice,
    RecordPayment,
    RetryWebhook,
    SetPrice,
    UpdateInvoice,
)
from trio_ws.testing import SimulatedDatabase, simulated_server

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

INVOICE = CreateInvoice(amount=1, currency="USD", account_id=1)


@pytest.fixture
async def writes(database: SimulatedDatabase) -> Writes:
    """A database's."""
    return Writes(database)


async def write_in_vain(writes: Writes, seconds: float = 0.0) -> None:
    """Ask for a write each second that long, and once at the end."""
    for more in range(round(seconds), -1, -1):
        with pytest.raises(Outage):
            await writes.run(queries.create_invoice, INVOICE)
        await trio.sleep(1 if more else 0)


async def test_writes_that_fail_are_told_from_the_first_to_the_last(
    autojump_clock: MockClock, database: SimulatedDatabase, writes: Writes
) -> None:
    database.only_reads = True
    await write_in_vain(writes, 7)
    assert writes.failing_seconds() == 7


async def test_one_that_fails_alone_is_no_trouble(
    autojump_clock: MockClock, database: SimulatedDatabase, writes: Writes
) -> None:
    database.only_reads = True
    await write_in_vain(writes)
    await trio.sleep(FORGET_SECONDS - 1)
    assert writes.failing_seconds() == 0


async def test_the_time_that_the_first_one_took_counts(
    autojump_clock: MockClock, database: SimulatedDatabase, writes: Writes
) -> None:
    database.only_reads = True
    database.delay = 1.5
    await write_in_vain(writes)
    assert writes.failing_seconds() == 1.5


async def test_a_row_that_another_program_has_locked_says_nothing(
    autojump_clock: MockClock, database: SimulatedDatabase, writes: Writes
) -> None:
    def wait_in_vain(*_: object) -> None:
        raise Timeout("The database took too long")

    database.answers = {**database.answers, queries.change_status: wait_in_vain}
    for _ in range(10):
        with pytest.raises(Timeout):
            await writes.run(queries.change_status, uuid4(), "cancelled", None)
        await trio.sleep(1)
    assert writes.failing_seconds() == 0
    database.only_reads = True
    await write_in_vain(writes, 5)
    database.only_reads = False
    with pytest.raises(Timeout):
        await writes.run(queries.change_status, uuid4(), "cancelled", None)
    assert writes.failing_seconds() == 5, "nor that writes come through"


async def test_reads_change_nothing(
    autojump_clock: MockClock, database: SimulatedDatabase, writes: Writes
) -> None:
    database.only_reads = True
    await write_in_vain(writes, 5)
    with pytest.raises(NotFound):
        await writes.run(queries.fetch_invoice, uuid4(), None)
    assert writes.failing_seconds() == 5


async def create(writes: Writes) -> None:
    await writes.run(queries.create_invoice, INVOICE)


async def create_several(writes: Writes) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writes.watch, lambda *_: None)
        tickets = [writes.ask(queries.create_invoice, INVOICE) for _ in range(2)]
        for ticket in tickets:
            await ticket.wait()
        nursery.cancel_scope.cancel()


async def name_a_stranger(writes: Writes) -> None:
    with pytest.raises(NotFound):
        await writes.run(queries.change_status, uuid4(), "cancelled", None)


@pytest.mark.parametrize("succeed", [create, create_several, name_a_stranger])
async def test_one_that_comes_through_ends_it_and_so_does_one_that_is_refused(
    autojump_clock: MockClock,
    database: SimulatedDatabase,
    writes: Writes,
    succeed: Callable[[Writes], Any],
) -> None:
    database.only_reads = True
    await write_in_vain(writes, 5)
    database.only_reads = False
    await succeed(writes)
    assert writes.failing_seconds() == 0
    database.only_reads = True
    await write_in_vain(writes, 3)
    assert writes.failing_seconds() == 3


async def test_one_that_came_through_meanwhile_counts_from_then(
    autojump_clock: MockClock, database: SimulatedDatabase, writes: Writes
) -> None:
    database.gate = gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_in_vain, writes)
        await trio.sleep(2)
        database.gate = None
        await create(writes)
        await trio.sleep(1)
        database.only_reads = True
        gate.set()
    assert writes.failing_seconds() == 1


async def test_several_that_fail_together_count_too(
    autojump_clock: MockClock, database: SimulatedDatabase, writes: Writes
) -> None:
    database.only_reads = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writes.watch, lambda *_: None)
        for _ in range(2):
            for ticket in [writes.ask(queries.create_invoice, INVOICE) for _ in range(2)]:
                with pytest.raises(Outage):
                    await ticket.wait()
            await trio.sleep(6)
        nursery.cancel_scope.cancel()
    assert writes.failing_seconds() == 6


async def test_failures_are_forgotten_once_nobody_asks_any_more(
    autojump_clock: MockClock, database: SimulatedDatabase, writes: Writes
) -> None:
    database.only_reads = True
    await write_in_vain(writes, 6)
    await trio.sleep(FORGET_SECONDS - 1)
    assert writes.failing_seconds() == 6
    await trio.sleep(2)
    assert writes.failing_seconds() == 0
    await write_in_vain(writes, 1)
    assert writes.failing_seconds() == 1, "what was before is forgotten"


class NotingDatabase(SimulatedDatabase):
    """Keeps which queries were asked in the lane for clients' requests."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[Callable[..., Any]] = set()

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        if lane is Lane.CLIENTS:
            self.asked.add(query)
        return await super().run(query, *args, lane=lane)


WRITING: dict[type, dict[str, Any]] = {
    CreateInvoice: {"amount": 1, "currency": "USD", "account_id": 1},
    CancelInvoice: {"uid": str(uuid4())},
    UpdateInvoice: {"uid": str(uuid4()), "status": "paid"},
    RecordPayment: {"uid": str(uuid4()), "reference": "r", "amount": 1, "status": "settled"},
    SetPrice: {"currency": "BTC", "base_currency": "USD", "value": 1},
    RetryWebhook: {"id": str(uuid4())},
}


async def test_each_query_by_which_actions_write_is_known_as_a_write(autojump_clock: MockClock) -> None:
    """A new action that takes the scope to write has to come here, and its query to `WRITES`."""
    assert set(WRITING) == {kind for kind, row in ACTIONS.items() if row.scope in ("write", "process")}
    database = NotingDatabase()
    async with simulated_server(database) as world:
        client = await world.connect()
        for kind, fields in WRITING.items():
            await client.request(action=kind.__struct_config__.tag, **fields)  # type: ignore[attr-defined]
    assert database.asked == WRITES
