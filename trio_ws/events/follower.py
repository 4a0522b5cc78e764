"""One client's place in the event log: the topics it follows, how far it has come, and how it comes on.

A follower is live, and then events are pushed to its outbox as they are published. Or it is behind, because
it asked for a replay or because its outbox had no room, and then its writer reads on from the log at the
client's own pace, until it has come to the end and is live again. Both ways lead through one line, so what
a client gets is in the order of the log, each event once, whichever of its topics brought it.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import trio

from trio_ws import metrics
from trio_ws.codec import encode_event
from trio_ws.errors import ActionError
from trio_ws.events.log import Log, LogTrimmedError
from trio_ws.events.outbox import Outbox
from trio_ws.messages import Event
from trio_ws.wire.frames import TEXT, encode_frame

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5  # pause while the log can't be read


class Follower:
    """What the dispatcher tells of events, and what a connection's writer takes frames from.

    Args:
        log: Where it reads on when it is behind.
        outbox: The frames that wait for its writer.
        end: Called when it can't be told what it missed; it must end then.

    Attributes:
        topics: What it follows, and from which position on.
        account: The only account whose events it may see, as a topic; None: any. Prices are for all.
    """

    # Waiting for memory that is far away is most of what telling a thousand of them takes: with slots here,
    # in the outbox and in the wire, a delivery took a quarter less beside the kernel's part.
    __slots__ = (
        "_ahead",
        "_cursor",
        "_fell_behind",
        "_log",
        "_reached",
        "_wishes",
        "account",
        "end",
        "outbox",
        "topics",
    )

    def __init__(self, log: Log, outbox: Outbox, end: Callable[[], None]) -> None:
        self.topics: dict[str, int] = {}
        self.account: str | None = None
        self.outbox = outbox
        self.end = end
        self._log = log
        self._cursor: int | None = None  # how far it has come; None: it is live
        self._ahead: list[Event] = []  # ours after the cursor, not yet told; the next one is last
        self._reached = 0  # how far it will have come when these are told
        self._wishes = 0  # how often what it wants of the log has changed
        self._fell_behind = False  # by itself, not because it asked for a replay

    @property
    def is_behind(self) -> bool:
        """Tell whether it reads from the log; else events are pushed."""
        return self._cursor is not None

    def follow(self, topics: Iterable[str], after: int) -> None:
        """Follow the topics from a position on; what is followed already goes on from where it is."""
        reached = self._log.end.seq if self._cursor is None else self._cursor
        if after < reached:
            for topic, since in self.topics.items():
                self.topics[topic] = max(since, reached)
            self._read_from(after)
            metrics.REPLAYS.inc()
        for topic in topics:
            self.topics[topic] = min(after, self.topics.get(topic, after))
        self._forget_what_was_read()  # which was for other topics

    def tell(self, event: Event, frame: bytes) -> None:
        """Send or queue an event; where there is no room, fall back to the log."""
        if self._cursor is None and self._may_see(event) and not self.outbox.push(frame):
            self._read_from(event.seq - 1)
            self._fell_behind = True
            metrics.CATCH_UPS.inc()

    def take(self) -> Awaitable[bytes]:
        """Return the next frames: what is queued, and then, where it is behind, what the log has.

        Raises:
            trio.EndOfChannel: there will be no more.
        """
        return self.outbox.take() if self._cursor is None else self._catch_up()

    async def _catch_up(self) -> bytes:
        while self._cursor is not None and not self.outbox.has_news():
            await self._read_on(self._cursor)
        return await self.outbox.take()

    def _read_from(self, cursor: int) -> None:
        self._cursor = cursor
        self._forget_what_was_read()
        self._fell_behind = False
        self.outbox.wake()  # its writer may wait for what is pushed

    def _forget_what_was_read(self) -> None:
        self._ahead = []
        self._wishes += 1

    async def _read_on(self, cursor: int) -> None:
        """Come on to the next events that are ours and send them, or come on as far as was read."""
        if not self._ahead:
            if cursor >= self._log.end.seq:
                self._cursor = None  # no await lies between this and the next event: nothing is missed
            else:
                await self._read_ahead(cursor)
            return
        frames: list[bytes] = []
        size = 0
        # Nobody else has a turn in here, so nothing can have been queued meanwhile.
        while self._ahead and size < self.outbox.together_bytes:
            event = self._ahead.pop()
            self._cursor = event.seq
            wanted = any(self.topics.get(topic, event.seq) < event.seq for topic in event.topics)
            if wanted and self._may_see(event):
                frames.append(encode_frame(TEXT, encode_event(event)))
                size += len(frames[-1])
        if not self._ahead:
            self._cursor = self._reached
        metrics.EVENTS_SENT.inc(len(frames))
        self.outbox.put(b"".join(frames), len(frames))

    def _may_see(self, event: Event) -> bool:
        return self.account is None or self.account in event.topics or event.type == "price.updated"

    async def _read_ahead(self, cursor: int) -> None:
        wishes = self._wishes
        try:
            events, reached = await self._log.read(cursor, self.topics)
        except LogTrimmedError:
            self._cursor = None
            logger.info("a follower reads so slowly that the log was trimmed past it")
            self.end()
        except ActionError:
            await trio.sleep(RETRY_SECONDS)
        else:
            if wishes == self._wishes:  # else it wants something else by now
                self._ahead = (_folded(events) if self._fell_behind else events)[::-1]
                self._reached = reached
                if not self._ahead:
                    self._cursor = reached


class _Row(msgspec.Struct):
    id: int


def _folded(events: list[Event]) -> list[Event]:
    """Leave out prices that a later event replaces: who reads slowly wants today's, not each of them."""
    rows = {
        event.seq: msgspec.json.decode(event.data, type=_Row).id
        for event in events
        if event.type == "price.updated"
    }
    latest = {row: seq for seq, row in rows.items()}
    return [event for event in events if event.seq not in rows or latest[rows[event.seq]] == event.seq]
