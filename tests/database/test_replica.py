"""The event log is read from a standby that proves to have the same one, and else from the primary."""

import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_ws import metrics
from trio_ws.database import event_log
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.database.replica import RETRY_MOST_SECONDS, RETRY_SECONDS, TRY_SECONDS, WAIT_SECONDS, Replicated
from trio_ws.errors import Outage
from trio_ws.events.dispatcher import Dispatcher, Published
from trio_ws.events.log import FAR, PAGE, Log
from trio_ws.events.tail import Tail
from trio_ws.testing import SimulatedDatabase, simulated_server
from trio_ws.testing.standby import SimulatedStandby
from trio_ws.topics import Event, Position

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

POLL_SECONDS = 0.1
MOMENT = WAIT_SECONDS / 1000  # what the mock clock adds where nobody waits


class Primary(SimulatedDatabase):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        self.asked.append(query.__name__)
        return await super().run(query, *args, lane=lane)


class Recorder(Dispatcher):
    """Keeps what was published, and when."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.events: list[Event] = []
        self.times: list[float] = []
        self.restarts = 0

    def publish(self, events: Sequence[Event]) -> Published:
        published = super().publish(events)
        for event in events[: published.events]:
            self.events.append(event)
            self.times.append(trio.current_time())
        return published

    def restart(self, begin: Position, end: Position) -> None:
        super().restart(begin, end)
        self.restarts += 1


class Following:
    """A tail on both, and what it published."""

    def __init__(self) -> None:
        self.primary = Primary()
        self.primary.number_events()  # its prices
        self.standby = SimulatedStandby(self.primary)
        self.database = Replicated(self.primary, self.standby)
        self.log = Log(self.database, memory_bytes=1)
        self.dispatcher = Recorder(self.log)
        self.tail = Tail(self.database, self.dispatcher, POLL_SECONDS)

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            self.primary.create_invoice(amount=1, currency="USD", account_id=1)

    async def published(self, seconds: float = WAIT_SECONDS + 2 * POLL_SECONDS) -> float:
        """Wait until all that is written is published, and return how long that took."""
        began = trio.current_time()
        assert await self.log.reach(len(self.primary.written), seconds)
        return trio.current_time() - began

    def check(self) -> None:
        """Nothing was lost, doubled or out of order, and nothing published that the primary lacks."""
        assert self.dispatcher.restarts == 0
        start = len(self.primary.written) - len(self.dispatcher.events)
        assert self.dispatcher.events == list(self.primary.written)[start:]

    def reset(self) -> None:
        self.primary.asked.clear()
        self.standby.reads = 0


@asynccontextmanager
async def following() -> AsyncIterator[Following]:
    one = Following()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.database.watch, one.tail.wake)
        await nursery.start(one.tail.run)
        await wait_all_tasks_blocked()
        one.reset()
        yield one
        one.check()
        nursery.cancel_scope.cancel()


def reads(server: str) -> float:
    return metrics.LOG_READS.labels(server)._value.get()  # type: ignore[no-any-return] # noqa: SLF001


async def test_new_events_come_from_the_standby(autojump_clock: MockClock) -> None:
    before = reads("standby"), reads("primary")
    async with following() as one:
        one.write()
        assert await one.published() < MOMENT
        assert set(one.primary.asked) == {"number"}, "the primary has only numbered"
        assert (reads("standby"), reads("primary")) == (before[0] + 1, before[1])


async def test_where_nothing_is_new_only_the_primary_is_asked_and_once(autojump_clock: MockClock) -> None:
    async with following() as one:
        await trio.sleep(10.5 * POLL_SECONDS)
        assert one.standby.reads == 0
        assert len(one.primary.asked) == pytest.approx(10, abs=1)


async def test_one_that_is_a_little_behind_is_waited_for(autojump_clock: MockClock) -> None:
    async with following() as one:
        one.standby.behind = 1
        one.write()
        await trio.sleep(WAIT_SECONDS / 4)
        assert not one.dispatcher.events
        one.standby.behind = 0
        assert await one.published() < WAIT_SECONDS / 2
        assert set(one.primary.asked) == {"number"}


@pytest.mark.parametrize("trouble", ["behind", "is_paused", "away", "hangs", "delay"])
async def test_of_no_use_it_delays_events_for_a_moment_once_and_then_not_at_all(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    caplog.set_level(logging.INFO, "trio_ws")
    async with following() as one:
        setattr(one.standby, trouble, 10)
        one.write()
        assert await one.published() < WAIT_SECONDS + MOMENT
        one.reset()
        for _ in range(5):
            one.write()
            assert await one.published() < MOMENT
        assert one.standby.reads == 0
        assert set(one.primary.asked) == {"advance"}, "one round trip each, as without a standby"
        await trio.sleep(RETRY_SECONDS)
        one.write()
        assert await one.published() < TRY_SECONDS + MOMENT, "then it is tried"
        assert one.standby.reads > 0
        assert len(caplog.messages) == 1, "which is not said again"
        setattr(one.standby, trouble, 0)
        await trio.sleep(2 * RETRY_SECONDS)
        one.reset()
        one.write(2)
        await one.published()
        assert set(one.primary.asked) == {"number"}
        assert [message.split(":")[0] for message in caplog.messages] == [
            "the event log is read from the primary, not from the standby",
            "the event log is read from the standby again",
        ]


async def test_one_that_comes_and_goes_is_logged_twice_a_minute(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_ws")
    async with following() as one:
        for number in range(600):
            one.standby.away = number % 2 == 0
            one.write()
            await trio.sleep(1)
    assert len(caplog.messages) < 2 * 600 / RETRY_MOST_SECONDS + 10


async def test_one_that_was_promoted_is_not_believed(autojump_clock: MockClock) -> None:
    async with following() as one:
        own = one.standby.promote()
        for count in (1, 2, 500):  # as many as the primary has, and more
            for _ in range(count):
                own.create_invoice(amount=2, currency="USD", account_id=1)
            own.number_events()
            one.write()
            await one.published()
        assert one.standby.turns == 1, "another host may be better"


async def test_of_one_that_was_promoted_what_the_primary_has_too_is_read_and_no_more(
    autojump_clock: MockClock,
) -> None:
    """It got them before it was promoted, so it proves them; what came after them it has on its own."""
    async with following() as one:
        one.write(5)
        one.primary.number_events()
        own = one.standby.promote()
        for _ in range(9):
            own.create_invoice(amount=2, currency="USD", account_id=1)
        own.number_events()
        one.tail.wake()
        await one.published()
        assert "read_events" not in one.primary.asked


async def test_a_log_that_was_replaced_is_for_the_primary_to_say(autojump_clock: MockClock) -> None:
    one = Following()
    async with trio.open_nursery() as nursery:
        one.write(5)
        await nursery.start(one.tail.run)
        one.standby.is_paused = True
        one.primary.restore(6)
        one.write(20)
        await trio.sleep(2 * POLL_SECONDS)
        assert one.dispatcher.restarts == 1
        assert one.log.end == one.primary.position(one.primary.numbered)
        nursery.cancel_scope.cancel()


async def test_a_log_of_which_all_was_trimmed_is_for_the_primary_to_say(autojump_clock: MockClock) -> None:
    """As where this process stood still for longer than events are kept."""
    one = Following()
    async with trio.open_nursery() as nursery:
        await nursery.start(one.tail.run)
        one.write(5)
        one.primary.number_events()
        one.primary.trim(len(one.primary.written))
        await trio.sleep(2 * POLL_SECONDS)
        assert one.dispatcher.restarts == 1
        assert one.log.begin == one.log.end == one.primary.position(one.primary.numbered)
        nursery.cancel_scope.cancel()


async def test_large_events_come_from_the_primary_though_the_standby_is_due_meanwhile(
    autojump_clock: MockClock,
) -> None:
    async with following() as one:
        one.standby.away = True
        one.write()
        await one.published()
        one.standby.away = False
        one.primary.delay = one.primary.statement_seconds = RETRY_SECONDS + 1
        one.write(100)  # which are too large for one answer with the numbering
        await one.published(3 * one.primary.delay)


async def test_pages_and_far_searches_come_from_the_standby(autojump_clock: MockClock) -> None:
    async with following() as one:
        one.write(FAR + 2 * PAGE)
        while one.log.end.seq < FAR + 2 * PAGE:  # noqa: ASYNC110 - by several steps
            await trio.sleep(POLL_SECONDS)
        one.reset()
        assert (await one.log.read(10, ["account:1"])).events
        assert await one.log.prove(one.primary.position(20))
        assert [event.seq for event in (await one.log.read(10)).events] == list(range(11, PAGE + 1))
        assert not {"read_events", "find_events"} & {*one.primary.asked}
        assert one.standby.reads == 3


@pytest.mark.parametrize("trouble", ["is_paused", "away", "promoted", "trimmed"])
async def test_pages_come_from_the_primary_where_the_standby_does_not_prove_them(
    autojump_clock: MockClock, trouble: str
) -> None:
    async with following() as one:
        one.write(PAGE)
        await one.published()
        if trouble == "promoted":
            own = one.standby.promote()
            own.create_invoice(amount=2, currency="USD", account_id=1)
            own.number_events()
            one.write()
            await one.published()
        elif trouble == "trimmed":  # by a server of its own, of what both have
            one.standby.promote().trim(20)
        else:
            setattr(one.standby, trouble, True)
            one.write()
            await one.published()
        vars(one.log)["_pages"].drop(0)
        one.reset()
        assert await one.log.prove(one.primary.position(11))
        assert (await one.log.read(10)).events == list(one.primary.written[10:PAGE])
        assert "read_events" in one.primary.asked
        assert one.log.begin.seq == 0, "which the standby has no say in"


async def test_what_the_standby_has_trimmed_on_its_own_can_be_replayed_all_the_same(
    autojump_clock: MockClock,
) -> None:
    async with following() as one:
        one.write(2 * PAGE)
        await one.published()
        one.standby.promote().trim(20)
        one.reset()
        assert (await one.log.read(PAGE)).events
        assert one.standby.reads == 1
        assert "read_events" not in one.primary.asked, "it has that page"
        assert one.log.remembers(Position("origin", 0))


async def test_one_of_no_use_is_tried_by_one_at_a_time(autojump_clock: MockClock) -> None:
    async with following() as one:
        one.write(3 * PAGE)
        await one.published()
        one.standby.hangs = True
        one.write()
        await one.published()
        await trio.sleep(RETRY_SECONDS)
        one.reset()
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(one.log.read, number * PAGE)
        assert one.standby.reads == 1


async def test_a_primary_that_is_away_is_an_outage_whatever_the_standby_has(
    autojump_clock: MockClock,
) -> None:
    one = Following()
    one.primary.away = True
    with pytest.raises(Outage):
        await one.database.run(event_log.advance, 0, 10, lane=Lane.AHEAD)
    assert one.standby.reads == 0


async def test_whatever_the_standby_raises_the_primary_is_read(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ValueError("a bug, or another schema")

    async with following() as one:
        monkeypatch.setattr(one.standby, "run", fail)
        one.write()
        assert await one.published() < MOMENT


@pytest.mark.parametrize("seed", range(20))
async def test_clients_get_each_event_once_and_in_order_whatever_the_standby_does(
    autojump_clock: MockClock, seed: int
) -> None:
    own = random.Random(seed)
    async with following() as one:
        for _ in range(200):
            match own.randrange(8):
                case 0:
                    one.standby.behind = own.choice([0, 0, 1, 5])
                case 1:
                    one.standby.is_paused = own.random() < 0.5
                case 2:
                    one.standby.away = own.random() < 0.5
                case 3:
                    one.standby.delay = own.choice([0, 0.01, 0.1, 1])
                case 4 if own.random() < 0.2:
                    twin = one.standby.promote()
                    for _ in range(own.randrange(10)):
                        twin.create_invoice(amount=2, currency="USD", account_id=1)
                    twin.number_events()
                case 5:
                    one.standby.own = None  # built anew
                case _:
                    one.write(own.randrange(5))
                    await trio.sleep(own.choice([0, 0.01, 1, 10]))
        await one.published(10)


async def test_a_server_serves_with_a_standby(autojump_clock: MockClock) -> None:
    primary = SimulatedDatabase()
    standby = SimulatedStandby(primary)
    async with simulated_server(Replicated(primary, standby)) as world:
        client = await world.connect()
        await client.request(action="subscribe", type="account", id=1)
        before = standby.reads
        invoice = primary.create_invoice(amount=1, currency="USD", account_id=1)
        event = await client.receive()
        assert event["data"]["uid"] == str(invoice)
        assert standby.reads == before + 1
