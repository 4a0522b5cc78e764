"""Every SQL statement about webhooks: the queue of deliveries, and the accounts' secrets.

`number_events` of the schema fills the queue, in the transaction that numbers an event. What is delivered
leaves it for the history, a table of its own. What failed for good stays until it is retried by hand, or for
as long as the event log is kept. What another database has queued is held likewise: this is a copy of it.
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple

import psycopg

from trio_ws.database.queries import Connection
from trio_ws.errors import NotFound
from trio_ws.topics import NOTHING, Event

ACTIVE_SECRETS = 2  # of an account, the newest
EACH = 4  # POSTs at a time to an account's endpoint, by all processes together, once one succeeded there
PAUSE_SECONDS = (2.0, 3600.0)  # before the second attempt at most, and before any
COUNTED = 100_000  # of what waits, at most: some 20 ms
RETRIED_AT_ONCE = 500  # deliveries, in a statement of some 100 ms; as many are released or held


class Delivery(NamedTuple):
    """An event on its way, claimed by this process.

    Attributes:
        id: What the receiver knows it by, whatever the number of its event.
        event: What is sent.
        account_id: Whose it is.
        url: Where it goes.
        attempts: How many there have been, this one included.
        is_failing: Whether the endpoint's last attempt failed.
        secrets: What signs it, the newest first.
    """

    id: str
    event: Event
    account_id: int
    url: str
    attempts: int
    is_failing: bool
    secrets: tuple[str, ...]


class Claim(NamedTuple):
    """What a process may send now.

    Attributes:
        deliveries: It is nobody else's, until their leases end.
        has_more: Whether there are new ones that the claim has not seen yet.
    """

    deliveries: list[Delivery]
    has_more: bool


class Figures(NamedTuple):
    """How the queue is. Counts end at `COUNTED`.

    Attributes:
        waiting: How many deliveries are neither delivered, failed nor held.
        held: How many another database has queued.
        dead: How many endpoints are.
        oldest_seconds: How long the oldest of those that wait does.
    """

    waiting: int
    held: int
    dead: int
    oldest_seconds: float = 0.0


class Result(enum.StrEnum):
    """What came of an attempt, or that none was made."""

    DELIVERED = "delivered"
    FAILED = "failed"
    GONE = "gone"  # for good, at the receiver's word
    RELEASED = "released"


class Outcome(NamedTuple):
    """What came of a delivery that was claimed.

    Attributes:
        delivery: As it was claimed. Where it failed and another attempt has begun since, nothing changes.
        result: What came of it.
        error: Why it failed, in a few words.
        chance: From 0 to 1: which part of the longest pause comes before the next attempt.
        status: The answer's; None: there was none.
        wait_seconds: The least pause, for this delivery and its endpoint, if it failed.
    """

    delivery: Delivery
    result: Result
    error: str | None = None
    chance: float = 1.0
    status: int | None = None
    wait_seconds: float = 0.0


class Change(NamedTuple):
    """What has changed with an outcome, of which somebody may want to know.

    Attributes:
        id: The delivery's.
        account_id: Whose it is.
        endpoint: Where it goes.
        change: "failed": it was tried for long enough. "dead", "alive": its endpoint is.
    """

    id: str
    account_id: int
    endpoint: str
    change: str


def claim(connection: Connection, most: int, lease_seconds: float, held: Sequence[Delivery]) -> Claim:
    """Take what is due: nobody else does until the lease is over.

    Of an invoice it is only the oldest that is left, and of an account's endpoint at most `EACH` at a time.
    Each account has its turn, and each of its endpoints.

    Args:
        connection: The database's.
        most: How many this process sends at a time.
        lease_seconds: How long it holds them.
        held: What this process has claimed and not settled.
    """
    rows = connection.execute(
        "SELECT id, seq, type, data, previous, event_name, account_id, url, attempts, is_failing,"
        " ARRAY(SELECT secret FROM @schema@.webhook_secrets s WHERE s.account_id = d.account_id"
        " ORDER BY id DESC LIMIT %s)"
        " FROM @schema@.claim_webhooks(%s::int, %s::int, make_interval(secs => %s),"
        " %s::bigint[], %s::bool[]) d ORDER BY seq",
        (
            *(ACTIVE_SECRETS, most, EACH, lease_seconds),
            [delivery.account_id for delivery in held],
            [delivery.is_failing for delivery in held],
        ),
    )
    deliveries = [
        Delivery(
            id_,
            Event(seq, type_, (), data, previous or NOTHING, name=name),
            *(account_id, url, attempts, is_failing, tuple(secrets)),
        )
        for id_, seq, type_, data, previous, name, account_id, url, attempts, is_failing, secrets in rows
    ]
    try:
        new = "SELECT EXISTS (SELECT FROM @schema@.webhook_deliveries WHERE due_at = '-infinity')"
        ((has_more,),) = connection.execute(new)
    except psycopg.Error:  # what was claimed is ours nevertheless, for the time of its lease
        has_more = True
    return Claim(deliveries, has_more)


def figures(connection: Connection) -> Figures:
    """Return how many wait or are held, since when, and how many endpoints are dead."""
    (counts,) = connection.execute(
        "SELECT w.count, (SELECT count(*) FROM"
        " (SELECT FROM @schema@.webhook_deliveries WHERE is_held LIMIT %(counted)s) h),"
        " (SELECT count(*) FROM (SELECT FROM @schema@.webhook_endpoints"
        " WHERE failing_since IS NOT NULL AND paused_until IS NOT NULL LIMIT %(counted)s) e),"
        " coalesce(greatest(0, extract(epoch FROM clock_timestamp() - w.oldest)), 0)::float8"
        " FROM (SELECT count(*), min(since) AS oldest FROM"
        " (SELECT since FROM @schema@.webhook_deliveries WHERE failed_at IS NULL LIMIT %(counted)s) w) w",
        {"counted": COUNTED},
    )
    return Figures(*counts)


def hold(connection: Connection, most: int) -> int:
    """Hold what another database has queued, at most `most`, and return how many."""
    ((held,),) = connection.execute("SELECT @schema@.hold_webhooks(%s::int, %s::int)", (most, EACH))
    return int(held)


def release(connection: Connection) -> int:
    """Have what another database has queued be this one's: what is held is due, with all its time again.

    Returns:
        How many there were.
    """
    released: int = 0
    while True:
        ((some,),) = connection.execute("SELECT @schema@.release_webhooks(%s::int)", (RETRIED_AT_ONCE,))
        released += some
        if some < RETRIED_AT_ONCE:
            return released


def settle(
    connection: Connection,
    outcomes: Sequence[Outcome],
    keep_seconds: float,
    has_history: bool = False,  # noqa: FBT001, FBT002 - the database is given no names
) -> list[Change]:
    """Note what came of deliveries.

    What was delivered is done, and its invoice's next one is due. What failed is due again after a pause, or
    failed for good where it has been tried for `keep_seconds`, or is gone; then the next one is due, too.

    Args:
        connection: The database's.
        outcomes: What came of them.
        keep_seconds: How long one is tried.
        has_history: Whether what was delivered is remembered.
    """
    columns = zip(
        *(
            (delivery.id, delivery.attempts, result.value, error, chance, status, wait_seconds)
            for delivery, result, error, chance, status, wait_seconds in outcomes
        ),
        strict=True,
    )
    rows = connection.execute(
        "SELECT id, account_id, endpoint, change FROM @schema@.settle_webhooks(%s::text[], %s::int[],"
        " %s::text[], %s::text[], %s::float8[], %s::int[], %s::float8[], make_interval(secs => %s),"
        " make_interval(secs => %s), make_interval(secs => %s), %s::int, %s::bool)",
        (*map(list, columns), *PAUSE_SECONDS, keep_seconds, EACH, has_history),
    )
    return [Change(*row) for row in rows]


def repair(connection: Connection, after: str | None, most: int) -> str | None:
    """Have deliveries that nothing would ever claim be as new.

    Such are left by what changes the queue beside its functions: a person at psql, or a server of a version
    that an upgrade replaces.

    Args:
        connection: The database's.
        after: The last invoice that was looked at; None: begin with the first.
        most: How many invoices to look at.

    Returns:
        Where to go on; None: that was the last one.
    """
    ((last,),) = connection.execute("SELECT @schema@.repair_webhooks(%s::text, %s::int)", (after, most))
    return None if last is None else str(last)


def trim(connection: Connection, age_seconds: float, most: int) -> int:
    """Forget deliveries that failed or were held longer ago than that, and endpoints that fail for longer.

    Endpoints that have a delivery stay.

    Returns:
        How many deliveries or endpoints, whichever were more; `most` where there may be more of them.
    """
    ((trimmed,),) = connection.execute(
        "SELECT @schema@.trim_webhooks(make_interval(secs => %s), %s::int)", (age_seconds, most)
    )
    return int(trimmed)


def trim_history(connection: Connection, age_seconds: float, most: int) -> int:
    """Forget what was delivered longer ago than that, at most `most`, and return how many."""
    ((trimmed,),) = connection.execute(
        "SELECT @schema@.trim_webhook_history(make_interval(secs => %s), %s::int)", (age_seconds, most)
    )
    return int(trimmed)


def retry(connection: Connection, id_: str | None) -> int:
    """Have a delivery be due now, with all its time again if it failed or was delivered; return how many are.

    Its endpoint is no longer dead, and waits no longer. Of an invoice, the oldest that is left goes first in
    any case. What is held stays so.

    Args:
        connection: The database's.
        id_: Which one; None: all that failed.

    Raises:
        NotFound: it is not there, is held, or was delivered by another database.
    """
    ((now,),) = connection.execute("SELECT clock_timestamp()")
    retried: int = 0
    while True:
        ((some,),) = connection.execute(
            "SELECT @schema@.retry_webhooks(%s::text, %s::timestamptz, %s::int)",
            (id_, now, RETRIED_AT_ONCE),
        )
        if id_ is not None and not some:
            raise NotFound("Webhook not found, or held")
        retried += some
        if id_ is not None or some < RETRIED_AT_ONCE:
            return retried


def retry_all(connection: Connection) -> int:
    """Do the same for all that failed, or wait for a time or an endpoint; return how many these are."""
    last, retried = "", 0
    while last is not None:
        ((some, last),) = connection.execute(
            "SELECT retried, last FROM @schema@.retry_all_webhooks(%s::text, %s::int)",
            (last, RETRIED_AT_ONCE),
        )
        retried += some
    return retried


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
