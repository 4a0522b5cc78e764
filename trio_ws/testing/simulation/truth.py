"""What is true of a run, whatever the server says: the event log as the database has it, log after log.

The invariants of RELIABILITY: each event once, whole, in the order of the log, nothing left out in silence,
nothing that was not asked for, and soon.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from trio_ws.messages import Event, Position
from trio_ws.testing.database import SimulatedDatabase

EXPIRY_SECONDS = 60.0  # in calm times an invoice that is overdue has expired within it


class Violation(Exception):
    """The server did what it may never do."""


class Told(msgspec.Struct):
    """An event or a reply, as a client gets it."""

    type: str = ""
    status: str = ""
    request_id: int | None = None
    message: str = ""
    code: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")
    previous: msgspec.Raw = msgspec.Raw(b"null")
    position: str = ""


class _Row(msgspec.Struct):
    id: int = 0
    uid: str = ""
    version: int = 0
    status: str = ""
    memo: str = ""
    expires_at: datetime | None = msgspec.field(name="expiresAt", default=None)


class Truth:
    """The logs that there were and the one that there is.

    Args:
        database: The run's.
    """

    def __init__(self, database: SimulatedDatabase) -> None:
        self._database = database
        self._past: list[list[Event]] = []

    @property
    def end(self) -> int:
        """The number of the last event, or the one that it will have."""
        return len(self._database.written)

    @property
    def prices(self) -> bytes:
        """All prices, as they are now."""
        return b"[" + b",".join(map(bytes, self._database.prices)) + b"]"

    def check_what_is_stored(self) -> None:
        """Raise unless each invoice was made once, and has expired if it was to."""
        made: set[str] = set()
        for event in self._database.written:
            if event.type == "invoice.created" and (memo := msgspec.json.decode(event.data, type=_Row).memo):
                if memo in made:
                    raise Violation(f"{memo} was made twice")
                made.add(memo)
        for uid in self._database.uids:
            row = msgspec.json.decode(self._database.invoice(uid), type=_Row)
            overdue = 0.0 if row.expires_at is None else self._database.now() - row.expires_at.timestamp()
            if row.status == "unpaid" and overdue > EXPIRY_SECONDS:
                raise Violation(f"invoice {uid} is overdue since {overdue:.1f} s, and has not expired")

    @property
    def first(self) -> int:
        """The number of the first event that is still there."""
        return self._database.first

    def keep(self) -> None:
        """Keep the log that is about to be lost."""
        self._past.append(list(self._database.written))

    @property
    def events(self) -> Sequence[Event]:
        """All events of the log that there is."""
        return self._database.written

    def has(self, position: Position) -> bool:
        """Tell whether a position is in the log that there is."""
        return _has(self._database.written, position)

    def log_of(self, *positions: Position) -> Sequence[Event] | None:
        """Return all events of the log that has, or had, all of these; None: there was no such one."""
        logs = [self._database.written, *reversed(self._past)]
        return next((log for log in logs if all(_has(log, position) for position in positions)), None)


def _has(log: Sequence[Event], position: Position) -> bool:
    if position.seq == 0:
        return position.name == "origin"
    return position.seq <= len(log) and log[position.seq - 1].name == position.name


class Reader:
    """What one client must be told, and what it has been.

    Args:
        truth: The run's.

    Attributes:
        topics: Those that it follows, and after which event.
        position: From where it would go on.
        gaps: How often it was told that something may be missing.
    """

    def __init__(self, truth: Truth) -> None:
        self.topics: dict[str, int] = {}
        self.position: Position | None = None
        self.gaps = 0
        self.events = 0
        self._truth = truth
        self._checked = 0  # up to here, nothing is missing
        self._versions: dict[str, int] = {}

    def resume(
        self, topics: list[str], asked: Position, told: Position, *, recovered: bool, excused: bool = False
    ) -> None:
        """Note what a `resume` was answered.

        Args:
            topics: Those that it was for.
            asked: After which event.
            told: Where the log ends, as the reply says.
            recovered: Whether nothing is missing, as the reply says.
            excused: Whether the server may not know yet what was trimmed: what it has in memory it may tell.

        Raises:
            Violation: it says that nothing is missing where something is, or the other way round.
        """
        if recovered:
            if self._truth.log_of(asked, told) is None:
                raise Violation(f"resumed after {asked} in another log, which ends at {told}")
            if not excused and self._truth.has(told) and asked.seq < self._truth.first - 1:
                raise Violation(f"resumed after {asked}, and the log begins with {self._truth.first}")
            self.position = asked
        else:
            is_there = self._truth.has(asked) and self._truth.has(told)
            if is_there and asked.seq >= self._truth.first - 1:
                raise Violation(f"did not resume after {asked}, and the log begins with {self._truth.first}")
            self.position = told
            self.gaps += 1
            self._versions.clear()
        self._checked = self.position.seq
        self.topics = dict.fromkeys(topics, self._checked)

    def follow(self, topic: str, told: Position) -> None:
        """Note what a `subscribe` was answered."""
        if self.position is None or not self.topics:
            self.position, self._checked = told, told.seq
        if told.seq < self.position.seq:
            raise Violation(f"{topic} is followed from {told} on, and {self.position} has been told")
        self.topics.setdefault(topic, told.seq)

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
        if (told.type, bytes(told.data)) != (event.type, bytes(event.data)):
            raise Violation(f"event {position} is told as {bytes(told.data)!r}, and is {bytes(event.data)!r}")
        if bytes(told.previous) != (previous := bytes(event.previous)):
            raise Violation(f"event {position} is told after {bytes(told.previous)!r}, not {previous!r}")
        if (missing := self._next_due(events, position.seq - 1)) is not None:
            raise Violation(f"event {missing.seq} was left out before {position}")
        if not self._wants(event):
            raise Violation(f"event {position} of {', '.join(event.topics)} was not asked for")
        self._check_version(event)
        self.position, self._checked = position, position.seq
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
            if self._wants(event) and not self._is_replaced(event, events):
                return event
            self._checked = event.seq
        return None

    def _wants(self, event: Event) -> bool:
        return any(self.topics.get(topic, event.seq) < event.seq for topic in event.topics)

    def _is_replaced(self, event: Event, events: Sequence[Event]) -> bool:
        """Tell whether a later price says what counts: then this one need not be told."""
        if event.type != "price.updated":
            return False
        row = msgspec.json.decode(event.data, type=_Row).id
        return any(
            later.type == "price.updated" and msgspec.json.decode(later.data, type=_Row).id == row
            for later in events[event.seq :]
        )

    def _check_version(self, event: Event) -> None:
        if event.type.startswith("invoice"):
            row = msgspec.json.decode(event.data, type=_Row)
            if row.version <= self._versions.get(row.uid, 0):
                raise Violation(
                    f"event {event.seq} brings version {row.version} of {row.uid} after a later one"
                )
            self._versions[row.uid] = row.version
