"""Topics to followers: who is told of an event. Nothing here waits.

Dictionaries stand in for ordered sets, so that followers are told in the order in which they came, run
after run.
"""

from trio_ws.codec import encode_event
from trio_ws.errors import CloseCode
from trio_ws.events.outbox import Outbox
from trio_ws.messages import Event, Position, Topic


class Dispatcher:
    """Holds the send end of each follower's line, by topic.

    Attributes:
        position: The last event that was published; what a follower gets comes after it.
    """

    def __init__(self) -> None:
        self.position = Position("", 0)  # until the tail knows better
        self._followers: dict[str, dict[Outbox, None]] = {}
        self._topics: dict[Outbox, dict[str, None]] = {}

    def subscribe(self, topic: Topic, outbox: Outbox) -> None:
        """Tell this follower of the topic's events from now on."""
        self._followers.setdefault(str(topic), {})[outbox] = None
        self._topics.setdefault(outbox, {})[str(topic)] = None

    def unsubscribe(self, topic: Topic, outbox: Outbox) -> None:
        """Tell it no more, if it was told."""
        topics = self._topics.get(outbox, {})
        if str(topic) in topics:
            self._forget(str(topic), outbox)

    def unsubscribe_all(self, outbox: Outbox) -> int:
        """Tell it of nothing any more, and return how many topics that were."""
        topics = list(self._topics.get(outbox, ()))
        for topic in topics:
            self._forget(topic, outbox)
        return len(topics)

    def subscriptions(self, outbox: Outbox) -> int:
        """Return how many topics it follows."""
        return len(self._topics.get(outbox, ()))

    def is_subscribed(self, topic: Topic, outbox: Outbox) -> bool:
        """Tell whether it follows the topic."""
        return str(topic) in self._topics.get(outbox, ())

    def publish(self, event: Event) -> None:
        """Queue the event for each of its followers, once, however many of its topics they follow."""
        followers: dict[Outbox, None] = {}
        for topic in event.topics:
            followers |= self._followers.get(topic, {})
        self.position = Position(self.position.epoch, event.seq)
        if followers:
            frame = encode_event(event, self.position.epoch)
            for outbox in followers:
                outbox.push(frame)

    def restart(self, position: Position) -> None:
        """Go on from the end of another log, of which nobody knows what of it our followers have."""
        self.position = position
        for outbox in list(self._topics):
            outbox.end(CloseCode.LOG_LOST, "the event log is another one now")

    def _forget(self, topic: str, outbox: Outbox) -> None:
        del self._topics[outbox][topic]
        if not self._topics[outbox]:
            del self._topics[outbox]
        del self._followers[topic][outbox]
        if not self._followers[topic]:
            del self._followers[topic]
