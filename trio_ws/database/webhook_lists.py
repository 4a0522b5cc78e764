"""What people ask about webhooks: lists of them and of endpoints that fail, and one with what is sent.

A command reads these, never the server: a list may be long, and sorts what it shows.
"""

from collections.abc import Sequence
from typing import NamedTuple

from trio_ws.database.queries import Connection, Row
from trio_ws.errors import NotFound
from trio_ws.topics import NOTHING, Event

QUEUED = ("waiting", "failed", "held")  # states of deliveries
STATES = (*QUEUED, "delivered")


class Listed(NamedTuple):
    """A delivery, without what is sent.

    Attributes:
        id: What the receiver knows it by.
        account_id: Whose it is.
        invoice: The uid of its invoice.
        type: Its event's.
        endpoint: Where it goes, without what may be secret of the URL.
        attempts: How many there have been since it was queued or retried.
        state: One of `STATES`.
        is_behind: Whether it waits for an older one of its invoice.
        status: The last answer's; None: there was none.
        error: Why the last attempt failed.
        since: When it was queued, retried or released.
        next_attempt_at: When one may be made, if it waits for nothing but its time.
        ended_at: When it failed, was held or was delivered.
    """

    id: str
    account_id: int
    invoice: str
    type: str
    endpoint: str
    attempts: int
    state: str
    is_behind: bool
    status: int | None
    error: str | None
    since: str
    next_attempt_at: str | None
    ended_at: str | None

    @property
    def word(self) -> str:
        """Its state; of one that waits, whether it does for an older one, or for its time and place."""
        return self.state if self.state != "waiting" else "waits" if self.is_behind else "due"


_QUEUED = (
    "SELECT d.id, d.account_id, d.invoice, d.type, d.endpoint, d.attempts,"
    " CASE WHEN d.is_held OR d.failed_at IS NULL AND d.origin <> here THEN 'held'"
    " WHEN d.failed_at IS NOT NULL THEN 'failed' ELSE 'waiting' END AS state,"
    " d.failed_at IS NULL AND d.due_at IS NULL, d.status, d.error, @schema@.wire_time(d.since),"
    " CASE WHEN d.due_at IS NOT NULL"
    " THEN @schema@.wire_time(greatest(d.due_at, d.since, e.paused_until, e.wait_until)) END,"
    " @schema@.wire_time(d.failed_at)"
)
_FROM_QUEUE = (
    " FROM @schema@.this_database() here, @schema@.webhook_deliveries d"
    " LEFT JOIN @schema@.webhook_endpoints e ON e.account_id = d.account_id AND e.endpoint = d.endpoint"
)
_DELIVERED = (
    "SELECT d.id, d.account_id, d.invoice, d.type, d.endpoint, d.attempts, 'delivered', false, d.status,"
    " NULL, @schema@.wire_time(d.since), NULL, @schema@.wire_time(d.delivered_at)"
)
_SENT = ", d.seq, d.event_name, d.url, d.data, d.previous"


def list_deliveries(
    connection: Connection, account_id: int | None, states: Sequence[str], limit: int | None = None
) -> list[Listed]:
    """Return deliveries in some states: the oldest first, then those delivered, the latest first.

    Args:
        connection: The database's.
        account_id: Whose; None: everybody's.
        states: Some of `STATES`.
        limit: How many of the queue, and how many of those delivered, at most; None: all.
    """
    wanted = {"account": account_id, "states": list(states), "limit": limit}
    rows = connection.execute(
        f"SELECT * FROM ({_QUEUED}, d.seq {_FROM_QUEUE}"  # noqa: S608 - constants
        " WHERE %(account)s::bigint IS NULL OR d.account_id = %(account)s) d"
        " WHERE state = ANY (%(states)s) ORDER BY seq LIMIT %(limit)s",
        wanted,
    ).fetchall()
    found = [Listed(*row[:-1]) for row in rows]
    if "delivered" in states:
        # Two statements: one plan for both would not use the index by account.
        whose = "" if account_id is None else "WHERE d.account_id = %(account)s"
        found += map(
            Listed._make,
            connection.execute(
                f"{_DELIVERED} FROM @schema@.webhook_history d {whose}"
                " ORDER BY d.delivered_at DESC LIMIT %(limit)s",
                wanted,
            ),
        )
    return found


def find_delivery(connection: Connection, id_: str) -> tuple[Listed, str, Event]:
    """Return a delivery, its URL, and its event.

    Raises:
        NotFound: it is not there, or is forgotten.
    """
    queued = f"{_QUEUED}{_SENT}{_FROM_QUEUE} WHERE d.id = %s"
    delivered = f"{_DELIVERED}{_SENT} FROM @schema@.webhook_history d WHERE d.id = %s"
    for statement in (queued, delivered, queued):  # the third time: it was retried between the first two
        for row in connection.execute(statement, (id_,)):
            *listed, seq, name, url, data, previous = row
            found = Listed(*listed)
            return found, url, Event(seq, found.type, (), data, previous or NOTHING, name=name)
    raise NotFound("Delivery not found")


def list_failing_endpoints(connection: Connection, account_id: int | None) -> list[Row]:
    """Return endpoints whose last attempt failed, of the longest first.

    Each is its account, endpoint, whether it is dead, since when its attempts fail, when the next attempt
    may be made, or None where nothing waits, and the last error.
    """
    return connection.execute(
        "SELECT account_id, endpoint, paused_until IS NOT NULL, @schema@.wire_time(failing_since),"
        " @schema@.wire_time(due_at), error FROM @schema@.webhook_endpoints WHERE failing_since IS NOT NULL"
        " AND (%(account)s::bigint IS NULL OR account_id = %(account)s)"
        " ORDER BY failing_since, account_id, endpoint",
        {"account": account_id},
    ).fetchall()
