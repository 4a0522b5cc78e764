"""The event log read from a standby, where that proves to have the same log; else from the primary.

Numbering and all else stay with the primary. It says how far the log goes, and by what name. A standby that
has that name at that number has the same log up to there, so its events may be published. What it has beyond
that is no concern of ours: it may have been promoted, and have events that the primary never had.

A standby that is behind is waited for, for a moment. One that is far behind, away, or another database by now
is left alone for some seconds, and all is read from the primary meanwhile.
"""

import logging
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, TypeVarTuple

import trio

from trio_ws import metrics
from trio_ws.database import event_log
from trio_ws.database.event_log import LogRead
from trio_ws.database.gateway import Database, Wake
from trio_ws.database.hosts import summary
from trio_ws.database.lanes import STANDBY, Lane
from trio_ws.database.pool import Pool
from trio_ws.database.queries import Connection
from trio_ws.database.tickets import Ticket
from trio_ws.errors import Unavailable
from trio_ws.topics import Position

logger = logging.getLogger(__name__)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

# How long new events may wait for the standby. It shows them 3 ms after the primary p50, 10 ms p90 (measured
# with both on one machine), and 0.2 s is what people do not notice.
WAIT_SECONDS = 0.2
FIRST_PAUSE_SECONDS = 0.002  # between two reads of a standby that is behind; the next is twice as long
TRY_SECONDS = 0.05  # how long new events wait for one that was of no use, to see whether it is again
# Until it is tried again: the shortest and the longest pause. Each is twice the one before, unless the
# standby was good for longer than the longest. So one that comes and goes is logged twice a minute.
RETRY_SECONDS = 5.0
RETRY_MOST_SECONDS = 60.0
READS = (event_log.read_events, event_log.find_events)  # which name the position that they go up to


class Source(Protocol):
    """Where the event log is read besides; `trio_ws.testing` has a simulated one."""

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CATCH_UP
    ) -> T:
        """Return what a query returns that only reads; who is cancelled does not wait for it.

        Raises:
            ActionError: `Unavailable` or `Timeout`.
        """

    async def watch(self) -> None:
        """Cut what is silent; never return."""

    def turn(self) -> None:
        """Read from the next host, if there are several."""


class Standby:
    """A hot standby, behind `Source`: a session for the log's end, and one for clients that catch up."""

    def __init__(self, conninfo: str, statement_seconds: float) -> None:
        self._statement_seconds = statement_seconds
        self._pool = Pool(conninfo, statement_seconds, None, name="the standby of log_url")
        self._limiters = {lane: trio.CapacityLimiter(1) for lane in STANDBY}

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CATCH_UP
    ) -> T:
        """Run a query in a thread. Who is cancelled leaves it there: it changes nothing.

        Raises:
            Unavailable: the standby can't be reached, ended the query, or has no free session in time.
            Timeout: it took too long.
        """
        with trio.move_on_after(self._statement_seconds):
            return await trio.to_thread.run_sync(
                self._pool.run, None, query, args, limiter=self._limiters[lane], abandon_on_cancel=True
            )
        raise Unavailable("The standby is busy")

    async def watch(self) -> None:
        """Cut silent connections until cancelled, and close the idle ones then."""
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pool.cut_the_silent, over)
            try:
                await trio.sleep_forever()
            finally:
                over.set()
                self._pool.close()

    def turn(self) -> None:
        """Have new sessions be on the next host."""
        self._pool.turn()


class Replicated:
    """A database whose event log is read from a standby too.

    Args:
        primary: Where all else is done.
        standby: A standby of it, or what was one.
    """

    def __init__(self, primary: Database, standby: Source) -> None:
        self._primary = primary
        self._standby = standby
        self._is_good = True
        self._good_since = -math.inf
        self._pause = RETRY_SECONDS
        self._again_at = -math.inf  # when one that is of no use is tried again

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        """Run a query as the primary does; reads of the log, on the standby if it proves itself.

        Raises:
            ActionError: what the query raises, or `Unavailable`, or `Timeout`.
        """
        asked: Any = query
        read: Any = self._primary.run
        if asked is event_log.advance:
            read = self._advance
        elif asked in READS:
            read = self._read
        answer: T = await read(query, *args, lane=lane)
        return answer

    def ask(self, query: Callable[[Connection, *Arguments], T], *args: *Arguments) -> Ticket[T]:
        """Ask the primary."""
        return self._primary.ask(query, *args)

    async def watch(self, wake: Wake) -> None:
        """Call `wake` whenever there may be new events; never return."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._standby.watch)
            await self._primary.watch(wake)

    async def _advance(self, query: Callable[..., LogRead], after: int, most: int, *, lane: Lane) -> LogRead:
        if not self._is_due:
            return _counted("primary", await self._primary.run(query, after, most, lane=lane))
        read = await self._primary.run(event_log.number, after, most, lane=lane)
        if read.end.seq <= after:
            return read
        began = trio.current_time()
        found = await self._try(event_log.read_events, after, most, read.end, lane=lane)
        if found is None:
            return _counted("primary", await self._primary.run(event_log.read_events, after, most, lane=lane))
        return read._replace(events=found.events, now=read.now + trio.current_time() - began)

    async def _read(self, query: Callable[..., LogRead], *args: Any, lane: Lane) -> LogRead:
        # Where the caller names no position, as the tail does, the standby has nothing to prove.
        has_known = isinstance(args[-1], Position)
        found = await self._try(query, *args, lane=lane) if has_known and self._is_due else None
        if found is None:
            return _counted("primary", await self._primary.run(query, *args, lane=lane))
        return found

    @property
    def _is_due(self) -> bool:
        return self._is_good or trio.current_time() >= self._again_at

    async def _try(self, query: Callable[..., LogRead], after: int, *args: Any, lane: Lane) -> LogRead | None:
        """Return what the standby has after a number; None: the primary is to be read.

        The last argument is the position that the standby has to prove, up to which it may be read.
        """
        known: Position = args[-1]
        is_trial = not self._is_good
        if is_trial:
            self._rest()  # so that there is one trial at a time
        patience = TRY_SECONDS if is_trial else WAIT_SECONDS
        until, pause = trio.current_time() + patience, FIRST_PAUSE_SECONDS
        trouble = "it does not answer"
        # A client that catches up waits for a read as long as for the primary's, which may be large.
        with trio.CancelScope(deadline=until if is_trial or lane is Lane.AHEAD else math.inf):
            while True:
                try:
                    read = await self._standby.run(query, after, *args, lane=lane)
                except Exception as error:  # noqa: BLE001 - whatever it is, the primary is there
                    trouble = summary(error)
                    break
                if read.known_as == known.name:
                    if is_trial:
                        self._note_good()
                    return self._proven(read, after, known)
                is_behind = read.end.seq < known.seq
                trouble = f"{'it is behind' if is_behind else 'it has another log'}, which ends at {read.end}"
                if not is_behind or trio.current_time() + pause > until:
                    self._standby.turn()
                    break
                await trio.sleep(pause)
                pause *= 2
        if self._is_good:
            self._note_trouble(f"{trouble}, and the primary's was at {known}")
        return None

    @staticmethod
    def _proven(read: LogRead, after: int, known: Position) -> LogRead | None:
        if read.begin.seq > after:
            return None
        events = [event for event in read.events if event.seq <= known.seq]
        # Where the log begins is for the primary to say: one that was promoted may have trimmed more.
        return _counted("standby", read._replace(begin=Position("", 0), events=events))

    def _note_good(self) -> None:
        logger.info("the event log is read from the standby again")
        self._is_good, self._good_since = True, trio.current_time()

    def _note_trouble(self, trouble: str) -> None:
        logger.warning("the event log is read from the primary, not from the standby: %s", trouble)
        if trio.current_time() - self._good_since > RETRY_MOST_SECONDS:
            self._pause = RETRY_SECONDS
        self._is_good = False
        self._rest()

    def _rest(self) -> None:
        self._again_at = trio.current_time() + self._pause
        self._pause = min(2 * self._pause, RETRY_MOST_SECONDS)


def _counted(source: str, read: LogRead) -> LogRead:
    if read.events:
        metrics.LOG_READS.labels(source).inc()
    return read
