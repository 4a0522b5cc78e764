"""Pages of the log are read once for all, whoever asks, and what is not there is never made up."""

import math
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from tests.events.test_dispatcher import Ends
from tests.programs import OtherProgram
from tests.raw import seqs_of
from trio_ws.database import event_log
from trio_ws.database.gateway import Database
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.errors import CloseCode, Timeout, Unavailable
from trio_ws.events import log as log_module
from trio_ws.events.chunks import View
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.follower import Follower
from trio_ws.events.log import PAGE, Log, LogTrimmedError
from trio_ws.events.outbox import Outbox
from trio_ws.testing import SimulatedClient, SimulatedDatabase, simulated_server
from trio_ws.testing.database import STATEMENT_SECONDS
from trio_ws.testing.work import Work
from trio_ws.topics import NOTHING, Event, Position, Topic

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

INVOICE = {"amount": 1, "currency": "EUR", "account_id": 1}


class CountingDatabase(SimulatedDatabase):
    """Counts the reads of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        self.reads += lane is Lane.CATCH_UP
        return await super().run(query, *args, lane=lane)


class FarAway(CountingDatabase):
    """A database whose answers are on their way until `arrival` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.arrival: trio.Event | None = None

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        arrival = self.arrival
        answer = await super().run(query, *args, lane=lane)
        if arrival is not None:
            await arrival.wait()
        return answer


async def make(count: int, memory_bytes: int = 10**6) -> tuple[FarAway, Log]:
    """A log of so many events, none of it in memory."""
    database = FarAway()
    log = Log(database, memory_bytes)
    end = await write(database, count - 3)  # the first prices are three
    log.restart(database.position(0), database.position(end))
    return database, log


async def write(database: SimulatedDatabase, count: int) -> int:
    """Add so many events, and return the last one's number."""
    for _ in range(count):
        database.create_invoice(**INVOICE)
    await database.run(event_log.number_events, count + 3)
    return (await database.run(event_log.read_position)).seq


async def tell(database: SimulatedDatabase, log: Log, count: int) -> None:
    """Append so many of the events that the log was not told of."""
    log.extend((await database.run(event_log.read_events, log.end.seq, count)).events)


async def read_all(log: Log, after: int) -> list[int]:
    seqs: list[int] = []
    while events := (await log.read(seqs[-1] if seqs else after)).events:
        seqs += [event.seq for event in events]
        assert seqs == list(range(after + 1, after + 1 + len(seqs)))
    return seqs


async def test_it_is_read_whole_and_in_order_from_anywhere() -> None:
    _, log = await make(3 * PAGE + 7)
    for after in (0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 6, 3 * PAGE + 7):
        assert await read_all(log, after) == list(range(after + 1, 3 * PAGE + 8))


async def test_a_thousand_who_read_the_same_cost_one_read_of_each_page() -> None:
    database, log = await make(4 * PAGE, memory_bytes=5 * PAGE * 2500)
    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(read_all, log, number % 50)
    assert database.reads == 4


async def test_five_thousand_clients_that_resume_at_once_cost_one_read_of_each_page() -> None:
    database, log = await make(PAGE + 20)
    dispatcher = Dispatcher(log)

    async def resume() -> None:
        follower = Follower(log, Outbox(limit_bytes=1000), Ends())
        dispatcher.subscribe([Topic("account", "1")], follower, PAGE - 20)
        seqs: list[int] = []
        while len(seqs) < 40:
            seqs += seqs_of(await follower.take())
        assert seqs == list(range(PAGE - 19, PAGE + 21))

    async with trio.open_nursery() as nursery:
        for _ in range(5000):
            nursery.start_soon(resume)
    assert database.reads == 2


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
    await write(database, PAGE + 10)
    await tell(database, log, PAGE + 10)
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
    await database.run(event_log.number_events, 100)
    await tell(database, log, 2)
    assert await read_all(log, 8) == [9, 10, 11, 12]


async def test_an_event_that_a_page_was_read_with_before_it_was_told_is_in_it_once() -> None:
    database, log = await make(10)
    await write(database, 2)
    assert await read_all(log, 8) == [9, 10]
    await tell(database, log, 1)
    assert await read_all(log, 8) == [9, 10, 11]
    await write(database, 1)
    await tell(database, log, 2)
    assert await read_all(log, 8) == [9, 10, 11, 12, 13]


async def test_an_event_that_was_told_while_a_page_without_it_was_on_its_way_is_not_passed_over() -> None:
    database, log = await make(10)
    database.arrival = arrival = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.read, 8)
        await wait_all_tasks_blocked()
        database.arrival = None
        await write(database, 2)
        await tell(database, log, 1)
        arrival.set()
    await tell(database, log, 1)
    assert await read_all(log, 8) == [9, 10, 11, 12]


async def test_what_was_numbered_but_not_told_yet_is_not_read() -> None:
    _, log = await make(20)
    log.restart(log.begin, log.end._replace(seq=15))
    assert await read_all(log, 10) == [11, 12, 13, 14, 15]


# What it does not hold any more, or never did


async def test_it_proves_what_is_kept_of_this_log_and_of_no_other() -> None:
    database, log = await make(10)
    log.begin = database.position(4)
    assert [seq for seq in range(11) if await log.prove(database.position(seq))] == [4, 5, 6, 7, 8, 9, 10]
    assert not any([await log.prove(Position("another", seq)) for seq in range(13)])
    assert not await log.prove(Position(log.end.name, 12))


async def test_many_who_ask_of_one_page_cost_one_read_of_it() -> None:
    database, log = await make(3 * PAGE)
    reads = database.reads
    async with trio.open_nursery() as nursery:
        for seq in range(1, PAGE + 1):
            nursery.start_soon(log.prove, database.position(seq))
    assert database.reads == reads + 1


async def invoices(log: Log) -> list[bytes]:
    """What the events from the fourth on are about."""
    found: list[bytes] = []
    while events := (await log.read(3 + len(found))).events:
        found += [bytes(event.data) for event in events]
    return found


async def test_of_another_log_nothing_is_kept(autojump_clock: MockClock) -> None:
    database, log = await make(10)
    before = await invoices(log)
    database.restore(seq=3)
    log.restart(log.begin, database.position(await write(database, 7)))
    after = await invoices(log)
    assert len(before) == len(after) == 7
    assert not set(before) & set(after)


async def test_of_another_log_as_much_is_kept_as_of_the_first() -> None:
    database, log = await make(3 * PAGE, memory_bytes=2 * PAGE * 2000)
    await read_all(log, 0)
    log.restart(log.begin, log.end)
    await read_all(log, PAGE)
    reads = database.reads
    await read_all(log, PAGE)
    assert database.reads == reads


async def test_a_page_of_another_log_is_not_taken_for_one_of_this(autojump_clock: MockClock) -> None:
    database, log = await make(10)
    database.restore(seq=5)
    with pytest.raises(Unavailable):
        await log.read(0)
    log.restart(log.begin, database.position(5))
    assert await read_all(log, 0) == [1, 2, 3, 4, 5]


async def test_a_page_that_was_on_its_way_when_the_log_began_anew_is_nobodys() -> None:
    database, log = await make(10)
    first, second = trio.Event(), trio.Event()
    outcomes: list[str] = []

    async def read(name: str) -> None:
        try:
            outcomes.append(f"{name} {len((await log.read(0)).events)}")
        except Unavailable:
            outcomes.append(f"{name} unavailable")

    async with trio.open_nursery() as nursery:
        database.arrival = first
        nursery.start_soon(read, "before")
        await wait_all_tasks_blocked()
        database.arrival = second
        log.restart(log.begin, database.position(7))
        nursery.start_soon(read, "after")
        await wait_all_tasks_blocked()
        assert database.reads == 2, "who comes later does not wait for what was on its way"
        first.set()
        await wait_all_tasks_blocked()
        assert outcomes == ["before unavailable"]
        nursery.start_soon(read, "last")
        await wait_all_tasks_blocked()
        assert database.reads == 2, "but for what is"
        second.set()
    assert outcomes == ["before unavailable", "after 7", "last 7"]


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
    failed: list[Unavailable] = []

    async def read() -> None:
        try:
            await log.read(0)
        except Unavailable as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
        await wait_all_tasks_blocked()
        database.away = True
        database.gate.set()
    assert len(failed) == 3
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
        assert str(closed.value.reason.reason).startswith("retry_after=")


async def _receive_all(client: SimulatedClient) -> None:
    while True:
        await client.receive()


@given(
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, unique=True), min_size=1, max_size=3 * PAGE),
    st.lists(st.sampled_from("abcde"), unique=True),
    st.integers(0, 3 * PAGE),
    st.booleans(),
)
@settings(deadline=None, max_examples=50)
def test_what_is_looked_up_by_topic_is_what_would_be_found_by_looking_at_all(
    concerned: list[list[str]],
    topics: list[str],
    after: int,
    grows: bool,  # noqa: FBT001
) -> None:
    async def look_up() -> list[int]:
        log = Log(SimulatedDatabase(), memory_bytes=10**8)
        log.restart(log.begin, Position("e", 0))
        for seq, of_event in enumerate(concerned, start=1):
            log.extend([Event(seq, "invoice.updated", tuple(of_event), Raw(b"{}"), NOTHING)])
            if grows and seq == len(concerned) // 2:
                await log.read(0, topics)  # so that the index is there, and grows with the page
        seqs: list[int] = []
        reached = after
        while (stretch := await log.read(reached, topics)).reached > reached:
            reached = stretch.reached
            seqs += [event.seq for event in stretch.events]
        return seqs

    expected = [
        seq
        for seq, of_event in enumerate(concerned, start=1)
        if seq > after and not set(topics).isdisjoint(of_event)
    ]
    assert trio.run(look_up) == expected


async def test_a_client_that_is_far_behind_is_sent_all_that_one_query_has_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database, log = await make(40)
    ours = [event.seq for event in (await log.read(0, ["account:1"])).events]
    log.restart(log.begin, log.end)
    monkeypatch.setattr(log_module, "FAR", 0)
    database.reads = 0
    view = View(frozenset(["account:1"]), math.inf, None, is_folded=False, together_bytes=1)
    chunk = await log.read_view(0, view)
    assert (seqs_of(chunk.frames), chunk.reached) == (ours, 40)
    assert database.reads == 1


@pytest.mark.parametrize("kind", ["simulated", "postgresql"])
async def test_what_is_found_for_a_client_that_is_far_behind_is_what_the_pages_hold(
    serverless: tuple[Database, OtherProgram], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, program = serverless
    uids = [await program.create_invoice(**INVOICE, address=f"a{number % 3}") for number in range(12)]
    for number in range(40):
        await program.update_invoice(uids[number * 7 % 12], memo=f"{number}")
    await database.run(event_log.number_events, 1000)
    end = await database.run(event_log.read_position)
    log = Log(database, 10**9)
    log.restart(log.begin, end)
    monkeypatch.setattr(log_module, "SCAN", 16)
    monkeypatch.setattr(log_module, "SCAN_TOPICS", 1)
    monkeypatch.setattr(log_module, "PAGE", 4)
    for topics in (
        ["address:a1"],
        [f"invoice:{uids[3]}"],
        ["price:*", f"invoice:{uids[5]}"],
        ["account:1"],
        ["x:y"],
    ):
        found = {}
        for far in (10**9, 0):
            monkeypatch.setattr(log_module, "FAR", far)
            fresh = Log(database, 10**9)
            fresh.restart(fresh.begin, end)
            found[far] = await read_of(fresh, topics)
        assert found[0] == found[10**9], topics


async def read_of(log: Log, topics: list[str]) -> list[int]:
    """The numbers of all events of some topics, read as a follower does."""
    seqs: list[int] = []
    after = 0
    while after < log.end.seq:
        stretch = await log.read(after, topics)
        assert after < stretch.reached <= log.end.seq
        seqs += [event.seq for event in stretch.events]
        after = stretch.reached
    return seqs


async def test_far_clients_leave_others_their_turn_and_see_a_log_that_was_trimmed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "FAR", 2 * PAGE)
    database, log = await make(10 * PAGE)
    finds = 0
    most = 0

    async def run(query: Any, *args: Any, lane: Lane = Lane.CLIENTS) -> Any:
        nonlocal finds, most
        finds += query is event_log.find_events
        most = max(most, finds)
        try:
            await trio.sleep(0.01)
            return await SimulatedDatabase.run(database, query, *args, lane=lane)
        finally:
            finds -= query is event_log.find_events

    monkeypatch.setattr(database, "run", run)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(read_of, log, ["account:1"])
        await log.read(9 * PAGE)
        assert trio.current_time() < 0.05, "a page waits for one of them at most"
    assert most == 1
    database.trim(5)
    with pytest.raises(LogTrimmedError):
        await log.read(0, ["account:1"])


async def test_a_page_that_takes_too_long_or_is_too_large_is_read_in_parts(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, log = await make(2 * PAGE)
    sizes: list[int] = []

    async def run(query: Any, after: int, most: int, known: int, lane: Lane = Lane.CLIENTS) -> Any:
        if most > 60:
            raise Timeout("The database took too long")
        sizes.append(most)
        return await SimulatedDatabase.run(database, query, after, min(most, 7), known, lane=lane)

    monkeypatch.setattr(database, "run", run)
    assert [event.seq for event in (await log.read(0)).events] == list(range(1, PAGE + 1))
    assert max(sizes) == PAGE // 8


async def test_a_page_has_nothing_from_beyond_our_end_which_may_be_lost_yet() -> None:
    database, log = await make(10)
    await write(database, 3)  # another process numbers them, and we have not heard of it
    lost = database.position(12)
    assert await log.prove(database.position(5)), "and their page is in memory"
    database.restore(10)
    await write(database, 4)
    await tell(database, log, 4)
    assert [event.position for event in (await log.read(10)).events] == [
        database.position(seq) for seq in (11, 12, 13, 14)
    ]
    assert not await log.prove(lost)


async def test_who_is_far_behind_finds_nothing_from_beyond_our_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "FAR", 0)
    database, log = await make(10)
    await write(database, 3)
    read = await log.read(5, ["account:1"])
    assert (read.events[-1].seq, read.reached) == (10, 10)


async def test_whether_a_position_far_behind_is_good_needs_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "FAR", PAGE)
    database, log = await make(4 * PAGE)
    reads = database.reads
    assert await log.prove(database.position(PAGE + 7))
    assert not await log.prove(Position("another", PAGE + 7))
    await database.run(event_log.trim_events, -1.0, PAGE)
    assert await log.prove(database.position(PAGE)), "the last one that was trimmed, as we find out by that"
    assert log.begin == database.position(PAGE)
    assert not await log.prove(database.position(PAGE - 1))
    assert database.reads == reads + 3


async def test_whether_a_position_is_good_is_known_in_time_for_a_reply_however_long_its_page_takes(
    autojump_clock: MockClock,
) -> None:
    database, log = await make(PAGE)
    database.costs.append(Work(database, row_seconds=0.05))  # a page of them is 25 s of work
    for position, is_good in ((database.position(9), True), (Position("another", 9), False)):
        began = trio.current_time()
        assert await log.prove(position) is is_good
        assert trio.current_time() - began < STATEMENT_SECONDS + 1


async def test_replies_go_out_while_a_page_crawls_and_it_is_read_on_from_where_it_was(
    autojump_clock: MockClock,
) -> None:
    database, log = await make(PAGE)
    database.costs.append(Work(database, row_seconds=0.05))
    outbox, put_at, replies = Outbox(10**6), [0.0], 0
    follower = Follower(log, outbox, Ends())
    follower.follow(["account:1"], 0)
    assert await follower.take() == b"", "it reads the log from now on"

    async def reply() -> None:
        await trio.sleep(3)
        put_at[0] = trio.current_time()
        outbox.put(b"reply")

    while True:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reply)
            taken = await follower.take()
            nursery.cancel_scope.cancel()
        if taken != b"reply":
            break
        replies += 1
        assert trio.current_time() - put_at[0] <= STATEMENT_SECONDS
        assert trio.current_time() < 60, "there is no end to it"
    assert replies >= 3
    assert len(seqs_of(taken)) > 1


async def test_a_page_says_what_was_trimmed_up_to(autojump_clock: MockClock) -> None:
    database, log = await make(20)
    at = database.position(10)
    await database.run(event_log.trim_events, -1.0, 10)
    assert await log.prove(at)
