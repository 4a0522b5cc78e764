"""The event log as this process knows it: its end, and pages of it in memory, each read once for all.

Events are numbered without gaps and never change, so the log falls into pages of equal length that may be
kept, dropped and read again at will. A thousand clients that come back from the same outage cost one read
of each page between them.
"""

from collections import OrderedDict

import trio

from trio_ws.database import queries
from trio_ws.database.gateway import Database
from trio_ws.errors import ActionError, Unavailable
from trio_ws.messages import Event, Position

PAGE = 256  # events; some 200 KB, and a read of a few ms
EVENT_BYTES = 600  # what an event takes beside its JSON: the struct, its topics, its place in a page


class LogTrimmedError(Exception):
    """The log does not reach back so far any more."""


class _Load:
    """A page on its way from the database, and those who wait for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: ActionError | None = None


class Log:
    """What the tail appends to and followers read from.

    Args:
        database: Where pages are read from that are not in memory.
        memory_bytes: How much of it is kept.

    Attributes:
        end: The last event that was published.
        first: The number of the first event that is still to be had.
    """

    def __init__(self, database: Database, memory_bytes: int) -> None:
        self.end = Position("", 0)  # until the tail knows better
        self.first = 1
        self._database = database
        self._memory_bytes = memory_bytes
        self._pages: OrderedDict[int, list[Event]] = OrderedDict()  # the one used last is last
        self._bytes = 0
        self._loads: dict[int, _Load] = {}
        self._grown = trio.lowlevel.ParkingLot()

    def restart(self, end: Position) -> None:
        """Begin at the end of this log, or of another one."""
        self.end = end
        self._pages.clear()
        self._loads.clear()  # what is on its way is of the log that was
        self._bytes = 0

    def append(self, event: Event) -> None:
        """Note the event that comes next."""
        number, place = divmod(event.seq - 1, PAGE)
        if place == 0:
            self._pages[number] = []
        page = self._pages.get(number)
        if page is not None and len(page) == place:
            page.append(event)
            self._bytes += _size(event)
            self._shrink()
        # Else it was read while this event was on its way, and is read again by who needs more of it.
        self.end = Position(self.end.epoch, event.seq)
        self._grown.unpark_all()

    def reaches_back_to(self, position: Position) -> bool:
        """Tell whether all that came after a position, and nothing else, is to be had."""
        return position.epoch == self.end.epoch and self.first - 1 <= position.seq <= self.end.seq

    async def reach(self, seq: int, seconds: float) -> bool:
        """Wait until the end is there or beyond, and tell whether it is."""
        with trio.move_on_after(seconds):
            while self.end.seq < seq:
                await self._grown.park()
        return self.end.seq >= seq

    async def read(self, after: int) -> list[Event]:
        """Return some events after `after`, in order, the next one first; none at the end.

        Raises:
            LogTrimmedError: the next one is not to be had any more.
            ActionError: the database can't be read.
        """
        number = after // PAGE
        while after < self.end.seq:
            page = await self._page(number)
            first = page[0].seq if page else after + 1
            if first > after + 1:
                raise LogTrimmedError
            if found := page[after + 1 - first : max(0, self.end.seq + 1 - first)]:
                return found
            self._drop(number)  # it was read while the log grew, and lacks its last events
        return []

    async def _page(self, number: int) -> list[Event]:
        if (page := self._pages.get(number)) is not None:
            self._pages.move_to_end(number)
            await trio.lowlevel.checkpoint()
            return page
        if load := self._loads.get(number):
            await load.done.wait()
            if load.error:
                raise load.error
            return self._pages.get(number, [])  # none, where the reader was cancelled
        load = self._loads[number] = _Load()
        try:
            read = await self._database.run(queries.read_events, number * PAGE, PAGE)
            if read.end.epoch != self.end.epoch or self._loads.get(number) is not load:
                raise Unavailable("The event log is another one now")
        except ActionError as error:
            load.error = error
            raise
        finally:
            if self._loads.get(number) is load:
                del self._loads[number]
            load.done.set()
        page = read.events
        if not page:
            raise LogTrimmedError
        self._drop(number)
        self._pages[number] = page
        self._bytes += sum(map(_size, page))
        self._shrink()
        return page

    def _shrink(self) -> None:
        while self._bytes > self._memory_bytes and len(self._pages) > 1:
            self._drop(next(iter(self._pages)))

    def _drop(self, number: int) -> None:
        self._bytes -= sum(map(_size, self._pages.pop(number, ())))


def _size(event: Event) -> int:
    return EVENT_BYTES + len(event.data) + len(event.previous or b"")
