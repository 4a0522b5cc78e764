"""Topics to followers: which clients receive an event. Nothing here waits.

Dictionaries stand in for ordered sets, so that followers are notified in the order in which they came, run
after run.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from trio_ws import metrics
from trio_ws.events.follower import Follower
from trio_ws.events.log import Log
from trio_ws.events.spelling import Spelling
from trio_ws.topics import Event, Position, Topic

logger = logging.getLogger(__name__)

# Before others have their turn: half a ms or so. A turn for each event cost 30 µs, more than its followers.
TURN_DELIVERIES = 64


class Watcher(Protocol):
    """Has to know of events that no client receives."""

    def on_event(self, event: Event) -> None:
        """What it watches has changed."""

    def on_lost_log(self) -> None:
        """The event log is another one, and nobody knows what became of what it watches."""


class Published(NamedTuple):
    """What was published in one turn.

    Args:
        events: How many.
        sent: Those of them that somebody here follows.
    """

    events: int
    sent: list[Event]


class Dispatcher:
    """Holds the send end of each follower's line, by topic.

    Args:
        log: Where events are noted before they are sent.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        # Most topics have one follower, which stands here by itself: a dictionary takes 0.2 KB.
        self._followers: dict[str, Follower | dict[Follower, None]] = {}
        self._watches: dict[str, dict[Watcher, None]] = {}

    def subscribe(self, topics: Sequence[Topic], follower: Follower, after: int) -> None:
        """Tell this follower of the topics' events after a position, and of those to come."""
        names = [str(topic) for topic in topics]
        for name in names:
            group = self._followers.setdefault(name, follower)
            if isinstance(group, dict):
                group[follower] = None
            elif group is not follower:
                self._followers[name] = {group: None, follower: None}
        follower.follow(names, after)

    def unsubscribe(self, topic: Topic, follower: Follower) -> None:
        """Tell it no more, if it was told."""
        if str(topic) in follower.topics:
            self._forget(str(topic), follower)

    def unsubscribe_all(self, follower: Follower) -> int:
        """Tell it of nothing any more, and return how many topics that were."""
        topics = list(follower.topics)
        for topic in topics:
            self._forget(topic, follower)
        return len(topics)

    def watch(self, name: str, watcher: Watcher) -> None:
        """Have it know of each event that concerns a name, whatever is followed."""
        self._watches.setdefault(name, {})[watcher] = None

    def unwatch(self, name: str, watcher: Watcher) -> None:
        """Leave it alone."""
        del self._watches[name][watcher]
        if not self._watches[name]:
            del self._watches[name]

    def count(self) -> int:
        """Return how many topics are followed, each counted for each follower."""
        return sum(map(len, map(_as_dict, self._followers.values())))

    def publish(self, events: Sequence[Event]) -> Published:
        """Note the next events, and send each to its followers, once, as many as make a turn.

        Of an event that nobody follows nothing but its topics is looked at.
        """
        wanted: list[tuple[Event, dict[Follower, None]]] = []
        watched: list[Event] = []
        count = deliveries = 0
        for event in events:
            count += 1
            if not self._followers.keys().isdisjoint(event.topics):
                followers = self._followers_of(event)
                wanted.append((event, followers))
                deliveries += len(followers)
            if not self._watches.keys().isdisjoint(event.topics):
                watched.append(event)
            if deliveries >= TURN_DELIVERIES:
                break
        self.log.extend(events[:count])
        for event, followers in wanted:
            spelled: dict[Spelling, bytes] = {}  # once for all of them
            for follower in followers:
                follower.tell(event, spelled)
        metrics.EVENTS_SENT.inc(deliveries)
        for event in watched:
            self._tell_watchers(event)
        return Published(count, [event for event, _ in wanted])

    def restart(self, begin: Position, end: Position) -> None:
        """Go on from the end of another log. What of it each of our followers has shows when it resumes."""
        self.log.restart(begin, end)
        metrics.LOG_RESTARTS.inc()
        for follower in dict.fromkeys(one for group in self._followers.values() for one in _as_dict(group)):
            follower.end()
        for watcher in [watcher for group in self._watches.values() for watcher in group]:
            watcher.on_lost_log()

    def _followers_of(self, event: Event) -> dict[Follower, None]:
        groups = [_as_dict(self._followers[topic]) for topic in event.topics if topic in self._followers]
        if len(groups) == 1:  # mostly: no copy of it
            return groups[0]
        return {follower: None for group in groups for follower in group}

    def _tell_watchers(self, event: Event) -> None:
        for watcher in {one: None for topic in event.topics for one in self._watches.get(topic, ())}:
            try:
                watcher.on_event(event)
            except Exception:  # costs neither the others nor the log
                logger.exception("an event of type %s was not understood", event.type)
                metrics.BUGS.inc()

    def _forget(self, topic: str, follower: Follower) -> None:
        del follower.topics[topic]
        group = self._followers[topic]
        if isinstance(group, dict):
            del group[follower]
        if group is follower or not group:
            del self._followers[topic]


def _as_dict(group: Follower | dict[Follower, None]) -> dict[Follower, None]:
    return group if isinstance(group, dict) else {group: None}
