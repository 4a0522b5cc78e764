"""What one client must be told, by what it follows and since when, and what it has been."""

from collections import deque
from collections.abc import Sequence

import msgspec

from trio_ws.testing.simulation.truth import EVERYTHING, Row, Told, Truth, View, Violation
from trio_ws.topics import Event, Position

KNOWN = 20  # positions that a client keeps, to go on from


class Reader:
    """What one client must be told, and what it has been.

    Args:
        truth: The run's.
        view: What it may see.

    Attributes:
        topics: Those that it follows, and after which event.
        views: What it may see by now: one, or two while it authenticates. It may be told what either has, and
            must be told what both have.
        position: From where it would go on.
        told: Some positions that it was told, the newest last.
        gaps: How often it was told that something may be missing.
    """

    def __init__(self, truth: Truth, view: View = EVERYTHING) -> None:
        self.topics: dict[str, int] = {}
        self.views: tuple[View, ...] = (view,)
        self.position: Position | None = None
        self.told: deque[Position] = deque(maxlen=KNOWN)
        self.gaps = 0
        self.events = 0
        self._truth = truth
        self._checked = 0  # up to here, nothing is missing
        self._versions: dict[str, int] = {}

    def follow(
        self,
        topics: Sequence[str],
        told: Position,
        asked: Position | None = None,
        *,
        recovered: bool,
        excused: bool,
        is_snapshot: bool = False,
    ) -> None:
        """Note what a `subscribe` or a `resume` was answered.

        From an older position on, the log is told anew: of it, what was followed before has been told.

        Args:
            topics: Those that it was for.
            told: The position that the reply says: the log's end, or the snapshot's.
            asked: After which event; None: after what the reply says.
            recovered: Whether nothing is missing, as the reply says.
            excused: Whether the server may not know yet what was trimmed: what it has in memory it may tell.
            is_snapshot: Whether it has a snapshot, which may be older than what has been told since.

        Raises:
            Violation: it says that nothing is missing where something is, or the other way round.
        """
        start = told if asked is None else self._start(asked, told, recovered=recovered, excused=excused)
        self.told.append(told)
        if self.position is None or not self.topics:
            self._begin_at(start)
        elif start.seq < self.position.seq:
            if asked is None and not is_snapshot:
                raise Violation(f"it is followed from {told} on, and {self.position} has been told")
            reached = self.position.seq
            self.topics = {topic: max(since, reached) for topic, since in self.topics.items()}
            self._begin_at(start)
        for topic in topics:
            self.topics[topic] = min(start.seq, self.topics.get(topic, start.seq))

    def _start(self, asked: Position, told: Position, *, recovered: bool, excused: bool) -> Position:
        """Return where it begins that asked for what is after a position."""
        if recovered:
            if self._truth.log_of(asked, told) is None:
                raise Violation(f"resumed after {asked} in another log, which ends at {told}")
            if not excused and self._truth.has(told) and asked.seq < self._truth.first - 1:
                raise Violation(f"resumed after {asked}, and the log begins with {self._truth.first}")
            return asked
        is_there = self._truth.has(asked) and self._truth.has(told)
        if is_there and asked.seq >= self._truth.first - 1:
            raise Violation(f"did not resume after {asked}, and the log begins with {self._truth.first}")
        self.gaps += 1
        return told

    def _begin_at(self, position: Position) -> None:
        self.position, self._checked = position, position.seq
        self._versions.clear()

    def unfollow(self, topic: str) -> None:
        """Note what an `unsubscribe` was answered."""
        self.topics.pop(topic, None)

    def take(self, told: Told) -> Event:
        """Note an event, and return what it is in the log.

        Raises:
            Violation: it is not the one that comes next.
        """
        position = Position.parse(told.position)
        if self.position is None:
            raise Violation(f"event {position} came, and nothing is followed")
        if self._truth.log_of(position) is None:
            raise Violation(f"event {position} is not in the log")
        events = self._truth.log_of(position, self.position)
        if events is None:
            raise Violation(f"event {position} is of another log than {self.position}")
        event = events[position.seq - 1]
        if position.seq <= self.position.seq:
            raise Violation(f"event {position} came after {self.position}: doubled or out of order")
        if told.shown not in (shown := [view.event(event) for view in self.views]):
            raise Violation(f"event {position} is told as {told.shown}, and is {shown[0]}")
        if (missing := self._next_due(events, position.seq - 1)) is not None:
            raise Violation(f"event {missing.seq} was left out before {position}")
        if not (self._follows(event) and any(view.has(event) for view in self.views)):
            raise Violation(f"event {position} of {', '.join(event.topics)} was not asked for")
        self._check_version(event)
        self.position, self._checked = position, position.seq
        self.told.append(position)
        self.events += 1
        return event

    def check_all_told(self) -> None:
        """Raise unless everything has been told."""
        if self.position is None:
            return
        if not self._truth.has(self.position):
            if not self.topics:
                return
            raise Violation(f"event {self.position} was lost, and who was told of it goes on")
        if (missing := self._next_due(self._truth.events, self._truth.end)) is not None:
            raise Violation(f"event {missing.seq} never came: {', '.join(missing.topics)}")

    def _next_due(self, events: Sequence[Event], upto: int) -> Event | None:
        """Return the next event of a log that is to be told, up to this one; move past what is not."""
        for event in events[self._checked : upto]:
            if self._must_have(event) and not self._is_replaced(event, events):
                return event
            self._checked = event.seq
        return None

    def _must_have(self, event: Event) -> bool:
        return all(view.has(event) for view in self.views) and self._follows(event)

    def _follows(self, event: Event) -> bool:
        return any(self.topics.get(topic, event.seq) < event.seq for topic in event.topics)

    def _is_replaced(self, event: Event, events: Sequence[Event]) -> bool:
        """Return whether a later price says what counts: then this one need not be told."""
        if event.type != "price.updated":
            return False
        row = msgspec.json.decode(event.data, type=Row).id
        return any(
            later.type == "price.updated" and msgspec.json.decode(later.data, type=Row).id == row
            for later in events[event.seq :]
        )

    def _check_version(self, event: Event) -> None:
        if event.type.startswith("invoice"):
            row = msgspec.json.decode(event.data, type=Row)
            if row.version <= self._versions.get(row.uid, 0):
                raise Violation(
                    f"event {event.seq} brings version {row.version} of {row.uid} after a later one"
                )
            self._versions[row.uid] = row.version
