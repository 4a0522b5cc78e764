"""Log, dispatcher and followers against a model of them: each follower reads its events once and in order.

The model is a list of events and, for each follower, the set of topics with the position from which each is
followed, and the account whose events alone it may see. The machine writes, subscribes with and without a
replay, and lets clients read or not, at will.
"""

import math
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Raw
from trio.testing import MockClock

from tests.raw import seqs_of
from trio_ws.database import event_log
from trio_ws.database.event_log import LogRead
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.follower import Follower
from trio_ws.events.log import Log
from trio_ws.events.outbox import Outbox
from trio_ws.testing import SimulatedDatabase
from trio_ws.topics import NOTHING, Event, Position, Topic

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

TOPICS = [Topic("invoice", "a"), Topic("invoice", "b"), Topic("account", "1"), Topic("address", "x")]
FOLLOWERS = range(3)
OUTBOX_BYTES = 300  # three or four events

followers = st.sampled_from(FOLLOWERS)
topics = st.sampled_from(TOPICS)


NAME = "e-1"  # of all events


class Ends:
    """Counts how often a follower had to end."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


class LogInMemory(SimulatedDatabase):
    """A database whose log the test writes itself.

    Attributes:
        asked: How often it was.
        trimmed: The last event that is not kept any more.
    """

    def __init__(self) -> None:
        self.gate, self.delay, self.answer_seconds, self.statement_seconds = None, 0.0, 0.0, 1.0
        self.away, self.only_reads, self.lose_answers = False, False, False
        self.costs = []
        self.events = list[Event]()
        self.trimmed = self.asked = 0

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        self.asked += 1
        return await super().run(query, *args, lane=lane)

    def _read_events(self, after: int, most: int, known: Position | None = None) -> LogRead:
        events = self.events[max(after, self.trimmed) : after + most]
        return LogRead(Position(NAME, self.trimmed), Position(NAME, len(self.events)), NAME, events)

    answers = {**SimulatedDatabase.answers, event_log.read_events: _read_events}  # noqa: RUF012


class FollowerMachine(RuleBasedStateMachine):
    """Does what clients and writers may do, in any order."""

    @initialize(
        memory_bytes=st.sampled_from([1, 10**7]),  # one page at most, or all and what was joined
        together_bytes=st.sampled_from([1, 300, 16384]),
        accounts=st.tuples(*[st.sampled_from([None, None, "account:1", "account:2"])] * len(FOLLOWERS)),
    )
    def begin(self, memory_bytes: int, together_bytes: int, accounts: tuple[str | None, ...]) -> None:
        self.database = LogInMemory()
        self.log = Log(self.database, memory_bytes)
        self.log.restart(Position(NAME, 0), Position(NAME, 0))
        self.dispatcher = Dispatcher(self.log)
        self.outboxes = [Outbox(OUTBOX_BYTES) for _ in FOLLOWERS]
        self.ends = [Ends() for _ in FOLLOWERS]
        self.followers = [
            Follower(self.log, outbox, ends) for outbox, ends in zip(self.outboxes, self.ends, strict=True)
        ]
        self.expected: list[list[int]] = [[] for _ in FOLLOWERS]
        self.got: list[list[int]] = [[] for _ in FOLLOWERS]
        for follower, account in zip(self.followers, accounts, strict=True):
            follower.outbox.together_bytes = together_bytes
            follower.account = account

    @rule(concerned=st.lists(topics, min_size=1, unique=True), count=st.integers(1, 20))
    def publish(self, concerned: list[Topic], count: int) -> None:
        names = tuple(str(topic) for topic in concerned)
        end = len(self.database.events)
        events = [
            Event(seq, "invoice.updated", names, Raw(b"{}"), NOTHING, name=NAME)
            for seq in range(end + 1, end + count + 1)
        ]
        self.database.events += events
        for number, follower in enumerate(self.followers):
            if any(name in follower.topics for name in names):
                self.expected[number] += self._visible(number, events)
        while events:
            events = events[self.dispatcher.publish(events).events :]

    @rule(topic=topics, follower=followers)
    def subscribe(self, topic: Topic, follower: int) -> None:
        self.dispatcher.subscribe([topic], self.followers[follower], self.log.end.seq)

    @rule(
        wanted=st.lists(topics, min_size=1, unique=True),
        follower=followers,
        back=st.integers(0, 700),
    )
    def replay(self, wanted: list[Topic], follower: int, back: int) -> None:
        """Everything of the topics after a position comes again, and what was to come comes in its place."""
        self.catch_up(follower)
        after = max(0, self.log.end.seq - back)
        self.dispatcher.subscribe(wanted, self.followers[follower], after)
        names = {str(topic) for topic in wanted}
        again = [event for event in self.database.events[after:] if names.intersection(event.topics)]
        self.expected[follower] += self._visible(follower, again)

    def _visible(self, follower: int, events: list[Event]) -> list[int]:
        account = self.followers[follower].account
        return [event.seq for event in events if account is None or account in event.topics]

    @rule(topic=topics, follower=followers)
    def unsubscribe(self, topic: Topic, follower: int) -> None:
        self.catch_up(follower)  # what is on its way to a follower that leaves may come or not
        self.dispatcher.unsubscribe(topic, self.followers[follower])

    @rule(follower=followers)
    def unsubscribe_all(self, follower: int) -> None:
        self.catch_up(follower)
        count = len(self.followers[follower].topics)
        assert self.dispatcher.unsubscribe_all(self.followers[follower]) == count

    @rule(follower=followers, count=st.integers(1, 5))
    def read(self, follower: int, count: int) -> None:
        trio.run(self._take, follower, count)

    @rule(follower=followers)
    def catch_up(self, follower: int) -> None:
        """Read until there is nothing more: all that was to come has come, once and in order."""
        trio.run(self._take, follower, math.inf)
        assert self.got[follower] == self.expected[follower]

    async def _take(self, follower: int, count: float) -> None:
        """Take what there is, so often or until there is none to be had without waiting for another event."""
        one = self.followers[follower]
        taken = 0
        with trio.CancelScope() as patience:
            while taken < count:
                # The log answers in a few steps of the loop; only a live, empty line waits for ever.
                patience.deadline = trio.current_time() + 1
                if not one.is_behind and not one.outbox.has_news():
                    return
                frames = await one.take() if one.outbox.has_news() else await self._next(one)
                if frames is None:
                    return
                self.got[follower] += seqs_of(frames)
                taken += 1
        assert not patience.cancelled_caught

    async def _next(self, one: Follower) -> bytes | None:
        """Take what there is for one that is behind; none where it comes to the end without anything."""
        frames: bytes | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_live, one, nursery.cancel_scope)
            frames = await one.take()
            nursery.cancel_scope.cancel()
        return frames

    async def _stop_when_live(self, one: Follower, scope: trio.CancelScope) -> None:
        while one.is_behind:  # noqa: ASYNC110 - it becomes live without telling
            await trio.lowlevel.checkpoint()
        scope.cancel()

    @invariant()
    def no_line_is_over_its_limit(self) -> None:
        assert all(outbox.waiting_bytes <= OUTBOX_BYTES for outbox in self.outboxes)

    @invariant()
    def what_came_is_the_beginning_of_what_is_to_come(self) -> None:
        for got, expected in zip(self.got, self.expected, strict=True):
            assert got == expected[: len(got)]

    @invariant()
    def nobody_had_to_end(self) -> None:
        assert all(ends.count == 0 for ends in self.ends)

    @precondition(lambda self: self.log.end.seq > 0)
    @invariant()
    def the_logs_end_is_the_last_event_published(self) -> None:
        assert self.log.end == Position(NAME, len(self.database.events))

    def teardown(self) -> None:
        for number, follower in enumerate(self.followers):
            self.catch_up(number)
            self.dispatcher.unsubscribe_all(follower)
        assert vars(self.dispatcher)["_followers"] == {}


FollowerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=30)
TestFollowers = FollowerMachine.TestCase


async def test_another_log_ends_every_follower_once() -> None:
    log = Log(LogInMemory(), memory_bytes=1)
    dispatcher = Dispatcher(log)
    ends = [Ends() for _ in FOLLOWERS]
    known = [Follower(log, Outbox(100), end) for end in ends]
    dispatcher.subscribe(TOPICS[:2], known[0], 0)
    dispatcher.subscribe(TOPICS[2:3], known[1], 0)
    dispatcher.restart(Position("e-2", 0), Position("e-2", 5))
    assert [end.count for end in ends] == [1, 1, 0]
    assert log.end == Position("e-2", 5)


async def test_another_log_ends_a_follower_that_reads_on_too() -> None:
    log = Log(LogInMemory(), memory_bytes=1)
    log.restart(Position(NAME, 0), Position(NAME, 5))
    dispatcher = Dispatcher(log)
    end = Ends()
    follower = Follower(log, Outbox(100), end)
    dispatcher.subscribe(TOPICS[:1], follower, 2)
    assert follower.is_behind
    dispatcher.restart(Position("e-2", 0), Position("e-2", 5))
    assert end.count == 1


async def test_a_replay_from_further_back_begins_there_also_while_reading_on(
    autojump_clock: MockClock,
) -> None:
    database = LogInMemory()
    log = Log(database, memory_bytes=10**6)
    log.restart(Position(NAME, 0), Position(NAME, 0))
    dispatcher = Dispatcher(log)
    follower = Follower(log, Outbox(1000), Ends())
    names = tuple(str(topic) for topic in TOPICS[:1])
    for seq in range(1, 11):
        database.events.append(Event(seq, "invoice.updated", names, Raw(b"{}"), NOTHING, name=NAME))
        dispatcher.publish(database.events[-1:])
    dispatcher.subscribe(TOPICS[:1], follower, 6)
    follower.outbox.together_bytes = 1
    seqs: list[int] = []
    while len(seqs) < 2:
        seqs += seqs_of(await follower.take())
    dispatcher.subscribe(TOPICS[:1], follower, 2)
    seqs += await read_all(follower)
    assert seqs == [7, 8, 3, 4, 5, 6, 7, 8, 9, 10]


async def test_another_topic_from_a_position_within_what_was_read_already_misses_nothing(
    autojump_clock: MockClock,
) -> None:
    database = LogInMemory()
    log = Log(database, memory_bytes=10**6)
    log.restart(Position(NAME, 0), Position(NAME, 0))
    dispatcher = Dispatcher(log)
    follower = Follower(log, Outbox(1000), Ends())
    for seq in range(1, 21):
        topic = str(TOPICS[seq % 2])
        database.events.append(Event(seq, "invoice.updated", (topic,), Raw(b"{}"), NOTHING, name=NAME))
        dispatcher.publish(database.events[-1:])
    follower.outbox.together_bytes = 1
    dispatcher.subscribe(TOPICS[:1], follower, 6)
    seqs: list[int] = []
    while len(seqs) < 2:
        seqs += seqs_of(await follower.take())
    dispatcher.subscribe(TOPICS[1:2], follower, 14)
    seqs += await read_all(follower)
    assert seqs == [8, 10, 12, 14, 15, 16, 17, 18, 19, 20]


def price(log: LogInMemory, dispatcher: Dispatcher, row: int, *topics: str) -> None:
    event = Event(len(log.events) + 1, "price.updated", topics, Raw(b'{"id":%d}' % row), NOTHING, name=NAME)
    log.events.append(event)
    dispatcher.publish([event])


async def read_all(follower: Follower) -> list[int]:
    seqs: list[int] = []
    with trio.move_on_after(0.05):
        while True:
            seqs += seqs_of(await follower.take())
    return seqs


@pytest.mark.parametrize(("fell_behind", "expected"), [(True, [1, 4, 5, 6]), (False, [1, 2, 3, 4, 5, 6])])
async def test_who_fell_behind_gets_each_prices_latest_state_and_a_replay_gets_all(
    autojump_clock: MockClock,
    fell_behind: bool,  # noqa: FBT001
    expected: list[int],
) -> None:
    database = LogInMemory()
    log = Log(database, memory_bytes=10**6)
    log.restart(Position(NAME, 0), Position(NAME, 0))
    dispatcher = Dispatcher(log)
    follower = Follower(log, Outbox(10), Ends())
    if fell_behind:
        dispatcher.subscribe([Topic("account", "1"), Topic("price", "*")], follower, 0)
    price(database, dispatcher, 7, "price:EUR", "price:*", "account:1")  # there is room for one
    price(database, dispatcher, 1, "price:BTC", "price:*", "account:1")
    price(database, dispatcher, 2, "price:BTC", "price:*", "account:2")
    price(database, dispatcher, 1, "price:BTC", "price:*", "account:1")
    price(database, dispatcher, 2, "price:BTC", "price:*", "account:2")
    price(database, dispatcher, 3, "price:BTC", "price:*", "account:1")  # in another base currency
    if not fell_behind:
        dispatcher.subscribe([Topic("account", "1"), Topic("price", "*")], follower, 0)
    assert await read_all(follower) == expected
