"""The event log as this process knows it: its end, and pages of it in memory, each read once for all.

Events are numbered without gaps and never change, so the log falls into pages of equal length that may be
kept, dropped and read again at will. A thousand clients that come back from the same outage cost one read
of each page between them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import TypeVarTuple

import trio

from trio_ws.database import event_log
from trio_ws.database.event_log import LogRead
from trio_ws.database.gateway import Database
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.errors import ActionError, Timeout, Unavailable
from trio_ws.events.cache import Page, Part, Recent, Stretch, size_of
from trio_ws.events.chunks import Chunk, View, join
from trio_ws.topics import Event, Position

Arguments = TypeVarTuple("Arguments")

PAGE = 256  # events; some 400 KB, and a read of a few ms
# A client that is further than this from the end shares little with others and wants little of that:
# PostgreSQL finds its events for it. Some 19 000 events are in memory, by default.
FAR = 20_000
PROVE_SECONDS = 1.0  # for a page: mostly it takes ms, from a PostgreSQL that is short of processor 20 s
SCAN = 20_000  # events that one such query looks at: some 10 ms
SCAN_TOPICS = 8  # of so many topics; of more, it looks at fewer
CHUNKS_SHARE = 8  # of the log's memory: a herd goes through the log side by side, so little is enough


class LogTrimmedError(Exception):
    """The log does not reach back so far any more."""


class _Load:
    """A page on its way from the database, and those who wait for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: ActionError | None = None


class _Unread:
    """A page as far as it was read.

    Args:
        key: Its number, and how often the log was another one before.
    """

    def __init__(self, key: tuple[int, int]) -> None:
        self.key = key
        self.events: list[Event] = []
        self.most = PAGE  # events that one read asks for


class Log:
    """What the tail appends to and followers read from.

    Args:
        database: Where pages are read from that are not in memory.
        memory_bytes: How much of it is kept.

    Attributes:
        end: The last event that was published.
        begin: The last event that is not to be had any more: all after it are.
        restarts: How often it was another one.
    """

    def __init__(self, database: Database, memory_bytes: int) -> None:
        self.end = Position("", 0)  # until the tail knows better
        self.begin = Position("", 0)
        self.restarts = 0
        self._database = database
        chunks_bytes = memory_bytes // CHUNKS_SHARE
        self._pages = Recent[int, Page](memory_bytes - chunks_bytes)
        self._chunks = Recent[tuple[int, View], Chunk](chunks_bytes)  # by the event before them
        self._loads: dict[int, _Load] = {}
        self._unread: _Unread | None = None  # the last page whose reader was cancelled
        self._finding = trio.CapacityLimiter(1)  # so that pages, which many wait for, have their turn between
        self._grown = trio.lowlevel.ParkingLot()
        self._has_webhook = trio.lowlevel.ParkingLot()

    def restart(self, begin: Position, end: Position) -> None:
        """Go on from the end of the log that there is, where this process starts or it is another one."""
        self.restarts += self.end.name != ""
        self.begin, self.end = begin, end
        self._pages.clear()
        self._chunks.clear()
        self._loads.clear()  # what is on its way is of the log that was

    def extend(self, events: Sequence[Event]) -> None:
        """Note the events that come next, one at least."""
        self.end = events[-1].position
        # The quick look of number_events() in the schema.
        if self._has_webhook and b'"webhook_url"' in b"".join([event.data for event in events]):
            self._has_webhook.unpark_all()
        self._grown.unpark_all()
        while events:
            number, place = divmod(events[0].seq - 1, PAGE)
            page = Page() if place == 0 else self._pages.get(number)
            if page is not None and len(page.events) == place:
                page.extend(events[: PAGE - place])
                self._pages.keep(number, page, page.size)
            # Else it was read while these were on their way; followers that need more read it again.
            events = events[PAGE - place :]

    def remembers(self, position: Position) -> bool | None:
        """Return whether exactly what came after a position can be replayed; None: ask `prove`."""
        for known in (self.end, self.begin):
            if position.seq == known.seq:
                return position == known
        if not self.begin.seq < position.seq < self.end.seq:
            return False
        number, place = divmod(position.seq - 1, PAGE)
        page = self._pages.get(number)
        if page is None or not page.events:
            return None
        place -= (page.events[0].seq - 1) % PAGE
        if place >= len(page.events):
            return None
        return place >= 0 and page.events[place].position == position

    def is_ahead(self, position: Position) -> bool:
        """Return whether another process may have sent a position that this one has not read yet."""
        return position.seq > self.end.seq

    async def prove(self, position: Position) -> bool:
        """Return whether all that came after a position, and nothing else, is to be had.

        The page that has the event is read, for those who ask with it, and for the replay. The event alone
        is read where the replay finds its events without pages, or where the page takes too long for a reply.

        Raises:
            ActionError: the database can't be read.
        """
        if (answer := self.remembers(position)) is not None:
            return answer
        if self.end.seq - position.seq <= FAR:
            with trio.move_on_after(PROVE_SECONDS):
                return await self._prove_by_page(position)
        async with self._finding:
            read = await self._read(event_log.read_events, position.seq - 1, 1)
        return position in (read.begin, *(event.position for event in read.events))

    async def _prove_by_page(self, position: Position) -> bool:
        while (answer := self.remembers(position)) is None:
            number = (position.seq - 1) // PAGE
            self._pages.drop(number)  # it was read while the log grew, and lacks its last events
            try:
                await self._page(number)
            except LogTrimmedError:
                return False
        return answer

    async def reach(self, seq: int, seconds: float) -> bool:
        """Wait until the end is there or beyond, and tell whether it is."""
        with trio.move_on_after(seconds):
            while self.end.seq < seq:
                await self._grown.park()
        return self.end.seq >= seq

    async def next_webhook(self) -> None:
        """Wait for an event that there may be a webhook for."""
        await self._has_webhook.park()

    async def read(self, after: int, topics: Iterable[str] | None = None) -> Stretch:
        """Return some events after `after`, in order, the next one first; at the end none.

        Args:
            after: A number.
            topics: Those that any of them concerns; None: all.

        Raises:
            LogTrimmedError: the next one is not to be had any more.
            ActionError: the database can't be read.
        """
        return (await self._look(after, topics)).find(topics)

    async def read_view(self, after: int, view: View) -> Chunk:
        """Return the next frames of a view after `after`, or none, as far as was looked.

        Raises:
            LogTrimmedError: the next one is not to be had any more.
            ActionError: the database can't be read.
        """
        restarts = self.restarts
        part = await self._look(after, view.topics)
        if (chunk := self._chunks.get((after, view))) is None:
            most_bytes = view.together_bytes if part.is_kept else math.inf
            chunk = join(*part.find(view.topics), view, most_bytes)
            if restarts == self.restarts:
                self._chunks.keep((after, view), chunk, view.size + len(chunk.frames))
        return chunk

    async def _look(self, after: int, topics: Iterable[str] | None) -> Part:
        number = after // PAGE
        if topics is not None and self._pages.get(number) is None and self.end.seq - after > FAR:
            return await self._find(after, list(topics))
        while after < self.end.seq:
            page = await self._page(number)
            first = page.events[0].seq if page.events else after + 1
            if first > after + 1:
                raise LogTrimmedError
            start, end = after + 1 - first, min(len(page.events), self.end.seq + 1 - first)
            if start < end:
                return Part(page, start, end, first + end - 1)
            self._pages.drop(number)  # it was read while the log grew, and lacks its last events
        return Part(Page(), 0, 0, after)

    async def _find(self, after: int, topics: list[str]) -> Part:
        scan = max(PAGE, SCAN * SCAN_TOPICS // max(SCAN_TOPICS, len(topics)))
        async with self._finding:
            read = await self._read(event_log.find_events, after, topics, scan, PAGE)
        if read.begin.seq > after:
            raise LogTrimmedError
        # It was ended by a bound, in number or bytes, or else has looked at all of them.
        is_cut = len(read.events) == PAGE or size_of(read.events) > event_log.READ_BYTES
        reached = read.events[-1].seq if is_cut else min(after + scan, read.end.seq)
        return Part(Page(read.events), 0, len(read.events), reached, is_kept=False)

    async def _read(
        self, query: Callable[[Connection, *tuple[*Arguments, Position]], LogRead], *args: *Arguments
    ) -> LogRead:
        """Read of this log up to its end, in the lane for clients that catch up.

        What comes after our end may be lost yet, and other events have its numbers then.

        Raises:
            ActionError: the database can't be read, or has another log by now.
        """
        end, restarts = self.end, self.restarts
        read = await self._database.run(query, *args, end, lane=Lane.CATCH_UP)
        if read.known_as != end.name or restarts != self.restarts:
            raise Unavailable("The event log was replaced; positions are no longer valid")
        self.begin = max(self.begin, read.begin, key=attrgetter("seq"))
        return read._replace(end=end, events=[event for event in read.events if event.seq <= end.seq])

    async def _read_page(self, number: int) -> list[Event]:
        """Read a page whole. Where its reader is cancelled, the next one goes on from there."""
        left, self._unread = self._unread, None
        key = number, self.restarts
        unread = left if left is not None and left.key == key else _Unread(key)
        try:
            return await self._read_rest(unread)
        except trio.Cancelled:
            self._unread = unread
            raise

    async def _read_rest(self, unread: _Unread) -> list[Event]:
        """Read the rest of a page: its events may be too large for one read, or take too long."""
        number, events = unread.key[0], unread.events
        after = events[-1].seq if events else number * PAGE
        while after < (number + 1) * PAGE:
            try:
                few = min(unread.most, (number + 1) * PAGE - after)
                read = await self._read(event_log.read_events, after, few)
            except Timeout:
                if unread.most == 1:
                    raise
                unread.most = max(1, unread.most // 2)
                continue
            if events and read.begin.seq > after:
                raise LogTrimmedError
            events += read.events
            after = events[-1].seq if events else read.end.seq
            if after >= read.end.seq:
                break
        return events

    async def _page(self, number: int) -> Page:
        if (page := self._pages.get(number)) is not None:
            await trio.lowlevel.checkpoint()
            return page
        if load := self._loads.get(number):
            await load.done.wait()
            if load.error:
                raise load.error
            return self._pages.get(number) or Page()  # none, where the reader was cancelled
        load = self._loads[number] = _Load()
        try:
            events = await self._read_page(number)
            if self._loads.get(number) is not load:
                raise Unavailable("The event log was replaced; positions are no longer valid")
        except ActionError as error:
            load.error = error
            raise
        finally:
            if self._loads.get(number) is load:
                del self._loads[number]
            load.done.set()
        if not events:
            raise LogTrimmedError
        page = Page(events)
        self._pages.keep(number, page, page.size)
        return page
