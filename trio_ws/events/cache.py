"""What of the event log is in memory: pages of it that can be searched, and how much of that is kept."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from trio_ws.topics import Event

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# What an event takes beside its JSON: the struct, its name, its topics, its place in a page and in its index.
# Measured: 1 530 bytes for one of 265 bytes of JSON, once it is framed and its page was searched.
EVENT_BYTES = 1000


class Stretch(NamedTuple):
    """What was read of the log.

    Args:
        events: Those that were asked for, in order.
        reached: The number of the last event that was looked at.
    """

    events: list[Event]
    reached: int


class Page:
    """Events that follow each other, and which of them concern a topic.

    When all clients reconnect at once, each wants a few events of thousands: 10 000 clients that look up
    theirs are served in half the time that they take to look at all (`scripts/bench herd`).
    """

    def __init__(self, events: Sequence[Event] = ()) -> None:
        self.events = list(events)
        self.size = size_of(events)  # in bytes
        self._places: dict[str, list[int]] = {}  # by topic
        self._noted = 0  # of how many events: they are when somebody asks

    def extend(self, events: Sequence[Event]) -> None:
        """Add the events that come next."""
        self.events += events
        self.size += size_of(events)

    def find(self, topics: Iterable[str], start: int, end: int) -> list[Event]:
        """Return the events between two places that concern any of the topics, in order."""
        for place in range(self._noted, len(self.events)):
            for topic in self.events[place].topics:
                self._places.setdefault(topic, []).append(place)
        self._noted = len(self.events)
        known = self._places.keys() & topics
        found = {place for topic in known for place in self._places[topic] if start <= place < end}
        return [self.events[place] for place in sorted(found)]


class Part(NamedTuple):
    """Where in a page the next events are, which number is reached with them, and whether the page is kept.

    If it is not, what nobody takes of it would have to be found again.
    """

    page: Page
    start: int
    end: int
    reached: int
    is_kept: bool = True

    def find(self, topics: Iterable[str] | None) -> Stretch:
        """Return those that concern any of the topics; None: all."""
        if topics is None:
            return Stretch(self.page.events[self.start : self.end], self.reached)
        return Stretch(self.page.find(topics, self.start, self.end), self.reached)


class Recent(Generic[K, V]):
    """What was used last, as much as there is memory for, and at least one.

    Args:
        limit_bytes: How much memory that is.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()  # and how large; used last is last

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: K) -> V | None:
        """Return what is kept by a key, which counts as used; None: nothing is."""
        if (kept := self._kept.get(key)) is None:
            return None
        self._kept.move_to_end(key)
        return kept[0]

    def keep(self, key: K, value: V, size: int) -> None:
        """Keep a value of so many bytes, and drop what was used longest ago where there is no room."""
        self.drop(key)
        self._kept[key] = value, size
        self._bytes += size
        while self._bytes > self._limit_bytes and len(self._kept) > 1:
            self.drop(next(iter(self._kept)))

    def drop(self, key: K) -> None:
        """Forget what is kept by a key, if there is anything."""
        if (kept := self._kept.pop(key, None)) is not None:
            self._bytes -= kept[1]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0


def size_of(events: Iterable[Event]) -> int:
    """Return how many bytes events take, with the frames of which they are not encoded yet."""
    return sum([EVENT_BYTES + 2 * (len(event.data) + len(event.previous)) for event in events])
