"""The one way from trio to PostgreSQL: blocking queries, run in threads, on few connections, in lanes.

A thread can't be cancelled, so nothing here may wait for ever. Connecting, each statement and the wait for a
free connection have deadlines. A connection whose server is silent (a stopped process or a dead network
reports nothing) is cut by a watchdog. This is also the only place that says what an error means.
"""

import logging
import math
import random
import select
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar, TypeVarTuple, cast

import psycopg
import trio

from trio_ws import metrics
from trio_ws.background import forever
from trio_ws.database import queries
from trio_ws.database.batches import WORKERS, Batches, one_by_one
from trio_ws.database.hosts import OUTAGES, Fence, Hosts, summary
from trio_ws.database.lanes import Cut, Lane, Lanes, Place
from trio_ws.database.queries import Connection
from trio_ws.database.sessions import Primary
from trio_ws.database.stuck import find_stuck
from trio_ws.errors import Outage, Timeout, Unavailable
from trio_ws.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

# PostgreSQL took longer than it may, and undid what it was at.
_TIMEOUTS = (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable)
# It undid a transaction because of another one, so the same may do well at once.
_COLLISIONS = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
COLLISIONS = 3  # tries, before a collision counts as an outage
NO_THREAD = "can't start new thread"  # what CPython's RuntimeError says, which has no class of its own
WATCHDOG_SECONDS = 0.5
STUCK_SECONDS = 1.0  # between two queries for what became of sessions that were cut
LAST_LOOKS_SECONDS = 0.02  # pause between them, while the last queries come back
HEARTBEAT_SECONDS = 10.0  # how long a LISTEN connection may be silent before it is tried
STEADY_SECONDS = 2.0  # without a failure; then an outage is over, and not at the first query that does well
RECONNECT_SECONDS = 0.05  # pause before LISTEN is tried again, at most: spreads what many processes do


class QueryFailedError(Exception):
    """PostgreSQL does not like a query. What it says of that quotes what clients sent, so it is left out."""

    def __init__(self, query: Callable[..., object], error: psycopg.Error) -> None:
        diag = error.diag
        where = [part for part in (diag.table_name, diag.column_name, diag.constraint_name) if part]
        super().__init__(
            f"{query.__name__}: {type(error).__name__} {diag.sqlstate} {' '.join(where)}".strip()
        )


class Wake(Protocol):
    """Called when there may be new events."""

    def __call__(self, upto: float = math.inf) -> None:
        """There may be events with numbers up to that; without a number, some that have none yet."""


class Database(Protocol):
    """What the rest of the server sees of PostgreSQL; `trio_ws.testing` has a simulated one."""

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        """Return what the query returns, on a connection of the lane.

        Raises:
            ActionError: what the query raises, or `Unavailable`, or `Timeout`.
        """

    async def run_many(
        self, query: Callable[[Connection, *Arguments], T], many: Sequence[tuple[*Arguments]]
    ) -> list[T | Exception]:
        """Return what the query returns or raises for each; none sees an older state than one before it.

        Raises:
            ActionError: none was begun.
        """

    async def watch(self, wake: Wake) -> None:
        """Call `wake` whenever there may be new events; never return."""


class _Busy(NamedTuple):
    since: float
    place: Place | None  # where a query of a lane runs
    pid: int  # of PostgreSQL's process; 0: not known, behind a pooler


class Gateway:
    """PostgreSQL, behind `Database`."""

    def __init__(self, conninfo: str, settings: Settings) -> None:
        self._is_pooled = settings.listen_url is not None  # or nobody would set it
        self._statement_seconds = settings.statement_seconds
        self._fence = Fence()
        prepare = self._prepare_pooled if self._is_pooled else self._prepare
        self._hosts = Hosts(conninfo, prepare, self._fence)
        self._listen_hosts = Hosts(settings.listen_url or conninfo, self._prepare, self._fence)
        self._lanes = Lanes(settings.database_connections)
        self._batches: dict[Callable[..., Any], Batches] = {}  # while somebody works on them
        self._idle: list[Connection] = []
        self._busy: dict[Connection, _Busy] = {}
        self._is_away = False
        self._failed_at = 0.0
        self._is_listening = True  # so that the first failure is logged
        self._is_stuck = False

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        """Run `query(connection, *args)` in a thread, alone or, where it can be, with others like it.

        A caller cancelled while the query runs alone still waits for it: what was sent may be committed.

        Raises:
            Unavailable: PostgreSQL can't be reached, or no connection came free in time. A write that was
                under way may have been done or not.
            Timeout: PostgreSQL took too long for the statement, and undid it.
        """
        if (batches := self._batches.get(query)) is not None:
            answer: T = await batches.ask_one(*args)
            return answer
        return await self._run_alone(query, *args, lane=lane)

    async def run_many(
        self, query: Callable[[Connection, *Arguments], T], many: Sequence[tuple[*Arguments]]
    ) -> list[T | Exception]:
        """Run a query for each of what one client wants, in that order, or at once where it can be.

        Raises:
            Unavailable: too many wait.
        """
        if (batches := self._batches.get(query)) is not None:
            return await batches.ask(many)
        return await one_by_one(partial(self._run_alone, query), many)

    async def _run_alone(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        try:
            with trio.fail_after(self._statement_seconds):  # once in its thread, it is not cancelled
                return await self._run_in_lane(lane, query, args)
        except trio.TooSlowError:
            raise Unavailable("The database is busy") from None

    async def _run_in_lane(self, lane: Lane, query: Callable[..., T], args: tuple[Any, ...]) -> T:
        place = self._lanes.place(lane)
        limiter = cast(trio.CapacityLimiter, place)  # trio asks it for no more than that
        try:
            return await trio.to_thread.run_sync(self._run_in_thread, place, query, args, limiter=limiter)
        except RuntimeError as error:
            if NO_THREAD not in str(error):
                raise
            self._report(error)
            raise Outage("The server has no thread for it") from None

    async def watch(self, wake: Wake) -> None:
        """Call `wake` at each notification and after each reconnection; cut silent connections; batch."""
        over = trio.Event()
        async with trio.open_nursery() as around:
            around.start_soon(self._cut_the_silent, over)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(forever, "LISTEN", partial(self._listen, wake))
                    nursery.start_soon(forever, "stuck sessions", self._free_the_stuck)
                    for query, joined in queries.TOGETHER.items():
                        batches = self._batches[query] = Batches(
                            joined.query.__name__,
                            partial(self._run_alone, joined.query, lane=joined.lane),
                            partial(self._run_alone, query, lane=joined.lane),
                            self._statement_seconds,
                        )
                        nursery.start_soon(batches.refuse_the_late)
                        for _ in range(WORKERS):
                            nursery.start_soon(batches.work)
            finally:
                self._batches.clear()
                over.set()

    def close(self) -> None:
        """Close the idle connections."""
        while connection := self._take_idle():
            connection.close()

    # In a database thread

    def _run_in_thread(self, place: Place, query: Callable[..., T], args: tuple[Any, ...]) -> T:
        """Run a query, again where another transaction came between.

        Raises:
            Exception: what the query raises, and what `_judge` makes of an error of PostgreSQL.
        """
        for tries_left in reversed(range(COLLISIONS)):
            try:
                answer = self._run_once(place, query, args)
            except _COLLISIONS as error:
                if not tries_left:
                    raise self._judge(query, error) from None
            except Exception as error:  # noqa: BLE001 - raised again, as what it means
                raise self._judge(query, error) from None
            else:
                self._report(None)
                return answer
        raise AssertionError  # the last try returns or raises

    def _run_once(self, place: Place, query: Callable[..., T], args: tuple[Any, ...]) -> T:
        connection = self._take_idle() or self._connect()
        try:
            return self._use(connection, query, *args, place=place)
        except (*_TIMEOUTS, *_COLLISIONS, psycopg.errors.ProgramLimitExceeded):
            raise
        except psycopg.Error:
            connection.close()  # on a standby, or of a table that has changed: the next one may be better
            raise
        finally:
            if not connection.closed:
                self._idle.append(connection)
            elif connection.broken:
                self.close()  # what ended it has ended the idle ones too, most likely

    def _judge(self, query: Callable[..., Any], error: Exception) -> Exception:
        """Return what an error means for the caller. This is the only place that decides it."""
        if isinstance(error, _TIMEOUTS):
            return Timeout("The database took too long")
        if isinstance(
            error, psycopg.errors.ProgramLimitExceeded
        ):  # an OperationalError, and a bug all the same
            return QueryFailedError(query, error)
        if isinstance(error, OUTAGES):
            self._report(error)
            return Outage("The database failed; whether this was done is not known")
        return QueryFailedError(query, error) if isinstance(error, psycopg.Error) else error

    def _use(
        self, connection: Connection, query: Callable[..., T], *args: Any, place: Place | None = None
    ) -> T:
        """Run a query under the watchdog's eyes."""
        began = time.monotonic()
        pid = 0 if self._is_pooled else connection.info.backend_pid
        self._busy[connection] = _Busy(began, place, pid)
        try:
            answer = query(connection, *args)
        except psycopg.Error:
            metrics.DATABASE_FAILURES.labels(query.__name__).inc()
            raise
        finally:
            del self._busy[connection]
        metrics.DATABASE_SECONDS.labels(query.__name__).observe(time.monotonic() - began)
        return answer

    def _take_idle(self) -> Connection | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            # Nothing comes unasked on an idle connection but its end.
            if not _has_input(connection) and not self._fence.refuses(connection):
                return connection
            connection.close()

    def _connect(self) -> Connection:
        try:
            return self._hosts.connect()
        except OUTAGES as error:
            self._report(error)
            raise Outage("The database can't be reached") from None

    def _prepare(self, connection: Connection) -> Primary | None:
        return self._use(connection, queries.prepare_connection, self._statement_seconds)

    def _prepare_pooled(self, connection: Connection) -> Primary | None:
        return self._use(connection, queries.prepare_pooled_connection)

    def _report(self, error: Exception | None) -> None:
        """Log the first failure and the recovery, not each request that meets them.

        On a full disk, and on a standby, all that reads goes well between the failures of what writes.
        """
        now = time.monotonic()
        if error is not None:
            if not self._is_away:
                logger.warning("the database is away: %s", summary(error))
            self._is_away, self._failed_at = True, now
        elif self._is_away and now >= self._failed_at + STEADY_SECONDS:
            logger.info("the database is back")
            self._is_away = False

    # In the background

    async def _cut_the_silent(self, over: trio.Event) -> None:
        """Cut connections whose statement has outlived its own timeout: the server does not answer.

        Shielded, and to the last query, which who is cancelled still waits for.
        """
        with trio.CancelScope(shield=True):
            while not over.is_set() or self._busy:
                with trio.move_on_after(WATCHDOG_SECONDS):
                    await over.wait()
                now = time.monotonic()
                for connection, (since, place, pid) in list(self._busy.items()):
                    if since < now - self._statement_seconds - WATCHDOG_SECONDS:
                        logger.warning("the database has gone silent: cutting a connection")
                        if place is not None and place.cut is None:
                            place.cut = Cut(pid, self._fence.primary_of(connection), now)
                        _cut(connection)
                if over.is_set():
                    await trio.sleep(LAST_LOOKS_SECONDS)

    async def _free_the_stuck(self) -> float:
        """Give back the places of sessions that were cut once they have ended in PostgreSQL."""
        if stuck := dict(self._lanes.stuck):
            still = await trio.to_thread.run_sync(self._find_stuck, list(stuck.values()))
            self._lanes.free([place for place, cut in stuck.items() if cut not in still])
        if self._is_stuck != bool(self._lanes.stuck):
            self._is_stuck = not self._is_stuck
            if self._is_stuck:
                logger.warning(
                    "PostgreSQL goes on with what was cut: does it wait for a synchronous standby?"
                )
            else:
                logger.info("PostgreSQL has ended what was cut")
        return STUCK_SECONDS

    def _find_stuck(self, cuts: Sequence[Cut]) -> set[Cut]:
        with self._connect() as connection:  # a new one, which finds the primary of today
            primary = self._fence.primary_of(connection)
            return self._use(connection, find_stuck, primary, cuts, time.monotonic())

    async def _listen(self, wake: Wake) -> float:
        """Listen until the connection ends, and return when to try again."""
        try:
            connection = await trio.to_thread.run_sync(self._open_listener)
        except Exception as error:  # noqa: BLE001 - whatever it is, events come by polling
            if self._is_listening:  # and not again until it has listened
                logger.warning("can't LISTEN, events come by polling: %s", summary(error))
            self._is_listening = False
            raise Outage("Can't LISTEN") from None
        self._is_listening = True
        with connection:
            try:
                await self._follow(connection, wake)
            except OUTAGES as error:
                logger.warning("LISTEN has ended, connecting again: %s", summary(error))
        return random.uniform(0, RECONNECT_SECONDS)  # noqa: S311 - spreads, hides nothing

    def _open_listener(self) -> Connection:
        connection = self._listen_hosts.connect()
        try:
            self._use(connection, queries.listen)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _follow(self, connection: Connection, wake: Wake) -> None:
        """Wait for notifications, without a thread, until the connection breaks."""
        wake()  # for what came between the last connection and this one
        while True:
            with trio.move_on_after(HEARTBEAT_SECONDS) as silence:
                await trio.lowlevel.wait_readable(connection.fileno())
            if self._fence.refuses(connection):
                raise psycopg.OperationalError("another primary has replaced this one")
            if silence.cancelled_caught:
                await trio.to_thread.run_sync(self._use, connection, queries.check)
                wake()  # it may have lost some
            connection.pgconn.consume_input()
            while note := connection.pgconn.notifies():
                # The number up to which the log goes, or nothing; but anybody may notify of anything.
                wake(float(note.extra) if note.extra.isdigit() else math.inf)


def _cut(connection: Connection) -> None:
    """Have the thread that waits for this connection see it end. This needs no descriptor of its own."""
    try:
        transport = socket.socket(fileno=connection.fileno())
    except (psycopg.Error, OSError):
        return  # It has just ended by itself.
    try:
        transport.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # It has just ended by itself.
    finally:
        transport.detach()


def _has_input(connection: Connection) -> bool:
    poll = select.poll()  # select() itself knows no descriptor above 1023
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
