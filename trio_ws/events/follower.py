"""One client's place in the event log: the topics it follows, how far it has come, and how it comes on.

A follower is live, and then events are pushed to its outbox as they are published. Or it is behind, because
it asked for a replay or because its outbox had no room, and then its writer reads on from the log at the
client's own pace, until it has come to the end and is live again. Both ways lead through one line, so what
a client gets is in the order of the log, each event once, whichever of its topics brought it.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Iterable

import trio

from trio_ws import metrics
from trio_ws.errors import ActionError
from trio_ws.events.chunks import Chunk, View
from trio_ws.events.log import Log, LogTrimmedError
from trio_ws.events.outbox import Outbox
from trio_ws.events.spelling import FRAMES, Spelling
from trio_ws.topics import Event

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5  # pause while the log can't be read


class Follower:
    """The dispatcher gives it events, and a connection's writer takes frames from it.

    Args:
        log: Where it reads on when it is behind.
        outbox: The frames that wait for its writer.
        end: Called when it can't get what it missed; it must end then.
        spelling: How events are encoded for it.

    Attributes:
        topics: What it follows, and from which position on.
        account: The only account whose events it may see, as a topic; None: any. Prices are for all.
        spelling: How events are encoded for it.
    """

    # Waiting for memory that is far away is most of what telling a thousand of them takes: with slots here,
    # in the outbox and in the wire, a delivery took a quarter less beside the kernel's part.
    __slots__ = (
        "_ahead",
        "_cursor",
        "_fell_behind",
        "_log",
        "account",
        "end",
        "outbox",
        "spelling",
        "topics",
    )

    def __init__(
        self, log: Log, outbox: Outbox, end: Callable[[], None], spelling: Spelling = FRAMES
    ) -> None:
        self.topics: dict[str, int] = {}
        self.account: str | None = None
        self.outbox = outbox
        self.spelling = spelling
        self.end = end
        self._log = log
        self._cursor: int | None = None  # how far it has come; None: it is live
        self._ahead: tuple[int, View, Chunk] | None = None  # what was read: after what, and of what
        self._fell_behind = False  # by itself, not because it asked for a replay

    @property
    def is_behind(self) -> bool:
        """Return whether it reads from the log; else events are pushed."""
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

    def hold(self) -> None:
        """Leave new events in the log until the writer takes them, in their order."""
        self._read_from(self._log.end.seq)

    def tell(self, event: Event, spelled: dict[Spelling, bytes]) -> None:
        """Send or queue an event; where there is no room, fall back to the log.

        Args:
            event: What has happened.
            spelled: The event in each spelling that somebody has needed.
        """
        if self._cursor is not None or not event.is_visible_to(self.account):
            return
        if (frame := spelled.get(self.spelling)) is None:
            frame = spelled[self.spelling] = self.spelling.spell(event)
        if not self.outbox.push(frame):
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
        self._ahead = None
        self._fell_behind = False
        self.outbox.wake()  # its writer may wait for what is pushed

    async def _read_on(self, cursor: int) -> None:
        """Send the next frames that are ours, or read some, or come on to where there are none."""
        if cursor >= self._log.end.seq:
            self._cursor = None  # no await lies between this and the next event: nothing is missed
            return
        view = self._view(cursor)
        if self._ahead is None or self._ahead[:2] != (cursor, view):  # it wants something else by now
            await self._read_ahead(cursor, view)
            return
        # Nobody else has a turn in here, so nothing can have been queued meanwhile.
        frames, messages, self._cursor = self._ahead[2]
        self._ahead = None
        metrics.EVENTS_SENT.inc(messages)
        self.outbox.put(frames, messages)

    def _view(self, cursor: int) -> View:
        """Return what it wants after the cursor, up to where it wants more topics."""
        topics = frozenset([topic for topic, since in self.topics.items() if since <= cursor])
        later = [since for since in self.topics.values() if since > cursor]
        upto = min(later, default=math.inf)
        return View(
            *(topics, upto, self.account, self._fell_behind),
            *(self.outbox.together_bytes, self.spelling),
        )

    async def _read_ahead(self, cursor: int, view: View) -> None:
        try:
            with trio.CancelScope() as self.outbox.meanwhile:  # a reply does not wait for a log that crawls
                self._ahead = cursor, view, await self._log.read_view(cursor, view)
        except LogTrimmedError:
            self._cursor = None
            logger.info("a follower reads so slowly that the log was trimmed past it")
            self.end()
        except ActionError:
            await trio.sleep(RETRY_SECONDS)
