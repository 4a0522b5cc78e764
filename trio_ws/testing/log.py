"""The event log of the simulated database: `number_events`, `trim_events` and what reads it."""

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
import trio

from trio_ws.database import event_log
from trio_ws.database.event_log import History, LogRead
from trio_ws.paging import PAGE_BYTES
from trio_ws.testing.tables import Webhook, Written
from trio_ws.testing.webhooks import SimulatedQueue
from trio_ws.topics import Event, Position

ADVANCE_BYTES = 7000  # of events that advance() of the schema returns with what it numbered, roughly
NOTIFY_SECONDS = 0.01  # number_events() of the schema notifies no more often


class SimulatedLog:
    """What has committed, in that order; a number comes later.

    Args:
        now: The database's clock.
        webhooks: Where events go that are to be POSTed, once they have a number.
        notify: Is called with the last number.

    Attributes:
        events: All of them, with those that were trimmed, or have no number yet.
        numbered: How many have a number.
        trimmed: How many are not there any more.
    """

    def __init__(
        self, now: Callable[[], datetime], webhooks: SimulatedQueue, notify: Callable[[float], None]
    ) -> None:
        self.events: list[Event] = []
        self.numbered = 0
        self.trimmed = 0
        self._now = now
        self._webhooks = webhooks
        self._notify = notify
        self._posts: dict[int, Webhook] = {}  # of events that are to be POSTed
        self._steps = 0  # that have numbered events, those that a restore has lost included
        self._life = "step"  # what they are called by: a copy goes on with other ones
        self._copies = 0
        self._notified = 0
        self._notified_at = -math.inf

    def append(self, written: Written) -> None:
        """Add an event, without a number."""
        seq = len(self.events) + 1
        self.events.append(Event(seq, *written[:-1]))
        if written.webhook is not None:
            self._posts[seq] = written.webhook

    def append_numbered(self, event: Event) -> None:
        """Add an event that has its number already."""
        self._lose(event.seq - 1)
        self._steps += 1
        self.events.append(self._named(event))
        self.numbered = event.seq

    def position(self, seq: int) -> Position:
        """Return the position of an event that has a number; 0 is before the first."""
        return self.events[seq - 1].position if seq else Position("origin", 0)

    @property
    def end(self) -> Position:
        """The last one's that has a number."""
        return self.position(self.numbered)

    def name_of(self, seq: int) -> str | None:
        """Return what an event is called; None: it is not there."""
        return self.position(seq).name if self.trimmed <= seq <= self.numbered else None

    def history(self, uid: str, after: int, most: int) -> History:
        """Return an invoice's events above a number, the oldest first."""
        there = self.events[max(after, self.trimmed) : self.numbered]
        found = [event for event in there if f"invoice:{uid}" in event.topics]
        page: list[Event] = []
        size = 0
        for event in found[:most]:
            if size >= PAGE_BYTES:
                break
            page.append(event)
            size += len(bytes(event.data)) + len(bytes(event.previous))
        return History(page, has_more=len(found) > len(page))

    def restore(self, seq: int) -> None:
        """Lose what came after an event."""
        self._lose(seq)
        self.numbered = seq
        self._notified = min(self._notified, seq)
        self.trimmed = min(self.trimmed, seq)

    def unnumber(self, seq: int) -> None:
        """Have events after one wait for their numbers again, in another order, but for those of a row."""
        order = sorted(range(seq, self.numbered), key=lambda place: self.events[place].topics[0])
        again = [*order, *range(self.numbered, len(self.events))]
        moved = {place + 1: number for number, place in enumerate(again, start=seq + 1)}
        self._posts = {moved.get(number, number): post for number, post in self._posts.items()}
        self.events[seq:] = [
            msgspec.structs.replace(self.events[place], seq=number, name="", frame=b"")
            for number, place in enumerate(again, start=seq + 1)
        ]
        self.numbered, self._notified = seq, min(self._notified, seq)

    def copy(self, seq: int, webhooks: SimulatedQueue, notify: Callable[[float], None]) -> "SimulatedLog":
        """Return the log up to an event, to go on by itself."""
        self._copies += 1
        other = SimulatedLog(self._now, webhooks, notify)
        other.events, other.numbered, other.trimmed = self.events[:seq], seq, min(self.trimmed, seq)
        other._posts, other._steps = self._posts.copy(), self._steps
        other._life = f"{self._life}-{self._copies}-"
        other._notified, other._notified_at = self._notified, self._notified_at
        return other

    def _lose(self, seq: int) -> None:
        del self.events[seq:]
        self._posts = {number: post for number, post in self._posts.items() if number <= seq}

    def _named(self, event: Event) -> Event:
        return msgspec.structs.replace(event, name=f"{self._life}{self._steps}")

    # As the server sees it

    def number(self, most: int, read_upto: int | None = None) -> None:  # noqa: ARG002 - none is slow
        """Number what has no number yet; notify, now and then."""
        before, self.numbered = self.numbered, min(len(self.events), self.numbered + most)
        self._steps += before < self.numbered
        for place in range(before, self.numbered):
            self.events[place] = self._named(self.events[place])
            if place + 1 in self._posts:
                self._webhooks.add(*self._posts[place + 1], self.events[place])
        if self.numbered > self._notified and trio.current_time() >= self._notified_at + NOTIFY_SECONDS:
            self._notified, self._notified_at = self.numbered, trio.current_time()
            self._notify(self._notified)

    def _start(self) -> LogRead:
        return self._read(0, 0)

    def _read_position(self) -> Position:
        return self.end

    def _read(self, after: int, most: int, known: Position | None = None) -> LogRead:
        start = max(after, self.trimmed)
        events = self.events[start : min(self.numbered, start + most)]
        is_told = self._notified >= self.numbered
        has_more = self.numbered < len(self.events)
        now = self._now().timestamp()
        known_as = self.name_of(after if known is None else known.seq)
        return LogRead(self.position(self.trimmed), self.end, known_as, events, now, is_told, has_more)

    def _find(self, after: int, topics: Sequence[str], scan: int, most: int, known: Position) -> LogRead:
        read = self._read(after, scan, known)
        events = [event for event in read.events if {*topics} & {*event.topics}]
        return read._replace(events=events[:most])

    def _advance(self, after: int, most: int) -> LogRead:
        self.number(most)
        read = self._read(after, most)
        is_large = sum(len(bytes(event.data)) for event in read.events) > ADVANCE_BYTES
        return read._replace(events=[]) if is_large else read

    def _number_and_tell(self, after: int, most: int) -> LogRead:
        return self._advance(after, most)._replace(events=[])

    def _trim(self, age_seconds: float, most: int) -> int:
        oldest = self.events[self.trimmed : min(self.numbered, self.trimmed + most)]
        before = self._now().timestamp() - age_seconds
        upto = max((event.seq for event in oldest if event.at < before), default=self.trimmed)
        trimmed, self.trimmed = upto - self.trimmed, upto
        return trimmed

    answers: dict[Callable[..., Any], Callable[..., Any]] = {  # noqa: RUF012 - a constant table
        event_log.read_position: _read_position,
        event_log.start_log: _start,
        event_log.number_events: number,
        event_log.read_events: _read,
        event_log.find_events: _find,
        event_log.advance: _advance,
        event_log.number: _number_and_tell,
        event_log.trim_events: _trim,
    }
