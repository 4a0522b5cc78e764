"""Every SQL statement about the event log: its end, what has no number yet, and what is read of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from trio_ws.database.pages import OWNED, page_query
from trio_ws.database.sessions import Connection
from trio_ws.database.statement import Statement
from trio_ws.errors import NotFound
from trio_ws.paging import PAGE_BYTES
from trio_ws.topics import NOTHING, Event, Position

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
        events: Some of it, in order; none where they are to be read by a query of their own.
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


_decoder = msgspec.json.Decoder(LogRead)


def read_events(connection: Connection, after: int, most: int, known: Position | None = None) -> LogRead:
    """Return the log's extent, and the events numbered above `after`, in order, at most `most`.

    It costs the same, however long the log is.

    Args:
        connection: The database's.
        after: A number.
        most: How many.
        known: What the caller knows, whose name says whether this is the same log; None: `after` alone.
    """
    return _read_log(connection, after, after if known is None else known.seq, None, most, most)


def find_events(  # noqa: PLR0917 - as a thread is given them
    connection: Connection, after: int, topics: Sequence[str], scan: int, most: int, known: Position
) -> LogRead:
    """Do the same, but for the events of any of the topics alone, at most `most`, among the next `scan`."""
    return _read_log(connection, after, known.seq, list(topics), scan, most)


def _read_log(connection: Connection, *arguments: Any) -> LogRead:
    ((log,),) = connection.execute(
        "SELECT @schema@.read_log(%s::bigint, %s::bigint, %s::text[], %s::int, %s::int, %s::int)",
        (*arguments, READ_BYTES),
    )
    return _decoder.decode(log)


# Number what has committed, and return what is new since: see `number_events` and `read_events`. It takes the
# number after which to read, and how many events at most. Where they are too large for one answer with the
# rest, there are none. What has been returned has its number for good.
advance = Statement[int, int, LogRead](
    "advance", b"SELECT @schema@.advance($1::bigint, $2::int, $2::int)::text", _decoder.decode
)
# Do the same, but return no events: they are read elsewhere.
number = Statement[int, int, LogRead](
    "number", b"SELECT @schema@.advance($1::bigint, $2::int, 0)::text", _decoder.decode
)


class History(NamedTuple):
    """Some of an invoice's events, in order, and whether there are more."""

    events: list[Event]
    has_more: bool


def read_history(connection: Connection, uid: UUID, after: int, most: int, owner: int | None) -> History:
    """Return the events of an invoice and its payments, numbered above `after`, the oldest first.

    Raises:
        NotFound: there is no such invoice.
    """
    page = page_query(
        "SELECT *, @schema@.event_size(data, previous) AS size FROM @schema@.event"
        " WHERE subject = i.id AND seq > %(after)s ORDER BY subject, seq LIMIT %(most)s + 1",
        "seq",
        "seq, type, data, previous, name",
    )
    rows = connection.execute(
        f"SELECT e.* FROM @schema@.invoices i LEFT JOIN LATERAL ({page}) e ON true"  # noqa: S608
        f" WHERE uid = %(uid)s AND {OWNED} ORDER BY e.seq".encode(),
        {"uid": uid, "after": after, "most": most, "owner": owner, "page_bytes": PAGE_BYTES},
    ).fetchall()
    if not rows:
        raise NotFound("Invoice not found")
    found = [row for row in rows if row[0] is not None]
    events = [
        Event(seq, type_, (), data, previous or NOTHING, name=name)
        for seq, type_, data, previous, name, _ in found
    ]
    return History(events, has_more=bool(found) and found[-1][-1] > len(found))


def trim_events(connection: Connection, age_seconds: float, most: int) -> int:
    """Delete events older than that, the oldest first, at most `most`; return how many were."""
    ((trimmed,),) = connection.execute(
        "SELECT @schema@.trim_events(make_interval(secs => %s), %s::int)", (age_seconds, most)
    )
    return int(trimmed)
