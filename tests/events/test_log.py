"""Pages of the log are read once for all, whoever asks, and what is not there is never made up."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from trio_ws.database import queries
from trio_ws.database.queries import Connection
from trio_ws.errors import CloseCode, Unavailable
from trio_ws.events.log import PAGE, Log, LogTrimmedError
from trio_ws.messages import Position
from trio_ws.testing import SimulatedClient, SimulatedDatabase, simulated_server

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

INVOICE = {"amount": 1, "currency": "EUR", "account_id": 1}


class CountingDatabase(SimulatedDatabase):
    """Counts the reads of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def run(self, query: Callable[[Connection, *Arguments], T], *args: *Arguments) -> T:
        self.reads += query is queries.read_events  # type: ignore[comparison-overlap] # one of many
        return await super().run(query, *args)


async def make(count: int, memory_bytes: int = 10**6) -> tuple[CountingDatabase, Log]:
    """A log of so many events, none of it in memory."""
    database = CountingDatabase()
    for _ in range(count - 3):  # the first prices are three
        database.create_invoice(**INVOICE)
    await database.run_ahead(queries.number_events, count)
    log = Log(database, memory_bytes)
    log.restart(Position("simulated-1", count))
    return database, log


async def read_all(log: Log, after: int) -> list[int]:
    seqs: list[int] = []
    while events := await log.read(seqs[-1] if seqs else after):
        seqs += [event.seq for event in events]
    return seqs


async def test_it_is_read_whole_and_in_order_from_anywhere() -> None:
    _, log = await make(3 * PAGE + 7)
    for after in (0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 6, 3 * PAGE + 7):
        assert await read_all(log, after) == list(range(after + 1, 3 * PAGE + 8))


async def test_a_thousand_who_read_the_same_cost_one_read_of_each_page() -> None:
    database, log = await make(4 * PAGE)
    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(read_all, log, number % 50)
    assert database.reads == 4


async def test_many_clients_that_resume_at_once_cost_a_few_reads(autojump_clock: MockClock) -> None:
    database = CountingDatabase()
    async with simulated_server(database, subscriptions=None) as world:
        client = await world.connect()
        start = (await client.request(action="subscribe", type="account", id=1))["data"]["position"]
        await client.request(action="unsubscribe_all")
        for _ in range(2 * PAGE):
            database.create_invoice(**INVOICE)
        await trio.sleep(1)
        database.reads = 0
        topics = [{"type": "account", "id": 1}]
        herd = [await world.connect() for _ in range(40)]
        for client in herd:
            assert (await client.request(action="resume", after=start, topics=topics))["data"]["recovered"]
        for client in herd:
            for _ in range(2 * PAGE):
                await client.receive()
        assert database.reads <= 3


async def test_memory_is_bounded() -> None:
    database, log = await make(8 * PAGE, memory_bytes=2 * PAGE * 1000)
    assert await read_all(log, 0) == list(range(1, 8 * PAGE + 1))
    assert len(vars(log)["_pages"]) <= 2
    reads = database.reads
    await log.read(8 * PAGE - 1)
    assert database.reads == reads, "what was read last is kept"


async def test_what_is_appended_can_be_read_without_the_database() -> None:
    database, log = await make(PAGE)
    for _ in range(PAGE + 10):
        database.create_invoice(**INVOICE)
    await database.run_ahead(queries.number_events, 2 * PAGE)
    for event in (await database.run_ahead(queries.read_events, PAGE, 2 * PAGE)).events:
        log.append(event)
    assert await read_all(log, PAGE) == list(range(PAGE + 1, 2 * PAGE + 11))
    assert database.reads == 0


async def test_a_page_that_was_read_while_the_log_grew_is_read_again(autojump_clock: MockClock) -> None:
    database, log = await make(10)
    database.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.read, 0)
        await wait_all_tasks_blocked()
        database.create_invoice(**INVOICE)
        database.create_invoice(**INVOICE)
        gate, database.gate = database.gate, None
        gate.set()
    await database.run_ahead(queries.number_events, 100)
    for event in (await database.run_ahead(queries.read_events, 10, 100)).events:
        log.append(event)
    assert await read_all(log, 8) == [9, 10, 11, 12]


async def test_what_was_numbered_but_not_told_yet_is_not_read() -> None:
    _, log = await make(20)
    log.restart(Position("simulated-1", 15))
    assert await read_all(log, 10) == [11, 12, 13, 14, 15]


@pytest.mark.parametrize("trimmed", [5, PAGE + 5])
async def test_what_was_trimmed_is_not_passed_over(trimmed: int) -> None:
    database, log = await make(2 * PAGE)
    database.trim(trimmed)
    with pytest.raises(LogTrimmedError):
        await log.read(trimmed - 3)
    assert await read_all(log, trimmed) == list(range(trimmed + 1, 2 * PAGE + 1))


async def test_who_waits_for_a_page_that_cannot_be_read_is_told_too(autojump_clock: MockClock) -> None:
    database, log = await make(10)
    database.gate = trio.Event()
    outcomes: list[type[Exception]] = []

    async def read() -> None:
        try:
            await log.read(0)
        except Unavailable as error:
            outcomes.append(type(error))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
        await wait_all_tasks_blocked()
        database.away = True
        database.gate.set()
    assert outcomes == [Unavailable] * 3
    assert database.reads == 1


async def test_a_client_that_fell_behind_what_is_kept_is_told(autojump_clock: MockClock) -> None:
    database = CountingDatabase()
    async with simulated_server(database, log_memory_bytes=1, outbox_bytes=100) as world:
        client = await world.connect()
        await client.request(action="subscribe", type="account", id=1)
        for _ in range(2 * PAGE):
            database.create_invoice(**INVOICE)
        await trio.sleep(1)
        database.trim(2 * PAGE)
        with pytest.raises(ConnectionClosed) as closed:
            await _receive_all(client)
        assert closed.value.reason is not None
        assert closed.value.reason.code == CloseCode.LOG_LOST


async def _receive_all(client: SimulatedClient) -> None:
    while True:
        await client.receive()
