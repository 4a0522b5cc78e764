"""The dispatcher against a model of it: sets of pairs."""

import json

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import Raw

from trio_ws.errors import CloseCode
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.outbox import Outbox
from trio_ws.messages import Event, Position, Topic

TOPICS = [Topic("invoice", "a"), Topic("invoice", "b"), Topic("account", "1"), Topic("price", "*")]
FOLLOWERS = range(3)

followers = st.sampled_from(FOLLOWERS)
topics = st.sampled_from(TOPICS)


class RecordingOutbox(Outbox):
    """Keeps what was pushed."""

    def __init__(self) -> None:
        super().__init__(1, self.note_the_end)
        self.pushed: list[int] = []
        self.ends: list[CloseCode] = []

    def note_the_end(self, code: CloseCode, _: str) -> None:
        self.ends.append(code)

    def push(self, frame: bytes) -> None:
        self.pushed.append(int(json.loads(frame)["position"].partition(".")[2]))


class DispatcherMachine(RuleBasedStateMachine):
    """Subscribes, unsubscribes and publishes at will."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatcher = Dispatcher()
        self.dispatcher.position = Position("e-1", 0)
        self.outboxes = [RecordingOutbox() for _ in FOLLOWERS]
        self.follows: set[tuple[Topic, int]] = set()
        self.expected: list[list[int]] = [[] for _ in FOLLOWERS]
        self.published = 0

    @rule(topic=topics, follower=followers)
    def subscribe(self, topic: Topic, follower: int) -> None:
        self.dispatcher.subscribe(topic, self.outboxes[follower])
        self.follows.add((topic, follower))

    @rule(topic=topics, follower=followers)
    def unsubscribe(self, topic: Topic, follower: int) -> None:
        self.dispatcher.unsubscribe(topic, self.outboxes[follower])
        self.follows.discard((topic, follower))

    @rule(follower=followers)
    def unsubscribe_all(self, follower: int) -> None:
        gone = {pair for pair in self.follows if pair[1] == follower}
        assert self.dispatcher.unsubscribe_all(self.outboxes[follower]) == len(gone)
        self.follows -= gone

    @rule(concerned=st.lists(topics, min_size=1, unique=True))
    def publish(self, concerned: list[Topic]) -> None:
        self.published += 1
        names = tuple(str(topic) for topic in concerned)
        self.dispatcher.publish(Event(self.published, "invoice.updated", names, Raw(b"{}"), None))
        for follower in FOLLOWERS:
            if any((topic, follower) in self.follows for topic in concerned):
                self.expected[follower].append(self.published)

    @invariant()
    def each_follower_got_each_of_its_events_once_and_in_order(self) -> None:
        assert [outbox.pushed for outbox in self.outboxes] == self.expected

    @invariant()
    def it_knows_who_follows_what(self) -> None:
        for number, outbox in enumerate(self.outboxes):
            mine = {topic for topic, follower in self.follows if follower == number}
            assert self.dispatcher.subscriptions(outbox) == len(mine)
            assert {topic for topic in TOPICS if self.dispatcher.is_subscribed(topic, outbox)} == mine

    @invariant()
    def the_position_is_the_last_event_published(self) -> None:
        assert self.dispatcher.position == Position("e-1", self.published)

    def teardown(self) -> None:
        for outbox in self.outboxes:
            self.dispatcher.unsubscribe_all(outbox)
        assert vars(self.dispatcher) == {**vars(Dispatcher()), "position": self.dispatcher.position}


TestDispatcher = DispatcherMachine.TestCase


def test_another_log_ends_every_follower_once() -> None:
    dispatcher = Dispatcher()
    outboxes = [RecordingOutbox() for _ in FOLLOWERS]
    for topic in TOPICS[:2]:
        dispatcher.subscribe(topic, outboxes[0])
    dispatcher.subscribe(TOPICS[2], outboxes[1])
    dispatcher.restart(Position("e-2", 5))
    assert [outbox.ends for outbox in outboxes] == [[CloseCode.LOG_LOST], [CloseCode.LOG_LOST], []]
    assert dispatcher.position == Position("e-2", 5)
