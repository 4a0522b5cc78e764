"""Every SQL statement about webhooks: the queue of deliveries, and the accounts' secrets.

`number_events` of the schema fills the queue, in the transaction that numbers an event. What is delivered is
deleted; what was given up stays until it is retried by hand or as old as the event log is kept.
"""

from typing import NamedTuple

from trio_ws.database.queries import Connection, Row
from trio_ws.errors import NotFound
from trio_ws.messages import Event

ACTIVE_SECRETS = 2  # of an account, the newest


class Delivery(NamedTuple):
    """An event on its way, claimed by this process.

    Attributes:
        event: What is told; its `seq` names the delivery too.
        epoch: The event log's, when it was queued.
        account_id: Whose it is.
        url: Where it goes.
        attempts: How many there have been, this one included.
        secrets: What signs it, the newest first.
    """

    event: Event
    epoch: str
    account_id: int
    url: str
    attempts: int
    secrets: tuple[str, ...]


def claim(connection: Connection, most: int, each: int, lease_seconds: float) -> list[Delivery]:
    """Take what is due, at most `most`: nobody else does until the lease is over.

    Of an invoice only the oldest that is not finished, and of an endpoint at most `each` at a time.
    """
    rows = connection.execute(
        "SELECT seq, type, data, previous, epoch, account_id, url, attempts,"
        " ARRAY(SELECT secret FROM @schema@.webhook_secrets s WHERE s.account_id = d.account_id"
        " ORDER BY id DESC LIMIT %s) FROM @schema@.claim_webhooks(%s::int, %s::int,"
        " make_interval(secs => %s)) d ORDER BY seq",
        (ACTIVE_SECRETS, most, each, lease_seconds),
    )
    return [
        Delivery(Event(seq, type_, (), data, previous), epoch, account_id, url, attempts, tuple(secrets))
        for seq, type_, data, previous, epoch, account_id, url, attempts, secrets in rows
    ]


def finish(connection: Connection, seq: int) -> None:
    """Note that it was delivered; the invoice's next one is due."""
    connection.execute(
        "WITH done AS (DELETE FROM @schema@.webhook_deliveries WHERE seq = %s RETURNING invoice)"
        " UPDATE @schema@.webhook_deliveries d SET due_at = clock_timestamp() FROM done"
        " WHERE d.invoice = done.invoice AND d.failed_at IS NULL AND d.seq <> %s",
        (seq, seq),
    )


def put_off(
    connection: Connection, delivery: Delivery, error: str, pause_seconds: float, most_seconds: float
) -> bool:
    """Note that an attempt failed, and return whether it was the last: then the invoice's next one is due.

    Args:
        connection: The database's.
        delivery: As it was claimed; where there has been another attempt since, nothing changes.
        error: What happened, in a few words.
        pause_seconds: How long to wait for the next one.
        most_seconds: How long there may be attempts, from the delivery's beginning.
    """
    # The invoice's others wait with it, so that a claim does not look at them in vain.
    put_off = connection.execute(
        "WITH tried AS (UPDATE @schema@.webhook_deliveries SET leased_until = NULL, error = %(error)s,"
        " failed_at = CASE WHEN clock_timestamp() >= since + make_interval(secs => %(most)s)"
        " THEN clock_timestamp() END,"
        " due_at = least(clock_timestamp() + make_interval(secs => %(pause)s),"
        " since + make_interval(secs => %(most)s))"
        " WHERE seq = %(seq)s AND attempts = %(attempts)s AND failed_at IS NULL"
        " RETURNING seq, invoice, due_at, failed_at),"
        " others AS (UPDATE @schema@.webhook_deliveries d SET due_at = coalesce(tried.failed_at,"
        " tried.due_at)"
        " FROM tried WHERE d.invoice = tried.invoice AND d.failed_at IS NULL AND d.seq <> tried.seq)"
        " SELECT failed_at FROM tried",
        {
            "seq": delivery.event.seq,
            "attempts": delivery.attempts,
            "error": error,
            "pause": pause_seconds,
            "most": most_seconds,
        },
    )
    row = put_off.fetchone()
    return row is not None and row[0] is not None


def release(connection: Connection, seqs: list[int]) -> None:
    """Give back what was claimed and neither delivered nor put off."""
    connection.execute(
        "UPDATE @schema@.webhook_deliveries SET leased_until = NULL WHERE seq = ANY(%s)", (seqs,)
    )


def trim(connection: Connection, age_seconds: float) -> None:
    """Forget what was given up longer ago than that."""
    connection.execute(
        "DELETE FROM @schema@.webhook_deliveries WHERE failed_at < clock_timestamp() -"
        " make_interval(secs => %s)",
        (age_seconds,),
    )


def retry(connection: Connection, seq: int | None) -> int:
    """Have a delivery be due now, also one that was given up, whose time begins anew; return how many are.

    Args:
        connection: The database's.
        seq: Which one; None: all that were given up.

    Raises:
        NotFound: it is not there, or was delivered.
    """
    due = connection.execute(
        "UPDATE @schema@.webhook_deliveries SET due_at = clock_timestamp(), failed_at = NULL,"
        " since = CASE WHEN failed_at IS NULL THEN since ELSE clock_timestamp() END"
        " WHERE CASE WHEN %(seq)s::bigint IS NULL THEN failed_at IS NOT NULL ELSE seq = %(seq)s END",
        {"seq": seq},
    )
    if seq is not None and not due.rowcount:
        raise NotFound("Delivery not found, or delivered")
    return due.rowcount


def list_deliveries(connection: Connection, account_id: int | None, *, failed: bool) -> list[Row]:
    """Return deliveries that wait or were given up, the oldest first.

    Each is its number, account, invoice, type, endpoint, attempts, when it was given up or else is due,
    whether it was given up, and the last error.
    """
    return connection.execute(
        "SELECT seq, account_id, invoice, type, endpoint, attempts,"
        " @schema@.wire_time(coalesce(failed_at, due_at)), failed_at IS NOT NULL, error FROM"
        " @schema@.webhook_deliveries"
        " WHERE (%(account)s::bigint IS NULL OR account_id = %(account)s)"
        " AND (failed_at IS NOT NULL OR NOT %(failed)s) ORDER BY seq",
        {"account": account_id, "failed": failed},
    ).fetchall()


def active_secrets(connection: Connection, account_id: int) -> list[str]:
    """Return what signs an account's webhooks, the newest first.

    Raises:
        NotFound: the account does not exist.
    """
    found = connection.execute(
        "SELECT secret FROM @schema@.webhook_secrets WHERE account_id = %s ORDER BY id DESC LIMIT %s",
        (account_id, ACTIVE_SECRETS),
    ).fetchall()
    if not found:
        raise NotFound("Account not found")
    return [secret for (secret,) in found]


def add_secret(connection: Connection, account_id: int) -> None:
    """Give an account a new secret; of those it has, only the newest stays active.

    Raises:
        NotFound: the account does not exist.
    """
    added = connection.execute(
        "INSERT INTO @schema@.webhook_secrets (account_id) SELECT id FROM @schema@.accounts WHERE id = %s",
        (account_id,),
    )
    if not added.rowcount:
        raise NotFound("Account not found")
