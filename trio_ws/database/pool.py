"""Sessions for queries: opened when they are needed, kept, watched, and cut.

A query can't be cancelled, so nothing here may wait for ever. Connecting and each statement have deadlines.
A connection whose server is silent (a stopped process or a dead network reports nothing) is cut by a
watchdog. This is also the only place that says what an error means.
"""

import logging
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

import psycopg
import trio

from trio_ws import metrics
from trio_ws.database import queries
from trio_ws.database.hosts import OUTAGES, Fence, Hosts, summary
from trio_ws.database.lanes import Cut, Place
from trio_ws.database.queries import Connection
from trio_ws.database.sessions import Primary
from trio_ws.database.statement import Statement
from trio_ws.errors import Outage, Timeout

logger = logging.getLogger(__name__)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

# PostgreSQL took longer than it may, and undid what it was at.
_TIMEOUTS = (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable)
# It undid a transaction because of another one, so the same may do well at once.
_COLLISIONS = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
TRIES_LEFT = (2, 1, 0)  # after each: then a collision counts as an outage
WATCHDOG_SECONDS = 0.5
LAST_LOOKS_SECONDS = 0.02  # pause between them, while the last queries come back
STEADY_SECONDS = 2.0  # without a failure; then an outage is over, and not at the first query that does well


class QueryFailedError(Exception):
    """PostgreSQL does not like a query. What it says of that quotes what clients sent, so it is left out."""

    def __init__(self, query: Callable[..., object], error: psycopg.Error) -> None:
        diag = error.diag
        where = [part for part in (diag.table_name, diag.column_name, diag.constraint_name) if part]
        super().__init__(
            f"{query.__name__}: {type(error).__name__} {diag.sqlstate} {' '.join(where)}".strip()
        )


class _Busy(NamedTuple):
    since: float
    place: Place | None  # where a query of a lane runs
    pid: int  # of PostgreSQL's process; 0: not known, behind a pooler


class Pool:
    """The sessions that there are on one PostgreSQL.

    Args:
        conninfo: Where it is.
        statement_seconds: How long a statement may take.
        fence: Refuses primaries that were replaced; None: any server that answers, also a standby.
        is_pooled: Whether a pooler is between us, such as PgBouncer.
        name: What people know it by.
    """

    def __init__(
        self,
        conninfo: str,
        statement_seconds: float,
        fence: Fence | None,
        *,
        is_pooled: bool = False,
        name: str = "the database",
    ) -> None:
        self._statement_seconds = statement_seconds
        self._fence = Fence() if fence is None else fence  # one that has seen nothing refuses nothing
        self._is_pooled = is_pooled
        self._name = name
        self._hosts = Hosts(conninfo, self._prepare_pooled if is_pooled else self.prepare, fence)
        self._idle: list[Connection] = []
        self._busy: dict[Connection, _Busy] = {}
        self._is_away = False
        self._failed_at = 0.0

    def close(self) -> None:
        """Close the idle sessions."""
        while connection := self._take_idle():
            connection.close()

    def turn(self) -> None:
        """Begin with the next host, where the one that answers is of no use."""
        if self._hosts.turn():
            self.close()

    async def ask(self, place: Place, statement: Statement[*Arguments, T], args: tuple[*Arguments]) -> T:
        """Do as `run` does, but wait for the answer without a thread.

        Shielded: what was sent is waited for. PostgreSQL or the watchdog ends it in time.

        Raises:
            Exception: as from `run`.
        """
        with trio.CancelScope(shield=True):
            for tries_left in TRIES_LEFT:
                with self._judged(statement, tries_left):
                    connection = self._take_idle()
                    if connection is None:
                        connection = await trio.to_thread.run_sync(self.connect)
                    with self._kept(connection), self._watched(connection, statement, place):
                        return await statement.ask(connection, *args)
        raise AssertionError  # the last try returns or raises

    # For database threads

    def run(
        self, place: Place | None, query: Callable[[Connection, *Arguments], T], args: tuple[*Arguments]
    ) -> T:
        """Run a query, again where another transaction came between.

        Args:
            place: Where the query of a lane runs.
            query: Takes a connection first.
            args: What it takes besides.

        Raises:
            Exception: what the query raises, and what `_judge` makes of an error of PostgreSQL.
        """
        for tries_left in TRIES_LEFT:
            with self._judged(query, tries_left):
                connection = self._take_idle() or self.connect()
                with self._kept(connection):
                    return self.use(connection, query, *args, place=place)
        raise AssertionError  # the last try returns or raises

    def use(
        self,
        connection: Connection,
        query: Callable[[Connection, *Arguments], T],
        *args: *Arguments,
        place: Place | None = None,
    ) -> T:
        """Run a query under the watchdog's eyes."""
        with self._watched(connection, query, place):
            return query(connection, *args)

    @contextmanager
    def _judged(self, query: Callable[..., Any], tries_left: int) -> Iterator[None]:
        """Raise what an error means, unless it is a collision and another try is left."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again, as what it means
            if not (tries_left and isinstance(error, _COLLISIONS)):
                raise self._judge(query, error) from None
        else:
            self.report(None)

    @contextmanager
    def _kept(self, connection: Connection) -> Iterator[None]:
        """Keep a session for the next query, unless it may have become useless."""
        try:
            yield
        except (*_TIMEOUTS, *_COLLISIONS, psycopg.errors.ProgramLimitExceeded):
            raise
        except (psycopg.Error, OSError):
            # On a standby, or of a table that has changed: the next one may be better. Or its answer is still
            # to come, and could not be waited for.
            connection.close()
            raise
        finally:
            if not connection.closed:
                self._idle.append(connection)
            elif connection.broken:
                self.close()  # what ended it has ended the idle ones too, most likely

    @contextmanager
    def _watched(
        self, connection: Connection, query: Callable[..., Any], place: Place | None
    ) -> Iterator[None]:
        """Have the watchdog cut a session that is silent, and count what comes of its query."""
        began = time.monotonic()
        pid = 0 if self._is_pooled else connection.info.backend_pid
        self._busy[connection] = _Busy(began, place, pid)
        try:
            yield
        except psycopg.Error:
            metrics.DATABASE_FAILURES.labels(query.__name__).inc()
            raise
        finally:
            del self._busy[connection]
        metrics.DATABASE_SECONDS.labels(query.__name__).observe(time.monotonic() - began)

    def _judge(self, query: Callable[..., Any], error: Exception) -> Exception:
        """Return what an error means for the caller. This is the only place that decides it."""
        if isinstance(error, _TIMEOUTS):
            return Timeout("The database took too long")
        if isinstance(
            error, psycopg.errors.ProgramLimitExceeded
        ):  # an OperationalError, and a bug all the same
            return QueryFailedError(query, error)
        if isinstance(error, OUTAGES):
            self.report(error)
            return Outage("The database failed; whether this was done is not known")
        return QueryFailedError(query, error) if isinstance(error, psycopg.Error) else error

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

    def connect(self) -> Connection:
        """Return a new session.

        Raises:
            Outage: there is none to be had.
        """
        try:
            return self._hosts.connect()
        except OUTAGES as error:
            self.report(error)
            raise Outage("The database can't be reached") from None

    def prepare(self, connection: Connection) -> Primary | None:
        """Begin a session that nobody shares."""
        return self.use(connection, queries.prepare_connection, self._statement_seconds)

    def _prepare_pooled(self, connection: Connection) -> Primary | None:
        return self.use(connection, queries.prepare_pooled_connection)

    def report(self, error: Exception | None) -> None:
        """Log the first failure and the recovery, not each request that meets them.

        On a full disk, and on a standby, all that reads goes well between the failures of what writes.
        """
        now = time.monotonic()
        if error is not None:
            if not self._is_away:
                logger.warning("%s is away: %s", self._name, summary(error))
            self._is_away, self._failed_at = True, now
        elif self._is_away and now >= self._failed_at + STEADY_SECONDS:
            logger.info("%s is back", self._name)
            self._is_away = False

    # In the background

    async def cut_the_silent(self, over: trio.Event) -> None:
        """Cut connections whose statement has outlived its own timeout: the server does not answer.

        Shielded, and to the last query: a cancelled caller still waits for it.
        """
        with trio.CancelScope(shield=True):
            while not over.is_set() or self._busy:
                with trio.move_on_after(WATCHDOG_SECONDS):
                    await over.wait()
                # Where the event loop itself stood still, answers that have come are read first.
                await trio.lowlevel.checkpoint()
                now = time.monotonic()
                for connection, (since, place, pid) in list(self._busy.items()):
                    if since < now - self._statement_seconds - WATCHDOG_SECONDS:
                        logger.warning("%s has gone silent: cutting a connection", self._name)
                        if place is not None and place.cut is None:
                            place.cut = Cut(pid, self._fence.primary_of(connection), now)
                        _cut(connection)
                if over.is_set():
                    await trio.sleep(LAST_LOOKS_SECONDS)


def _cut(connection: Connection) -> None:
    """End the connection for those that wait for it. This needs no descriptor of its own."""
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
