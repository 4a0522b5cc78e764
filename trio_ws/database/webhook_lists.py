"""What people ask about webhooks: lists of them and of endpoints that fail, and one with what is sent.

Commands read whole lists, which sorts what they show; the server reads pages, each by an index.
"""

from collections.abc import Sequence
from typing import NamedTuple

from trio_ws.database import webhooks
from trio_ws.database.pages import OWNED
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


class Wanted(NamedTuple):
    """Which deliveries a page has; None: any.

    Args:
        account_id: Whose.
        state: waiting, failed or delivered; None: what is queued, or with an invoice all.
        invoice: Of the invoice with that uid.
        before: Only those that come after this one in the list, as the page before says.
        most: Maximum number.
    """

    account_id: int | None = None
    state: str | None = None
    invoice: str | None = None
    before: "Place | None" = None
    most: int = 50


class Place(NamedTuple):
    """Where a delivery is in a list, which has the newest first.

    Attributes:
        moment: When it failed or was delivered, in µs of Unix time; 0 in lists by `seq` alone.
        seq: Its event's number.
    """

    moment: int
    seq: int


FIRST = Place(253_402_300_800_000_000, 2**62)  # before which all is: the end of the year 9999


class ListedPage(NamedTuple):
    """Some deliveries, and the place after which the next page begins; None: there is none."""

    deliveries: list[Listed]
    next: Place | None


class _Source(NamedTuple):
    """Rows, in the order of an index.

    Attributes:
        columns: As `_QUEUED` and `_DELIVERED`.
        table: Where they are, as `d`.
        joins: What the columns need besides.
        by: When each was, where the list is ordered by that; None: by `seq` alone.
        filter: Which of them are wanted.
    """

    columns: str
    table: str
    joins: str
    by: str | None = None
    filter: str = "true"


SCAN = 5_000  # rows that a page looks through for its own, at most: some 10 ms
_ENDPOINTS = (
    " CROSS JOIN @schema@.this_database() here LEFT JOIN @schema@.webhook_endpoints e"
    " ON e.account_id = d.account_id AND e.endpoint = d.endpoint"
)
_IN_QUEUE = _Source(_QUEUED, "@schema@.webhook_deliveries", _ENDPOINTS)
_IN_HISTORY = _Source(_DELIVERED, "@schema@.webhook_history", "", "d.delivered_at")
_SOURCES = {
    None: _IN_QUEUE,
    "waiting": _IN_QUEUE._replace(filter="d.failed_at IS NULL"),
    "failed": _IN_QUEUE._replace(by="d.failed_at", filter="NOT d.is_held"),
    "delivered": _IN_HISTORY,
}


def list_page(connection: Connection, wanted: Wanted) -> ListedPage:
    """Return a page of deliveries, the newest first.

    One statement, so that the page and the end of what it looked through are of one snapshot: of two, none
    would know which rows have come and gone in between.
    """
    if wanted.invoice is not None:
        return _page_of_invoice(connection, wanted)
    source = _SOURCES[wanted.state]
    before = wanted.before or FIRST
    asked = {
        "account": wanted.account_id,
        "moment": before.moment,
        "seq": before.seq,
        "scan": SCAN,
        "most": wanted.most,
    }
    whose = "true" if wanted.account_id is None else "d.account_id = %(account)s"
    order, moment, later = "d.seq DESC", "0::bigint", "d.seq < %(seq)s"
    if source.by is not None:
        order = f"{source.by} DESC, d.seq DESC"
        moment = f"(extract(epoch FROM {source.by}) * 1000000)::bigint"
        later = (
            f"{source.by} IS NOT NULL AND ({source.by}, d.seq)"
            " < ('epoch'::timestamptz + %(moment)s * interval '1 microsecond', %(seq)s)"
        )
    scanned = f"SELECT d.* FROM {source.table} d WHERE {whose} AND {later} ORDER BY {order}"  # noqa: S608
    rows = connection.execute(
        f"WITH page AS MATERIALIZED ({source.columns}, {moment} AS moment, d.seq"  # noqa: S608 - constants
        f" FROM (SELECT * FROM ({scanned} LIMIT %(scan)s) d WHERE {source.filter}"
        f" ORDER BY {order} LIMIT %(most)s + 1) d{source.joins}), looked_through AS MATERIALIZED ("
        f"SELECT {moment}, d.seq FROM ({scanned} OFFSET %(scan)s - 1 LIMIT 1) d"
        " WHERE (SELECT count(*) FROM page) <= %(most)s)"
        " SELECT looked_through.*, page.* FROM (SELECT) one LEFT JOIN page ON true"
        " LEFT JOIN looked_through ON true ORDER BY page.moment DESC, page.seq DESC".encode(),
        asked,
    ).fetchall()
    end = rows[0][:2]
    found = [row[2:] for row in rows if row[-1] is not None]
    if len(found) > wanted.most:
        end = found[wanted.most - 1][-2:]
    page = [Listed(*row[:-2]) for row in found[: wanted.most]]
    return ListedPage(page, None if end[1] is None else Place(*end))


def _page_of_invoice(connection: Connection, wanted: Wanted) -> ListedPage:
    """Return a page of an invoice's deliveries: there are as many as it has events."""
    asked = {
        "invoice": wanted.invoice,
        "owner": wanted.account_id,
        "state": wanted.state,
        "seq": (wanted.before or FIRST).seq,
        "most": wanted.most,
    }
    of_it = f"d.invoice = %(invoice)s AND d.seq < %(seq)s AND {OWNED.replace('account_id', 'd.account_id')}"
    parts = [
        f"{_QUEUED}, d.seq{_FROM_QUEUE} WHERE {of_it} AND d.failed_at IS NULL",
        f"{_QUEUED}, d.seq{_FROM_QUEUE} WHERE {of_it} AND d.failed_at IS NOT NULL",
        f"{_DELIVERED}, d.seq FROM @schema@.webhook_history d WHERE {of_it}",
    ]
    rows = connection.execute(
        f"SELECT * FROM ({' UNION ALL '.join(parts)}) d"  # noqa: S608
        " WHERE %(state)s::text IS NULL OR state = %(state)s ORDER BY seq DESC LIMIT %(most)s + 1".encode(),
        asked,
    ).fetchall()
    page = [Listed(*row[:-1]) for row in rows[: wanted.most]]
    return ListedPage(page, Place(0, rows[wanted.most - 1][-1]) if len(rows) > wanted.most else None)


def find_delivery(connection: Connection, id_: str, owner: int | None = None) -> tuple[Listed, str, Event]:
    """Return a delivery, its URL, and its event.

    Args:
        connection: The database's.
        id_: Which one.
        owner: Only if it is this account's; None: anybody's.

    Raises:
        NotFound: it is not there, or is forgotten.
    """
    whose = OWNED.replace("account_id", "d.account_id")
    queued = f"{_QUEUED}{_SENT}{_FROM_QUEUE} WHERE d.id = %(id)s AND {whose}"
    delivered = f"{_DELIVERED}{_SENT} FROM @schema@.webhook_history d WHERE d.id = %(id)s AND {whose}"
    for statement in (queued, delivered, queued):  # the third time: it was retried between the first two
        for row in connection.execute(statement, {"id": id_, "owner": owner}):
            *listed, seq, name, url, data, previous = row
            found = Listed(*listed)
            return found, url, Event(seq, found.type, (), data, previous or NOTHING, name=name)
    raise NotFound("Webhook not found")


def retry_delivery(connection: Connection, id_: str, owner: int | None) -> Listed:
    """Have a delivery be due now, as `webhooks.retry` does, if it is that account's; return how it is then.

    Raises:
        NotFound: it is not there, is held, or was delivered by another database.
    """
    find_delivery(connection, id_, owner)
    webhooks.retry(connection, id_)
    listed, _, _ = find_delivery(connection, id_, owner)
    return listed


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
