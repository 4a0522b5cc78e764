"""The SQL statements about invoices and prices, each a blocking function that a database thread runs.

The event log, tokens, expiry and webhooks have rooms of their own beside this one. Each statement takes a
connection in autocommit mode first, so that it costs a single round trip and is its own transaction. Rows
leave PostgreSQL as the JSON that goes on the wire: one definition (`invoice_json` in the schema) serves
replies and events, and Python does not take a row apart to put it together again.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, get_args
from uuid import UUID, uuid4

import msgspec
import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader

from trio_ws.database import sessions, tokens
from trio_ws.database.lanes import Lane
from trio_ws.database.pages import OWNED, Page, json_of, page_of, page_query
from trio_ws.database.sessions import Primary, begin_pooled_session, begin_session
from trio_ws.errors import Conflict, IdempotencyMismatch, NotFound
from trio_ws.messages import CreateInvoice
from trio_ws.messages.fields import MAX_BIGINT, Status
from trio_ws.paging import PAGE_BYTES, PAGE_ITEMS
from trio_ws.topics import Position, Topic, parse_uid

# How long a batch waits for what another program holds, before each of its rows is tried alone.
BATCH_LOCK_TIMEOUT = "250ms"
SEARCHED = 20_000  # invoices that a page of a search looks through: some 20 ms
IDLE_TIMEOUT = "'10s'"  # in a transaction: a hundred times what a busy machine takes between two statements

Row = sessions.Row
Connection = sessions.Connection


class _RawJson(Loader):
    """Hand JSON on as it is, for a message to carry."""

    def load(self, data: Buffer) -> msgspec.Raw:
        return msgspec.Raw(bytes(data))


def prepare_connection(connection: Connection, statement_seconds: float) -> Primary | None:
    """Make a new connection fit for the queries below, none of which may take longer than that.

    Returns:
        The primary that it is on; None: PostgreSQL does not say.
    """
    connection.autocommit = True
    connection.prepare_threshold = 0  # each statement is one of the few below, and runs often
    connection.adapters.register_loader("json", _RawJson)
    timeout = f"{round(statement_seconds * 1000)}"
    return begin_session(
        connection,
        {
            "statement_timeout": timeout,
            "lock_timeout": timeout,
            # What stands still, such as a process that was stopped, must not keep its rows from others.
            "idle_in_transaction_session_timeout": IDLE_TIMEOUT,
            # So that our writes do not NOTIFY: see log_event() in the schema.
            "trio_ws.wakes_itself": "yes",
            # A plan made for a table of a few rows is kept when it has a million. One by an index suits both.
            "enable_seqscan": "off",
            "enable_bitmapscan": "off",
            "enable_sort": "off",
        },
    )


def prepare_pooled_connection(connection: Connection) -> Primary | None:
    """Do the same behind a pooler, such as PgBouncer in transaction mode.

    Each statement may find another session there, so nothing is prepared, and what is set for a session is
    left to its role: the README says what.
    """
    connection.autocommit = True
    connection.prepare_threshold = None
    connection.adapters.register_loader("json", _RawJson)
    return begin_pooled_session(connection)


def create_invoice(connection: Connection, action: CreateInvoice) -> msgspec.Raw:
    """Store a new invoice and return it as INVOICE; for a key that is known, the invoice that there is.

    Of two at once with one key, the second waits for the first one's commit.

    Raises:
        NotFound: the account does not exist.
        IdempotencyMismatch: the key stands for another request.
    """
    created = connection.execute(
        "INSERT INTO @schema@.invoices (account_id, amount, currency, memo, address, webhook_url,"
        " redirect_url, expires_at, idempotency_key, request_hash)"
        " SELECT id, %s, %s, %s, %s, %s, %s, clock_timestamp() + make_interval(secs => %s), %s, %s"
        " FROM @schema@.accounts WHERE id = %s"
        " ON CONFLICT (account_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING"
        " RETURNING @schema@.invoice_json(invoices)",
        (
            *(action.amount, action.currency, action.memo, action.address),
            *(action.webhook_url, action.redirect_url, action.expires_in_seconds),
            *(action.idempotency_key, action.fingerprint(), action.account_id),
        ),
    )
    if row := created.fetchone():
        return json_of(row)
    found = connection.execute(
        "SELECT @schema@.invoice_json(i), request_hash FROM @schema@.invoices i"
        " WHERE account_id = %s AND idempotency_key = %s",
        (action.account_id, action.idempotency_key),
    )
    if not (row := found.fetchone()):
        raise NotFound("Account not found")
    invoice, fingerprint = row
    if fingerprint != action.fingerprint():
        raise IdempotencyMismatch("The idempotency key stands for another request")
    return json_of((invoice,))


def create_invoices(
    connection: Connection, actions: Sequence[tuple[CreateInvoice]]
) -> list[msgspec.Raw | None]:
    """Store new invoices in one transaction, and return each as INVOICE; None: `create_invoice` has to say.

    As where a key is known, an account is not, or one row of all is not to be had.
    """
    uids = {uuid4().hex: action for (action,) in actions}
    columns = zip(
        *(
            (
                *(uid, action.account_id, action.amount, action.currency, action.memo, action.address),
                *(action.webhook_url, action.redirect_url, action.expires_in_seconds),
                *(action.idempotency_key, action.fingerprint()),
            )
            for uid, action in uids.items()
        ),
        strict=True,
    )
    try:
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", (BATCH_LOCK_TIMEOUT,))
            created: dict[str, msgspec.Raw] = dict(
                connection.execute(_CREATE_INVOICES, [list(column) for column in columns]).fetchall()
            )
    except (
        *(psycopg.DataError, psycopg.IntegrityError),
        *(psycopg.errors.LockNotAvailable, psycopg.errors.ProgramLimitExceeded),
    ):
        return [None for _ in actions]
    return [created.get(uid) for uid in uids]


# In the order in which they were asked for, as ids and events are then; of two with one key the first counts.
# Batches that wait for each other's keys give up after BATCH_LOCK_TIMEOUT, which is before PostgreSQL does.
_CREATE_INVOICES = (
    "INSERT INTO @schema@.invoices (uid, account_id, amount, currency, memo, address, webhook_url,"
    " redirect_url, expires_at, idempotency_key, request_hash)"
    " SELECT new.uid, accounts.id, amount, currency, memo, address, webhook_url, redirect_url,"
    " clock_timestamp() + make_interval(secs => expires_in), key, hash"
    " FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[],"
    " %s::text[], %s::float8[], %s::text[], %s::bytea[]) WITH ORDINALITY AS new (uid, account_id, amount,"
    " currency, memo, address, webhook_url, redirect_url, expires_in, key, hash, number)"
    " JOIN @schema@.accounts ON accounts.id = new.account_id"
    " ORDER BY number"
    " ON CONFLICT (account_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING"
    " RETURNING replace(uid::text, '-', ''), @schema@.invoice_json(invoices)"
)


def fetch_invoice(connection: Connection, uid: UUID, owner: int | None) -> msgspec.Raw:
    """Return an invoice as INVOICE.

    Raises:
        NotFound: there is none with that uid.
    """
    found = connection.execute(
        "SELECT @schema@.invoice_json(i) FROM @schema@.invoices i"  # noqa: S608
        f" WHERE uid = %(uid)s AND {OWNED}",
        {"uid": uid, "owner": owner},
    )
    if not (row := found.fetchone()):
        raise NotFound("Invoice not found")
    return json_of(row)


def fetch_invoices(
    connection: Connection, wanted: Sequence[tuple[UUID, int | None]]
) -> list[msgspec.Raw | NotFound]:
    """Return invoices as `fetch_invoice` does, or what it raises."""
    found: dict[int, msgspec.Raw] = dict(
        connection.execute(
            "SELECT number, @schema@.invoice_json(i) FROM unnest(%s::uuid[], %s::bigint[]) WITH ORDINALITY"
            " AS wanted (uid, owner, number) JOIN @schema@.invoices i ON i.uid = wanted.uid"
            " AND (owner IS NULL OR account_id = owner)",
            ([uid.hex for uid, _ in wanted], [owner for _, owner in wanted]),
        ).fetchall()
    )
    missing = NotFound("Invoice not found")
    return [found.get(number, missing) for number in range(1, len(wanted) + 1)]


def change_status(connection: Connection, uid: UUID, status: Status, owner: int | None) -> msgspec.Raw:
    """Change an invoice's status and return it as INVOICE; of many at once, one can.

    Raises:
        NotFound: there is none with that uid.
        Conflict: its status does not allow it, or it has expired, noted or not.
    """
    changed = connection.execute(
        "UPDATE @schema@.invoices SET status = %(status)s"  # noqa: S608
        f" WHERE uid = %(uid)s AND {OWNED} AND @schema@.invoice_may_become(invoices, %(status)s::text)"
        " AND (%(status)s = 'expired' OR status <> 'unpaid'"
        " OR expires_at IS NULL OR expires_at > clock_timestamp())"
        " RETURNING @schema@.invoice_json(invoices)",
        {"uid": uid, "status": status, "owner": owner},
    )
    if row := changed.fetchone():
        return json_of(row)
    found = connection.execute(
        f"SELECT status FROM @schema@.invoices WHERE uid = %(uid)s AND {OWNED}",  # noqa: S608
        {"uid": uid, "owner": owner},
    )
    if not (row := found.fetchone()):
        raise NotFound("Invoice not found")
    raise Conflict(f"The invoice cannot become {status}", f"It is {row[0]}, or has expired")


def set_price(
    connection: Connection, account_id: int, currency: str, base_currency: str, value: Decimal
) -> msgspec.Raw:
    """Store what a currency costs, and return it as PRICE. Its event comes also where it was so already.

    Raises:
        NotFound: the account does not exist.
    """
    changed = connection.execute(
        "INSERT INTO @schema@.prices (account_id, currency, base_currency, value)"
        " SELECT id, %s, %s, %s FROM @schema@.accounts WHERE id = %s"
        " ON CONFLICT (account_id, currency, base_currency)"
        " DO UPDATE SET value = excluded.value, set_at = excluded.set_at"
        " RETURNING @schema@.price_json(prices)",
        (currency, base_currency, value, account_id),
    )
    if not (row := changed.fetchone()):
        raise NotFound("Account not found")
    return json_of(row)


class InvoiceFilter(NamedTuple):
    """Which invoices a list has; None: any.

    Args:
        account_id: Whose.
        address: To be paid there.
        statuses: Standing so.
        before: With ids below this.
        most: How many at most.
        memo: Whose memo contains this text, in small letters or large.
    """

    account_id: int | None = None
    address: str | None = None
    statuses: Sequence[Status] | None = None
    before: int | None = None
    most: int = PAGE_ITEMS
    memo: str | None = None


def _page_of(wanted: InvoiceFilter) -> str:
    """Return a query of a page: each invoice's id and JSON, and how many were found, up to one more.

    Each status is read by its index from the newest on, whatever the planner thinks of how many there are:
    status and id are compared and sorted together, which no other index can do.
    """
    owned = _equal("account_id", wanted) + _equal("address", wanted)
    found = (
        "SELECT one.id FROM unnest(%(statuses)s::text[]) wanted (status)"  # noqa: S608
        " CROSS JOIN LATERAL ("
        "SELECT id FROM @schema@.invoices"
        f" WHERE status >= wanted.status AND (status, id) < (wanted.status, %(before)s){owned}"
        " ORDER BY status DESC, id DESC LIMIT %(most)s + 1"
        ") one ORDER BY one.id DESC LIMIT %(most)s + 1"
    )
    return page_query(
        "SELECT i.id, @schema@.invoice_json(i) AS json,"  # noqa: S608 - made above
        " octet_length(@schema@.invoice_json(i)::text) AS size"
        f" FROM ({found}) found JOIN @schema@.invoices i ON i.id = found.id",
        "id DESC",
    )


def _equal(column: str, wanted: InvoiceFilter) -> str:
    return "" if getattr(wanted, column) is None else f" AND {column} = %({column})s"


def _arguments_of(wanted: InvoiceFilter) -> dict[str, Any]:
    return {
        **wanted._asdict(),
        "statuses": list(wanted.statuses or get_args(Status)),
        "before": MAX_BIGINT if wanted.before is None else wanted.before,
        "page_bytes": PAGE_BYTES,
    }


def list_invoices(connection: Connection, wanted: InvoiceFilter) -> Page:
    """Return a page of invoices, the newest first."""
    if wanted.memo is not None:
        return _search_invoices(connection, wanted)
    rows = connection.execute(f"{_page_of(wanted)} ORDER BY id DESC".encode(), _arguments_of(wanted))
    return page_of(rows.fetchall())


def _search_invoices(connection: Connection, wanted: InvoiceFilter) -> Page:
    """Return a page of what is found among the next `SEARCHED` invoices, the newest first.

    One statement, so that the page and the end of what it looked through are of one snapshot.
    """
    by = "" if wanted.account_id is None else "account_id DESC, "
    scanned = (
        "SELECT * FROM @schema@.invoices i"  # noqa: S608 - constants
        f" WHERE id < %(before)s{_equal('account_id', wanted)} ORDER BY {by}id DESC"
    )
    found = page_query(
        "SELECT id, @schema@.invoice_json(i) AS json,"  # noqa: S608 - made above
        " octet_length(@schema@.invoice_json(i)::text) AS size"
        f" FROM (SELECT * FROM ({scanned} LIMIT {SEARCHED}) i"
        f" WHERE status = ANY (%(statuses)s){_equal('address', wanted)}"
        " AND strpos(lower(memo), lower(%(memo)s)) > 0"
        " ORDER BY id DESC LIMIT %(most)s + 1) i",
        "id DESC",
    )
    rows = connection.execute(
        f"WITH page AS MATERIALIZED ({found}), looked_through AS MATERIALIZED ("  # noqa: S608
        f"SELECT id FROM ({scanned} OFFSET {SEARCHED - 1} LIMIT 1) i"
        " WHERE (SELECT count(*) = coalesce(max(found), 0) FROM page))"  # else the page ends before
        " SELECT looked_through.id, page.* FROM (SELECT) one LEFT JOIN page ON true"
        " LEFT JOIN looked_through ON true ORDER BY page.id DESC".encode(),
        _arguments_of(wanted),
    ).fetchall()
    page = page_of([row[1:] for row in rows if row[1] is not None])
    return page if page.next is not None else page._replace(next=rows[0][0])


class Snapshot(NamedTuple):
    """A topic's state, and the position that it is the state at.

    Args:
        position: Where the log was.
        state: An invoice or null, or a list of open invoices, the newest first.
        next: Of a list, the id of the last invoice, where there are more.
    """

    position: Position
    state: msgspec.Raw
    next: int | None = None


OPEN: tuple[Status, ...] = ("unpaid", "confirming")


def read_snapshot(connection: Connection, topic: Topic, owner: int | None) -> Snapshot:
    """Return the state of an invoice's, account's or address's topic.

    One statement, so that state and position are of one database snapshot. The state may hold changes whose
    events are not numbered yet: they come after the position, and applying them twice is harmless.
    """
    if topic.type == "invoice":
        ((name, last, state),) = connection.execute(
            "SELECT name, last, (SELECT @schema@.invoice_json(i) FROM @schema@.invoices i"  # noqa: S608
            f" WHERE uid = %(uid)s AND {OWNED}) FROM @schema@.event_end",
            {"uid": parse_uid(topic.id), "owner": owner},
        )
        return Snapshot(Position(name, last), msgspec.Raw(b"null") if state is None else state)
    wanted = InvoiceFilter(owner, topic.id, OPEN)
    if topic.type == "account":
        wanted = InvoiceFilter(topic.account_id, None, OPEN)
    rows = connection.execute(
        "SELECT name, last, page.* FROM @schema@.event_end"  # noqa: S608
        f" LEFT JOIN ({_page_of(wanted)}) page ON true ORDER BY id DESC".encode(),
        _arguments_of(wanted),
    ).fetchall()
    page = page_of([row[2:] for row in rows if row[2] is not None])
    return Snapshot(Position(*rows[0][:2]), page.items, page.next)


class PricePart(NamedTuple):
    """Some of the prices.

    Args:
        position: Where the log was: what these prices are the state at.
        known_as: What the event that the caller knows is called; None: it is not there.
        prices: By id.
        next: The id of the last one, where there may be more.
    """

    position: Position
    known_as: str | None
    prices: list[msgspec.Raw]
    next: int | None


def read_prices(connection: Connection, after: int, most: int, known: int = 0) -> PricePart:
    """Return the prices with ids above `after`, the lowest first, at most `most`.

    One statement, so that prices and position are of one database snapshot.

    Args:
        connection: The database's.
        after: An id.
        most: How many.
        known: An event that the caller knows, whose name says whether this is the same log.
    """
    rows = connection.execute(
        "SELECT e.name, last, CASE %s::bigint WHEN last THEN e.name WHEN first - 1 THEN trimmed_name"
        " ELSE (SELECT name FROM @schema@.event WHERE seq = %s::bigint) END,"
        " price.* FROM @schema@.event_end e LEFT JOIN ("
        "SELECT id, @schema@.price_json(p) FROM @schema@.prices p WHERE id > %s ORDER BY id LIMIT %s"
        ") price ON true ORDER BY id",
        (known, known, after, most),
    ).fetchall()
    name, last, known_as, _, _ = rows[0]
    prices = [json for *_, json in rows if json is not None]
    return PricePart(Position(name, last), known_as, prices, rows[-1][3] if len(prices) == most else None)


def listen(connection: Connection) -> None:
    """Have PostgreSQL notify this connection when there are events."""
    connection.add_notify_handler(lambda _: None)  # else psycopg keeps what comes during a query
    connection.execute("LISTEN trio_ws")  # number_events() and log_event() of the schema NOTIFY there


def check(connection: Connection) -> None:
    """Make one round trip."""
    connection.execute("SELECT")


class Joined(NamedTuple):
    """What answers many requests of a kind at once.

    Args:
        query: Takes a list of their arguments, and returns what comes of each.
        lane: Where it runs.
    """

    query: Callable[..., list[Any]]
    lane: Lane = Lane.CLIENTS


TOGETHER: dict[Callable[..., Any], Joined] = {
    create_invoice: Joined(create_invoices),
    fetch_invoice: Joined(fetch_invoices),
    # Many who try wrong tokens must keep nobody from coming, and no revocation from being noticed.
    tokens.identify: Joined(tokens.identify_all, Lane.IDENTIFY),
}
