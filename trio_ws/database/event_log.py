"""Every SQL statement about the event log: its end, what has no number yet, and what is read of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from trio_ws.database.sessions import Connection
from trio_ws.messages import Event, Position

# Of events that are read at once, not compressed: many times what 500 usual ones take, and sent in time.
READ_BYTES = 8_000_000


def read_position(connection: Connection) -> Position:
    """Return the position of the last numbered event."""
    (position,) = connection.execute("SELECT name, last FROM @schema@.event_end")
    return Position(*position)


def start_log(connection: Connection) -> "LogRead":
    """Return where the log begins and ends; take over what a restored log has without a number."""
    connection.execute("SELECT @schema@.adopt_events()")
    return read_events(connection, 0, 0)


def number_events(connection: Connection, most: int, read_upto: int | None = None) -> None:
    """Number what has committed and has no number yet.

    Args:
        connection: The database's.
        most: How many events, more or less: large ones count for several.
        read_upto: The last event that the caller has read: what it could not read next waits.
    """
    connection.execute("SELECT @schema@.number_events(%s::int, %s::bigint)", (most, read_upto))


class LogRead(NamedTuple):
    """What was read of the event log.

    Args:
        begin: The last event that was trimmed: all after it are there.
        end: The last event.
        known_as: What the event that the caller knows is called; None: it is not there.
        events: Some of it.
        now: When it was read, in Unix seconds by the database's clock.
        is_told: Whether everybody who listens was notified of all of it.
        has_more: Whether there are events that have committed and have no number yet, as far as is known.
    """

    begin: Position
    end: Position
    known_as: str | None
    events: list[Event]
    now: float = 0.0
    is_told: bool = True
    has_more: bool = False


def read_events(connection: Connection, after: int, most: int, known: int | None = None) -> LogRead:
    """Return the log's extent, and the events numbered above `after`, in order, at most `most`.

    A transaction of its own: an event may be sent only once its number has committed. The extent is a row
    that is made once, and the events come by their index: a read costs the same, however long the log is.

    Args:
        connection: The database's.
        after: A number.
        most: How many.
        known: An event that the caller knows, whose name says whether this is the same log; None: `after`.
    """
    known = after if known is None else known
    return _read_log(connection, "true", {"after": after, "scan": most, "most": most, "known": known})


def find_events(  # noqa: PLR0917 - as a thread is given them
    connection: Connection, after: int, topics: Sequence[str], scan: int, most: int, known: int
) -> LogRead:
    """Do the same, but for the events of any of the topics alone, at most `most`, among the next `scan`."""
    arguments = {"after": after, "topics": list(topics), "scan": scan, "most": most, "known": known}
    return _read_log(connection, "topics && %(topics)s", arguments)


def _size_of(column: str) -> str:
    """Return what a column takes once it is read. PostgreSQL may store a memo of 1 MB in 12 KB."""
    return (
        f"CASE WHEN pg_column_compression({column}) IS NULL THEN coalesce(pg_column_size({column}), 0)"
        f" ELSE octet_length({column}::text) END"
    )


def _read_log(connection: Connection, wanted: str, arguments: dict[str, Any]) -> LogRead:
    """Read the log's extent, and the events after a number that meet a condition. Numbers have no gaps."""
    rows = connection.execute(
        "WITH log AS MATERIALIZED (SELECT trimmed_name, first, name, last,"  # noqa: S608 - a condition above
        " @schema@.event_name(%(known)s::bigint), extract(epoch FROM clock_timestamp())::float8, is_told,"
        " has_more FROM @schema@.event_end),"
        " start AS (SELECT greatest(%(after)s, first - 1) AS seq FROM log)"
        " SELECT log.*, found.* FROM log LEFT JOIN ("
        "SELECT seq, type, topics, data, previous, extract(epoch FROM at)::float8, name FROM ("
        # A few large rows end a read, whose others come with the next one.
        "SELECT *, sum(size) OVER (ORDER BY seq) - size AS before FROM (SELECT *,"
        f" {_size_of('data')} + {_size_of('previous')} AS size FROM @schema@.event"
        " WHERE seq > (SELECT seq FROM start) AND seq <= (SELECT seq FROM start) + %(scan)s"
        f" AND {wanted} ORDER BY seq LIMIT %(most)s) event"
        ") sized WHERE before < %(bytes)s) found ON true ORDER BY seq".encode(),
        {**arguments, "bytes": READ_BYTES},
    ).fetchall()
    trimmed_name, first, name, last, known_as, now, is_told, has_more = rows[0][:8]
    read = (row[8:] for row in rows if row[8] is not None)
    events = [Event(seq, type_, tuple(topics), *rest) for seq, type_, topics, *rest in read]
    begin, end = Position(trimmed_name, first - 1), Position(name, last)
    return LogRead(begin, end, known_as, events, now, is_told, has_more)


def advance(connection: Connection, after: int, most: int) -> LogRead:
    """Number what has committed, and return what is new since: see `number_events` and `read_events`.

    Two statements in one hop, each a transaction of its own: what is read has its number for good.
    """
    number_events(connection, most, after)
    return read_events(connection, after, most)


def trim_events(connection: Connection, age_seconds: float, most: int) -> int:
    """Delete events older than that, the oldest first, at most `most`; return how many were."""
    ((trimmed,),) = connection.execute(
        "SELECT @schema@.trim_events(make_interval(secs => %s), %s::int)", (age_seconds, most)
    )
    return int(trimmed)
