"""The tail publishes the log in order, each event once, whoever wakes it and whatever fails."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.events.test_dispatcher import Ends
from tests.late import LateDatabase
from trio_ws import metrics
from trio_ws.background import BACKOFF_SECONDS
from trio_ws.database import event_log
from trio_ws.database.gateway import Database, Wake
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.errors import Timeout, Unavailable
from trio_ws.events.dispatcher import Dispatcher, Published
from trio_ws.events.follower import Follower
from trio_ws.events.log import Log
from trio_ws.events.outbox import Outbox
from trio_ws.events.tail import AGAIN_SECONDS, BATCH, Tail
from trio_ws.testing import SimulatedDatabase
from trio_ws.topics import Event, Topic

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

POLL_SECONDS = 0.1
_, BACKOFF_MOST_SECONDS = BACKOFF_SECONDS


class RecordingDispatcher(Dispatcher):
    """Keeps what was published, and when."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.seqs: list[int] = []
        self.times: list[float] = []

    def publish(self, events: Sequence[Event]) -> Published:
        published = super().publish(events)
        for event in events[: published.events]:
            self.seqs.append(event.seq)
            self.times.append(trio.current_time())
        return published


@asynccontextmanager
async def following(
    database: Database, poll_seconds: float = POLL_SECONDS
) -> AsyncIterator[tuple[RecordingDispatcher, Wake]]:
    dispatcher = RecordingDispatcher(Log(database, memory_bytes=1000))
    tail = Tail(database, dispatcher, poll_seconds)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.watch, tail.wake)
        await nursery.start(tail.run)
        dispatcher.seqs.clear()
        dispatcher.times.clear()
        yield dispatcher, tail.wake
        nursery.cancel_scope.cancel()


def write(database: SimulatedDatabase, count: int = 1) -> None:
    for _ in range(count):
        database.create_invoice(amount=1, currency="EUR", account_id=1)


async def test_a_notification_wakes_it_at_once(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with following(database) as (dispatcher, _):
        await trio.sleep(0.55)
        write(database, 3)
        await wait_all_tasks_blocked()
        assert dispatcher.times == [0.55] * 3


async def test_a_lost_notification_costs_one_poll_and_no_event(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with following(database) as (dispatcher, _):
        database.lose_wakes = True
        for _ in range(10):
            write(database)
            before = trio.current_time()
            await trio.sleep(POLL_SECONDS * 1.01)
            assert dispatcher.times[-1] <= before + POLL_SECONDS
        assert dispatcher.seqs == list(range(4, 14))


class HushedDatabase(SimulatedDatabase):
    """Its numbering has notified nobody, as where it did so just before."""

    is_told = True
    looks = 0

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        answer: Any = await super().run(query, *args, lane=lane)
        if query is event_log.advance:  # type: ignore[comparison-overlap]
            self.looks += 1
            answer = answer._replace(is_told=self.is_told)
        return cast("T", answer)


async def test_after_news_that_not_everybody_was_notified_of_it_looks_again_soon(
    autojump_clock: MockClock,
) -> None:
    """Which has number_events() of the schema notify of them."""
    database = HushedDatabase()
    async with following(database, poll_seconds=3600):
        await wait_all_tasks_blocked()
        database.looks, database.is_told = 0, False
        write(database)
        await trio.sleep(AGAIN_SECONDS / 2)
        assert database.looks == 1
        database.is_told = True
        await trio.sleep(AGAIN_SECONDS)
        assert database.looks == 2
        await trio.sleep(3000)
        assert database.looks == 2


async def test_a_notification_of_what_was_read_already_costs_no_look(autojump_clock: MockClock) -> None:
    database = HushedDatabase()
    async with following(database, poll_seconds=3600) as (dispatcher, wake):
        write(database)
        await wait_all_tasks_blocked()
        database.looks, database.lose_wakes = 0, True
        for _ in range(3):
            wake(dispatcher.log.end.seq)
            await trio.sleep(1)
        assert database.looks == 0
        write(database)
        wake(dispatcher.log.end.seq + 1)
        await wait_all_tasks_blocked()
        assert (database.looks, dispatcher.seqs) == (1, [4, 5])


async def test_a_notification_that_comes_before_what_it_tells_of_is_read_costs_no_second_look(
    autojump_clock: MockClock,
) -> None:
    """As of our own numbering, each time."""
    database = HushedDatabase()
    async with following(database, poll_seconds=3600) as (dispatcher, wake):
        await wait_all_tasks_blocked()
        gate = database.gate = trio.Event()
        database.looks = 0
        write(database)
        await wait_all_tasks_blocked()  # a read is under way
        wake(4)
        gate.set()
        await trio.sleep(1)
        assert (database.looks, dispatcher.seqs) == (1, [4])


async def test_what_came_while_no_server_ran_is_behind_the_first_position(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    write(database, BATCH - 3)  # with three prices
    async with following(database) as (dispatcher, _):
        assert dispatcher.log.end.seq == BATCH
        await trio.sleep(1)
        assert dispatcher.seqs == []


async def test_a_long_backlog_does_not_keep_a_server_from_starting(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    write(database, 5 * BATCH)
    async with following(database) as (dispatcher, _):
        assert dispatcher.log.end.seq == BATCH
        await trio.sleep(1)
        assert dispatcher.log.end.seq == 5 * BATCH + 3


async def test_each_batch_of_a_long_backlog_is_progress(autojump_clock: MockClock) -> None:
    """So that neither readiness nor a watchdog takes a server that works for one that hangs."""
    database = SimulatedDatabase()
    beats: list[float] = []
    tail = Tail(
        database, Dispatcher(Log(database, 1000)), POLL_SECONDS, lambda: beats.append(trio.current_time())
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(tail.run)
        database.delay = 1.0
        write(database, 10 * BATCH)
        await trio.sleep(14)  # two queries a batch
        assert trio.current_time() - tail.progressed_at < 2.1
        assert tail.read_at < 1.1, "it has not come to the end yet"
        assert len(beats) >= 7
        nursery.cancel_scope.cancel()


async def test_what_was_numbered_and_can_not_be_read_is_no_progress(autojump_clock: MockClock) -> None:
    """Or a server would be ready whose followers get nothing."""

    class Numbering(SimulatedDatabase):
        """It has no memory for large answers."""

        async def run(
            self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
        ) -> T:
            if query is event_log.read_events:  # type: ignore[comparison-overlap]
                raise Unavailable("The database failed")
            return await super().run(query, *args, lane=lane)

    database = Numbering()
    tail = Tail(database, Dispatcher(Log(database, 1000)), POLL_SECONDS)
    async with trio.open_nursery() as nursery:
        await nursery.start(tail.run)
        write(database, BATCH)
        await trio.sleep(10)
        assert trio.current_time() - tail.progressed_at > 9
        nursery.cancel_scope.cancel()


async def test_reads_that_take_too_long_are_halved_until_they_do_not(autojump_clock: MockClock) -> None:
    class Heavy(SimulatedDatabase):
        """Rows of a MB: it reads ten in time."""

        async def run(
            self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
        ) -> T:
            if query is event_log.advance:  # type: ignore[comparison-overlap]
                _, most = cast("tuple[int, int]", args)
                if most > 10:
                    raise Timeout("The database took too long")
            return await super().run(query, *args, lane=lane)

    database = Heavy()
    async with following(database) as (dispatcher, _):
        write(database, 100)
        await trio.sleep(60)
        assert dispatcher.seqs == list(range(1, 104)), "and it has started, though the first took too long"


async def test_what_was_trimmed_before_it_was_read_is_no_silence(
    autojump_clock: MockClock, database: SimulatedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """As where this process stood still while another one read, and trimmed."""
    async with following(database) as (dispatcher, _):
        write(database, 2)
        await wait_all_tasks_blocked()
        was = dispatcher.log.end
        assert was.seq == 5
        database.lose_wakes = True
        write(database, 6)
        await database.run(event_log.number_events, 100)
        database.trim(8)
        await trio.sleep(1)
        assert dispatcher.seqs == [4, 5], "6 to 8 are gone, so 9 may not follow 5"
        assert dispatcher.log.end.seq == 11
    begin, end = database.position(8), database.position(11)
    assert f"the event log goes from {begin} to {end}, and was at {was}" in caplog.text


async def test_more_events_than_a_batch_come_in_order_and_whole(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with following(database) as (dispatcher, _):
        write(database, 3 * BATCH)
        await trio.sleep(1)
        assert dispatcher.seqs == list(range(4, 4 + 3 * BATCH))


async def test_more_than_a_batch_that_another_process_has_numbered_comes_whole(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with following(database) as (dispatcher, _):
        database.lose_wakes = True
        write(database, 2 * BATCH + 1)
        await database.run(event_log.number_events, 3 * BATCH)
        await trio.sleep(1)
        assert dispatcher.seqs == list(range(4, 5 + 2 * BATCH))


async def test_a_wake_up_during_a_read_is_not_lost(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with following(database, poll_seconds=3600) as (dispatcher, _):
        for _ in range(20):
            gate = database.gate = trio.Event()
            write(database)
            await wait_all_tasks_blocked()  # a read is under way
            database.gate = None
            write(database)  # and may be past the place where this would be seen
            gate.set()
            await wait_all_tasks_blocked()
        assert dispatcher.seqs == list(range(4, 44))
        assert trio.current_time() == 0


async def test_a_wake_up_is_not_lost_when_the_log_has_just_been_read_and_had_nothing_new(
    autojump_clock: MockClock,
) -> None:
    database = LateDatabase()
    async with following(database, poll_seconds=3600) as (dispatcher, wake):
        arrival = database.arrival = trio.Event()
        wake()
        await wait_all_tasks_blocked()  # the answer is on its way
        database.arrival = None
        write(database)
        await wait_all_tasks_blocked()
        assert dispatcher.seqs == []
        arrival.set()
        await wait_all_tasks_blocked()
        assert dispatcher.seqs == [4]
        assert trio.current_time() == 0


async def test_an_outage_is_sat_out(autojump_clock: MockClock, database: SimulatedDatabase) -> None:
    async with following(database) as (dispatcher, _):
        write(database)
        await wait_all_tasks_blocked()
        database.away = True
        write(database, 2)
        await trio.sleep(60)
        assert dispatcher.seqs == [4]
        database.away = False
        back = trio.current_time()
        await trio.sleep(2 * BACKOFF_MOST_SECONDS)
        assert dispatcher.seqs == [4, 5, 6]
        assert dispatcher.times[-1] <= back + BACKOFF_MOST_SECONDS + POLL_SECONDS


async def test_a_step_that_failed_is_tried_again_soon_however_seldom_it_polls(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with following(database, poll_seconds=60) as (dispatcher, _):
        await trio.sleep(1)  # now it would poll again in a minute
        database.away = True
        write(database)  # which wakes it, and is forgotten with the step that fails
        await trio.sleep(5)
        database.away = False
        await trio.sleep(BACKOFF_MOST_SECONDS)
        assert dispatcher.seqs == [database.numbered]


@pytest.mark.logs_errors
async def test_what_nobody_foresaw_is_logged_and_sat_out_too(
    autojump_clock: MockClock,
    database: SimulatedDatabase,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with following(database) as (dispatcher, _):
        with monkeypatch.context() as patch:
            patch.setattr(database, "answers", {})
            write(database)
            await trio.sleep(BACKOFF_MOST_SECONDS / 2)
        await trio.sleep(2 * BACKOFF_MOST_SECONDS)
        assert dispatcher.seqs == [4]
    assert {record.levelname for record in caplog.records if record.exc_info} == {"ERROR"}


@pytest.mark.parametrize("written", [0, 2, 5], ids=["shorter", "as long", "longer"])
async def test_another_log_is_noticed_and_followed_from_its_end(
    autojump_clock: MockClock, database: SimulatedDatabase, caplog: pytest.LogCaptureFixture, written: int
) -> None:
    async with following(database) as (dispatcher, _):
        write(database, 5)
        await wait_all_tasks_blocked()
        was = database.position(8)
        database.restore(seq=6)
        write(database, written)
        await trio.sleep(1)
        end = database.position(6 + written)
        assert dispatcher.log.end == database.position(6 + written)
        write(database)
        await trio.sleep(1)
        assert dispatcher.seqs == [4, 5, 6, 7, 8, 7 + written]
    assert f"goes from origin.0 to {end}, and was at {was}: starting" in caplog.text


async def test_a_log_that_has_lost_nothing_that_was_read_is_the_same_one(
    autojump_clock: MockClock, database: SimulatedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(database) as (dispatcher, _):
        write(database, 5)
        await wait_all_tasks_blocked()
        write(database, 2)  # of which nobody has heard yet
        database.restore(seq=8)
        write(database, 3)
        await trio.sleep(1)
        assert dispatcher.seqs == [4, 5, 6, 7, 8, 9, 10, 11]
    assert "starting again" not in caplog.text


class SetBackDatabase(SimulatedDatabase):
    """Its clock was set back by an hour after the last change."""

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        answer: Any = await super().run(query, *args, lane=lane)
        if query is event_log.advance:  # type: ignore[comparison-overlap]
            answer = answer._replace(now=answer.now - 3600)
        return cast("T", answer)


async def test_a_clock_that_is_set_back_leaves_no_event_early(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, lags = SetBackDatabase(), list[float]()
    monkeypatch.setattr(metrics.LAG, "observe", lags.append)
    async with following(database) as (dispatcher, _):
        dispatcher.subscribe([Topic("account", "1")], Follower(dispatcher.log, Outbox(1), Ends()), 3)
        write(database, 5)
        await trio.sleep(1)
    assert len(lags) == 5
    assert min(lags) >= 0


async def test_what_nobody_follows_is_not_sent_and_so_not_late(
    autojump_clock: MockClock, database: SimulatedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    lags = list[float]()
    monkeypatch.setattr(metrics.LAG, "observe", lags.append)
    async with following(database) as (dispatcher, _):
        dispatcher.subscribe([Topic("account", "2")], Follower(dispatcher.log, Outbox(1), Ends()), 3)
        write(database, 5)
        await trio.sleep(1)
        assert dispatcher.seqs == [4, 5, 6, 7, 8]
    assert lags == []


async def test_a_database_that_is_away_at_the_start_is_an_error(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    database.away = True
    with pytest.RaisesGroup(Unavailable):
        async with following(database):
            pass
