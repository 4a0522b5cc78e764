"""The one way from trio to PostgreSQL: queries on few connections, in lanes, nearly all of them in threads.

A query can't be cancelled, so nothing here may wait for ever: what the pool does has deadlines, and so has
the wait for a free connection.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, TypeVarTuple, cast

import psycopg
import trio

from trio_ws.background import forever
from trio_ws.database import queries
from trio_ws.database.batches import Batches
from trio_ws.database.hosts import OUTAGES, Fence, Hosts, summary
from trio_ws.database.lanes import Cut, Lane, Lanes
from trio_ws.database.pool import Pool
from trio_ws.database.queries import Connection
from trio_ws.database.statement import Statement
from trio_ws.database.stuck import find_stuck
from trio_ws.database.tickets import Ticket
from trio_ws.database.timing import TimedBatches, TimedLanes
from trio_ws.errors import Outage, Unavailable
from trio_ws.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

NO_THREAD = "can't start new thread"  # what CPython's RuntimeError says, which has no class of its own
STUCK_SECONDS = 1.0  # between two queries for what became of sessions that were cut
HEARTBEAT_SECONDS = 10.0  # how long a LISTEN connection may be silent before it is tried
RECONNECT_SECONDS = 0.05  # pause before LISTEN is tried again, at most: spreads what many processes do


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

    def ask(self, query: Callable[[Connection, *Arguments], T], *args: *Arguments) -> Ticket[T]:
        """Return at once what a query of `queries.TOGETHER` will bring, together with others like it.

        Only while `watch` runs. Of several that are asked without a pause none sees an older state than one
        before it.
        """

    async def watch(self, wake: Wake) -> None:
        """Call `wake` whenever there may be new events; never return."""


class Gateway:
    """PostgreSQL, behind `Database`."""

    def __init__(self, conninfo: str, settings: Settings) -> None:
        is_pooled = settings.listen_url is not None  # or nobody would set it
        self._statement_seconds = settings.statement_seconds
        self._fence = Fence()
        self._pool = Pool(conninfo, self._statement_seconds, self._fence, is_pooled=is_pooled)
        self._listen_hosts = Hosts(settings.listen_url or conninfo, self._pool.prepare, self._fence)
        lanes, batches = (TimedLanes, TimedBatches) if settings.otel else (Lanes, Batches)
        self._lanes = lanes(settings.database_connections)
        self._batches = {
            query: batches(
                joined.query.__name__,
                partial(self._run_alone, joined.query, lane=joined.lane),
                partial(self._run_alone, query, lane=joined.lane),
                self._statement_seconds,
            )
            for query, joined in queries.TOGETHER.items()
        }
        self._is_watching = False
        self._is_listening = True  # so that the first failure is logged
        self._is_stuck = False

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        """Run `query(connection, *args)` alone or, where it can be, with others like it.

        A caller cancelled while the query runs alone still waits for it: what was sent may be committed.

        Raises:
            Unavailable: PostgreSQL can't be reached, or no connection came free in time. A write that was
                under way may have been done or not.
            Timeout: PostgreSQL took too long for the statement, and undid it.
        """
        if self._is_watching and query in self._batches:
            return await self.ask(query, *args).wait()
        return await self._run_alone(query, *args, lane=lane)

    def ask(self, query: Callable[[Connection, *Arguments], T], *args: *Arguments) -> Ticket[T]:
        """Return at once what a query will bring."""
        return self._batches[query].ask(*args)

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
            if isinstance(query, Statement):
                async with place:
                    return cast("T", await self._pool.ask(place, query, args))
            return await trio.to_thread.run_sync(self._pool.run, place, query, args, limiter=limiter)
        except RuntimeError as error:
            if NO_THREAD not in str(error):
                raise
            self._pool.report(error)
            raise Outage("The server has no thread for it") from None

    async def watch(self, wake: Wake) -> None:
        """Call `wake` at each notification and after each reconnection; cut silent connections; batch."""
        over = trio.Event()
        async with trio.open_nursery() as around:
            around.start_soon(self._pool.cut_the_silent, over)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(forever, "LISTEN", partial(self._listen, wake))
                    nursery.start_soon(forever, "stuck sessions", self._free_the_stuck)
                    for batches in self._batches.values():
                        nursery.start_soon(batches.work)
                    self._is_watching = True
            finally:
                self._is_watching = False
                over.set()

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    # In the background

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
        with self._pool.connect() as connection:  # a new one, which finds the primary of today
            primary = self._fence.primary_of(connection)
            return self._pool.use(connection, find_stuck, primary, cuts, time.monotonic())

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
            self._pool.use(connection, queries.listen)
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
                await trio.to_thread.run_sync(self._pool.use, connection, queries.check)
                wake()  # it may have lost some
            connection.pgconn.consume_input()
            while note := connection.pgconn.notifies():
                # The number up to which the log goes, or nothing; but anybody may notify of anything.
                wake(float(note.extra) if note.extra.isdigit() else math.inf)
