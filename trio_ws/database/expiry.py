"""Every SQL statement about invoices that have expired."""

import logging
import time
from collections.abc import Sequence

import psycopg

from trio_ws.database.sessions import Connection

logger = logging.getLogger(__name__)


def expire_invoices(connection: Connection, most: int) -> int:
    """Note that invoices have expired, the longest overdue first, at most `most`.

    What another process is at is left to it, and so is what is being paid. An invoice that can't be changed,
    because another program's trigger refuses, delays or undoes it, stops no other: if all together fail, each
    is tried alone, and those that fail are tried again later, with growing pauses.

    Returns:
        How many have expired or were put off.
    """
    try:
        with connection.transaction():
            _limit(connection, EXPIRE_TOGETHER_TIMEOUT)
            # Never prepared: a plan from when the table was small would read all of it, later.
            tried = connection.execute(_EXPIRE_OVERDUE, {"most": most}, prepare=False).fetchall()
    except psycopg.Error:
        if connection.closed:
            raise
        return _expire_each(connection, most)
    _put_off_expiry(connection, [invoice_id for invoice_id, has_expired in tried if not has_expired])
    return len(tried)


def _expire_each(connection: Connection, most: int) -> int:
    """Expire them one after the other. A server that can't write can't put one off either, and says so."""
    deadline = time.monotonic() + EXPIRE_ALONE_SECONDS
    overdue = connection.execute(f"SELECT ARRAY({_OVERDUE})", {"most": most}, prepare=False)
    ((ids,),) = overdue.fetchall()
    for tried, invoice_id in enumerate(ids):
        if time.monotonic() > deadline:
            return tried  # the next call goes on from here
        try:
            with connection.transaction():
                _limit(connection, EXPIRE_ALONE_TIMEOUT)
                has_expired = connection.execute(_EXPIRE_ONE, (invoice_id,)).fetchall() == [("expired",)]
        except psycopg.Error as error:
            if connection.closed:
                raise
            _put_off_expiry(connection, [invoice_id], error)
        else:
            if not has_expired:
                _put_off_expiry(connection, [invoice_id])
    return len(ids)


# All of these together stay below `statement_seconds`, or the gateway would think that PostgreSQL is silent.
EXPIRE_TOGETHER_TIMEOUT = "1s"  # for 500 rows, which take 0.1 s
EXPIRE_ALONE_TIMEOUT = "100ms"
EXPIRE_ALONE_SECONDS = 0.5
EXPIRE_AGAIN_SECONDS = (5, 3600)  # the first pause and the longest; doubled each time

# now() is the same for the whole statement, so that the index is read up to it and no further. With
# clock_timestamp(), which is another at each row, all unpaid invoices were read.
_OVERDUE = (
    "SELECT id FROM @schema@.invoices WHERE status = 'unpaid' AND expires_at <= now()"
    " AND id NOT IN (SELECT invoice_id FROM @schema@.expiry_failures WHERE retry_at > now())"
    " ORDER BY expires_at LIMIT %(most)s FOR UPDATE SKIP LOCKED"
)
# By an array, which is read by the index, whatever the planner thinks of the size of the table.
_EXPIRE_OVERDUE = (
    f"WITH overdue AS MATERIALIZED (SELECT ARRAY({_OVERDUE}) AS ids),"  # noqa: S608
    " changed AS (UPDATE @schema@.invoices SET status = 'expired'"
    " WHERE id = ANY ((SELECT ids FROM overdue)::bigint[]) RETURNING id, status),"
    " forgotten AS (DELETE FROM @schema@.expiry_failures"
    " WHERE invoice_id IN (SELECT id FROM changed WHERE status = 'expired'))"
    " SELECT tried.id, changed.status IS NOT DISTINCT FROM 'expired'"
    " FROM overdue CROSS JOIN unnest(ids) tried (id) LEFT JOIN changed ON changed.id = tried.id"
)
_EXPIRE_ONE = (
    "UPDATE @schema@.invoices SET status = 'expired'"
    " WHERE id = %s AND status = 'unpaid' AND expires_at <= now() RETURNING status"
)
# What has been paid meanwhile needs no second try.
_PUT_OFF_EXPIRY = (
    "WITH forgotten AS (DELETE FROM @schema@.expiry_failures WHERE retry_at < now() - interval '1 day')"
    " INSERT INTO @schema@.expiry_failures AS known (invoice_id, retry_at, error)"
    " SELECT id, now() + make_interval(secs => %(first)s), %(error)s FROM @schema@.invoices"
    " WHERE id = ANY (%(ids)s) AND status = 'unpaid'"
    " ON CONFLICT (invoice_id) DO UPDATE SET attempts = known.attempts + 1, error = excluded.error,"
    " retry_at = now()"
    " + make_interval(secs => least(%(first)s * 2.0 ^ least(known.attempts, 30), %(longest)s))"
    " RETURNING invoice_id, round(extract(epoch FROM retry_at - now()))::int"
)


def _put_off_expiry(connection: Connection, ids: Sequence[int], error: psycopg.Error | None = None) -> None:
    if not ids:
        return
    first, longest = EXPIRE_AGAIN_SECONDS
    what = "a trigger keeps it as it was" if error is None else str(error)[:1000]
    put_off = connection.execute(
        _PUT_OFF_EXPIRY, {"ids": list(ids), "first": first, "longest": longest, "error": what}
    ).fetchall()
    if put_off:
        (invoice_id, seconds), others = put_off[0], len(put_off) - 1
        # PostgreSQL's words may quote the row, so that only the table has them.
        logger.warning(
            "invoice %s%s can't expire (%s; see expiry_failures): again in %s s",
            invoice_id,
            f" and {others} others" if others else "",
            error.sqlstate if error else what,
            seconds,
        )


def _limit(connection: Connection, timeout: str) -> None:
    """Bound each statement of this transaction, and its wait for locks."""
    connection.execute(
        "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true)",
        (timeout, timeout),
    )
